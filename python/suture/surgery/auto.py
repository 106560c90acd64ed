"""A swap whose layers a proposal chose."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from suture.errors import UsageError
from suture.proposal import ALPHA, TAU, taken
from suture.reference import model_of
from suture.results import Proposal
from suture.settings import Progress, Settings
from suture.surgery.propose import propose


def auto_donors(
    base: str | PathLike[str] | None,
    into: str | PathLike[str],
    donor: str | PathLike[str] | Mapping[Any, Any],
    auto: str,
    stack: str | None,
    given: list[str],
    how: dict[str, Any],
    tau: float | None,
    alpha: float | None,
    settings: Settings,
    progress: Progress | None,
    evidence: str | PathLike[str] | None = None,
) -> tuple[Proposal, list[dict[str, Any]]]:
    """A proposal and the donor's entries of the swap recipe that do what it says."""
    if auto not in ("layer", "module", "edges"):
        raise UsageError(f"auto: expected layer, module or edges, found `{auto}`")
    if isinstance(donor, Mapping):
        raise UsageError(f"auto chooses the layers of one donor, found {len(donor)} donors with layers")
    if base is None:
        raise UsageError("auto compares both models with the one they were tuned from; give base")
    if given:
        raise UsageError(f"auto chooses the layers; expected none given, found {given[0]}")
    if how["base"] is not None:
        raise UsageError("auto compares both models with one base; it does not go with a base of the donor's own")
    by = "layer" if auto == "edges" else auto
    tau, alpha = TAU if tau is None else tau, ALPHA if alpha is None else alpha
    proposal = propose(
        base,
        into,
        donor,
        by=by,
        stack=stack,
        tau=tau,
        alpha=alpha,
        settings=settings,
        progress=progress,
        evidence=evidence,
    )
    return proposal, [how | entry | {"from": model_of(donor)} for entry in taken(proposal, auto, how["modules"])]
