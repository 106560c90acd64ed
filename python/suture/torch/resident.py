"""Runs a plan on models that torch holds: finds, then writes.

Block by block, so that the extra memory does not grow with the model.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from suture.errors import SutureError, UsageError
from suture.torch.forms import Apply, Block, Form, Found
from suture.torch.models import TORCH, Flat, Resident
from suture.torch.planned import Piece, Planned, View, Work, places
from suture.torch.registry import form_of, modified

if TYPE_CHECKING:
    from suture.torch.fast.batches import Batches

#: Elements of a block: on a GPU large enough to fill it, elsewhere small enough for a cache.
BLOCK_GPU, BLOCK_CPU = 1 << 24, 1 << 20
#: Bytes of working memory that a form takes for an element of a block, besides so many for every input of it.
OF_ELEMENT, OF_INPUT = 64, 24


def batches(works: Sequence[Work], row: Callable[[Work], list[Tensor] | None]) -> Batches | None:
    """The tensors that Triton kernels compute; None where there is no GPU, or no Triton."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if os.environ.get("SUTURE_TRITON") == "0" or not (torch.cuda.is_available() or interpreted):
        return None
    try:
        from suture.torch.fast.batches import Batches
    except ImportError:
        return None
    return Batches.of(works, row)


class Pieces:
    """A row of elements made of runs of several tensors."""

    unit = 1

    def __init__(self, pieces: Sequence[Piece], tensors: Mapping[tuple[str, str], Tensor]) -> None:
        self._parts = [tensors[p.place].reshape(-1)[p.start : p.start + p.length] for p in pieces]
        self._ends = torch.tensor([p.length for p in pieces]).cumsum(0).tolist()

    def whole(self, device: torch.device) -> Tensor:
        """All elements as they are stored."""
        return torch.cat([part.to(device) for part in self._parts])

    def read(self, start: int, end: int, device: torch.device) -> Tensor:
        """Elements `start` to `end` as float32."""
        found, begin = [], 0
        for part, stop in zip(self._parts, self._ends, strict=True):
            if begin < end and stop > start:
                found.append(part[max(start - begin, 0) : end - begin].to(device=device, dtype=torch.float32))
            begin = stop
        return torch.cat(found)


