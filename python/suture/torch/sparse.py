"""Forms of sparse task arithmetic: one pipeline, of which the named methods are presets.

change from base -> sparsify -> rescale -> weight -> elect a sign -> sum or mean -> lambda -> add to base.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from suture.torch import select
from suture.torch.draws import draws
from suture.torch.forms import (
    Apply,
    Block,
    Blocks,
    Form,
    Found,
    Params,
    Shape,
    combined,
    moved,
    row,
    single,
    summed,
    weighted,
)
from suture.torch.select import Cut, magnitude

_TWO_32 = float(1 << 32)


@dataclass(frozen=True)
class Stages:
    """The words of a pipeline, resolved for a tensor."""

    sparsify: str
    scope: str
    rescale: str
    consensus: str
    reduce: str

    @classmethod
    def of(cls, params: Params) -> Stages:
        """Those of the parameters."""
        word, reduce = params.word, params.word("reduce")
        if reduce == "auto" and not params.switch("normalize"):
            reduce = "sum"
        elif reduce == "auto":
            reduce = "normalized" if word("consensus") == "none" else "mean"
        return cls(word("sparsify"), word("scope"), word("rescale"), word("consensus"), reduce)

    @property
    def trims(self) -> bool:
        """Whether changes are cut by their order of magnitude."""
        return self.sparsify in ("magnitude", "breadcrumbs")

    @property
    def over_model(self) -> bool:
        """Whether that order is of the whole model."""
        return self.trims and self.scope == "model"


def thins(stages: Stages, density: float) -> bool:
    """Whether a model's change is thinned at all."""
    if stages.sparsify in ("magnitude", "random", "della"):
        return density < 1.0
    return stages.sparsify in ("breadcrumbs", "cabs")


def band(params: Params, stages: Stages, i: int, n: int) -> tuple[int, int]:
    """Ranks of the descending order of `n` elements that are kept of model `i`: from, to."""
    keep = int(params.numbers("density")[i] * n)
    if stages.sparsify != "breadcrumbs":
        return 0, max(keep, 1)
    bottom = max(n - keep - int(params.numbers("gamma")[i] * n), 0)
    return n - bottom - keep, n - bottom


def is_plain(stages: Stages, params: Params) -> bool:
    """Whether all is a weighted sum of the changes."""
    thinned = any(thins(stages, density) for density in params.numbers("density"))
    return stages.consensus == "none" and stages.reduce != "mean" and not thinned


@dataclass
class Trimmed:
    """What a pipeline has found."""

    #: For every model where its change is cut: at the upper end, and at the lower one if that keeps something out.
    cuts: list[list[Cut]]
    #: For every model what restores the norm of its change.
    factors: list[Tensor | float]
    #: Whether the cuts are those of a group, which run on from tensor to tensor.
    shared: bool = False

    def begun(self) -> Trimmed:
        """The same, to go over its tensor once: cuts that end with it begin with it."""
        return self if self.shared else replace(self, cuts=[[cut.fresh() for cut in own] for own in self.cuts])


def _cut(params: Params, n: int, blocks: Blocks) -> list[list[Cut]]:
    stages = Stages.of(params)
    ranks: list[list[select.Rank]] = []
    for i, density in enumerate(params.numbers("density")):
        start, end = band(params, stages, i, n)
        ranks.append([end, *([start] if start else [])] if thins(stages, density) else [])

    def keys() -> Iterator[Sequence[Tensor]]:
        for block in blocks():
            yield [magnitude(block.change(i)) if own else block.inputs[i] for i, own in enumerate(ranks)]

    return select.cuts(keys, ranks, next(blocks()).origin.device)


def _norm(rescale: str, x: Tensor) -> Tensor:
    wide = x.double()
    return (wide * wide).sum() if rescale == "l2" else wide.abs().sum()


def _find(params: Params, shape: Shape, blocks: Blocks, wide: Found) -> Trimmed:
    stages = Stages.of(params)
    models = range(params.inputs)
    shared = wide is not None
    if shared:
        cuts = wide
    elif stages.trims and stages.scope == "tensor":
        cuts = _cut(params, math.prod(shape), blocks)
    else:
        cuts = [[] for _ in models]
    found = Trimmed(cuts, list(scales(params, stages)), shared)
    densities = params.numbers("density")
    if stages.rescale in ("l1", "l2") and any(thins(stages, d) for d in densities):
        found.factors = _restored(params, stages, shape, blocks, found.begun())
    return found


