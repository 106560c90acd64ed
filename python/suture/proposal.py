"""Which layers to swap, from what two fine-tunes changed.

Two rules. The published one of layer-wise swapping (arXiv 2601.22620, as its code has it): each layer, or each
attention and feed-forward block, goes to the model that changed it by a larger share of its own change. And *edges*,
which looks for the bottom and top layers that are best taken from the donor, as layer swapping does (Bandarkar et al.,
arXiv 2410.01335). Nothing is decided silently: every score and how close it was to the other choice are in the result.
"""

from __future__ import annotations

from suture.errors import SutureError
from suture.results import Comparison, Edges, Proposal, Row, Score, Tuned

#: Modules whose change counts, as in the published code.
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TAU = 0.001
ALPHA = 0.5
#: Norms and sums below this divide nothing, as in the published code.
_NOTHING = 1e-8


def propose_from(
    found: Comparison,
    *,
    into: int = 0,
    donor: int = 1,
    by: str = "layer",
    tau: float = TAU,
    alpha: float = ALPHA,
) -> Proposal:
    """The swap proposed by what :func:`suture.diff` found of two fine-tunes.

    Args:
        found: what diff found.
        into: index of the recipient among the fine-tunes.
        donor: index of the donor.
        by: score whole layers (``layer``) or attention and feed-forward apart (``module``).
        tau: difference of two scores up to which neither model has a claim, and the block is blended.
        alpha: the donor's share where blocks are blended.

    Returns:
        ``scores``, one entry for each layer or block, with ``into`` and ``donor`` (each model's share of its own
        change), their ``difference``, its ``margin`` to the threshold and the ``choice``; ``layers``, the choices by
        layer; ``modules``, what each block consists of; and ``edges``, the second proposal.
    """
    models = [found["models"][i] for i in (into, donor)]
    for model in models:
        _check(found["base"], model)
    profiles = [_profile(model, by) for model in models]
    blocks = sorted(set(profiles[0]) | set(profiles[1]), key=lambda b: (b[0], b[1] or ""))
    scores: list[Score] = []
    for layer, block in blocks:
        own, other = (p.get((layer, block), 0.0) for p in profiles)
        difference = other - own
        choice = "donor" if difference > tau else "into" if difference < -tau else "blend"
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
    return {
        "base": found["base"],
        "into": models[0]["tuned"],
        "donor": models[1]["tuned"],
        "by": by,
        "tau": tau,
        "alpha": alpha,
        "scores": scores,
        "layers": [s["choice"] for s in scores] if by == "layer" else list(by_layer.values()),
        "modules": _modules(models[0]) if by == "module" else {},
        "edges": _edges(profiles if by == "layer" else [_profile(model, "layer") for model in models], tau),
    }


def _check(base: str, model: Tuned) -> None:
    """Refuse what cannot be scored: models that are not alike, or have no layers."""
    # A head of its own, where the base ties it, is outside the layers.
    missing, more = (
        [name for name in names if not name.endswith("lm_head.weight")]
        for names in (model["only_base"], model["only_tuned"])
    )
    for names, problem in (
        (missing, "is missing, and the base has it"),
        (more, "is not in the base"),
        (model["reshaped"], "has another shape or dtype than in the base"),
    ):
        if names:
            message = f"`{names[0]}` {problem}, {base}; models to swap between must have the same tensors"
            raise SutureError(f"{model['tuned']}: {message}", model["tuned"], names[0])
    if not _scored(model):
        raise SutureError(f"{base}: no tensor name holds a layer number, so there is nothing to propose", base)


def _profile(model: Tuned, by: str) -> dict[tuple[int, str | None], float]:
    """Each layer's or block's share of the model's change."""
    squares: dict[tuple[int, str | None], float] = {}
    sums: dict[tuple[int, str | None], float] = {}
    for tensor in _scored(model):
        key = (int(tensor["layer"]), None if by == "layer" else _block(tensor["name"]))
        change = _relative(tensor)
        sums[key] = sums.get(key, 0.0) + change
        squares[key] = squares.get(key, 0.0) + change**2
    scores = sums if by == "layer" else {key: s**0.5 for key, s in squares.items()}
    total = sum(scores.values()) + _NOTHING
    return {key: score / total for key, score in scores.items()}


def _scored(model: Tuned) -> list[Row]:
    """The tensors whose change counts: those of the published code, or where there are none, all matrices of layers."""
    inside = [t for t in model["tensors"] if t["layer"] != "-"]
    targets = [t for t in inside if t["name"].rpartition(".")[0].endswith(TARGETS)]
    return targets or [t for t in inside if len(t["shape"]) > 1]


def _block(name: str) -> str:
    return "attention" if "attn" in name or "attention" in name else "mlp"


def _modules(model: Tuned) -> dict[str, list[str]]:
    """The modules of each block, as globs: what is beside the scored ones, such as norms of queries, goes with them."""
    found: dict[str, dict[str, None]] = {}
    for tensor in _scored(model):
        inside = tensor["name"].split(f".{tensor['layer']}.", 1)[1].rpartition(".")[0]
        found.setdefault(_block(tensor["name"]), {})[inside.rpartition(".")[0] + ".*"] = None
    return {block: list(names) for block, names in found.items()}


def _relative(tensor: Row) -> float:
    """The norm of a tensor's change over that of the base, or the change alone where there is hardly any base."""
    change, relative = float(tensor["l2"]), float(tensor["relative_l2"])
    base = change / relative if relative > 0 else 0.0
    return relative if base > _NOTHING or change == 0 else change


def _edges(profiles: list[dict[tuple[int, str | None], float]], tau: float) -> Edges:
    """The bottom and top layers that the donor's change prefers most, with the undecided layers next to them."""
    layers = sorted({layer for profile in profiles for layer, _ in profile})
    claim = [profiles[1].get((layer, None), 0.0) - profiles[0].get((layer, None), 0.0) for layer in layers]
    bottom, low = _best_prefix(claim)
    top, high = _best_prefix(claim[bottom:][::-1])
    middle = claim[bottom : len(claim) - top]
    below = _undecided(middle, tau) if bottom else 0
    above = _undecided(middle[below:][::-1], tau) if top else 0
    return {
        "bottom": bottom,
        "top": top,
        "transition_bottom": below,
        "transition_top": above,
        "gain": low + high,
    }


def _best_prefix(values: list[float]) -> tuple[int, float]:
    """Length and sum of the shortest prefix with the largest sum; nothing if no sum is above 0."""
    best, length, running = 0.0, 0, 0.0
    for i, value in enumerate(values):
        running += value
        if running > best:
            best, length = running, i + 1
    return length, best


def _undecided(values: list[float], tau: float) -> int:
    """How many values at the front are within `tau` of 0."""
    return next((i for i, value in enumerate(values) if abs(value) > tau), len(values))
