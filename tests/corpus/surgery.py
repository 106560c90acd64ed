"""suture's verbs on a case, as the tests and the table call them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import suture

from . import oracle
from .case import SETTINGS, Case, tuned


def refusal(verb: Callable[..., Any], *args: Any, **how: Any) -> str | None:
    """The words with which suture refuses; None if it does what it is asked."""
    try:
        verb(*args, **how)
    except suture.SutureError as error:
        return str(error)
    return None


def swap(case: Case, out: Path, **how: Any) -> suture.Report:
    """A swap of the case's two fine-tunes."""
    return suture.swap(case.path("into"), case.path("donor"), out, **case.how | how)


def swap_heads(case: Case, out: Path) -> suture.Report:
    """The query heads that share the first head for keys and values, in the first layer that attends."""
    query, shared = case.family.attention.heads or (1, 1)
    return swap(case, out, layers=[case.family.attention.layer], heads=range(query // shared))


def revert(case: Case, out: Path) -> suture.Report:
    """Layer 1 of the recipient as it was before its training."""
    return suture.revert(case.path("base"), case.path("into"), out, layers=[1], **case.how)


def mean(case: Case, out: Path, labels: Sequence[str] = ("into", "donor")) -> suture.Report:
    """The linear merge of two fine-tunes."""
    sources = [{"model": str(case.path(label)), "parameters": {"weight": 0.5}} for label in labels]
    return suture.merge({"merge_method": "linear", "models": sources}, out, settings=SETTINGS)


def stack(case: Case, out: Path) -> suture.Report:
    """All layers of the main stack, and all but the first once more."""
    n = case.family.layers
    slices = [{"sources": [{"model": str(case.path("into")), "layer_range": span}]} for span in ([0, n], [1, n])]
    return suture.merge({"merge_method": "passthrough", "slices": slices}, out, settings=SETTINGS)


def propose(case: Case, out: Path) -> dict[str, Any]:
    """What is proposed for a donor that changed the first layer only and a recipient that changed the last."""
    for label, layer in {"first": 0, "last": case.family.layers - 1}.items():
        names = {n for n in case.states["base"] if oracle.layer_of(case.family, n) == layer}
        case.add(label, tuned(case.states["base"], 4 + layer, names.__contains__))
    into, donor, base = (case.path(label) for label in ("last", "first", "base"))
    return dict(suture.swap(into, donor, out, auto="layer", base=base, dry_run=True, **case.how).proposal or {})