def rewind(wide: Found) -> None:
    """Has the cuts of a group begin again, before its tensors are gone over in order."""
    for own in wide:
        for cut in own:
            cut.rewind()


def scales(params: Params, stages: Stages) -> list[float]:
    """What makes up for what is dropped of each model's change, by the share that is kept."""
    divides = stages.rescale == "density" and stages.sparsify in ("magnitude", "breadcrumbs", "random", "cabs")
    return [single(1.0 / d) if divides and thins(stages, d) else 1.0 for d in params.numbers("density")]


def limits(params: Params) -> list[int]:
    """Below what a draw of 32 bits keeps an element of each model, where they are thinned at random."""
    return [int(density * _TWO_32) for density in params.numbers("density")]


def factor_of(params: Params, stages: Stages) -> float:
    """The factor on the merged change of a tensor."""
    depth = params.number("alpha") + params.number("beta") * (params.depth or 0.0)
    total = sum(params.numbers("weight")) if stages.reduce == "normalized" else 1.0
    return params.number("lambda") * depth / total


def _restored(params: Params, stages: Stages, shape: Shape, blocks: Blocks, found: Trimmed) -> list[Tensor | float]:
    """What makes up for what was dropped of each change of a tensor, by its norm."""
    sums = [[], []]  # type: list[list[Tensor]]
    for block in blocks():
        changes = [block.change(i) for i in range(params.inputs)]
        thinned = _thinned(params, stages, shape, block, found, [1.0] * params.inputs)
        for part, values in zip(sums, (changes, thinned), strict=True):
            part.append(torch.stack([_norm(stages.rescale, x) for x in values]))
    whole, left = (torch.stack(part).sum(0) for part in sums)
    ratio = whole / torch.where(left == 0, 1.0, left)
    ratio = (ratio.sqrt() if stages.rescale == "l2" else ratio).float()
    lacks = [thins(stages, d) for d in params.numbers("density")]
    return [torch.where(left[i] == 0, 1.0, ratio[i]) if lacks[i] else 1.0 for i in range(params.inputs)]


def _scaled(x: Tensor, kept: Tensor, factor: Tensor | float) -> Tensor:
    """What is kept times a factor; a NaN stays one, kept or not."""
    return x * torch.where(kept, torch.as_tensor(factor, dtype=torch.float32, device=x.device), 0.0)


def _thinned(
    params: Params, stages: Stages, shape: Shape, block: Block, found: Trimmed, factors: Sequence[Tensor | float]
) -> list[Tensor]:
    """The changes of a block, thinned and times their factors."""
    length = row(params, shape)
    taken = torch.zeros(block.origin.shape, dtype=torch.bool, device=block.origin.device)
    out = []
    for i, density in enumerate(params.numbers("density")):
        x, factor = block.change(i), factors[i]
        if not thins(stages, density):
            out.append(x * torch.as_tensor(factor, dtype=torch.float32, device=x.device))
        elif stages.trims and stages.scope == "row":
            start, end = band(params, stages, i, length)
            place = select.ranks(magnitude(x).view(-1, length)).view(-1)
            out.append(_scaled(x, (place >= start) & (place < end), factor))
        elif stages.trims:
            outer, *inner = found.cuts[i]
            kept = outer.keeps(magnitude(x))
            out.append(_scaled(x, kept & ~inner[0].keeps(magnitude(x)) if inner else kept, factor))
        elif stages.sparsify == "random":
            drawn = draws(block.keys[i], block.start, len(x), x.device)
            out.append(_scaled(x, drawn < limits(params)[i], factor))
        elif stages.sparsify == "della":
            out.append(_by_rank(params, stages, block, i, length, factor))
        else:
            free = x * ~taken
            kept = _in_blocks(free, int(params.number("block")), density)
            left = _scaled(free, kept, 1.0)
            taken = taken | (left != 0)
            out.append(left * torch.as_tensor(factor, dtype=torch.float32, device=x.device))
    return out


