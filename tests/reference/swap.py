"""Oracle: layer swapping (arXiv 2410.01335): outer layers from the donor, seams blended, the rest kept.

A seam lies between layers of the donor and layers of the recipient. Taken by the letter, the paper's formula
blends layers at an end where the donor gives none (`top=0`), beside no donor layer at all; here such an end has
no seam. Where both ends give layers, as in everything the paper measures, the two readings are the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
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
    transition_bottom: int | None = None,
    transition_top: int | None = None,
) -> list[Role]:
    """The source of each layer; `transition` layers at each seam that has no width of its own."""
    low, high = widths(
        bottom=bottom,
        top=top,
        transition=transition,
        transition_bottom=transition_bottom,
        transition_top=transition_top,
    )
    if min(bottom, top, low, high) < 0 or bottom + low + high + top > layers:
        raise ValueError(f"{bottom} + {low} + {high} + {top} layers do not fit into {layers}")

    def role(layer: int) -> Role:
        if layer < bottom or layer >= layers - top:
            return "donor"
        if layer < bottom + low or layer >= layers - top - high:
            return "blend"
        return "into"

    return [role(layer) for layer in range(layers)]


def widths(
    *,
    bottom: int = 0,
    top: int = 0,
    transition: int = 0,
    transition_bottom: int | None = None,
    transition_top: int | None = None,
) -> tuple[int, int]:
    """How many layers the lower and the upper seam have; none beside an end that gives no layers."""
    low = transition if transition_bottom is None else transition_bottom
    high = transition if transition_top is None else transition_top
    return low if bottom > 0 else 0, high if top > 0 else 0


def shares(layers: int, blend: float | Literal["ramp"] = 0.5, **places: int) -> list[float]:
    """The donor's share of each layer, 1 where it is the donor's and 0 where it is the recipient's.

    A ramp falls over a seam of t layers in equal steps: (t + 1 - j) / (t + 1) at the j-th from the donor's side.
    """
    low, high = widths(**places)
    found = []
    for layer, role in enumerate(roles(layers, **places)):
        if role != "blend":
            found.append(1.0 if role == "donor" else 0.0)
        elif blend != "ramp":
            found.append(blend)
        else:
            from_below = layer - places.get("bottom", 0) + 1
            from_above = layers - places.get("top", 0) - layer
            j, t = (from_below, low) if from_below <= low else (from_above, high)
            found.append((t + 1 - j) / (t + 1))
    return found


def parse_layers(text: str) -> list[int]:
    """`0-4,30,31` as a sorted list of layer numbers, both ends of a range included."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return sorted(found)


def givers(layers: int, listed: Mapping[str, str]) -> list[str | None]:
    """Which of several donors gives each layer, None where the recipient keeps its own."""
    found: list[str | None] = [None] * layers
    for donor, text in listed.items():
        for layer in parse_layers(text):
            if layer >= layers:
                raise ValueError(f"{donor}: no layer {layer} of {layers}")
            if found[layer] is not None:
                raise ValueError(f"layer {layer} of both {found[layer]} and {donor}")
            found[layer] = donor
    return found


def blend(into: NDArray[Any], donor: NDArray[Any], weight: float, dtype: str) -> NDArray[Any]:
    """weight * donor + (1 - weight) * into: in float64, then float32, then the stored dtype."""
    mixed = weight * donor.astype(np.float64) + (1.0 - weight) * into.astype(np.float64)
    return round_to(mixed.astype(np.float32), dtype)


def carried(base: NDArray[Any], donor: NDArray[Any], donor_base: NDArray[Any]) -> NDArray[np.float64]:
    """The delta form: what the donor learned from its own base, put onto another, in float64."""
    return base.astype(np.float64) + (donor.astype(np.float64) - donor_base.astype(np.float64))


def round_once(values: NDArray[np.float64], dtype: str) -> NDArray[Any]:
    """float64 values as `dtype` holds them, rounded once: a halfway case is one of the float64 value itself.

    The way to bfloat16 goes over a float32 that is rounded to odd, which keeps what lies beside a halfway case
    beside it.
    """
    if dtype != "BF16":
        return values.astype({"F64": np.float64, "F32": np.float32, "F16": np.float16}[dtype])
    near = values.astype(np.float32)
    bits = near.view(np.uint32)
    exact = near.astype(np.float64) == values
    away = np.abs(near.astype(np.float64)) > np.abs(values)
    odd = np.where(exact, bits, (bits - away.astype(np.uint32)) | np.uint32(1))
    return round_to(np.asarray(odd, dtype=np.uint32).view(np.float32), "BF16")


def key_value_heads(listed: Collection[int], heads: int, groups: int) -> list[int]:
    """The key/value heads whose query heads are all listed; ValueError where only some of a group's are."""
    size = heads // groups
    found = []
    for group in range(groups):
        of_group = set(range(group * size, (group + 1) * size))
        if of_group <= set(listed):
            found.append(group)
        elif of_group & set(listed):
            raise ValueError(f"key/value head {group} serves query heads {sorted(of_group)}, listed are {listed}")
    return found


def with_heads(
    into: NDArray[Any], donor: NDArray[Any], module: str, listed: Collection[int], heads: int, groups: int
) -> NDArray[Any]:
    """A tensor of the recipient with the donor's attention heads: rows of q, k and v, columns of o.

    Biases of q, k and v have a row each; that of o is of no head, and stays. So does any other module.
    """
    out = into.copy()
    if module == "o_proj":
        if into.ndim == 2:
            columns = rows_of(listed, into.shape[1] // heads)
            out[:, columns] = donor[:, columns]
        return out
    if module == "q_proj":
        rows = rows_of(listed, into.shape[0] // heads)
    elif module in ("k_proj", "v_proj"):
        rows = rows_of(key_value_heads(listed, heads, groups), into.shape[0] // groups)
    else:
        return out
    out[rows] = donor[rows]
    return out


def rows_of(listed: Collection[int], size: int) -> list[int]:
    """The rows of these heads, `size` each."""
    return [head * size + row for head in sorted(listed) for row in range(size)]
