"""Merging the same models again and again with other coefficients: what does not depend on them is found once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from suture.errors import SutureError, UsageError
from suture.torch.forms import Found, Params
from suture.torch.known import Ready, signature, surroundings
from suture.torch.merging import (
    Given,
    Models,
    Parameters,
    check_target,
    given,
    listed,
    on_stream,
    plain,
    planned,
    report_of,
    spec_of,
)
from suture.torch.models import Flat, Model, Resident, check_writable, named_tensors, overlap, resident
from suture.torch.planned import Planned, Work
from suture.torch.registry import FORMS, form_of
from suture.torch.report import Report
from suture.torch.resident import Runner, block_of, execute, extra_bytes, find
from suture.torch.sparse import PRESETS
from suture.torch.templates import Numbers, Template

#: What may change between merges where a method finds something out of the models first; no finding depends on it.
#: Of a method that finds nothing all may change but the checkpoints it reads.
_COEFFICIENTS: dict[str, frozenset[str]] = {
    **dict.fromkeys(PRESETS, frozenset({"weight", "lambda", "alpha", "beta", "normalize"})),
    "slerp": frozenset({"t"}),
    "nuslerp": frozenset({"weight"}),
    "multislerp": frozenset({"weight", "normalize_weights", "eps"}),
    "karcher": frozenset({"max_iter", "tol"}),
    "pcb": frozenset({"weight", "lambda"}),
    "ramplus_tl": frozenset({"r", "alpha"}),
}


#: What decides who computes, and so cannot change.
_MODIFIERS = frozenset({"svc", "larv"})


def coefficients(method: str) -> frozenset[str]:
    """The parameters of a method that a session may change.

    Raises:
        UsageError: if there is no such method.
    """
    parameters = spec_of(method)["parameters"]
    form = FORMS[method]
    if form.free or (form.find is None and form.wide is None):
        return frozenset(p["name"] for p in parameters if p["kind"]["kind"] != "checkpoint") - _MODIFIERS
    return _COEFFICIENTS.get(method, frozenset())


@dataclass(frozen=True)
class _Kept:
    """What was found out of the models, and of what it is found: another plan of the same key finds the same."""

    key: tuple[Any, ...]
    wide: dict[int, Found]
    found: dict[str, Found]
    batches: tuple[Found, ...]

    @property
    def bytes(self) -> int:
        """The memory it takes."""
        seen = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _tensors((self.wide, self.found))}
        seen |= {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _tensors(self.batches)}
        return sum(seen.values())


def _tensors(found: Any) -> Iterator[Tensor]:
    """Every tensor in what was found."""
    inner: Iterable[Any] = ()
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, Mapping):
        inner = found.values()
    elif isinstance(found, (list, tuple)):
        inner = found
    elif dataclasses.is_dataclass(found) and not isinstance(found, type):
        inner = [getattr(found, own.name) for own in dataclasses.fields(found)]
    for part in inner:
        yield from _tensors(part)


class Session:
    """Models that are merged several times; made by :func:`prepare`.

    It holds on to the models, which must stay as they are as long as it is used, and to what was found out of them:
    thresholds, dot products, a few numbers for each tensor.

    Attributes:
        method: the method.
        labels: the names of the models, in the order of the weights.
        coefficients: the parameters that :meth:`apply_` may change.
        block: elements worked on at a time.
    """

    def __init__(
        self, method: str, models: Given, originals: Mapping[str, Model], seed: int, block: int | None, stream: Any
    ) -> None:
        self.method = method
        self._originals = {n: (m, signature(named_tensors(m), versions=True)) for n, m in originals.items()}
        self.labels = tuple(model.label for model in models.inputs)
        self.coefficients = coefficients(method)
        self._given, self._seed, self._stream = models, seed, stream
        self._per_input = {p["name"] for p in spec_of(method)["parameters"] if p["per_input"]}
        works = planned(method, _filled(models, method), seed)
        self._tensors = {(model.label, name): t for model in models.models for name, t in model.tensors.items()}
        lead = {w.name: self._tensors[w.lead] for w in works.works}
        self.block = block_of(block, [t.device for t in lead.values()])
        self._planned = works
        self._template: Template | None = None
        self._ready: tuple[tuple[Any, ...], Ready] | None = None
        self._checked: tuple[Any, ...] = ()
        with on_stream(stream):
            # The first operands stand in for what will be written: it lies on the same device, in the same order.
            runner = Runner(works, models.models, lead, self.block)
            self._kept = _found(runner, self.coefficients)
        self.block = runner.block

    @property
    def extra_bytes(self) -> int:
        """Bytes that :meth:`apply_` takes at most beside the models: its working memory, and what the session keeps."""
        return extra_bytes(self._planned, self.block) + self._kept.bytes

    def apply_(
        self,
        weights: Sequence[float] | Mapping[str, float] | float | None = None,
        *,
        into: Model,
        parameters: Parameters | None = None,
        digests: bool = False,
    ) -> Report:
        """Merge the models with these coefficients into the memory of another.

        The result is that of :func:`suture.torch.merge` with the same coefficients and ``out=into``. Whatever is wrong
        is refused before the first write. Coefficients that are not given are those of :func:`prepare`.

        Args:
            weights: a weight for each model in order, or by its label; one number for all. For methods with weights.
            into: a module, or tensors by name, of the shapes of the merge; it shares no memory with any model.
            parameters: other coefficients by name (see :attr:`coefficients`): a value, or a list with one for each
                model where the method has them so.
            digests: whether the report has a digest of every tensor; that waits for the device.

        Raises:
            UsageError: if a coefficient is wrong, or a parameter is not one that a session may change.
            SutureError: if `into` does not fit or shares memory with a model, if a model was written into since
                :func:`prepare`, or if memory does not suffice.
        """
        models = self._with(self._changes(weights, parameters))
        works = self._plan(models)
        target_is = self._told(into)
        with on_stream(self._stream):
            if (before := self._again(target_is, into, works, digests=digests)) is not None:
                return before
        target = resident(into, "into")
        self._check(target, works)
        runner = Runner(works, models.models, target.tensors, self.block)
        with on_stream(self._stream), torch.no_grad():
            self._run(runner)
        warnings = list(works.warnings)
        if target.training:
            warnings.append("`into` is in training mode: an optimiser's moments are still those of the old weights")
        report = report_of(runner, self.method, warnings, digests)
        labels = [model.label for model in models.models]
        if target_is and (ready := Ready.of([*labels, target.label], target.label, runner, report)):
            self._ready = target_is, ready
        return report

    def _told(self, into: Model) -> tuple[Any, ...]:
        """What a target is and where; nothing, if that cannot be told."""
        try:
            training = isinstance(into, torch.nn.Module) and into.training
            named = named_tensors(into)
            return training, surroundings([named], self._stream), signature(named)
        except (AttributeError, RuntimeError, TypeError):
            return ()

    def _again(self, target_is: tuple[Any, ...], into: Model, works: Planned, *, digests: bool) -> Report | None:
        """Writes into the target that was written into before; None if it is another, or kernels do not do it all."""
        if self._ready is None or not target_is or self._ready[0] != target_is or works.warnings:
            return None
        ready = self._ready[1]
        batches = None
        if ready.batches is not None:
            batches = ready.batches.of_others({work.name: work for work in works.works})
            if batches is None or len(batches.listed) != len(self._kept.batches):
                return None
            for (_, batch), found in zip(batches.listed, self._kept.batches, strict=True):
                batch.found = found
        self._check_models()
        models = [*(model.tensors for model in self._given.models), named_tensors(into)]
        return ready.write(models, ready.find(models, batches), digests=digests)

    def _run(self, runner: Runner) -> None:
        if self._kept.key != _key(runner, self.coefficients):
            # `into` lies elsewhere or otherwise than the models, so that sums are taken over other blocks.
            self._kept = _found(runner, self.coefficients)
            self.block = runner.block
        else:
            _restore(runner, self._kept)
        try:
            runner.probe()
        except torch.OutOfMemoryError:
            runner.wide.clear()
            runner.found.clear()
            execute(runner)
            return
        runner.write()

    def _plan(self, models: Given) -> Planned:
        """The plan with these coefficients: a new one, or the last with other numbers in it."""
        given_now = {n: _numbers(n, models) for n in self.coefficients if n in models.shared or _in_each(n, models)}
        if self._template is not None and (made := self._template.with_(given_now)):
            return made
        works = planned(self.method, models, self._seed)
        self._template = Template.of(works, self.method, given_now)
        return works

    def _check(self, target: Resident, works: Planned) -> None:
        """Refuses a target that does not fit, or shares memory, and models that are not what they were."""
        own = tuple((n, t.device, t.data_ptr(), t.dtype, t.shape, t.stride()) for n, t in target.tensors.items())
        if own != self._checked:
            check_writable(target)
            check_target(works, target.tensors, target.label)
            for other in self._given.models:
                if name := overlap(target.tensors, other.tensors):
                    message = f"into, tensor `{name}`: shares memory with {other.label}, which a session only reads; "
                    raise SutureError(message + "give a clone of it, or use merge_ to write into a model", tensor=name)
            self._checked = own
        self._check_models()

    def _check_models(self) -> None:
        """Refuses models that are not what they were, or not where."""
        for label, (model, before) in self._originals.items():
            named = named_tensors(model)
            now = signature(named, versions=True)
            if now == before:
                continue
            *is_, versions = (dict(zip(named, part, strict=False)) for part in now)
            *was, versions_before = (dict(zip(named, part, strict=False)) for part in before)
            moved = next((n for n in named if any(a.get(n) != b.get(n) for a, b in zip(is_, was, strict=True))), None)
            name = moved or next((n for n in named if versions[n] != versions_before[n]), "")
            what = "has other memory than when" if moved or not name else "was written into since"
            message = f"{label}, tensor `{name}`: {what} the session was prepared; prepare another"
            raise SutureError(message, tensor=name)

    def _changes(self, weights: Any, parameters: Parameters | None) -> dict[str, Any]:
        changed = {name: plain(value) for name, value in (parameters or {}).items()}
        weights = plain(weights)
        if weights is not None:
            if "weight" in changed:
                raise UsageError("weights: given twice, as weights and in parameters; leave one out", at="weights")
            if "weight" not in self.coefficients:
                message = f"weights: {self.method} has no weights that may change; {self._may_change}"
                raise UsageError(message, at="weights")
            changed["weight"] = self._listed("weights", weights)
        known = {p["name"] for p in spec_of(self.method)["parameters"]}
        for name, value in changed.items():
            if name in known and name not in self.coefficients:
                message = f"{name}: what was found of the models depends on it, so a session cannot change it; "
                raise UsageError(message + f"{self._may_change}; prepare another session for it", at=name)
            if name not in known:
                raise UsageError(f"{name}: {self.method} has no such parameter; {self._may_change}", at=name)
            if name in self._per_input:
                changed[name] = self._listed(name, value)
        return changed

    @property
    def _may_change(self) -> str:
        return f"may change: {', '.join(sorted(self.coefficients))}" if self.coefficients else "none may change"

    def _listed(self, name: str, values: Any) -> Any:
        """Values in the order of the models; those of a sequence that is not a mapping as they are."""
        if isinstance(values, Mapping):
            if set(values) != set(self.labels):
                expected, found = ", ".join(self.labels), ", ".join(map(str, values))
                raise UsageError(f"{name}: expected a value for each of {expected}; found {found or 'none'}", at=name)
            return [values[label] for label in self.labels]
        if isinstance(values, Sequence) and not isinstance(values, str) and len(values) != len(self.labels):
            raise UsageError(
                f"{name}: expected a value for each of {len(self.labels)} models, found {len(values)}", at=name
            )
        return values

    def _with(self, changed: Mapping[str, Any]) -> Given:
        """What was given, with these parameters in place of those of the same names."""
        shared = {name: value for name, value in self._given.shared.items() if name not in changed}
        each = [{n: v for n, v in own.items() if n not in changed} for own in self._given.each]
        for name, value in changed.items():
            if name in self._per_input and isinstance(value, Sequence) and not isinstance(value, str):
                for own, found in zip(each, value, strict=True):
                    own[name] = found
            else:
                shared[name] = value
        return replace(self._given, shared=shared, each=each)


def prepare(
    models: Models,
    method: str,
    *,
    base: Model | None = None,
    parameters: Parameters | None = None,
    each: Sequence[Parameters] | None = None,
    seed: int = 0,
    block: int | None = None,
    stream: Any = None,
) -> Session:
    """Find out of models what a merge of them needs to know, to merge them with many coefficients.

    Args:
        models: what is merged, in order, or by the names that random masks depend on; only read. They must stay as they
            are as long as the session is used.
        method: one of :func:`suture.methods`.
        base: the model that changes are taken from, for methods that have one.
        parameters: as for :func:`suture.torch.merge`. Coefficients may be left out, and given to ``apply_``.
        each: a mapping for each model instead, in the grammar of configs.
        seed: of random methods.
        block: elements worked on at a time; the extra memory grows with it.
        stream: the CUDA stream to work on, if not the current one.

    Returns:
        The session; ``session.extra_bytes`` says what memory it takes.

    Raises:
        UsageError: if the method or its parameters are wrong.
        SutureError: if the models do not go together, or memory does not suffice.
    """
    named = listed(models)
    found = given(method, named, None if base is None else ("base", base), parameters, each)
    originals: dict[str, Model] = {model.label: model.tensors for model in found.beside}
    if found.base is not None and base is not None:
        originals[found.base.label] = base
    return Session(method, found, {**originals, **named}, seed, block, stream)


def _in_each(name: str, models: Given) -> bool:
    return any(name in own for own in models.each)


def _numbers(name: str, models: Given) -> Numbers:
    """What was given for a coefficient, if it is plain numbers."""
    own = _in_each(name, models)
    values = [each.get(name, models.shared.get(name)) for each in models.each] if own else [models.shared[name]]
    plain = [float(v) for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if len(plain) < len(values):
        return None
    return tuple(plain) if own else plain[0]


def _filled(models: Given, method: str) -> Given:
    """What was given, with some value for each coefficient that has no default and is not there."""
    shared, each = dict(models.shared), [dict(own) for own in models.each]
    for parameter in spec_of(method)["parameters"]:
        name, kind = parameter["name"], parameter["kind"]
        if parameter["default"] is not None or name not in coefficients(method) or name in shared:
            continue
        if not parameter["per_input"]:
            shared[name] = min(max(1, kind["min"]), kind["max"])
            continue
        for i, own in enumerate(each):
            # No such numbers cancel each other.
            own.setdefault(name, math.sqrt(i + 1))
    return replace(models, shared=shared, each=each)


def _found(runner: Runner, free: frozenset[str]) -> _Kept:
    """Finds all that a run must know, in smaller blocks if memory does not suffice."""
    with torch.no_grad():
        find(runner, probe=False)
    works = runner.planned.works
    batches = runner.batches.listed if runner.batches else []
    return _Kept(
        _key(runner, free),
        dict(runner.wide),
        {works[i].name: found for i, found in runner.found.items()},
        tuple(batch.found for _, batch in batches),
    )


def _restore(runner: Runner, kept: _Kept) -> None:
    """Has a run know what was found before."""
    places = {work.name: i for i, work in enumerate(runner.planned.works)}
    runner.wide = dict(kept.wide)
    runner.found = {places[name]: found for name, found in kept.found.items() if name in places}
    batches = runner.batches.listed if runner.batches else []
    for (kernel, batch), found in zip(batches, kept.batches, strict=True):
        batch.found = found
        if callable(check := getattr(kernel, "check", None)):
            check(batch)


def _key(runner: Runner, free: frozenset[str]) -> tuple[Any, ...]:
    """All that what is found depends on, but for the models."""
    works = runner.planned.works
    forms = [(w, form_of(w)) for w in works if w.method is not None]
    finds = [w for w, form in forms if form.find or form.wide]
    batches = runner.batches.listed if runner.batches else []
    return (
        tuple(_key_of(w, runner.out[w.name], free) for w in finds),
        _grouped(runner.planned) if finds else (),
        runner.block,
        tuple((type(kernel).__name__, tuple(w.name for w in batch.works)) for kernel, batch in batches),
    )


def _key_of(work: Work, out: Tensor, free: frozenset[str]) -> tuple[Any, ...]:
    return (
        work.name,
        work.method,
        work.sources,
        work.base,
        work.group,
        _fixed(work.params, free),
        out.device,
        Flat(out).unit,
    )


def _fixed(params: Params, free: frozenset[str]) -> str:
    """The parameters that a session cannot change."""
    parts = [{n: v for n, v in own.items() if n not in free} for own in (params.shared, params.per_input)]
    return repr((parts, params.inputs, params.seed, params.layered, params.twin))


def _grouped(plan: Planned) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(plan.works[i].name for i in members) for members in plan.groups)


__all__ = ["Session", "coefficients", "prepare"]