def _by_rank(params: Params, stages: Stages, block: Block, i: int, length: int, factor: Tensor | float) -> Tensor:
    """della: kept at random, the probability linear in the rank within the row."""
    x, density, epsilon = block.change(i), params.numbers("density")[i], params.numbers("epsilon")[i]
    place = (length - 1 - select.ranks(magnitude(x).view(-1, length))).view(-1)
    first, step = (density - epsilon, 2.0 * epsilon / (length - 1)) if length > 1 else (density, 0.0)
    chance = first + step * place.double()
    drawn = draws(block.keys[i], block.start, len(x), x.device)
    kept = drawn.double() + 1.0 <= chance * _TWO_32
    if stages.rescale != "density":
        return _scaled(x, kept, factor)
    scale = (1.0 / chance).float() * torch.as_tensor(factor, dtype=torch.float32, device=x.device)
    return x * torch.where(kept, scale, 0.0)


def _in_blocks(x: Tensor, size: int, density: float) -> Tensor:
    """The largest of every block of `size` elements; the last may be shorter."""
    whole = len(x) // size * size
    parts = []
    for part, length in ((x[:whole], size), (x[whole:], len(x) - whole)):
        if len(part):
            places = select.ranks(magnitude(part).view(-1, length))
            parts.append((places < max(int(density * length), 1)).view(-1))
    return torch.cat(parts)


def joined(changes: Sequence[Tensor], weights: Sequence[float], consensus: str, mean: bool) -> Tensor:
    """The weighted changes of several models brought together, in float32."""
    singles = [single(weight) for weight in weights]
    if consensus == "none" and not mean:
        return combined(changes, [1.0] * len(changes))
    if consensus == "none":
        total = summed([c.double() for c in changes])
        divisor = summed([_where(c != 0, w).double() for c, w in zip(changes, singles, strict=True)])
        return (total / torch.where(divisor == 0, 1.0, divisor)).float()
    # Exact in float64, so that the sign does not depend on the order of the models.
    votes = summed([(_counted(c) if consensus == "count" else c).double() for c in changes])
    sign = torch.where(votes >= 0, 1.0, -1.0).float()
    total, divisor = torch.zeros_like(changes[0]), torch.zeros_like(changes[0])
    for change, weight in zip(changes, singles, strict=True):
        agrees = change * sign > 0
        total = total + torch.where(agrees, change, 0.0)
        divisor = divisor + _where(agrees, weight)
    if mean:
        total = total / torch.where(divisor == 0, 1.0, divisor)
    # A NaN in any model agrees with nothing and comes back here.
    return total + (votes * 0.0).float()


def _where(which: Tensor, number: float) -> Tensor:
    """A number where something is so, else 0; float32, whatever torch's default dtype is."""
    return which.float() * number


def _counted(change: Tensor) -> Tensor:
    """A vote for a sign: a zero has none, a NaN stays one."""
    return torch.where((change == 0) | change.isnan(), change * 0.0, torch.ones_like(change).copysign(change))


def _apply(params: Params, shape: Shape, found: Trimmed) -> Apply:
    stages, weights = Stages.of(params), params.numbers("weight")
    factor = factor_of(params, stages)
    if is_plain(stages, params):
        return lambda block: moved(block.origin, factor * weighted(weights, block.wide))

    found = found.begun()

    def apply(block: Block) -> Tensor:
        scales = [_times(weight, own) for weight, own in zip(weights, found.factors, strict=True)]
        changes = _thinned(params, stages, shape, block, found, scales)
        merged = single(factor) * joined(changes, weights, stages.consensus, stages.reduce == "mean")
        return torch.where(merged == 0, block.origin, block.origin + merged)

    return apply


def _times(weight: float, factor: Tensor | float) -> Tensor | float:
    """The product of two float32 numbers, rounded to one."""
    rounded = single(weight)
    return rounded * factor if isinstance(factor, Tensor) else single(rounded * factor)


def _unit(params: Params, shape: Shape) -> int:
    stages = Stages.of(params)
    if stages.sparsify == "della" or (stages.trims and stages.scope == "row"):
        return row(params, shape)
    return int(params.number("block")) if stages.sparsify == "cabs" else 1


def _wide(params: Params, elements: int, blocks: Blocks) -> Found:
    return _cut(params, elements, blocks)


PRESETS = (
    "task_arithmetic",
    "ties",
    "dare_linear",
    "dare_ties",
    "della",
    "della_linear",
    "breadcrumbs",
    "breadcrumbs_ties",
    "cabs",
    "localize_and_stitch",
    "lines",
)
FORMS = {name: Form(apply=_apply, find=_find, wide=_wide, rewind=rewind, unit=_unit) for name in PRESETS}
