"""Forms of the methods whose result is a linear combination with coefficients from dot products.

One pass sums the products of all pairs (their Gram matrix, float64), one combines. The rules take any number of
matrices at once, `[..., n, n]` to coefficients `[..., n]`: those of all rows of a tensor, or of all tensors of a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from suture.errors import SutureError
from suture.torch.element import merged_by, normalised, shares_by_element
from suture.torch.forms import Apply, Block, Blocks, Form, Found, Params, Shape, combined, row, summed

#: Norms below this are zero to some methods, as in mergekit.
ZERO = 1e-8
#: Cosines beyond this are interpolated linearly, as in mergekit.
COLLINEAR = 0.9995
#: Squared sines up to this are rounding.
ROUNDING = 1e-12

Rule = Callable[[Params, Tensor], Tensor]


def gram(vectors: list[Tensor]) -> Tensor:
    """`[..., n, n]`: the dot products of n vectors along their last dimension, in float64."""
    wide = torch.stack([v.double() for v in vectors], dim=-2)
    return wide @ wide.transpose(-1, -2)


def _norms(g: Tensor) -> Tensor:
    return g.diagonal(dim1=-2, dim2=-1).sqrt()


def _cosine(g: Tensor, i: int, j: int) -> Tensor:
    norms = g[..., i, i].sqrt() * g[..., j, j].sqrt()
    return torch.where(norms == 0, 0.0, (g[..., i, j] / norms).clamp(-1.0, 1.0))


def _units(g: Tensor) -> Tensor:
    """The dot products of the directions; a vector of zeros has none, and only zeros."""
    norms = _norms(g)
    products = norms.unsqueeze(-1) * norms.unsqueeze(-2)
    cosines = torch.where(products == 0, 0.0, (g / products).clamp(-1.0, 1.0))
    own = torch.eye(g.shape[-1], dtype=torch.bool, device=g.device)
    return torch.where(own, (norms > 0).to(g.dtype).unsqueeze(-1), cosines)


def _length(units: Tensor, w: Tensor) -> Tensor:
    squared = (w.unsqueeze(-1) * w.unsqueeze(-2) * units).sum((-1, -2))
    # At least 0 but for rounding; a NaN stays one.
    return torch.where(squared < 0, 0.0, squared).sqrt()


def _arc(cosine: Tensor, t: float) -> Tensor:
    angle = cosine.acos()
    return torch.stack([((1.0 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin()], dim=-1)


def _straight(like: Tensor, t: float) -> Tensor:
    return torch.stack([torch.full_like(like, 1.0 - t), torch.full_like(like, t)], dim=-1)


def _slerp(params: Params, g: Tensor) -> Tensor:
    t, norms = params.number("t"), _norms(g)
    norms = torch.where(norms > ZERO, norms, 1.0)
    cosine = (g[..., 0, 1] / (norms[..., 0] * norms[..., 1])).clamp(-1.0, 1.0)
    return torch.where((cosine.abs() > COLLINEAR).unsqueeze(-1), _straight(cosine, t), _arc(cosine, t))


def _nuslerp(params: Params, g: Tensor) -> Tensor:
    first, second = params.numbers("weight")
    total = first + second
    t = 0.5 if abs(total) < 1e-6 else second / total
    cosine, norms = _cosine(g, 0, 1), _norms(g)
    straight = (norms == 0).any(-1) | (1.0 - cosine * cosine <= ROUNDING)
    return torch.where(straight.unsqueeze(-1), _straight(cosine, t), _arc(cosine, t))


def _multislerp(params: Params, g: Tensor) -> Tensor:
    weights = params.numbers("weight")
    weights = normalised(weights) if params.switch("normalize_weights") else weights
    n = len(weights)
    if n == 1:
        return torch.ones(g.shape[:-1], dtype=g.dtype, device=g.device)
    w = torch.tensor(weights, dtype=g.dtype, device=g.device)
    norms = _norms(g)
    length = _length(_units(g), w)
    cancel = (length < ZERO) & (norms != 0).any(-1)
    if n > 2 and bool(cancel.any()):
        raise SutureError("the weighted directions of the models cancel; change the weights, or use linear")
    size = (w * norms).sum(-1) / torch.where(cancel, 1.0, length)
    spread = torch.where(norms == 0, 0.0, w / norms * size.unsqueeze(-1))
    return torch.where(cancel.unsqueeze(-1), w, spread)


def _karcher(params: Params, g: Tensor) -> Tensor:
    tolerance, n = params.number("tol"), g.shape[-1]
    norms, units = _norms(g), _units(g)
    if n == 1:
        return torch.ones_like(norms)
    live = norms != 0
    count = live.sum(-1, keepdim=True).clamp(min=1)
    mean = live.to(g.dtype) / count
    size = _length(units, mean).unsqueeze(-1)
    first = torch.nn.functional.one_hot(live.long().argmax(-1), n).to(g.dtype)
    mean = torch.where((size == 0) | (size < tolerance), first, mean / size)
    moving = live.any(-1, keepdim=True)
    for _ in range(int(params.number("max_iter"))):
        cosines = (units @ mean.unsqueeze(-1)).squeeze(-1).clamp(-1.0, 1.0)
        angles = cosines.acos()
        # What coincides with the mean or lies opposite has no direction from it.
        none = ~live | (angles == 0) | (angles < tolerance) | (angles > math.pi - tolerance)
        scale = torch.where(none, 0.0, angles / torch.where(none, 1.0, angles.sin()) / count)
        tangent = scale - (scale * cosines).sum(-1, keepdim=True) * mean
        step = _length(units, tangent).unsqueeze(-1)
        moving = moving & ~((step == 0) | (step < tolerance))
        turned = step.cos() * mean + step.sin() * tangent / torch.where(step == 0, 1.0, step)
        turned = turned / _length(units, turned).unsqueeze(-1)
        mean = torch.where(moving, turned, mean)
    # The mean norm is over all models, also those too small to have a direction.
    size = norms.mean(-1, keepdim=True)
    return torch.where(mean == 0, 0.0, size * mean / torch.where(norms == 0, 1.0, norms))


def _stock(params: Params, g: Tensor) -> Tensor:
    n = g.shape[-1]
    pairs = [_cosine(g, i, j) for i in range(n) for j in range(i + 1, n)]
    cosine = summed(pairs) / (n * (n - 1) / 2)
    divisor = 1.0 + (n - 1) * cosine
    even = divisor.abs() < 1e-6
    t = torch.where(even, 0.0, n * cosine / torch.where(even, 1.0, divisor))
    return (t / n).unsqueeze(-1).expand(g.shape[:-1])


#: What makes coefficients of Gram matrices.
RULES: dict[str, Rule] = {
    "slerp": _slerp,
    "nuslerp": _nuslerp,
    "multislerp": _multislerp,
    "karcher": _karcher,
    "model_stock": _stock,
}


def vectors(block: Block) -> list[Tensor]:
    """What the products are of: the changes, or the models themselves where there is no base."""
    return [block.change(i) for i in range(len(block.inputs))]


def blend(block: Block, coefficients: Tensor) -> Tensor:
    """The combination of a block by coefficients `[..., n]` that spread over its elements."""
    weights = list(coefficients.unbind(-1))
    inputs = list(block.inputs)
    if block.base is not None:
        inputs.insert(0, block.base)
        weights.insert(0, 1.0 - summed(weights))
    return combined(inputs, weights)


def _find(params: Params, shape: Shape, blocks: Blocks, wide: Found) -> Tensor:
    """The Gram matrix of a tensor."""
    return summed([gram(vectors(block)) for block in blocks()])


def _apply_rule(rule: Rule) -> Callable[[Params, Shape, Found], Apply]:
    def apply(params: Params, shape: Shape, found: Tensor) -> Apply:
        coefficients = rule(params, found)
        return lambda block: blend(block, coefficients)

    return apply


def _by_row(rule: Rule, params: Params, shape: Shape) -> Apply:
    length = row(params, shape)

    def apply(block: Block) -> Tensor:
        own = rule(params, gram([v.view(-1, length) for v in vectors(block)]))
        return blend(block, own.repeat_interleave(length, dim=0))

    return apply


def _columns(shape: Shape) -> int:
    return math.prod(shape[1:])


def _by_column(params: Params, shape: Shape, blocks: Blocks) -> Tensor:
    """The Gram matrices of all columns: of what lies along the first dimension."""
    sums = []
    for block in blocks():
        parts = [v.double().view(-1, _columns(shape)) for v in vectors(block)]
        sums.append(torch.stack([torch.stack([(a * b).sum(0) for b in parts], -1) for a in parts], -2))
    return summed(sums)


def _nuslerp_by(params: Params, shape: Shape) -> str:
    if params.switch("nuslerp_flatten"):
        return "tensor"
    if params.switch("nuslerp_row_wise"):
        return "tensor" if _columns(shape) <= 1 else "column"
    return "row"


def _nuslerp_unit(params: Params, shape: Shape) -> int:
    return {"tensor": 1, "row": row(params, shape), "column": max(_columns(shape), 1)}[_nuslerp_by(params, shape)]


def _find_nuslerp(params: Params, shape: Shape, blocks: Blocks, wide: Found) -> Found:
    match _nuslerp_by(params, shape):
        case "tensor":
            return _find(params, shape, blocks, wide)
        case "column":
            return _by_column(params, shape, blocks)
    return None


def _apply_nuslerp(params: Params, shape: Shape, found: Found) -> Apply:
    match _nuslerp_by(params, shape):
        case "row":
            return _by_row(_nuslerp, params, shape)
        case "column":
            coefficients, count = _nuslerp(params, found), _columns(shape)
            return lambda block: blend(block, coefficients.repeat(len(block.origin) // count, 1))
    return _apply_rule(_nuslerp)(params, shape, found)


def _find_stock(params: Params, shape: Shape, blocks: Blocks, wide: Found) -> Found:
    return None if params.switch("filter_wise") else _find(params, shape, blocks, wide)


def _apply_stock(params: Params, shape: Shape, found: Found) -> Apply:
    return _by_row(_stock, params, shape) if params.switch("filter_wise") else _apply_rule(_stock)(params, shape, found)


def _squares(block: Block) -> Tensor:
    return torch.stack([(d.double() * d.double()).sum() for d in vectors(block)])


def _metagpt_shares(params: Params, elements: int, blocks: Blocks) -> Tensor:
    squares = summed([_squares(block) for block in blocks()])
    total = squares.sum()
    return torch.where(total == 0, 0.0, squares / torch.where(total == 0, 1.0, total))


def _apply_shares(params: Params, shape: Shape, found: Tensor) -> Apply:
    return lambda block: blend(block, found)


def _varm_by_element(params: Params) -> bool:
    return params.word("granularity") == "item"


def _varm_even(params: Params) -> bool:
    return params.word("granularity") == "layer" and not params.layered


def _varm_shares(params: Params, elements: int, blocks: Blocks) -> Tensor:
    by_tensor = params.word("granularity") in ("layer", "module")
    squares = summed([_squares(block) / (block.of if by_tensor else 1.0) for block in blocks()])
    total = squares.sum()
    return torch.where(total == 0, 1.0 / params.inputs, squares / torch.where(total == 0, 1.0, total))


def _find_varm(params: Params, shape: Shape, blocks: Blocks, wide: Found) -> Found:
    if _varm_by_element(params) or _varm_even(params):
        return None
    return _varm_shares(params, math.prod(shape), blocks) if wide is None else wide


def _apply_varm(params: Params, shape: Shape, found: Found) -> Apply:
    if _varm_by_element(params):
        return shares_by_element
    even: list[float | Tensor] = [1.0 / params.inputs] * params.inputs
    weights = even if _varm_even(params) else list(found.unbind())
    return lambda block: merged_by(block, weights)


FORMS: dict[str, Form] = {
    **{name: Form(apply=_apply_rule(RULES[name]), find=_find) for name in ("slerp", "multislerp", "karcher")},
    "nuslerp": Form(apply=_apply_nuslerp, find=_find_nuslerp, unit=_nuslerp_unit),
    "model_stock": Form(
        apply=_apply_stock,
        find=_find_stock,
        unit=lambda params, shape: row(params, shape) if params.switch("filter_wise") else 1,
    ),
    "metagpt": Form(apply=_apply_shares, find=lambda params, shape, blocks, wide: wide, wide=_metagpt_shares),
    "varm": Form(apply=_apply_varm, find=_find_varm, wide=_varm_shares),
}
