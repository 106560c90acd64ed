"""Bilingual lexicon induction: whether translations are nearest by cosine, and by CSLS (arXiv 1710.04087)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suture.results.vocabulary import Induced, Induction

#: Words that are looked up at a time.
_BATCH = 512
#: Neighbours whose mean similarity CSLS takes away.
NEIGHBOURS = 10
#: Scores that differ by less are equal.
_EQUAL = 1e-12


def induce(
    source: NDArray[Any],
    target: NDArray[Any],
    gold: Mapping[int, Sequence[int]],
    *,
    neighbours: int = NEIGHBOURS,
    pairs: int = 0,
    left_out: int = 0,
) -> Induction:
    """Look up source words among target words.

    ``CSLS(x, y) = 2 cos(x, y) - r(x) - r(y)``, where r is the mean cosine of a word with its `neighbours` nearest of
    the other side. Sums are formed in float64. A rank is one more than the number of words with a higher score that
    are no translation; equal scores do not count against a word.

    Args:
        source: vectors of source words, [sources, width].
        target: vectors of target words, [targets, width].
        gold: the target words that are right for a source word.
        neighbours: for CSLS; all, where there are fewer.
        pairs: of the dictionary, for the result.
        left_out: of them without a vector, for the result.
    """
    one, other = _unit(source), _unit(target)
    k_source, k_target = min(neighbours, len(one)), min(neighbours, len(other))
    # Of each target word, the mean of its nearest source words.
    near = np.full((len(other), k_source), -np.inf)
    for start in range(0, len(one), _BATCH):
        found = np.concatenate([near, other @ one[start : start + _BATCH].T], axis=1)
        near = np.partition(found, found.shape[1] - k_source, axis=1)[:, -k_source:]
    r_target = np.sort(near, axis=1).mean(axis=1)
    ranks: dict[str, list[int]] = {"cosine": [], "csls": []}
    for start in range(0, len(one), _BATCH):
        cosines = one[start : start + _BATCH] @ other.T
        nearest = np.sort(np.partition(cosines, cosines.shape[1] - k_target, axis=1)[:, -k_target:], axis=1)
        csls = 2 * cosines - nearest.mean(axis=1)[:, None] - r_target
        for i in range(len(cosines)):
            right = list(gold.get(start + i, ()))
            if right:
                ranks["cosine"].append(_rank(cosines[i], right))
                ranks["csls"].append(_rank(csls[i], right))
    return {
        "pairs": pairs,
        "sources": len(ranks["cosine"]),
        "targets": len(other),
        "left_out": left_out,
        "cosine": _induced(ranks["cosine"]),
        "csls": _induced(ranks["csls"]),
        "neighbours": neighbours,
    }


def _rank(scores: NDArray[np.float64], right: list[int]) -> int:
    """The rank of the best of the right words."""
    return 1 + int((scores > scores[right].max() + _EQUAL).sum())


def _induced(ranks: list[int]) -> Induced:
    if not ranks:
        return {"p1": 0.0, "mrr": 0.0}
    return {"p1": sum(r == 1 for r in ranks) / len(ranks), "mrr": sum(1 / r for r in ranks) / len(ranks)}


def _unit(rows: NDArray[Any]) -> NDArray[np.float64]:
    wide = np.asarray(rows, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        made = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return np.where(np.isfinite(made), made, 0.0)
