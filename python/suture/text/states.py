"""What a model makes of sentences at each layer, and how near translations are to each other there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suture.errors import UsageError
from suture.results.text import Near
from suture.text.extra import need
from suture.text.forward import Batch, run
from suture.text.model import Model

#: How the tokens of a sentence become one state: the last one's; the mean of all; the mean weighted by position, the
#: first by 1 (MEXA).
POOLS = ("last", "mean", "weighted")
#: Bytes of states that are held at a time, beside the pivot's.
HELD = 2**30
#: Rows of a matrix of cosines that are made at a time.
ROWS = 1024
#: Cosines that differ by less are the same, rounded otherwise.
EQUAL = 1e-12
#: States of a sentence at each layer, float32 [layers + 1, sentences, width].
States = NDArray[np.float32]


def pooled(model: Model, tokens: Sequence[Sequence[int]], pools: Sequence[str]) -> dict[str, States]:
    """The states of texts: of the embedding (0), of each layer, the last one's behind the final norm as transformers
    has it.

    Args:
        model: what runs them.
        tokens: of each text, one at least; those beyond the context are cut off by the caller.
        pools: of :data:`POOLS`.

    Raises:
        SutureError: if a state is NaN or infinite.
    """
    torch = need("torch")
    kept: dict[str, dict[int, Any]] = {pool: {} for pool in pools}
    width = calls = 0

    def keep(layer: int, states: Any, batch: Batch) -> None:
        nonlocal width
        width = int(states.shape[-1])
        for pool in pools:
            own = kept[pool].setdefault(layer, np.empty((len(tokens), width), dtype=np.float32))
            own[batch.rows] = _pool(states, batch, pool).float().cpu().numpy()

    def seen(layer: int, before: Any, after: Any, batch: Batch) -> None:
        nonlocal calls
        if layer == 0:
            keep(0, before, batch)
        calls = max(calls, layer + 1)
        keep(layer + 1, after, batch)

    def done(batch: Batch, out: Any) -> None:
        last = getattr(out, "last_hidden_state", None)
        if last is not None and last.shape[-1] == width:
            keep(calls, last, batch)

    def _pool(states: Any, batch: Batch, pool: str) -> Any:
        if pool == "last":
            at = batch.mask.sum(1) - 1
            return states[torch.arange(len(batch.rows), device=states.device), at]
        weights = (
            batch.mask
            if pool == "mean"
            else batch.mask * torch.arange(1, batch.mask.shape[1] + 1).to(batch.mask.device)
        )
        share = (weights / weights.sum(1, keepdim=True)).to(torch.float32)
        return torch.einsum("bt,btw->bw", share, states.to(torch.float32))

    run(model, tokens, seen=seen, done=done)
    found = {pool: np.stack([own[layer] for layer in sorted(own)]) for pool, own in kept.items()}
    for states in found.values():
        if not np.isfinite(states).all():
            layer = int(np.argwhere(~np.isfinite(states))[0][0])
            raise model.no_number(f"a state of layer {layer}")
    return found


def by_language(
    model: Model, lines: Mapping[str, Sequence[str]], first: str, pools: Sequence[str]
) -> Iterator[tuple[str, dict[str, States], dict[str, int]]]:
    """Each language, its states, and counts: tokens, texts cut at the context, unknown tokens; `first` comes first.

    Languages run together as far as their states are held, so that a streamed model is read seldom.
    """
    cut: dict[str, tuple[list[list[int]], dict[str, int]]] = {}
    for language, own in lines.items():
        ids = model.ids(own)
        counts = {
            "tokens": sum(map(len, ids)),
            "cut": sum(len(one) > model.context for one in ids),
            "unknown": model.lost(ids, own),
        }
        # A text that the vocabulary has no token for is seen as its first.
        cut[language] = [one[: model.context] or [0] for one in ids], counts
    width = int(model.module.get_input_embeddings().weight.shape[1])
    each = 4 * width * (len(model.layers) + 1) * len(pools) * len(next(iter(lines.values())))
    order = [first, *(language for language in lines if language != first)]
    step = max(HELD // max(each, 1), 1)
    for start in range(0, len(order), step):
        group = order[start : start + step]
        found = pooled(model, [one for language in group for one in cut[language][0]], pools)
        at = 0
        for language in group:
            n = len(cut[language][0])
            yield language, {pool: s[:, at : at + n] for pool, s in found.items()}, cut[language][1]
            at += n


def check_pivot(lines: Mapping[str, Sequence[str]], pivot: str) -> None:
    """Refuse a pivot that is no language of the text.

    Raises:
        UsageError: if it is none.
    """
    if pivot not in lines:
        named = ", ".join(f"`{language}`" for language in lines)
        raise UsageError(f"pivot: no language `{pivot}` among the texts; expected one of {named}", at="pivot")


def nearness(one: NDArray[Any], other: NDArray[Any]) -> Near:
    """How near the states of translations are at a layer, and how near those of wrong pairs.

    Baselines are over all wrong pairs, which is what shuffled pairs come to on average: no draw is made.

    Args:
        one: states, [n, width].
        other: states of the translations, [n, width].
    """
    a, b = one.astype(np.float64), other.astype(np.float64)
    n = len(a)
    middle = np.concatenate([a, b]).mean(axis=0)
    cosine, baseline = _cosines(_unit(a), _unit(b))
    centred, centred_baseline = _cosines(_unit(a - middle), _unit(b - middle))
    u, v = _unit(a), _unit(b)
    squares_a, squares_b = (a * a).sum(1), (b * b).sum(1)
    distances, best = 0.0, np.full(n, -np.inf)
    own = (u * v).sum(1)
    rows_top = np.zeros(n)
    retrieved_rows, ties_columns, above_columns = 0.0, np.zeros(n), np.zeros(n)
    for start in range(0, n, ROWS):
        part = slice(start, min(start + ROWS, n))
        at = np.arange(part.start, part.stop)
        scores = u[part] @ v.T
        scores[at - start, at] = own[at]
        distances += float(np.sqrt(np.maximum(squares_a[part, None] + squares_b - 2 * (a[part] @ b.T), 0)).sum())
        wrong = scores.copy()
        wrong[at - start, at] = -np.inf
        rows_top[part] = wrong.max(axis=1)
        best = np.maximum(best, wrong.max(axis=0))
        higher = (wrong > own[at, None] + EQUAL).any(axis=1)
        ties = (abs(wrong - own[at, None]) <= EQUAL).sum(axis=1)
        retrieved_rows += float((~higher / (1 + ties)).sum())
        above_columns += (wrong > own + EQUAL).sum(axis=0)
        ties_columns += (abs(wrong - own) <= EQUAL).sum(axis=0)
    retrieved_columns = float(((above_columns == 0) / (1 + ties_columns)).sum())
    pair = float(np.sqrt(((a - b) ** 2).sum(1)).sum())
    return {
        "cosine": cosine,
        "baseline": baseline,
        "above": cosine - baseline,
        "centred": centred,
        "centred_baseline": centred_baseline,
        "euclidean": pair / n,
        "euclidean_baseline": max(distances - pair, 0.0) / (n * (n - 1)),
        "mexa": float(((own > rows_top + EQUAL) & (own > best + EQUAL)).mean()),
        "mexa_chance": 1 / (2 * n - 1),
        "retrieval": (retrieved_rows + retrieved_columns) / (2 * n),
        "retrieval_chance": 1 / n,
    }


def _unit(a: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of length 1; a row of zeros stays one."""
    norms = np.linalg.norm(a, axis=1, keepdims=True)
    found: NDArray[np.float64] = np.divide(a, norms, out=np.zeros_like(a), where=norms > 0)
    return found


def _cosines(u: NDArray[np.float64], v: NDArray[np.float64]) -> tuple[float, float]:
    """The mean of pairs, and that of all wrong pairs."""
    n, pair = len(u), float((u * v).sum())
    return pair / n, (float(u.sum(0) @ v.sum(0)) - pair) / (n * (n - 1))
