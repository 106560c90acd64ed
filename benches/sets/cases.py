"""The cases of the speed set."""

from __future__ import annotations

from dataclasses import dataclass

from family import TUNES


@dataclass(frozen=True)
class Case:
    name: str
    reads: tuple[str, ...]
    # how many times the floor it may take, with the inputs in the page cache and without
    warm_target: float | None = None
    cold_target: float | None = None
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

    def target(self, cold: bool) -> float | None:
        return self.cold_target if cold else self.warm_target


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
    Case("swap", ("base",), 1.2, 1.15, 25, uncompared=SWAP_DIFFERS, merges=False),
    Case("linear", TUNES, 1.2, 1.15, 30),
    Case("task_arithmetic", ALL, 1.2, 1.15),
    Case("slerp", ("base", "ft1"), 1.6, speedup_target=30),
    Case("nuslerp", ("ft1", "ft2"), speedup_target=8),
    Case("karcher", TUNES, 1.6, speedup_target=8),
    Case("model_stock", ALL, 1.6, speedup_target=8),
    Case("dare_linear", ALL, 1.6, speedup_target=20, compared=False),
    Case("dare_ties", ALL, 1.6, speedup_target=35, compared=False),
    Case("della", ALL, 6, speedup_target=40, compared=False),
    Case("ties", ALL, 2.5, 1.5, 60),
    Case("breadcrumbs", ALL, 2.5, speedup_target=60),
    Case("sce", ALL, 3, speedup_target=50),
    Case("experts_linear", SMALL, peer=False, compared=False, small_tensors=True),
    Case("experts_ties", SMALL, peer=False, compared=False, small_tensors=True),
]
