"""Oracle: layer swapping (arXiv 2410.01335): outer layers from the donor, seams blended, the rest kept.

A seam lies between layers of the donor and layers of the recipient. Taken by the letter, the paper's formula
blends layers at an end where the donor gives none (`top=0`), beside no donor layer at all; here such an end has
no seam. Where both ends give layers, as in everything the paper measures, the two readings are the same.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .rounding import round_to

Role = Literal["donor", "blend", "into"]


def roles(
    layers: int,
    *,
    bottom: int = 0,
    top: int = 0,
    transition: int = 0,
    transition_top: int | None = None,
) -> list[Role]:
    """The source of each layer; `transition` layers at each seam, `transition_top` at the upper one."""
    low = transition if bottom > 0 else 0
    high = (transition if transition_top is None else transition_top) if top > 0 else 0
    if min(bottom, top, low, high) < 0 or bottom + low + high + top > layers:
        raise ValueError(f"{bottom} + {low} + {high} + {top} layers do not fit into {layers}")

    def role(layer: int) -> Role:
        if layer < bottom or layer >= layers - top:
            return "donor"
        if layer < bottom + low or layer >= layers - top - high:
            return "blend"
        return "into"

    return [role(layer) for layer in range(layers)]


def parse_layers(text: str) -> list[int]:
    """`0-4,30,31` as a sorted list of layer numbers, both ends of a range included."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return sorted(found)


def blend(into: NDArray[Any], donor: NDArray[Any], weight: float, dtype: str) -> NDArray[Any]:
    """weight * donor + (1 - weight) * into: in float64, then float32, then the stored dtype."""
    mixed = weight * donor.astype(np.float64) + (1.0 - weight) * into.astype(np.float64)
    return round_to(mixed.astype(np.float32), dtype)
