"""The cases of the speed set."""

from __future__ import annotations

from dataclasses import dataclass

from family import TUNES


@dataclass(frozen=True)
class Case:
    name: str
    reads: tuple[str, ...]
    floor_target: float | None = None
    speedup_target: float | None = None
    writes: bool = True
    peer: bool = True
    compared: bool = True
    # what the two sides compute differently by design, and so is left out of the comparison
    uncompared: str = "^$"
    # has a plan of the bytes moved, and so a bound
    merges: bool = True
    # many small tensors instead of the Llama family; the target is then the time over the floor
    small_tensors: bool = False


@dataclass(frozen=True)
class Plan:
    """What suture says beforehand that it will move, and how much there is in the models it reads."""

    input_bytes: int
    read_bytes: int
    write_bytes: int


ALL = ("base", *TUNES)
SMALL = ("base", "ft1", "ft2")
SWAP_DIFFERS = r"embed_tokens|lm_head|model\.norm|layers\.(3|9)\."
CASES = [
    Case("diff", ("base", "ft1"), 1.3, writes=False, peer=False, compared=False, merges=False),
    Case("swap", ("base",), 1.2, 5, uncompared=SWAP_DIFFERS, merges=False),
    Case("linear", TUNES, 1.5, 8),
    Case("task_arithmetic", ALL, 1.5),
    Case("slerp", ("base", "ft1"), 2.5, 8),
    Case("nuslerp", ("ft1", "ft2"), None, 8),
    Case("karcher", TUNES, None, 8),
    Case("model_stock", ALL, None, 8),
    Case("dare_linear", ALL, 3, 20, compared=False),
    Case("dare_ties", ALL, 3, 20, compared=False),
    Case("della", ALL, None, 40, compared=False),
    Case("ties", ALL, 5, 25),
    Case("breadcrumbs", ALL, None, 25),
    Case("sce", ALL, None, 25),
    Case("experts_linear", SMALL, peer=False, compared=False, small_tensors=True),
    Case("experts_ties", SMALL, peer=False, compared=False, small_tensors=True),
]
