"""Which layers to swap, from what two fine-tunes changed.

Two rules. The published one of layer-wise swapping (arXiv 2601.22620, as its code has it): each layer, or each
attention and feed-forward block, goes to the model that changed it by a larger share of its own change. And *edges*,
which looks for the bottom and top layers that are best taken from the donor, as layer swapping does (Bandarkar et al.,
arXiv 2410.01335). Nothing is decided silently: every score and how close it was to the other choice are in the result,
and layers that neither model gives evidence of.

Where the published code scores seven projections by name, all matrices of a layer are scored, which in its models are
those seven; the experts of a layer count as one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from suture.errors import SutureError
from suture.results import Comparison, Edges, Proposal, Row, Score, Tuned
from suture.results.proposal import Evidence
from suture.results.reading import Stack
from suture.results.stacks import stack_called

TAU = 0.001
ALPHA = 0.5
#: Norms and sums below this divide nothing, as in the published code.
_NOTHING = 1e-8
#: Sums of scores that differ by less are the same sum, rounded otherwise.
_ROUNDING = 1e-12


def propose_from(
    found: Comparison,
    *,
    into: int = 0,
    donor: int = 1,
    by: str = "layer",
    stack: str | None = None,
    tau: float = TAU,
    alpha: float = ALPHA,
    evidence: Evidence | None = None,
) -> Proposal:
    """The swap proposed by what :func:`suture.diff` found of two fine-tunes.

    Args:
        found: what diff found.
        into: index of the recipient among the fine-tunes.
        donor: index of the donor.
        by: score whole layers (``layer``) or attention and feed-forward apart (``module``).
        stack: the stack whose layers are scored, if not the main one.
        tau: difference of two scores up to which neither model has a claim, and the block is blended.
        alpha: the donor's share where blocks are blended.
        evidence: where languages share and where they part. A layer where they share stays the recipient's; where they
            part, what the changes leave undecided is the donor's. This rule is ours, and of no paper.

    Returns:
        ``scores``, one entry for each layer or block, with ``into`` and ``donor`` (each model's share of its own
        change), their ``difference``, its ``margin`` to the threshold and the ``choice``; ``layers``, the choices by
        layer; ``modules``, what each block consists of; ``edges``, the second proposal; ``silent``, layers that neither
        model changed, or of which nothing can be scored, which stay the recipient's; ``stack``, whose layers these are.

    Raises:
        UsageError: if there is no such stack, or nothing tells which is meant.
        SutureError: if the models are not alike in these layers, or have none that could be scored.
    """
    models = [found["models"][i] for i in (into, donor)]
    scored = stack_called(found["base"], found["stacks"], stack, "name one with stack (--stack)")
    for model in models:
        _check(found["base"], model, scored)
    profiles = [_profile(model, scored, by) for model in models]
    blocks = sorted(set(profiles[0]) | set(profiles[1]), key=lambda b: (b[0], b[1] or ""))
    scores: list[Score] = []
    for layer, block in blocks:
        own, other = (p.get((layer, block), 0.0) for p in profiles)
        difference = other - own
        # Without evidence there is nothing to weigh.
        undecided = "blend" if own or other else "into"
        choice = "donor" if difference > tau else "into" if difference < -tau else undecided
        if evidence is not None and not evidence["told"]:
            choice = "into" if evidence["shared"][layer] else "donor" if choice == "blend" else choice
        scores.append(
            {
                "layer": layer,
                "block": block,
                "into": own,
                "donor": other,
                "difference": difference,
                "margin": abs(abs(difference) - tau),
                "choice": choice,
            }
        )
    by_layer: dict[int, dict[str, str]] = {}
    for s in scores:
        by_layer.setdefault(s["layer"], {})[s["block"] or ""] = s["choice"]
    whole = profiles if by == "layer" else [_profile(model, scored, "layer") for model in models]
    claims = [whole[1].get((layer, None), 0.0) - whole[0].get((layer, None), 0.0) for layer in range(scored["layers"])]
    if evidence is not None and not evidence["told"]:
        # A layer where languages share is none to take, whatever the donor claims.
        claims = [min(c, -2 * tau) if s else c for c, s in zip(claims, evidence["shared"], strict=True)]
    told = {layer for profile in whole for (layer, _), score in profile.items() if score}
    return {
        "schema": 1,
        "base": found["base"],
        "into": models[0]["tuned"],
        "donor": models[1]["tuned"],
        "stack": scored["name"],
        "by": by,
        "tau": tau,
        "alpha": alpha,
        "scores": scores,
        "layers": [s["choice"] for s in scores] if by == "layer" else list(by_layer.values()),
        "modules": _modules(models[0], scored) if by == "module" else {},
        "silent": [layer for layer in range(scored["layers"]) if layer not in told],
        "edges": edges_of(claims, tau),
        "evidence": evidence,
    }


def taken(proposal: Proposal, auto: str, only: str | None = None) -> list[dict[str, Any]]:
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


def _layer(stack: Stack, layer: str) -> int | None:
    """The number of a row's layer, if it is one of the stack."""
    named, _, number = layer.rpartition(":")
    own = named == "" if stack["main"] else named == stack["name"]
    return int(number) if own and number.isdecimal() else None