@dataclass
class Runner:
    """A plan, the tensors it reads, and where its results go.

    Attributes:
        planned: the plan.
        models: what it reads.
        out: the tensors it writes, by name.
        block: elements of a block.
    """

    planned: Planned
    models: Sequence[Resident]
    out: Mapping[str, Tensor]
    block: int
    wide: dict[int, Found] = field(default_factory=dict)
    found: dict[int, Found] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Sorts out what kernels compute."""
        self._tensors = {(m.label, name): tensor for m in self.models for name, tensor in m.tensors.items()}
        for work in self.planned.works:
            self._check_views(work)
        self.batches = batches([w for w in self.planned.works if not modified(w)], self._row)

    def _check_views(self, work: Work) -> None:
        for view in (*([] if work.base is None else [work.base]), *work.sources):
            for label, name in places(view):
                if (label, name) not in self._tensors:
                    message = f"{label}: has `{name}` under a name with another prefix; rename its tensors"
                    raise SutureError(message, tensor=work.name)
            if not isinstance(view[0], Piece) and view[1] != work.name:
                self._check_stand_in(str(view[0]), str(view[1]), work.name)

    def _check_stand_in(self, label: str, stand_in: str, name: str) -> None:
        """Refuses to take one tensor for another that the model has not: it may be of a tied model or not."""
        model = next(m for m in self.models if m.label == label)
        if name not in model.aliases and name not in model.tensors:
            raise SutureError(
                f"{label}: has no `{name}`, which other models have, and `{stand_in}` would stand for it; if they are "
                f"tied, give it under both names, else add `{name}`",
                tensor=name,
            )

    def _check_same(self, work: Work) -> None:
        """Refuses what cannot be computed on and is not the same in all models."""
        first, *others = [self._operand(view) for view in work.sources]
        for view, other in zip(work.sources[1:], others, strict=True):
            if not (isinstance(first, Flat) and isinstance(other, Flat)):
                continue
            if not torch.equal(_bytes(first.tensor), _bytes(other.tensor).to(first.tensor.device)):
                raise SutureError(
                    f"tensor `{work.name}`: is {work.dtype}, which is not computed on, and differs between "
                    f"{places(work.sources[0])[0][0]} and {places(view)[0][0]}; leave it out, or make it the same",
                    tensor=work.name,
                )

    def _row(self, work: Work) -> list[Tensor] | None:
        """The operands of a tensor and what is written, if all are plain tensors."""
        views = [*([] if work.base is None else [work.base]), *work.sources]
        operands = [self._operand(view) for view in views]
        row = [o.tensor for o in operands if isinstance(o, Flat)]
        return [*row, self.out[work.name]] if len(row) == len(views) else None

    def _operand(self, view: View) -> Flat | Pieces:
        if isinstance(view[0], Piece):
            return Pieces([p for p in view if isinstance(p, Piece)], self._tensors)
        label, name = view
        assert isinstance(name, str)
        return Flat(self._tensors[label, name])

    def blocks(self, work: Work) -> Iterator[Block]:
        """The blocks of a tensor that is computed, in order, on the device of what is written."""
        assert work.method is not None
        device = self.out[work.name].device
        base = None if work.base is None else self._operand(work.base)
        inputs = [self._operand(view) for view in work.sources]
        units = [form_of(work).unit(work.params, work.shape), Flat(self.out[work.name]).unit]
        units += [o.unit for o in (*inputs, *([] if base is None else [base]))]
        step = _whole(self.block, math.lcm(*(max(unit, 1) for unit in units)))
        keys = work.keys()
        for start in range(0, work.elements, step):
            end = min(start + step, work.elements)
            yield Block(
                None if base is None else base.read(start, end, device),
                [x.read(start, end, device) for x in inputs],
                start,
                work.elements,
                keys,
            )

    def _form(self, work: Work) -> Form:
        return form_of(work)

    def _computed(self) -> Iterator[tuple[int, Work]]:
        """The tensors that are computed and have elements; those of a group in the group's order."""
        works = self.planned.works
        grouped = [i for members in self.planned.groups for i in members]
        order = [*grouped, *sorted(set(range(len(works))) - set(grouped))]
        taken = self.batches.taken if self.batches else set()
        return (
            (i, works[i])
            for i in order
            if works[i].method is not None and works[i].elements and works[i].name not in taken
        )

    def find(self) -> None:
        """All that must be known before anything is written; what is known already is not found again."""
        for work in self.planned.works:
            if work.method is None and len(work.sources) > 1:
                self._check_same(work)
        if self.batches:
            self.batches.find()
        for number, members in enumerate(self.planned.groups):
            works = [self.planned.works[i] for i in members]
            form, elements = self._form(works[0]), sum(w.elements for w in works)
            if form.wide is not None and elements and number not in self.wide:
                self.wide[number] = form.wide(works[0].params, elements, self._all_blocks(works))
        self._rewind()
        for i, work in self._computed():
            form = self._form(work)
            if form.find is not None and i not in self.found:
                wide = None if work.group is None else self.wide.get(work.group)
                with _naming(work):
                    self.found[i] = form.find(work.params, work.shape, partial(self.blocks, work), wide)

    def _all_blocks(self, works: Sequence[Work]) -> Callable[[], Iterator[Block]]:
        return lambda: (block for work in works for block in self.blocks(work))

    def _rewind(self) -> None:
        for number, wide in self.wide.items():
            rewind = self._form(self.planned.works[self.planned.groups[number][0]]).rewind
            if rewind is not None:
                rewind(wide)

    def applies(self) -> Iterator[tuple[Work, Apply]]:
        """What computes each tensor, in the order in which they must be computed."""
        self._rewind()
        for i, work in self._computed():
            with _naming(work):
                apply = self._form(work).apply(work.params, work.shape, self.found.get(i))
            yield work, apply

    def write(self) -> None:
        """Computes every tensor and puts it where it belongs.

        What is moved alone goes first: it may be read nowhere else.
        """
        for work in self.planned.works:
            if work.method is None:
                self._move(work)
        if self.batches:
            self.batches.write()
            written(self.out[name] for name in self.batches.taken)
        for work, apply in self.applies():
            target = Flat(self.out[work.name])
            for block in self.blocks(work):
                end = block.start + len(block.origin)
                with _naming(work):
                    target.write(block.start, end, apply(block))

    def _move(self, work: Work) -> None:
        target, source = self.out[work.name], self._operand(work.sources[0])
        if isinstance(source, Pieces):
            target.copy_(source.whole(target.device).view(target.shape))
        elif not self.stays(work):
            target.copy_(source.tensor, non_blocking=True)

    def stays(self, work: Work) -> bool:
        """Whether what is moved lies there already."""
        target, source = self.out[work.name], self._operand(work.sources[0])
        return isinstance(source, Flat) and target.is_set_to(source.tensor)

    def probe(self) -> None:
        """Makes what computes each tensor, so that coefficients that cannot be are refused before anything is
        written; computes the block that takes the most memory, and throws it away.
        """
        largest = max((w for _, w in self._computed()), key=lambda w: need(w, self.block), default=None)
        for work, apply in self.applies():
            if work is largest:
                with _naming(work):
                    apply(next(self.blocks(work)))


