"""A merge as a stream of tensors under the names of a checkpoint: what serving engines take to load weights anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from suture import _core
from suture.errors import SutureError, UsageError
from suture.settings import parse_size
from suture.torch.forms import Block, Found
from suture.torch.merging import Models, Parameters, device_of, given, listed, on_stream, planned
from suture.torch.models import TORCH, Model, Resident
from suture.torch.planned import Planned, Work
from suture.torch.registry import FORMS
from suture.torch.resident import Runner, block_of
from suture.torch.select import Cut, magnitude

#: Bytes that the tensors of a pack begin at a multiple of.
ALIGNED = 64
ORDERS = ("layer", "checkpoint")

Named = tuple[str, Tensor]
#: Tensors by the names that a module has them under, to those by the names of its checkpoint.
Revert = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class _Unit:
    """Tensors that go together: one, or those that one of the checkpoint is made of."""

    works: tuple[int, ...]
    renamed: bool = False


@dataclass
class _Placed(Cut):
    """A cut of a whole model, of which so many equal elements have been met before the tensor that it is for."""

    begin: Tensor

    def rewind(self) -> None:
        """Begins with the tensor again."""
        self.seen = self.begin


def iter_merged(
    models: Models,
    method: str,
    *,
    base: Model | None = None,
    parameters: Parameters | None = None,
    each: Sequence[Parameters] | None = None,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    order: str = "layer",
    pack: str | int = "256MiB",
    block: int | None = None,
    stream: Any = None,
) -> Iterator[Named]:
    """Merge models tensor by tensor, for an engine that loads weights from an iterator.

    The tensors are those of :func:`suture.torch.merge`, each once: a tied head is its embedding, as in a checkpoint.
    They come in packs. Those of a pack lie one after another in one buffer, which is computed when its first tensor is
    asked for; nothing that was yielded is kept, or used again. So the memory is that of one pack, of the working memory
    of a merge, and of what the consumer keeps. The models are read until the last tensor and must stay as they are.

    Where the first model that is a ``transformers`` model has tensors under other names than its checkpoint (stacked
    experts, say), what is yielded has the checkpoint's names and shapes, as ``save_pretrained`` writes them; what that
    does not leave in the order of its elements is copied out of the pack.

    Args:
        models: what is merged, in order, or by the names that random masks depend on; only read.
        method: one of :func:`suture.methods`.
        base: the model that changes are taken from, for methods that have one.
        parameters: as for :func:`suture.torch.merge`.
        each: as for :func:`suture.torch.merge`.
        seed: of random methods.
        dtype: of the result, if not that of the models.
        order: ``layer``: what comes before the layers, the layers by their numbers, what comes after; or
            ``checkpoint``: as the first model lists them.
        pack: the size of a buffer at most, such as ``"256MiB"``; a larger tensor has one of its own.
        block: elements worked on at a time.
        stream: the CUDA stream to work on, if not the current one, which then waits for each pack.

    Returns:
        An iterator of names and tensors, each on the device of the first model's (the base's, if there is one).

    Raises:
        UsageError, SutureError: as :func:`suture.torch.merge`, by the call itself; the iterator raises SutureError if
            memory does not suffice, or coefficients make no sense with the values of the models.
    """
    if order not in ORDERS:
        raise UsageError(f"order: expected layer or checkpoint, found `{order}`", at="order")
    size = parse_size(pack, "pack")
    named = listed(models)
    found = given(method, named, None if base is None else ("base", base), parameters, each)
    works = planned(method, found, seed, dtype)
    listed_models = [m for m in (base, *named.values()) if m is not None]
    revert = _reverting(listed_models, works)
    kept = set(range(len(works.works))) - _unsaved(listed_models, works)
    units = _units(works, kept, revert)
    if order == "layer":
        units = _by_layer(works, units)
    block = block_of(block, [device_of(work, found.models) for work in works.works])
    merging = _Merging(works, found.models, block, stream)
    return _yielded(merging, _packs(merging, units, size), revert)


def _yielded(merging: _Merging, packs: Sequence[Sequence[_Unit]], revert: Revert | None) -> Iterator[Named]:
    # What is yielded is held by the consumer alone.
    merging.find()
    for pack in packs:
        made = merging.make(pack, revert)
        made.reverse()
        while made:
            yield made.pop()


class _Merging:
    """A plan, carried out a few tensors at a time."""

    def __init__(self, plan: Planned, models: Sequence[Resident], block: int, stream: Any) -> None:
        self.plan, self.models, self.block, self._stream = plan, models, block, stream
        self._found: dict[int, Found] = {}

    def device(self, i: int) -> torch.device:
        """Where a tensor will lie."""
        return device_of(self.plan.works[i], self.models)

    def find(self) -> None:
        """Finds what must be known of groups of tensors before any of them is computed."""
        if not self.plan.groups:
            return
        tensors = {(m.label, name): t for m in self.models for name, t in m.tensors.items()}
        works = {i: self.plan.works[i] for members in self.plan.groups for i in members}
        # The first operands stand in for what will be written: they lie on the same device.
        out = {w.name: tensors[w.lead] for w in works.values()}
        runner = Runner(replace(self.plan, works=tuple(works.values()), groups=()), self.models, out, self.block)
        with self._working():
            for members in self.plan.groups:
                self._found |= _of_group(runner, {i: works[i] for i in members})

    def make(self, pack: Sequence[_Unit], revert: Revert | None) -> list[Named]:
        """The tensors of a pack, by the names of the checkpoint."""
        listed = [i for unit in pack for i in unit.works]
        with self._working():
            made = self._computed(listed)
            out: list[Named] = []
            for unit in pack:
                own = {self.plan.works[i].name: made[i] for i in unit.works}
                if unit.renamed and revert is not None:
                    own = {name: tensor.contiguous() for name, tensor in revert(own).items()}
                out.extend(own.items())
            return out

    def _computed(self, listed: Sequence[int]) -> dict[int, Tensor]:
        works = [self.plan.works[i] for i in listed]
        buffer = torch.empty(_bytes(works), dtype=torch.uint8, device=self.device(listed[0]))
        out, at = {}, 0
        for work in works:
            dtype = TORCH[work.dtype]
            end = at + work.elements * dtype.itemsize
            out[work.name] = buffer[at:end].view(dtype).view(work.shape)
            at = _rounded(end)
        # Each tensor of a group is one of its own, with what was found of the whole.
        grouped = [k for k, work in enumerate(works) if work.group is not None]
        alone = list(works)
        for number, k in enumerate(grouped):
            alone[k] = replace(works[k], group=number)
        plan = replace(self.plan, works=tuple(alone), groups=tuple((k,) for k in grouped))
        runner = Runner(plan, self.models, out, self.block)
        runner.wide = {n: self._found[listed[k]] for n, k in enumerate(grouped) if listed[k] in self._found}
        runner.find()
        runner.write()
        return {i: out[work.name] for i, work in zip(listed, works, strict=True)}

    def _working(self) -> _Working:
        return _Working(self._stream, self.block)


class _Working:
    """Works without gradients, on a stream that what comes after waits for; says so where memory does not suffice."""

    def __init__(self, stream: Any, block: int) -> None:
        self._stream, self._block = stream, block
        self._inner = (torch.no_grad(), on_stream(stream))

    def __enter__(self) -> None:
        for context in self._inner:
            context.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        for context in reversed(self._inner):
            context.__exit__(kind, error, trace)
        if isinstance(error, torch.OutOfMemoryError):
            message = f"the device is out of memory with blocks of {self._block} elements; give a smaller block or pack"
            raise SutureError(message) from error
        if self._stream is not None and error is None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)


def _of_group(runner: Runner, works: Mapping[int, Work]) -> dict[int, Found]:
    """What was found of a group, for each of its tensors: cuts run on from one to the next in the group's order."""
    first = next(iter(works.values()))
    form, elements = FORMS[first.method or ""], sum(w.elements for w in works.values())
    if form.wide is None or not elements:
        return {}

    def blocks() -> Iterator[Block]:
        return (block for work in works.values() for block in runner.blocks(work))

    wide = form.wide(first.params, elements, blocks)
    if form.rewind is None:
        return dict.fromkeys(works, wide)
    form.rewind(wide)
    found: dict[int, Found] = {}
    for i, work in works.items():
        found[i] = [[_Placed(cut.threshold, cut.ties, cut.seen, cut.seen) for cut in own] for own in wide]
        for block in runner.blocks(work):
            for m, own in enumerate(wide):
                for cut in own:
                    cut.keeps(magnitude(block.change(m)))
    return found


