"""Merges of models that torch holds: into what is there, into new tensors."""

from __future__ import annotations

import contextlib
import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from suture import _core
from suture.errors import SutureError, UsageError
from suture.recipe import check_values
from suture.results import Spec
from suture.torch.known import Call
from suture.torch.models import DTYPES, Model, Resident, check_writable, overlap, resident
from suture.torch.planned import Planned, Work, plan, recipe_of
from suture.torch.report import Report, digest, next_version
from suture.torch.resident import Runner, allocate, block_of, execute, extra_bytes

#: Models in the order in which they are listed, or by the names by which random masks know them.
Models = Sequence[Model] | Mapping[str, Model]
#: Parameters by name: one value for all, or a list with one for each model where the method has them so.
Parameters = Mapping[str, Any]


@dataclass(frozen=True)
class Given:
    """Models and parameters as a recipe has them."""

    inputs: list[Resident]
    base: Resident | None
    beside: list[Resident]
    shared: dict[str, Any]
    each: list[dict[str, Any]]

    @property
    def models(self) -> list[Resident]:
        """Every model that is read, each once."""
        listed = ([] if self.base is None else [self.base]) + self.inputs + self.beside
        return list({model.label: model for model in listed}.values())


@cache
def _specs() -> dict[str, Spec]:
    listed: list[Spec] = json.loads(_core.methods_json())
    return {spec["name"]: spec for spec in listed}


def spec_of(method: str) -> Spec:
    """What a method says of itself.

    Raises:
        UsageError: if there is no such method.
    """
    if method not in _specs():
        near = difflib.get_close_matches(str(method), _specs(), 1)
        hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(_specs())}"
        raise UsageError(f"method: there is no `{method}`; {hint}", at="method")
    return _specs()[method]


def listed(models: Models) -> dict[str, Model]:
    """Models by their labels.

    Raises:
        UsageError: if what was given is a single model, or none.
    """
    single = isinstance(models, torch.nn.Module)
    single |= isinstance(models, Mapping) and any(isinstance(value, Tensor) for value in models.values())
    if single or not isinstance(models, (Mapping, Iterable)):
        raise UsageError(f"models: expected a list of models, or a mapping of names to models, found {_kind(models)}")
    models = models if isinstance(models, Mapping) else list(models)
    if isinstance(models, Mapping):
        return dict(models)
    return {f"model-{i}": model for i, model in enumerate(models, 1)}


def _free(label: str, taken: Mapping[str, Any]) -> str:
    """The label, or one like it that no model has."""
    while label in taken:
        label = f"the {label}"
    return label


def _kind(found: Any) -> str:
    return "the tensors of a single one" if isinstance(found, Mapping) else type(found).__name__


def given(
    method: str,
    models: Mapping[str, Model],
    base: tuple[str, Model] | None,
    parameters: Parameters | None,
    each: Sequence[Parameters] | None,
) -> Given:
    """What a caller gave, sorted: models described, parameters of all apart from those of each.

    Raises:
        UsageError: if there is no such method, or a list of values has not one for each model.
    """
    spec = spec_of(method)
    if not isinstance(parameters or {}, Mapping):
        raise UsageError(f"parameters: expected a mapping, found {type(parameters).__name__}", at="parameters")
    if not models:
        raise UsageError("models: expected at least one, found none", at="models")
    for label in models:
        if (
            not isinstance(label, str)
            or not re.fullmatch(r"[^/\x00-\x1f\ud800-\udfff]{1,200}", label)
            or label in (".", "..")
        ):
            raise UsageError(
                f"models: expected names of at most 200 letters, without `/`, found {label!r}", at="models"
            )
    if any(p["kind"]["kind"] == "gram" for p in spec["parameters"]):
        raise UsageError(
            f"method: `{method}` reads Gram matrices from files, and is not for models that torch holds; merge their "
            "checkpoints (`suture.merge`)",
            at="method",
        )
    inputs = [resident(model, label) for label, model in models.items()]
    described = {id(model): own for model, own in zip(models.values(), inputs, strict=True)}
    if each is not None and (not isinstance(each, (list, tuple)) or not all(isinstance(p, Mapping) for p in each)):
        raise UsageError("each: expected a list with a mapping for each model", at="each")
    for name in set(parameters or ()) & {name for p in each or () for name in p}:
        raise UsageError(f"{name}: is in `parameters` and in `each`; leave it out of one of them", at=name)
    own: list[dict[str, Any]] = [dict(p) for p in each] if each is not None else [{} for _ in inputs]
    if len(own) != len(inputs):
        raise UsageError(f"each: expected parameters for {len(inputs)} models, found {len(own)}", at="each")
    shared: dict[str, Any] = {}
    checkpoints = {p["name"] for p in spec["parameters"] if p["kind"]["kind"] == "checkpoint"}
    per_input = {p["name"] for p in spec["parameters"] if p["per_input"]}
    for name, value in (parameters or {}).items():
        value = value if name in checkpoints else plain(value)
        if name in per_input and isinstance(value, Sequence) and not isinstance(value, str):
            if len(value) != len(inputs):
                raise UsageError(
                    f"{name}: expected a value for each of {len(inputs)} models, found {len(value)}", at=name
                )
            for parameters_of, found in zip(own, value, strict=True):
                parameters_of[name] = found
        else:
            shared[name] = value
    beside: list[Resident] = []
    for i, parameters_of in enumerate(own, 1):
        parameters_of |= {n: plain(v) for n, v in parameters_of.items() if n not in checkpoints}
        for name in checkpoints & parameters_of.keys():
            beside.append(resident(parameters_of[name], _free(f"{name}-{i}", models)))
            parameters_of[name] = beside[-1]
    check_values({"parameters": shared, "each": [{n: v for n, v in p.items() if n not in checkpoints} for p in own]})
    origin = None if base is None else described.get(id(base[1])) or resident(base[1], _free(base[0], models))
    return Given(inputs, origin, beside, shared, own)