@contextlib.contextmanager
def _naming(work: Work) -> Iterator[None]:
    """Has what a form says is wrong name the tensor, which it does not know."""
    try:
        yield
    except SutureError as e:
        if e.tensor is not None:
            raise
        raise type(e)(f"tensor `{work.name}`: {e}", tensor=work.name) from e.__cause__


def written(tensors: Iterable[Tensor]) -> None:
    """Tells torch that kernels of ours wrote into tensors: a graph that was recorded before must not use them."""
    for tensor in tensors:
        if not tensor.is_inference():
            torch.autograd.graph.increment_version(tensor)


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _whole(size: int, unit: int) -> int:
    """The multiple of a unit nearest below a size, at least one unit."""
    return max(size // unit, 1) * unit


def whole(work: Work) -> int | None:
    """Bytes of working memory of a tensor that is computed at once, whatever the size of blocks; else None."""
    return None if work.method is None else form_of(work).memory(work.params, work.shape, len(work.sources))


def need(work: Work, block: int) -> int:
    """Bytes of working memory that a tensor takes at most, besides what is written."""
    if work.method is None:
        return 0
    if (found := whole(work)) is not None:
        return found
    of = form_of(work).unit(work.params, work.shape)
    return min(_whole(block, of), work.elements) * (OF_ELEMENT + OF_INPUT * (len(work.sources) + 1))


def extra_bytes(planned: Planned, block: int) -> int:
    """Bytes of working memory a run takes at most, besides what it writes."""
    return max((need(work, block) for work in planned.works), default=0)


def block_of(asked: int | None, devices: Iterable[torch.device]) -> int:
    """Elements of a block: as many as are asked for, else what fits the devices.

    Raises:
        UsageError: if a block is asked for that has no elements.
    """
    if asked is None:
        return BLOCK_CPU if all(device.type == "cpu" for device in devices) else BLOCK_GPU
    if not isinstance(asked, int) or asked < 1:
        raise UsageError(f"block: expected a number of elements, at least 1, found {asked!r}", at="block")
    return asked


def execute(runner: Runner) -> None:
    """Finds all, tries the largest block, and writes. A device that is out of memory gets smaller blocks, once.

    Raises:
        SutureError: if memory does not suffice even so; nothing has been written then.
    """
    with torch.no_grad():
        find(runner, probe=True)
        runner.write()


def find(runner: Runner, *, probe: bool) -> None:
    """Finds all that a run must know, with `probe` tries the largest block; smaller ones if memory does not suffice.

    Raises:
        SutureError: if it does not suffice even so.
    """

    def attempt() -> None:
        runner.find()
        if probe:
            runner.probe()

    try:
        attempt()
    except torch.OutOfMemoryError as first:
        runner.block = max(runner.block // 4, 1)
        runner.wide.clear()
        runner.found.clear()
        torch.cuda.empty_cache()
        try:
            attempt()
        except torch.OutOfMemoryError:
            raise _out_of_memory(runner.planned, runner.block) from first


def _out_of_memory(planned: Planned, block: int) -> SutureError:
    largest = max(planned.works, key=lambda work: need(work, block))
    free = need(largest, block) >> 20
    if whole(largest) is None:
        return SutureError(
            f"the device is out of memory with blocks of {block} elements; give a smaller block, or free {free} MiB "
            "beside the models"
        )
    return SutureError(
        f"tensor `{largest.name}`: the device is out of memory; {largest.method} takes it whole and needs {free} MiB "
        "beside the models; free that much, or merge files, where the CPU computes what does not fit",
        tensor=largest.name,
    )


def allocate(planned: Planned, devices: Callable[[Work], torch.device]) -> dict[str, Tensor]:
    """Room for every tensor of a plan."""
    return {w.name: torch.empty(w.shape, dtype=TORCH[w.dtype], device=devices(w)) for w in planned.works}
