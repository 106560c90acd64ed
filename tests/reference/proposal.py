"""Oracle: which layers to swap, from how far each of two models moved away from their base, in float64.

The rule for layers and modules is that of layer-wise swapping for safety (arXiv 2601.22620): of q, k, v, o, gate,
up and down the relative L2 change is taken; a layer scores their sum, a block (attention, MLP) the root of the sum
of their squares; each model's scores are divided by their sum. Where the donor's share is larger by more than tau
the donor's layer is taken, where it is smaller by more than tau the recipient's is kept, between both are blended.

`edges` makes of the same differences a swap of outer layers: the prefix and the suffix that together gain most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .layers import layer_of

Choice = Literal["into", "donor", "blend"]
Unit = tuple[int, str | None]
BLOCKS = {
    "attention": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    "mlp": ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
}
#: A norm of the base up to this is not divided by.
TINY = 1e-8
#: Added to the sum of scores before dividing by it, as the published code does.
EPSILON = 1e-8


@dataclass(frozen=True)
class Edges:
    """A swap of outer layers."""

    bottom: int
    top: int
    transition_bottom: int
    transition_top: int
    gain: float


def block_of(name: str) -> str | None:
    """`attention` or `mlp` if a tensor is one that is scored."""
    stem = name.removesuffix(".weight").removesuffix(".bias")
    return next((block for block, modules in BLOCKS.items() if stem.endswith(tuple("." + m for m in modules))), None)


def moved(base: NDArray[Any], tuned: NDArray[Any]) -> float:
    """||tuned - base|| / ||base||, or the former alone where the base is next to nothing."""
    start = base.astype(np.float64)
    change, size = (float(np.sqrt(np.sum(x * x))) for x in (tuned.astype(np.float64) - start, start))
    return change / size if size > TINY else change


def scores(base: Mapping[str, NDArray[Any]], tuned: Mapping[str, NDArray[Any]], by: str) -> dict[Unit, float]:
    """How much each layer (`by="layer"`) or each block of it (`by="module"`) moved, in the order of layers."""
    found: dict[Unit, list[float]] = {}
    for name, start in base.items():
        layer, block = layer_of(name), block_of(name)
        if layer is not None and block is not None:
            found.setdefault((layer, None if by == "layer" else block), []).append(moved(start, tuned[name]))
    total: Callable[[Iterable[float]], float] = {"layer": math.fsum, "module": root_of_squares}[by]
    return {unit: total(found[unit]) for unit in sorted(found, key=str_of)}


def str_of(unit: Unit) -> tuple[int, str]:
    """For sorting: by layer, attention before the MLP."""
    return unit[0], unit[1] or ""


def root_of_squares(values: Iterable[float]) -> float:
    return math.sqrt(math.fsum(value * value for value in values))


def normalised(found: Mapping[Unit, float]) -> dict[Unit, float]:
    """Each score as a share of the model's sum."""
    total = sum(found.values()) + EPSILON
    return {unit: score / total for unit, score in found.items()}


def choose(difference: float, tau: float) -> Choice:
    """Whose layer it is, by the donor's share less the recipient's."""
    if difference > tau:
        return "donor"
    return "into" if difference < -tau else "blend"


def chosen(into: float, donor: float, tau: float) -> Choice:
    """The same, by the shares; a layer that neither changed stays the recipient's."""
    return "into" if into == donor == 0 else choose(donor - into, tau)


def edges(gains: Sequence[float], tau: float) -> Edges:
    """The prefix and the suffix that together gain most, found by trying all; of equal ones those with fewest layers.

    Something is left between them, unless every run of layers gains. A transition is made of the layers next to a
    border, inside, whose difference is within tau; where both could have a layer, the lower one has it.
    """
    layers = len(gains)
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(gains, dtype=np.float64))])
    pairs = [(b, t) for b in range(layers) for t in range(layers - b)]
    left = {(b, t): sums[layers - t] - sums[b] for b, t in pairs}
    least = min(left.values())
    best = [pair for pair in pairs if left[pair] <= least + 1e-12]
    bottom, top = min(best, key=lambda pair: (pair[0] + pair[1], pair[0]))
    if least > 1e-12:
        bottom, top = layers, 0
    inside = gains[bottom : layers - top]
    low = leading(inside, tau) if bottom else 0
    high = leading(inside[low:][::-1], tau) if top else 0
    gain = float(sum(gains[:bottom]) + sum(gains[layers - top :]))
    return Edges(bottom, top, low, high, gain)


def leading(gains: Sequence[float], tau: float) -> int:
    """How many values at the start are within tau."""
    return next((i for i, gain in enumerate(gains) if abs(gain) > tau), len(gains))
