"""What is done to models that a device holds, by suture and by the peer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import suture.torch
from common.gpu_models import MODELS, Dict, Family, of_few_elements
from suture.torch import known

WEIGHTS = [0.5, 0.3, 0.2]
DENSITIES = [0.5, 0.3, 0.2]
#: What a search over weights would try, one after another.
TRIED = [[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.3, 0.2, 0.5]]
SPARSE: dict[str, Any] = {"weight": WEIGHTS, "density": DENSITIES}
PARAMETERS: dict[str, dict[str, Any]] = {
    "linear": {"weight": WEIGHTS},
    "task_arithmetic": {"weight": WEIGHTS},
    "slerp": {"t": 0.4},
    "ties": SPARSE,
    "breadcrumbs": {**SPARSE, "density": [0.4] * 3, "gamma": 0.01},
    "sce": {"select_topk": 0.2},
    "dare_linear": SPARSE,
    "dare_ties": SPARSE,
}
SWAP_MS = 8.0


@dataclass(frozen=True)
class Case:
    """Something that is done to a family of models.

    Attributes:
        base: what changes are taken from, or what a method goes from (the first expert then), if anything.
    """

    name: str
    method: str
    experts: int
    base: str | None = None
    #: The least share of the copy bandwidth that must be used, the most milliseconds, times faster than the peer.
    useful: float | None = None
    most_ms: float | None = None
    faster: float | None = None
    #: The function of `suture.torch` that it needs, and the model it writes into.
    needs: str = "merge_"
    into: str = "expert-1"
    #: Whether it draws at random, so that no other tool makes the same.
    random: bool = False

    def parameters(self) -> dict[str, Any]:
        told = PARAMETERS.get(self.method, {})
        return {name: value[: self.experts] if isinstance(value, list) else value for name, value in told.items()}


MERGES = (
    Case("linear of 2", "linear", 2, useful=0.8),
    Case("linear of 3", "linear", 3, useful=0.8, faster=2),
    Case("task_arithmetic", "task_arithmetic", 3, "base", useful=0.8, faster=2),
    Case("slerp", "slerp", 2, "expert-1", useful=0.45, faster=2),
    Case("model_stock", "model_stock", 3, "base"),
    Case("ties", "ties", 3, "base", useful=0.3, faster=10),
    Case("breadcrumbs", "breadcrumbs", 3, "base", useful=0.3, faster=10),
    Case("sce", "sce", 3, "base", useful=0.3, faster=10),
    Case("dare_linear", "dare_linear", 3, "base", useful=0.5, random=True),
    Case("dare_ties", "dare_ties", 3, "base", useful=0.5, faster=2, random=True),
)
SWAP = Case("swap of half", "swap", 2, most_ms=SWAP_MS, needs="swap_")
# It writes into the base, so it comes last.
SESSION = Case("session.apply_", "linear", 3, useful=0.8, needs="prepare", into="base")
# What a call costs on tensors of few elements.
OVERHEAD = Case("overhead", "linear", 3)
# The same where no call like it was made before.
CLOSELY = Case("overhead, new", "linear", 3)
FEW = (OVERHEAD, CLOSELY)
CASES = (*MERGES, SWAP, *FEW, SESSION)
METHODS = sorted({case.method for case in CASES})


@dataclass(frozen=True)
class Call:
    """What is timed, and the bytes it cannot do without; None where they do not matter."""

    run: Callable[[], Any]
    bytes: int | None
    tensors: int
    elements: int


def merge_into(case: Case, models: Sequence[Dict], base: Dict | None) -> Any:
    first, *others = models[: case.experts]
    origin = {None: None, "base": base, "expert-1": first}[case.base]
    # Of a method that goes from one model to another the first is the base, and the others are listed.
    return suture.torch.merge_(first, others, case.method, base=origin, parameters=case.parameters())


def swap_half(family: Family) -> Call:
    outer = max(family.shape.layers // 4, 1)
    swap = getattr(suture.torch, "swap_")  # noqa: B009
    into, donor = family.experts[:2]
    moved = 2 * outer * family.shape.elements_of_a_layer
    return Call(lambda: swap(into, donor, bottom=outer, top=outer), 2 * 2 * moved, 2 * outer * 9, moved)


def session(family: Family) -> Call:
    prepare = getattr(suture.torch, "prepare")  # noqa: B009
    held = prepare(family.experts, "linear", parameters=PARAMETERS["linear"])
    weights, base = itertools.cycle(TRIED), family["base"]
    return Call(lambda: held.apply_(next(weights), into=base), 4 * family.bytes, len(base), family.elements)


def call_of(case: Case, family: Family) -> Call:
    if case is SWAP:
        return swap_half(family)
    if case is SESSION:
        return session(family)
    if case in FEW:
        few = of_few_elements(family)

        def run() -> Any:
            if case is CLOSELY:
                known.forget()
            return merge_into(case, few, None)

        return Call(run, None, len(few[0]), sum(t.numel() for t in few[0].values()))
    models, base = family.experts, family["base"]
    read = case.experts + (case.base == "base")
    return Call(lambda: merge_into(case, models, base), (read + 1) * family.bytes, len(base), family.elements)


def ours(case: Case, family: Family) -> Callable[[], Dict]:
    first, *others = family.experts[: case.experts]
    listed = others if case.base == "expert-1" else [first, *others]
    origin = {None: None, "base": family["base"], "expert-1": first}[case.base]
    return lambda: suture.torch.merge(listed, case.method, base=origin, parameters=case.parameters())


def theirs(case: Case, mergekit: Any, family: Family) -> Callable[[], Dict]:
    names = MODELS[1 : 1 + case.experts]
    models = {name: family[name] for name in ((case.base, *names) if case.base == "base" else names)}
    parameters = {
        name: dict(zip(names, value, strict=True)) if isinstance(value, list) else value
        for name, value in case.parameters().items()
    }
    return lambda: dict(mergekit.merge_state_dicts(models, case.method, parameters=parameters, base=case.base))
