"""Swaps of layers between models that torch holds: into the recipient's memory, or by exchanging the memory of both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from suture.errors import SutureError, UsageError
from suture.recipe.layers import numbers, of_stack
from suture.torch.known import Call
from suture.torch.merging import check_target, on_stream, report_of
from suture.torch.models import Model, Resident, check_writable, named_tensors, overlap, resident
from suture.torch.planned import Piece, Planned, Work, places, plan
from suture.torch.report import Report, digest, next_version
from suture.torch.resident import Runner, block_of, execute

#: Layers as ``"0-4,30"``, ``"all"``, or numbers.
Layers = str | Iterable[int]
#: A model that gives layers; or several, each with its own.
Donor: TypeAlias = "Model | Sequence[tuple[Model, Layers]]"


def swap_(
    model: Model,
    donor: Donor,
    *,
    bottom: int = 0,
    top: int = 0,
    transition: int = 0,
    transition_bottom: int | None = None,
    transition_top: int | None = None,
    blend: float | str = 0.5,
    layers: Layers | None = None,
    modules: str | None = None,
    heads: Layers | None = None,
    non_layer: str | None = None,
    base: Model | None = None,
    donor_base: Model | None = None,
    exchange: bool = False,
    stack: str | None = None,
    block: int | None = None,
    stream: Any = None,
    digests: bool = False,
) -> Report:
    """Put layers of `donor` into `model`, in its memory; as :func:`suture.swap` does with files, to the bit.

    Addresses, identity, ties and ``requires_grad`` of its parameters stay as they are; what does not change is not
    touched. Everything is checked before the first write: whatever is wrong leaves the model as it was.

    With `exchange` no byte moves. The tensors of these layers in both models exchange their memory: each model then has
    the other's layers, **the donor too**. Parameters keep their identity, their gradients and ``requires_grad``, but
    not their addresses: what holds on to these (CUDA graphs, flattened buffers, tensors that share the memory) goes on
    with the old ones. Doing it again undoes it.

    Args:
        model: the recipient: a module, or tensors by name; written into.
        donor: the model that gives layers; or several, each with its own: ``[(swahili, "0-4"), (telugu, "30")]``. Only
            read, but for `exchange`.
        bottom: layers from the bottom that the donor gives.
        top: layers from the top that the donor gives.
        transition: layers next to these, on either side, that are blended.
        transition_bottom: the same next to the bottom alone.
        transition_top: the same next to the top alone.
        blend: the donor's share in a blended layer, from 0 to 1; or ``ramp``, which lets it fall evenly over the
            transition.
        layers: layers the donor gives, as ``"0-4,30,31"``, numbers or ``"all"``, instead of `bottom` and `top`;
            ``"encoder:0-3"`` names their stack too.
        modules: parts of module names, globs or filters, comma-separated: only these move.
        heads: attention heads, as ``"0-3,7"`` or numbers: only these move. The recipient needs a config that tells how
            many there are.
        non_layer: whose tensors outside the layers to take: ``into`` (the default), ``from`` (the donor's), ``base``,
            or ``mean`` (of recipient and donors).
        base: the model both were tuned from; for ``non_layer="base"`` and with `donor_base`. It may be `model` itself.
        donor_base: the model the donor was tuned from, if not `base`: what is taken is base + (donor - donor_base).
        exchange: exchange the memory of whole tensors instead of copying; for those of one dtype, device and layout.
        stack: the stack that layers are numbered in, by its name, if not the main one.
        block: elements that are blended at a time.
        stream: the CUDA stream to work on, if not the current one. The call does not wait for it.
        digests: whether the report has a digest of every tensor; that waits for the device.

    Returns:
        A report, of the method ``swap``.

    Raises:
        UsageError: if the layers do not exist or options do not go together.
        SutureError: if the models do not match, share memory, or cannot be written into.
    """
    several = _several(donor)
    stack, (layers, *each) = of_stack(stack, layers, *(own for _, own in several or ()))
    layers, heads, *each = (numbers(own) for own in (layers, heads, *each))
    spans_given = [bottom, top, transition, transition_bottom, transition_top]
    options = {"swap": [stack, layers, heads, each, spans_given, blend, modules, non_layer, block]}
    named = [donor] if several is None else [own for own, _ in several]
    call = None if exchange else Call.of([model, base, donor_base, *named], options, stream)
    with on_stream(stream):
        if call is not None and (before := call.again(digests=digests)) is not None:
            return before
    into = resident(model, "into")
    known: dict[int, Resident] = {id(model): into}

    def opened(given: Model | None, label: str) -> Resident | None:
        if given is not None and id(given) not in known:
            known[id(given)] = resident(given, label)
        return None if given is None else known[id(given)]

    if several is None:
        givers = [opened(donor, "donor")]
    else:
        givers = [opened(own, f"donor-{i}") for i, (own, _) in enumerate(several, 1)]
    origin, donor_origin = opened(base, "base"), opened(donor_base, "donor_base")
    below, above = (transition if t is None else t for t in (transition_bottom, transition_top))
    spans = {"bottom": bottom, "top": top, "transition_bottom": below, "transition_top": above}
    if several is not None and (set_ := [n for n, v in {**spans, "layers": layers}.items() if v not in (0, None)]):
        raise UsageError(f"each of the donors has its own layers; expected no {set_[0]}, found {set_[0]}", at=set_[0])
    how: dict[str, Any] = {"blend": blend, "modules": modules, "heads": heads}

    def recipe(paths: Mapping[str, str]) -> dict[str, Any]:
        more = how | ({} if donor_origin is None else {"base": paths[donor_origin.label]})
        if several is None:
            more |= spans | {"layers": layers}
        listed = [more | ({} if several is None else {"layers": each[i]}) for i in range(len(givers))]
        options = {
            "into": paths[into.label],
            "base": None if origin is None else paths[origin.label],
            "donors": [_set(own | {"from": paths[g.label]}) for own, g in zip(listed, givers, strict=True) if g],
            "non_layer": non_layer or "into",
            "stack": stack,
        }
        return {"swap": _set(options)}

    models = list({m.label: m for m in (into, origin, *givers, donor_origin) if m is not None}.values())
    made = plan(models, recipe, 0)
    check_writable(into)
    check_target(made, into.tensors, into.label)
    for other in models:
        if other is not into and (name := overlap(into.tensors, other.tensors)):
            raise SutureError(
                f"into, tensor `{name}`: shares memory with {other.label}; clone one of them", tensor=name
            )
    _check_places(made, into)
    warnings = list(made.warnings)
    if into.training:
        warnings.append("the module is in training mode: an optimiser's moments are still those of the old weights")
    if exchange:
        own_tensors = {g.label: _held(m) for m, g in zip(named, givers, strict=True) if g is not None}
        return _exchanged(made, models, into, _held(model), own_tensors, warnings, digests)
    runner = Runner(made, models, into.tensors, block_of(block, [t.device for t in into.tensors.values()]))
    with on_stream(stream):
        execute(runner)
    report = report_of(runner, "swap", warnings, digests)
    # Heads are put together beside the tensor that they go into.
    pieces = [w.elements * into.tensors[w.name].element_size() for w in made.works if _in_pieces(w)]
    report = replace(report, extra_bytes=max([report.extra_bytes, *pieces]))
    if call is not None:
        labels = [known[id(m)].label if m is not None else None for m in (model, base, donor_base, *named)]
        call.remember(labels, into.label, runner, report)
    return report


def _set(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _several(donor: Donor) -> list[tuple[Model, Layers]] | None:
    """Donors, each with its layers; None if there is one alone."""
    if isinstance(donor, (torch.nn.Module, Mapping)):
        return None
    if isinstance(donor, Sequence) and donor and all(isinstance(own, tuple) and len(own) == 2 for own in donor):
        return list(donor)
    raise UsageError(
        "donor: expected a module, a mapping of names to tensors, or a list of pairs of one of these and its layers, "
        f"found {type(donor).__name__}",
        at="donor",
    )


def _in_pieces(work: Work) -> bool:
    return any(isinstance(view[0], Piece) for view in work.sources)


def _check_places(made: Planned, into: Resident) -> None:
    """Refuses what would read a tensor of the recipient that something else is written into.

    Raises:
        SutureError: naming it.
    """
    for work in made.works:
        for label, name in (place for view in work.sources for place in places(view)):
            if label == into.label and name != work.name:
                message = (
                    f"into, tensor `{work.name}`: would be made of `{name}`, which is written into; untie them first"
                )
                raise SutureError(message, tensor=work.name)


def _held(model: Model) -> dict[str, Tensor]:
    """The tensors that a model holds itself, parameters as such."""
    return {name: tensor for name, tensor in named_tensors(model).items() if isinstance(tensor, Tensor)}


def _exchanged(
    made: Planned,
    models: Sequence[Resident],
    into: Resident,
    held: Mapping[str, Tensor],
    givers: Mapping[str, Mapping[str, Tensor]],
    warnings: list[str],
    digests: bool,
) -> Report:
    """Exchanges the memory of every tensor that moves.

    Raises:
        SutureError: naming a tensor, if something is to be computed, put together, cast or copied otherwise.
    """
    pairs: list[tuple[Tensor, Tensor]] = []
    moved, kept = [], []
    for work in made.works:
        where = f"exchange, tensor `{work.name}`"
        if work.method is not None or _in_pieces(work):
            what = "is blended or cast" if work.method is not None else "gives some of its heads"
            raise SutureError(f"{where}: {what}, and memory is exchanged whole; leave exchange out", tensor=work.name)
        ((label, name),) = places(work.sources[0])
        if label == into.label:
            kept.append(work.name)
            continue
        if label not in givers:
            message = f"{where}: comes from {label}, which is not a donor; leave exchange or non_layer out"
            raise SutureError(message, tensor=work.name)
        own, other = held[work.name], givers[label][name]
        if own.is_inference() or other.is_inference():
            raise SutureError(f"{where}: was made in inference mode; leave exchange out", tensor=work.name)
        for what in ("dtype", "device", "shape", "stride"):
            mine, theirs = (_told(t, what) for t in (own, other))
            if mine != theirs:
                message = f"{where}: {what} is {mine}, and {theirs} in {label}; expected the same; leave exchange out"
                raise SutureError(message, tensor=work.name)
        pairs.append((own, other))
        moved.append(work.name)
    _check_alone(into, held, moved)
    for label, tensors in givers.items():
        _check_alone(next(m for m in models if m.label == label), tensors, moved)
    with torch.no_grad():
        for own, other in pairs:
            own.data, other.data = other.data, own.data
    named = {name: digest(held[name]) for name in (w.name for w in made.works)} if digests else {}
    return Report("swap", (), tuple(moved), tuple(kept), 0, 0, next_version(), tuple(warnings), named)


def _told(tensor: Tensor, what: str) -> str:
    found = tensor.stride() if what == "stride" else getattr(tensor, what)
    return str(list(found) if isinstance(found, tuple) else found)


def _check_alone(model: Resident, held: Mapping[str, Tensor], moved: Sequence[str]) -> None:
    """Refuses tensors of which a model holds another by another name, which would stay with the old memory.

    Raises:
        SutureError: naming both.
    """
    for alias, name in model.aliases.items():
        if (alias in moved or name in moved) and held[alias] is not held[name]:
            message = f"exchange, tensor `{name}`: `{alias}` of {model.label} is the same memory, and would keep it"
            raise SutureError(f"{message}; give the module itself, or leave exchange out", tensor=name)


__all__ = ["swap_"]
