"""A proposed swap as a merge config: shares of each layer, which an option cannot say and an editor can change."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from suture.analysis.seen import DTYPES
from suture.checkpoint import Checkpoint, opened
from suture.errors import UsageError
from suture.proposal import taken
from suture.recipe.draft import Draft, Line
from suture.results import Proposal
from suture.results.reading import Stack

#: How much of what is outside the layers is the donor's.
_OUTSIDE = {"into": 0.0, "from": 1.0, "mean": 0.5}


def draft_of(proposal: Proposal, swap: Mapping[str, Any] | None = None) -> Draft:
    """The weighted average of recipient and donor that a proposal amounts to.

    Args:
        proposal: the proposal.
        swap: the recipe of the swap that took it; by default what the proposal says itself.

    Raises:
        UsageError: if the swap takes what no average says: heads, or what is outside the layers from the base.
    """
    entries = taken(proposal, proposal["by"]) if swap is None else swap["donors"]
    said: Any = proposal["alpha"] if swap is None else swap.get("non_layer", "into")
    outside = _OUTSIDE.get(said) if isinstance(said, str) else float(said)
    if outside is None:
        raise UsageError(f"a config has no `--non-layer {said}`; take the swap's command instead")
    if any(e.get("heads") is not None for e in entries):
        raise UsageError("a config moves no single heads; take the swap's command instead")
    stacks: list[Stack] = json.loads(opened(proposal["into"]).stacks_json())
    stack = next(s for s in stacks if s["name"] == proposal["stack"])
    others = [s for s in stacks if s["prefix"] != stack["prefix"]]
    if outside and others:
        named = ", ".join(f"`{s['name']}`" for s in others)
        raise UsageError(
            f"a config cannot leave what belongs to {named}, and is in no layer, to the recipient; take the command "
            "that `swap --auto --dry-run` shows, or propose with `--non-layer into`"
        )
    shares = [(entry.get("modules"), _shares(entry, stack["layers"])) for entry in entries]
    donor, into = (_weight(stack, shares, outside, own) for own in (False, True))
    remarks = [
        f"the swap proposed by what {proposal['into']} and {proposal['donor']} changed of {proposal['base']}, as a "
        "weighted average: a weight of 0 takes nothing of a model, and the two weights of a layer sum to 1",
        f"scores: `suture swap --auto`; by {proposal['by']}, tau {proposal['tau']}, alpha {proposal['alpha']}",
    ]
    return Draft(
        method=("linear", "weighted average of the models"),
        models=[
            (proposal["into"], [Line("weight", into, "by layer; the default is of what is outside the layers")]),
            (proposal["donor"], [Line("weight", donor)]),
        ],
        # Tensors of other stacks have layers of the same numbers, and stay the recipient's.
        stack=None if stack["main"] else stack["name"],
        include=[] if outside else [f"glob:{stack['prefix']}*"],
        exclude=list((swap or {}).get("ignore") or ()),
        dtype=_dtype(proposal, (swap or {}).get("dtype")),
        remarks=remarks,
    )


def _dtype(proposal: Proposal, asked: str | None) -> tuple[str, str] | None:
    """The dtype that the swap writes, where a merge would write another: the recipient's, if it has one alone.

    Raises:
        UsageError: if the models have several, so that each tensor has one of its own.
    """
    if asked is not None:
        return asked, ""
    into, donor = (
        {t["dtype"] for t in Checkpoint(path).describe()["tensors"]} & DTYPES.keys()
        for path in (proposal["into"], proposal["donor"])
    )
    if donor <= into and len(into) < 2:
        return None
    if len(into) != 1:
        raise UsageError("the models hold several dtypes, and a swap keeps each tensor's; give one with `--dtype`")
    return DTYPES[into.pop()], ""


def _weight(stack: Stack, shares: list[tuple[str | None, dict[int, float]]], outside: float, own: bool) -> Any:
    """The weights of the donor, or of the recipient: a value for each layer, by module where blocks go apart."""

    def of(share: float) -> float:
        return round(1 - share, 12) if own else share

    first, layers = stack["first"], range(stack["layers"])
    rules: list[dict[str, Any]] = []
    for modules, found in shares:
        value = {"layers": {first + i: of(found.get(i, 0.0)) for i in layers}, "default": of(outside)}
        if modules is None:
            return value
        rules += [{"filter": f, "value": value} for f in _filters(stack, modules)]
    return [*rules, {"filter": f"glob:{stack['prefix']}*", "value": of(0.0)}, {"filter": "*", "value": of(outside)}]


def _filters(stack: Stack, modules: str) -> Iterator[str]:
    """Modules of a swap as filters of whole names: a glob or a part, behind the number of a layer."""
    for module in (m.strip() for m in modules.split(",")):
        if module.startswith(("glob:", "regex:", "!")):
            raise UsageError(f"`{module}`: a config has filters of whole names; take the swap's command instead")
        yield f"glob:{stack['prefix']}*.{module if '*' in module else f'*{module}*'}"


def _shares(entry: Mapping[str, Any], count: int) -> dict[int, float]:
    """The donor's share in each layer that it has one in."""
    if "layers" in entry:
        return dict.fromkeys(entry["layers"], 1.0) | {int(k): float(v) for k, v in entry.get("blended", {}).items()}
    bottom, top = entry.get("bottom", 0), entry.get("top", 0)
    below = entry.get("transition_bottom", 0) if bottom else 0
    above = entry.get("transition_top", 0) if top else 0
    blend = entry.get("blend", 0.5)

    def share(j: int, of: int) -> float:
        return (of + 1 - j) / (of + 1) if blend == "ramp" else float(blend)

    found = {bottom + j - 1: share(j, below) for j in range(1, below + 1)}
    found |= {count - top - j: share(j, above) for j in range(1, above + 1)}
    return found | dict.fromkeys([*range(bottom), *range(count - top, count)], 1.0)