def _check(base: str, model: Tuned, stack: Stack) -> None:
    """Refuse what cannot be scored: models that are not alike in the layers, or have nothing to score there."""
    for names, problem in (
        (model["only_base"], "is missing, and the base has it"),
        (model["only_tuned"], "is not in the base"),
        (model["reshaped"], "has another shape or dtype than in the base"),
    ):
        inside = [name for name in names if _layer(stack, model["lost"][name]) is not None]
        if inside:
            message = f"`{inside[0]}` {problem}, {base}; models to swap between must have the same tensors"
            raise SutureError(f"{model['tuned']}: {message}", model["tuned"], inside[0])
    if not _scored(model, stack):
        message = f"no layer of `{stack['name']}` has a matrix of floats, so there is nothing to propose"
        raise SutureError(f"{base}: {message}", base)


def _profile(model: Tuned, stack: Stack, by: str) -> dict[tuple[int, str | None], float]:
    """Each layer's or block's share of the model's change."""
    # The experts of a layer count as one matrix, by the mean of their changes.
    kinds: dict[tuple[int, str | None, str], list[float]] = {}
    for layer, tensor in _scored(model, stack):
        block = None if by == "layer" else _block(tensor["name"])
        kinds.setdefault((layer, block, _kind(tensor["name"])), []).append(_relative(tensor))
    squares: dict[tuple[int, str | None], float] = {}
    sums: dict[tuple[int, str | None], float] = {}
    for (layer, block, _), changes in kinds.items():
        change = sum(changes) / len(changes)
        sums[layer, block] = sums.get((layer, block), 0.0) + change
        squares[layer, block] = squares.get((layer, block), 0.0) + change**2
    scores = sums if by == "layer" else {key: s**0.5 for key, s in squares.items()}
    total = sum(scores.values()) + _NOTHING
    return {key: score / total for key, score in scores.items()}


def _scored(model: Tuned, stack: Stack) -> list[tuple[int, Row]]:
    """The tensors whose change counts, with their layers: all matrices of the stack's layers that are floats, and their
    biases, as in the published code.
    """
    inside = [(i, t) for t in model["tensors"] if (i := _layer(stack, t["layer"])) is not None and t["l2"] is not None]
    matrices = {t["name"].removesuffix(".weight") for _, t in inside if len(t["shape"]) > 1}
    return [(i, t) for i, t in inside if len(t["shape"]) > 1 or t["name"].removesuffix(".bias") in matrices]


def _kind(name: str) -> str:
    """A tensor's name with its numbers as one, so that experts are of a kind."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)


#: What makes the tokens of a text meet: attention of any kind, and what stands in its place.
_MIXERS = re.compile(r"attn|attention|mixer|mamba|ssm|conv|temporal|recurrent|q_proj|k_proj|v_proj|o_proj")


def _block(name: str) -> str:
    return "attention" if _MIXERS.search(name.lower()) and not re.search(r"mlp|experts", name) else "mlp"


def _modules(model: Tuned, stack: Stack) -> dict[str, list[str]]:
    """The modules of each block, as globs: what is beside the scored ones, such as norms of queries, goes with them."""
    found: dict[str, dict[str, None]] = {}
    for layer, tensor in _scored(model, stack):
        inside = tensor["name"].split(f".{layer + stack['first']}.", 1)[1].rpartition(".")[0]
        found.setdefault(_block(tensor["name"]), {})[inside.rpartition(".")[0] + ".*" if "." in inside else inside] = (
            None
        )
    return {block: list(names) for block, names in found.items()}


def _relative(tensor: Row) -> float:
    """The norm of a tensor's change over that of the base, or the change alone where there is hardly any base."""
    change, relative = float(tensor["l2"]), float(tensor["relative_l2"])
    base = change / relative if relative > 0 else 0.0
    return relative if base > _NOTHING or change == 0 else change


def edges_of(claims: Sequence[float], tau: float) -> Edges:
    """The bottom and top layers whose claims sum to most, with the undecided layers next to them.

    Args:
        claims: for each layer the donor's share of its change less the recipient's.
        tau: claims within this of 0 are undecided.

    Returns:
        ``bottom`` and ``top``, the transitions, their ``gain``, and ``told``, what is to be known of it, if anything.
        Of several that gain as much the one that takes fewest layers.
    """
    n = len(claims)
    # What is left in the middle is the run with the least sum: of prefix sums the largest fall.
    high, start, least = 0.0, 0, math.inf
    first, last, prefix = 0, 0, 0.0
    for end, claim in enumerate(claims, 1):
        prefix += claim
        fall = prefix - high
        longer = abs(fall - least) <= _ROUNDING and end - start > last - first
        if fall < least - _ROUNDING or longer:
            least, first, last = fall, start, end
        if prefix > high + _ROUNDING:
            high, start = prefix, end
    if least > _ROUNDING:
        # Every layer is claimed by the donor.
        first = last = n
    bottom, top = first, n - last
    gain = sum(claims[:bottom]) + sum(claims[n - top :])
    middle = claims[first:last]
    below = _undecided(middle, tau) if bottom else 0
    above = _undecided(middle[below:][::-1], tau) if top else 0
    told = None
    if bottom + top == n and n:
        told = "the donor claims every layer, so that all would be taken"
    elif gain <= tau:
        told = f"no bottom or top layers gain more than tau ({tau:g}); the donor has no claim at the edges"
    return {
        "bottom": bottom,
        "top": top,
        "transition_bottom": below,
        "transition_top": above,
        "gain": gain,
        "told": told,
    }


def _undecided(values: Sequence[float], tau: float) -> int:
    """How many values at the front are within `tau` of 0."""
    return next((i for i, value in enumerate(values) if abs(value) > tau), len(values))