def _rounded(at: int) -> int:
    return -(-at // ALIGNED) * ALIGNED


def _bytes(works: Sequence[Work]) -> int:
    """The size of a buffer that they lie in."""
    return sum(_rounded(work.elements * TORCH[work.dtype].itemsize) for work in works)


def _packs(merging: _Merging, units: Sequence[_Unit], size: int) -> list[list[_Unit]]:
    """Units one after another, as many as a buffer holds; each buffer lies on one device."""
    packs: list[list[_Unit]] = []
    taken, device = 0, None
    for unit in units:
        works = [merging.plan.works[i] for i in unit.works]
        own, place = _bytes(works), merging.device(unit.works[0])
        # The last of a pack need not be filled up.
        last = works[-1].elements * TORCH[works[-1].dtype].itemsize
        if not packs or taken + own - _rounded(last) + last > size or place != device:
            packs.append([])
            taken, device = 0, place
        packs[-1].append(unit)
        taken += own
    return packs


def _by_layer(plan: Planned, units: Sequence[_Unit]) -> list[_Unit]:
    """What comes before the first layer, the layers by stack and number, the rest."""
    layers = [_core.layer_of(plan.works[unit.works[0]].name) for unit in units]
    first = next((i for i, layer in enumerate(layers) if layer is not None), len(units))
    stacks: dict[str, int] = {}

    def place(i: int) -> tuple[int, int, int, int]:
        layer = layers[i]
        if layer is None:
            return 0 if i < first else 2, 0, 0, i
        return 1, stacks.setdefault(layer[0], len(stacks)), layer[1], i

    return [units[i] for i in sorted(range(len(units)), key=place)]


def _transformer(models: Sequence[Model], plan: Planned) -> Any:
    """The first model of the library `transformers` that has the tensors of a plan; None if there is none."""
    names = {work.name for work in plan.works}
    for model in models:
        if isinstance(model, torch.nn.Module) and names <= model.state_dict(keep_vars=True).keys():
            for kind in type(model).__mro__:
                if kind.__module__ == "transformers.modeling_utils" and kind.__name__ == "PreTrainedModel":
                    return model
    return None


def _unsaved(models: Sequence[Model], plan: Planned) -> set[int]:
    """The tensors that the library `transformers` leaves out of a checkpoint."""
    module = _transformer(models, plan)
    ignored = set(getattr(module, "_keys_to_ignore_on_save", None) or ())
    return {i for i, work in enumerate(plan.works) if work.name in ignored}


def _reverting(models: Sequence[Model], plan: Planned) -> Revert | None:
    """What gives tensors of a module the names of its checkpoint, if it is of a library that has others for them."""
    module = _transformer(models, plan)
    if module is None:
        return None
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:
        return None  # Before version 5 modules have the names of their checkpoints.
    return lambda tensors: dict(revert_weight_conversion(module, tensors))


def _units(plan: Planned, kept: set[int], revert: Revert | None) -> list[_Unit]:
    """The tensors of a plan, those together that become tensors of the checkpoint together.

    Raises:
        SutureError: if the names of a module cannot be turned into those of a checkpoint a few at a time.
    """
    listed = [i for i in range(len(plan.works)) if i in kept]
    if revert is None:
        return [_Unit((i,)) for i in listed]
    hollow = {i: torch.empty(plan.works[i].shape, dtype=TORCH[plan.works[i].dtype], device="meta") for i in listed}

    def made(some: Sequence[int]) -> dict[str, Tensor]:
        return revert({plan.works[i].name: hollow[i] for i in some})

    def refused(why: str) -> SutureError:
        return SutureError(
            f"the names of this module's tensors cannot be turned into a checkpoint's by transformers: {why}; "
            "give the tensors of the checkpoints instead, as mappings of names to tensors"
        )

    try:
        whole = made(listed)
    except Exception as e:
        raise refused(str(e) or type(e).__name__) from e
    if all(whole.get(plan.works[i].name) is hollow[i] for i in listed) and len(whole) == len(listed):
        return [_Unit((i,)) for i in listed]
    units: dict[int, _Unit] = {}
    left: dict[tuple[str, int] | None, list[int]] = {}
    seen: set[str] = set()

    def fits(own: Mapping[str, Tensor]) -> bool:
        return not seen & own.keys() and all(
            n in whole and whole[n].shape == t.shape and whole[n].dtype == t.dtype for n, t in own.items()
        )

    for i in listed:
        try:
            own = made([i])
        except Exception:
            own = {"": hollow[i]}
        if fits(own):
            units[i] = _Unit((i,), renamed=own.get(plan.works[i].name) is not hollow[i])
            seen |= own.keys()
        else:
            layer = _core.layer_of(plan.works[i].name)
            left.setdefault(layer and layer[:2], []).append(i)
    for some in left.values():
        try:
            own = made(some)
        except Exception as e:
            raise refused(str(e) or type(e).__name__) from e
        if not fits(own):
            raise refused(f"`{plan.works[some[0]].name}` goes with tensors of other layers")
        units[some[0]] = _Unit(tuple(some), renamed=True)
        seen |= own.keys()
    if seen != set(whole):
        raise refused(f"`{min(set(whole) - seen)}` is made of tensors of several layers")
    return [units[i] for i in sorted(units)]


__all__ = ["iter_merged"]
