"""Forms of the methods that score elements or count over a tensor or a model, besides the sparse pipeline."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from suture.torch import select
from suture.torch.element import averaged, unified
from suture.torch.forms import Apply, Block, Blocks, Form, Found, Params, Shape, moved, row, single, summed
from suture.torch.select import Cut, magnitude


def _variance(changes: Sequence[Tensor]) -> Tensor:
    wide = [change.double() for change in changes]
    mean = summed(wide) / len(wide)
    return (summed([(d - mean) * (d - mean) for d in wide]) / len(wide)).float()


def _changes(block: Block) -> list[Tensor]:
    return [block.change(i) for i in range(len(block.inputs))]


@dataclass
class _Selected:
    """What sce has found."""

    cut: Cut | None
    weights: Tensor


def _find_sce(params: Params, shape: Shape, blocks: Blocks, wide: Found) -> _Selected:
    share, elements = params.number("select_topk"), math.prod(shape)
    cut = None
    if share < 1.0:
        # mergekit multiplies in float32.
        varying = summed([(_variance(_changes(block)) != 0).sum() for block in blocks()])
        keep = (varying.float() * torch.tensor(share, dtype=torch.float32, device=varying.device)).long()

        def keys() -> Iterator[Sequence[Tensor]]:
            return ([magnitude(_variance(_changes(block)))] for block in blocks())

        ((cut,),) = select.cuts(keys, [[keep.clamp(max=elements)]], varying.device)
    masks = share < 1.0 or params.word("mask") != "deltas"
    again, sums = cut and cut.fresh(), []
    for block in blocks():
        changes = _changes(block)
        if masks:
            variance = _variance(changes)
            kept = again.keeps(magnitude(variance)) & (variance != 0) if again else variance != 0
            changes = [torch.where(kept, change, 0.0) for change in changes]
        sums.append(torch.stack([(change.double() * change.double()).sum() for change in changes]))
    squares = summed(sums)
    total = squares.sum()
    weights = torch.where(total == 0, 1.0 / params.inputs, squares / torch.where(total == 0, 1.0, total))
    return _Selected(cut, weights)


def _apply_sce(params: Params, shape: Shape, found: _Selected) -> Apply:
    weights = found.weights.unbind()
    cut = found.cut.fresh() if found.cut is not None and params.word("mask") == "deltas" else None

    def apply(block: Block) -> Tensor:
        total = summed(block.wide)
        sign = torch.where(total >= 0, 1.0, -1.0).to(total.dtype)
        kept, divisor = torch.zeros_like(total), torch.zeros_like(total)
        for change, weight in zip(block.wide, weights, strict=True):
            agrees = change * sign > 0
            kept = kept + torch.where(agrees, weight * change, 0.0)
            divisor = divisor + torch.where(agrees, weight, 0.0)
        mean = kept / torch.where(divisor == 0, 1.0, divisor)
        if cut is not None:
            variance = _variance(_changes(block))
            mean = torch.where(cut.keeps(magnitude(variance)) & (variance != 0), mean, 0.0)
        # A NaN in any model agrees with nothing and comes back here.
        return moved(block.origin, mean + total * 0.0)

    return apply


#: Scores smaller than 2^-96 count as that: so the sign fits beside the bits that order them.
_LEAST = (127 - 96) << 23
_ZERO = 1 << 30


def _key(score: Tensor) -> Tensor:
    """An integer that orders as the score does."""
    size = ((score.view(torch.int32) & 0x7FFFFFFF) - (_LEAST - 1)).clamp(0, _ZERO - 1)
    return torch.where(score < 0, _ZERO - size, _ZERO + size).to(torch.int32)


def _signed(key: Tensor) -> Tensor:
    size = (key - _ZERO).abs()
    score = torch.where(size == 0, 0, size + _LEAST - 1).to(torch.int32).view(torch.float32)
    return torch.where(key < _ZERO, -score, score)


def _tanh(z: Tensor) -> Tensor:
    return torch.where(z.abs() < 1e-3, z * (1.0 - z * z / 3.0), z.tanh())


@dataclass(frozen=True)
class _Limits:
    """Where the changes of a model are clipped, and between which scores its shares run."""

    sizes: tuple[Tensor, Tensor]
    scores: tuple[Tensor, Tensor] | None = None

    def size(self, change: Tensor) -> Tensor:
        return torch.maximum(torch.minimum(change.abs(), self.sizes[1]), self.sizes[0])

    def score(self, change: Tensor, total: Tensor, n: int) -> Tensor:
        low, high = (limit.double() for limit in self.sizes)
        spread = torch.where(high > low, high - low, 1.0)
        place = torch.where(high > low, (self.size(change).double() - low) / spread, 0.0)
        return ((n * place * place).exp() * _tanh(change.double() * total)).float()

    def share(self, score: Tensor) -> Tensor:
        assert self.scores is not None
        low, high = (limit.double() for limit in self.scores)
        spread = torch.where(high > low, high - low, 1.0)
        return torch.where(high > low, ((score.double() - low) / spread).clamp(0.0, 1.0), 0.0)


def _sum_of(block: Block) -> Tensor:
    return summed([change.double() for change in _changes(block)])


def _pcb_limits(params: Params, elements: int, blocks: Blocks) -> list[_Limits]:
    n, ratio, clip = params.inputs, params.number("ratio"), params.number("clip")
    device = next(blocks()).origin.device

    def from_top(place: float) -> int:
        return min(max(elements - int(max(place, 0.0)), 1), elements)

    def sizes() -> Iterator[Sequence[Tensor]]:
        return ([magnitude(change) for change in _changes(block)] for block in blocks())

    clipped = [from_top(elements * clip), from_top(elements * (1.0 - clip) - 1.0)]
    limits = [_Limits((a.value(), b.value())) for a, b in select.cuts(sizes, [clipped] * n, device)]

    def scores() -> Iterator[Sequence[Tensor]]:
        for block in blocks():
            total = _sum_of(block)
            yield [_key(limits[i].score(block.change(i), total, n)) for i in range(n)]

    kept = [from_top(elements * (1.0 - ratio)), min(elements, 1)]
    found = select.cuts(scores, [kept] * n, device)
    return [
        _Limits(own.sizes, (_signed(a.threshold), _signed(b.threshold)))
        for own, (a, b) in zip(limits, found, strict=True)
    ]


def _find_pcb(params: Params, shape: Shape, blocks: Blocks, wide: Found) -> Found:
    return _pcb_limits(params, math.prod(shape), blocks) if wide is None else wide


def _apply_pcb(params: Params, shape: Shape, found: list[_Limits]) -> Apply:
    weights, n = params.numbers("weight"), params.inputs

    def apply(block: Block) -> Tensor:
        total = _sum_of(block)
        merged, divisor = total * 0.0, torch.zeros_like(total)
        for i, (weight, limits) in enumerate(zip(weights, found, strict=True)):
            change = block.change(i)
            share = limits.share(limits.score(change, total, n))
            size = torch.where(change == 0, 0.0, limits.size(change).copysign(change))
            merged = merged + weight * size.double() * share
            divisor = divisor + share
        return moved(block.origin, params.number("lambda") * merged / divisor.clamp(min=1e-12))

    return apply


def _divergence(x: Tensor, base: Tensor) -> Tensor:
    """Of every row, float64."""

    def softmax(v: Tensor) -> Tensor:
        powers = (v - v.amax(-1, keepdim=True)).double().exp()
        return powers / powers.sum(-1, keepdim=True) + 1e-8

    p, q = softmax(x), softmax(base)
    return (p * (p / q).log()).sum(-1)


def _importance(params: Params, shape: Shape, block: Block) -> Tensor:
    length = row(params, shape)
    x, base = block.inputs[0].view(-1, length), block.origin.view(-1, length)
    return ((x - base).abs().double() * _divergence(x, base).unsqueeze(-1)).float().view(-1)


def _find_arcee(params: Params, shape: Shape, blocks: Blocks, wide: Found) -> Tensor:
    n = math.prod(shape)
    quartiles: list[select.Rank] = [n - int(q * max(n - 1, 0)) for q in (0.25, 0.5, 0.75)]

    def keys() -> Iterator[Sequence[Tensor]]:
        return ([magnitude(_importance(params, shape, block))] for block in blocks())

    ((q1, median, q3),) = select.cuts(keys, [quartiles], next(blocks()).origin.device)
    return median.value() + 1.5 * (q3.value() - q1.value())


def _apply_arcee(params: Params, shape: Shape, found: Tensor) -> Apply:
    def apply(block: Block) -> Tensor:
        score = _importance(params, shape, block)
        # A NaN, of the element or of what it is measured by, is neither and comes through.
        other = torch.where(score >= found, block.inputs[0], math.nan)
        return torch.where(score < found, block.origin, other)

    return apply


def _find_ram_plus(params: Params, shape: Shape, blocks: Blocks, wide: Found) -> Tensor:
    limit = single(params.number("epsilon"))
    sums = []
    for block in blocks():
        active = torch.stack([change.abs() > limit for change in _changes(block)])
        several = active.sum(0) > 1
        sums.append(torch.stack([(active & several).sum(-1), (active & ~several).sum(-1)], -1).double())
    shared, own = summed(sums).unbind(-1)
    return shared / own.clamp(min=params.number("epsilon"))


def _apply_ram_plus(params: Params, shape: Shape, found: Tensor) -> Apply:
    factors = 1.0 + params.number("r") * found.clamp(0.0, params.number("alpha"))
    return lambda block: averaged(block, params.number("epsilon"), list(factors.unbind()))


def _emr_scale(params: Params, elements: int, blocks: Blocks) -> Tensor:
    task = int(params.number("task")) - 1
    own, masked = [], []
    for block in blocks():
        change, elected = block.wide[task], unified(block.wide)
        own.append(change.abs().sum() / block.of)
        masked.append(torch.where(change * elected > 0, elected.abs(), 0.0).sum() / block.of)
    left = summed(masked)
    return torch.where(left == 0, 0.0, summed(own) / torch.where(left == 0, 1.0, left))


def _apply_emr(params: Params, shape: Shape, found: Found) -> Apply:
    task = int(params.number("task"))

    def apply(block: Block) -> Tensor:
        elected = unified(block.wide)
        if not task:
            return moved(block.origin, elected)
        kept = block.wide[task - 1] * elected > 0
        if params.switch("masks"):
            return kept.float()
        return moved(block.origin, elected * torch.where(kept, found, 0.0))

    return apply


FORMS: dict[str, Form] = {
    "sce": Form(apply=_apply_sce, find=_find_sce),
    "pcb": Form(apply=_apply_pcb, find=_find_pcb, wide=_pcb_limits),
    "arcee_fusion": Form(apply=_apply_arcee, find=_find_arcee, unit=row),
    "ramplus_tl": Form(apply=_apply_ram_plus, find=_find_ram_plus),
    "emr": Form(apply=_apply_emr, find=lambda params, shape, blocks, wide: wide, wide=_emr_scale),
}
