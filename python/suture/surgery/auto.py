"""A swap whose layers a proposal chose."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from os import PathLike, fspath
from typing import Any

from suture.errors import UsageError
from suture.proposal import ALPHA, TAU
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
        base, into, donor, by=by, stack=stack, tau=tau, alpha=alpha, settings=settings, progress=progress
    )
    return proposal, [how | entry | {"from": fspath(donor)} for entry in _chosen(proposal, auto, how["modules"])]


def _chosen(proposal: Proposal, auto: str, only: str | None) -> list[dict[str, Any]]:
    """What of each block a proposal takes from the donor; `only` are the modules that may move at all."""
    if auto == "edges":
        edges = proposal["edges"]
        return [{k: edges[k] for k in ("bottom", "top", "transition_bottom", "transition_top")}]
    entries = []
    # Without blocks a whole layer moves; of a block what is in it does, the layer's norms stay the recipient's.
    blocks: dict[str, list[str]] | dict[None, None] = proposal["modules"] or {None: None}
    for block, modules in blocks.items():
        scores = [s for s in proposal["scores"] if s["block"] == block]
        entry: dict[str, Any] = {
            "layers": [s["layer"] for s in scores if s["choice"] == "donor"],
            "blended": {str(s["layer"]): proposal["alpha"] for s in scores if s["choice"] == "blend"},
        }
        if modules is not None:
            # With modules asked for, those of them that are in the block.
            asked = modules if only is None else [g.strip() for g in only.split(",")]
            inside = [g for g in asked if any(fnmatchcase(g, m) or fnmatchcase(m, g) for m in modules)]
            if not inside:
                continue
            entry["modules"] = ",".join(inside)
        entries.append(entry)
    return entries
