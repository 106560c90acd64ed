"""Forms of the methods that look at one element at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from suture.torch.forms import Block, Form, Params, combined, elementwise, moved, single, summed, weighted


def normalised(weights: list[float]) -> list[float]:
    """The weights over their sum; the plan has refused those that sum to zero."""
    total = sum(weights)
    return [weight / total for weight in weights]


def _linear(params: Params, block: Block) -> Tensor:
    weights = params.numbers("weight")
    return combined(block.inputs, normalised(weights) if params.switch("normalize") else weights)


def _passthrough(params: Params, block: Block) -> Tensor:
    (scale,) = params.numbers("scale") or [1.0]
    return block.inputs[0] if scale == 1.0 else block.inputs[0] * single(scale)


def _expo(params: Params, block: Block) -> Tensor:
    x = block.inputs[0]
    return moved(x, params.number("alpha") * (x.double() - block.origin.double()))


def _nearswap(params: Params, block: Block) -> Tensor:
    x, b = block.inputs[0].double(), block.origin.double()
    w = (params.number("t") / (b - x).abs().clamp(min=1e-6)).clamp(0.0, 1.0)
    return (w * x + (1.0 - w) * b).float()


def _mask(params: Params, block: Block) -> Tensor:
    weights = params.numbers("weight")
    models, masks = block.inputs[: len(weights)], block.inputs[len(weights) :]
    base = block.origin
    kept = [w * m.double() * (x.double() - base.double()) for w, m, x in zip(weights, masks, models, strict=True)]
    return moved(base, summed(kept))


def _fisher(params: Params, block: Block) -> Tensor:
    weights, floor = params.numbers("weight"), params.number("floor")
    models, gradients = block.inputs[: len(weights)], block.inputs[len(weights) :]
    wide = [torch.where(f.double() < floor, floor, f.double()) for f in gradients]
    shares = [w * f for w, f in zip(weights, wide, strict=True)]
    total = summed([share * x.double() for share, x in zip(shares, models, strict=True)])
    return (total / summed(shares)).float()


def _regmean(params: Params, block: Block) -> Tensor:
    """Of tensors without Gram matrices: the weighted mean."""
    weights, factor = params.numbers("weight"), params.number("lambda")
    total = sum(weights)
    mean = weighted([w / total * factor for w in weights], block.wide)
    return mean.float() if block.base is None else moved(block.base, mean)


def _magmax(params: Params, block: Block) -> Tensor:
    largest = torch.zeros_like(block.wide[0])
    for weight, change in zip(params.numbers("weight"), block.wide, strict=True):
        own = weight * change
        largest = torch.where((own.abs() < largest.abs()) | largest.isnan(), largest, own)
    return moved(block.origin, params.number("lambda") * largest)


def averaged(block: Block, epsilon: float, own: list[float | Tensor]) -> Tensor:
    """Each element over the models that changed it; what one model alone changed is times that model's factor."""
    limit = single(epsilon)
    total = torch.zeros_like(block.wide[0])
    changed, factor = torch.zeros_like(total), torch.ones_like(total)
    for change, raised in zip(block.wide, own, strict=True):
        active = (change.float().abs() > limit) | change.isnan()
        total = total + torch.where(active, change, 0.0)
        changed = changed + active
        factor = torch.where(active, raised, factor)
    mean = total / torch.where(changed == 0, 1.0, changed)
    return moved(block.origin, torch.where(changed == 1, total * factor, mean))


def _ram(params: Params, block: Block) -> Tensor:
    return averaged(block, params.number("epsilon"), [1.0] * params.inputs)


def unified(changes: list[Tensor]) -> Tensor:
    """The change that EMR elects: of those with the sign of the sum, the largest. A NaN in any model comes through."""
    total = summed(changes)
    sign = torch.where(total > 0, 1.0, -1.0).to(total.dtype)
    largest = total * 0.0
    for change in changes:
        own = change * sign
        largest = torch.where(own > largest, own, largest)
    return sign * largest


def _needs(own: Tensor, total: Tensor, threshold: float) -> Tensor:
    return own.abs() > threshold * (total - own).abs()


def _tall_mask(params: Params, block: Block) -> Tensor:
    task = int(params.number("task")) - 1
    total = params.number("alpha") * summed(block.wide)
    needed = _needs(block.wide[task], total, params.numbers("tall_lambda")[task])
    return moved(block.origin, total * needed.to(total.dtype))


def _consensus_ta(params: Params, block: Block) -> Tensor:
    total, alpha = summed(block.wide), params.number("alpha")
    thresholds = params.numbers("tall_lambda")
    votes = summed([_needs(d, alpha * total, t).long() for d, t in zip(block.wide, thresholds, strict=True)])
    factor = torch.where(votes >= int(params.number("k")), torch.full_like(total, params.number("lambda")), 0.0)
    return moved(block.origin, total * factor)


def shares_by_element(block: Block) -> Tensor:
    """VaRM element by element: each change weighted by its square."""
    squares = summed([d * d for d in block.wide])
    divisor = torch.where(squares == 0, 1.0, squares)
    return moved(block.origin, summed([d * d / divisor * d for d in block.wide]))


def merged_by(block: Block, weights: list[float | Tensor]) -> Tensor:
    """The base and the weighted sum of the changes."""
    return moved(block.origin, weighted(weights, block.wide))


FORMS: dict[str, Form] = {
    "passthrough": elementwise(_passthrough),
    "linear": elementwise(_linear),
    "expo": elementwise(_expo),
    "nearswap": elementwise(_nearswap),
    "mask": elementwise(_mask),
    "fisher": elementwise(_fisher),
    "regmean": elementwise(_regmean),
    "magmax": elementwise(_magmax),
    "ram": elementwise(_ram),
    "tall_mask": elementwise(_tall_mask),
    "consensus_ta": elementwise(_consensus_ta),
}