def plain(value: Any) -> Any:
    """A value with numbers of NumPy's or torch's as Python's, in lists and mappings too."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    told = getattr(value, "tolist", None)
    return told() if callable(told) else value


def planned(method: str, found: Given, seed: int, dtype: torch.dtype | None = None) -> Planned:
    """The plan of a merge.

    Raises:
        UsageError: if the parameters are wrong.
        SutureError: if the models do not go together.
    """

    def recipe(paths: Mapping[str, str]) -> dict[str, Any]:
        each = [
            {name: paths[value.label] if isinstance(value, Resident) else value for name, value in own.items()}
            for own in found.each
        ]
        inputs = [model.label for model in found.inputs]
        base = found.base.label if found.base else None
        return recipe_of(paths, inputs, method, base, found.shared, each, dtype and _name(dtype))

    return plan(found.models, recipe, seed)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@contextlib.contextmanager
def on_stream(stream: Any) -> Iterator[None]:
    """Work on a CUDA stream, if one is given."""
    with torch.cuda.stream(stream) if stream is not None else contextlib.nullcontext():
        yield


def report_of(runner: Runner, method: str, warnings: Sequence[str], digests: bool) -> Report:
    """What a run did."""
    works, out = runner.planned.works, runner.out
    computed = tuple(w.name for w in works if w.method is not None)
    stays = {w.name for w in works if w.method is None and runner.stays(w)}
    moved = tuple(w.name for w in works if w.method is None and w.name not in stays)
    return Report(
        method,
        computed,
        moved,
        tuple(stays),
        extra_bytes(runner.planned, runner.block),
        runner.block,
        next_version(),
        tuple(warnings),
        {name: digest(tensor) for name, tensor in out.items()} if digests else {},
    )


def check_target(works: Planned, out: Mapping[str, Tensor], label: str) -> None:
    """Refuses a target that does not have just the tensors of a plan.

    Raises:
        SutureError: naming a tensor that is missing, has another shape, or that nothing would be written into.
    """
    wanted = {work.name: work for work in works.works}
    for name, work in wanted.items():
        if name not in out:
            raise SutureError(f"{label}: expected a tensor `{name}`, which the merge makes, found none", tensor=name)
        if tuple(out[name].shape) != work.shape:
            raise SutureError(
                f"{label}, tensor `{name}`: expected shape {list(work.shape)}, found {list(out[name].shape)}",
                tensor=name,
            )
        dtype = out[name].dtype
        if work.method is not None and DTYPES[dtype] not in (work.dtype, "F16", "BF16", "F32", "F64"):
            raise SutureError(
                f"{label}, tensor `{name}`: expected a dtype for {work.dtype}, found {dtype}", tensor=name
            )
    for name in out:
        if name not in wanted:
            raise SutureError(f"{label}, tensor `{name}`: the merge makes none of that name; leave it out", tensor=name)


def merge_(
    model: Model,
    others: Models,
    method: str,
    *,
    base: Model | None = None,
    parameters: Parameters | None = None,
    each: Sequence[Parameters] | None = None,
    seed: int = 0,
    name: str = "model",
    block: int | None = None,
    stream: Any = None,
    digests: bool = False,
) -> Report:
    """Merge models into the memory of one of them.

    Addresses, identity, ties and ``requires_grad`` of its parameters stay as they are; no graph is recorded.
    Everything is checked before the first write: whatever is wrong leaves the model as it was.

    Args:
        model: a module, or tensors by name; written into. It is the first of the models that are merged, or, if
            `base` is the very same object, the base of the others.
        others: the other models: a sequence, or a mapping from the names that random masks depend on. They are only
            read.
        method: one of :func:`suture.methods`.
        base: the model that changes are taken from, for methods that have one.
        parameters: by name: a value, or a list with one for each model (`model` first, unless it is the base).
        each: a mapping for each model instead, in the grammar of configs: gradients over layers and filters of names
            too.
        seed: of random methods.
        name: what `model` is called where it is one of those that are merged: random masks depend on it.
        block: elements worked on at a time; the extra memory grows with it. By default 2^24 on a GPU, 2^20 elsewhere.
        stream: the CUDA stream to work on, if not the current one. The call does not wait for it.
        digests: whether the report has a digest of every tensor; that waits for the device.

    Raises:
        UsageError: if the method or its parameters are wrong.
        SutureError: if the models do not go together, a tensor cannot be written into, or memory does not suffice.
    """
    named = listed(others)
    if base is not model:
        if name in named:
            raise UsageError(f"name: another model is called `{name}`; give `model` another name", at="name")
        named = {name: model, **named}
    call = _call("merge_", [base, *named.values()], method, parameters, each, [list(named), seed, block], stream)
    with on_stream(stream):
        if call is not None and (report := call.again(digests=digests)) is not None:
            return report
    found = given(method, named, None if base is None else ("base", base), parameters, each)
    target = found.base if base is model else found.inputs[0]
    assert target is not None
    check_writable(target)
    works = planned(method, found, seed)
    check_target(works, target.tensors, target.label)
    for other in found.models:
        if other is not target and (shared := overlap(target.tensors, other.tensors)):
            raise SutureError(
                f"{target.label}, tensor `{shared}`: shares memory with {other.label}; clone one of them", tensor=shared
            )
    runner = Runner(works, found.models, target.tensors, _block(block, target.tensors))
    with on_stream(stream):
        execute(runner)
    warnings = list(works.warnings)
    if target.training:
        warnings.append("the module is in training mode: an optimiser's moments are still those of the old weights")
    report = report_of(runner, method, warnings, digests)
    if call is not None:
        labels = [None if found.base is None else found.base.label, *named]
        call.remember(labels, target.label, runner, report)
    return report


def _call(
    verb: str,
    models: Sequence[Model | None],
    method: str,
    parameters: Parameters | None,
    each: Sequence[Parameters] | None,
    options: list[Any],
    stream: Any,
) -> Call | None:
    """A call that may have been made before; None where a parameter is a model, whose tensors are not looked at."""
    checkpoints = {p["name"] for p in spec_of(method)["parameters"] if p["kind"]["kind"] == "checkpoint"}
    try:
        given_now = [parameters or {}, *(each or ())]
    except TypeError:
        return None
    if any(not isinstance(own, Mapping) or checkpoints.intersection(own) for own in given_now):
        return None
    return Call.of(models, {verb: [method, plain(parameters), plain(each), options]}, stream)


def merge(
    models: Models,
    method: str,
    *,
    base: Model | None = None,
    parameters: Parameters | None = None,
    each: Sequence[Parameters] | None = None,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    out: Model | None = None,
    block: int | None = None,
    stream: Any = None,
) -> dict[str, Tensor]:
    """Merge models into new tensors, or into those of `out`; the models are only read.

    Args:
        models: what is merged, as `others` of :func:`merge_`.
        method: one of :func:`suture.methods`.
        base: the model that changes are taken from, for methods that have one.
        parameters: as for :func:`merge_`, one of a list for each of `models`.
        each: as for :func:`merge_`.
        seed: of random methods.
        dtype: of the result, if not that of the models.
        out: a module or tensors to write into.
        block: as for :func:`merge_`.
        stream: as for :func:`merge_`.

    Returns:
        The tensors by name, each on the device of the first model's (the base's, if there is one).

    Raises:
        UsageError, SutureError: as :func:`merge_`.
    """
    named = listed(models)
    call = None
    if out is None:
        options = [list(named), seed, dtype and _name(dtype), block]
        call = _call("merge", [base, *named.values()], method, parameters, each, options, stream)
        with on_stream(stream):
            if call is not None and (before := call.anew()) is not None:
                return before
    found = given(method, named, None if base is None else ("base", base), parameters, each)
    works = planned(method, found, seed, dtype)
    lead = found.base or found.inputs[0]
    if out is None:
        with on_stream(stream):
            tensors = allocate(works, lambda work: device_of(work, found.models))
    else:
        target = resident(out, "out")
        check_writable(target)
        check_target(works, target.tensors, "out")
        for other in found.models:
            if name := overlap(target.tensors, other.tensors):
                message = f"out, tensor `{name}`: shares memory with {other.label}; use merge_ to write into a model"
                raise SutureError(message, tensor=name)
        tensors = target.tensors
    runner = Runner(works, found.models, tensors, _block(block, tensors))
    with on_stream(stream):
        execute(runner)
    if call is not None:
        labels = [None if found.base is None else found.base.label, *named]
        call.remember(labels, None, runner, report_of(runner, method, works.warnings, digests=False), lead.aliases)
    return {**tensors, **{alias: tensors[name] for alias, name in lead.aliases.items() if name in tensors}}


def device_of(work: Work, models: Sequence[Resident]) -> torch.device:
    """The device of the first tensor that something is made from."""
    label, name = work.lead
    return next(m.tensors[name].device for m in models if m.label == label)


def _block(asked: int | None, tensors: Mapping[str, Tensor]) -> int:
    return block_of(asked, [tensor.device for tensor in tensors.values()])


__all__ = ["Given", "Models", "Parameters", "merge", "merge_"]
