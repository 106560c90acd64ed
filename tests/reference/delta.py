"""Oracle: what a fine-tune changed, in float64: one tensor, a slice of one, or many laid end to end.

Elements that are not finite in either tensor are counted and left out of the sums. "Changed" compares bit
patterns, so -0.0 against 0.0 is a change and a NaN against the same NaN is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .layers import LAYER

FIGURES = (
    "mean_abs",
    "rms",
    "max_abs",
    "mean",
    "l2",
    "relative_l2",
    "relative_mean",
    "cosine",
    "changed",
    "unchanged",
    "flipped",
    "nonfinite",
)
QUANTILES = {"q50": Fraction(1, 2), "q90": Fraction(9, 10), "q99": Fraction(99, 100), "q999": Fraction(999, 1000)}
THRESHOLDS = ("1e-5", "1e-4", "1e-3", "0.01x", "0.1x", "1x")
RELATED, STRANGERS = 0.97, 0.25
BY_ROWS = {"q_proj", "k_proj", "v_proj", "query", "key", "value"}
BY_COLUMNS = {"o_proj", "out_proj", "attention.output.dense"}
OF_KEYS = {"k_proj", "v_proj", "key", "value"}


def place(name: str) -> tuple[str, str]:
    """A tensor's layer ("-" outside of all) and module: its name in there, numbers as `*`."""
    found = LAYER.search(name)
    inner = name[found.end() :] if found else name
    inner = inner.removesuffix(".weight").removesuffix(".bias")
    return found[1] if found else "-", ".".join("*" if part.isdigit() else part for part in inner.split("."))


def row(base: NDArray[Any], tuned: NDArray[Any]) -> dict[str, float]:
    """Every figure of `tuned` against `base`: float arrays of one shape and dtype."""
    size = base.size
    b, x = base.astype(np.float64).ravel(), tuned.astype(np.float64).ravel()
    finite = np.isfinite(b) & np.isfinite(x)
    fb, fx = b[finite], x[finite]
    change = fx - fb
    mean_abs, of_base = _mean(np.abs(change)), _mean(np.abs(fb))
    l2, norm = _norm(change), _norm(fb)
    changed = _share(int((_bits(base) != _bits(tuned)).sum()), size)
    beyond = int((~np.isfinite(b)).sum()), int((~np.isfinite(x)).sum())
    return {
        "elements": size,
        "mean_abs": mean_abs,
        "rms": l2 / fb.size**0.5 if fb.size else 0.0,
        "max_abs": float(np.abs(change).max(initial=0.0)),
        "mean": _mean(change),
        "l2": l2,
        "relative_l2": _ratio(l2, norm),
        "relative_mean": _ratio(mean_abs, of_base),
        "cosine": cosine(fb, fx, of_nothing=1.0),
        "changed": changed,
        "unchanged": _share(int((_bits(base) == _bits(tuned)).sum()), size),
        "flipped": _share(int((np.sign(fb) * np.sign(fx) < 0).sum()), size),
        "nonfinite": sum(beyond),
        "nonfinite_base": beyond[0],
        "nonfinite_tuned": beyond[1],
    }


def spread(base: NDArray[Any], tuned: NDArray[Any], above: Sequence[str] = THRESHOLDS) -> dict[str, float]:
    """How the change is spread over the finite pairs: exact quantiles, concentration, shares above thresholds."""
    b, x = base.ravel(), tuned.ravel()
    finite = np.isfinite(b) & np.isfinite(x)
    sizes = np.sort(np.abs(delta(b[finite], x[finite])))
    scale = _mean(np.abs(b[finite].astype(np.float64)))
    found = {name: quantile(sizes, q) for name, q in QUANTILES.items()}
    most = sizes[sizes.size - -(-sizes.size // 100) :]
    found |= {"gini": gini(sizes), "top1": _ratio(float(most.sum()), float(sizes.sum()))}
    for text in above:
        threshold = float(text[:-1]) * scale if text.endswith("x") else float(text)
        found[f"above_{text}"] = _share(int((sizes > threshold).sum()), sizes.size)
    return found


def delta(base: NDArray[Any], tuned: NDArray[Any]) -> NDArray[np.float64]:
    """The change as it is computed, in f32; in float64 where f32 cannot hold it."""
    with np.errstate(over="ignore", invalid="ignore"):
        single = (tuned.astype(np.float32) - base.astype(np.float32)).astype(np.float64)
    return np.where(np.isfinite(single), single, tuned.astype(np.float64) - base.astype(np.float64))


def quantile(ascending: NDArray[np.float64], q: Fraction) -> float:
    """The ceil(q n)-th smallest: numpy's `inverted_cdf`, without its rounding of q n."""
    return float(ascending[-(-q.numerator * ascending.size // q.denominator) - 1]) if ascending.size else 0.0


def gini(ascending: NDArray[np.float64]) -> float:
    """The Gini coefficient of magnitudes: 0 if all are equal, towards 1 if one holds everything."""
    total, n = float(ascending.sum()), ascending.size
    if total == 0.0:
        return 0.0
    ranks = 2.0 * np.arange(1, n + 1) - n - 1
    return float(np.dot(ranks, ascending)) / (n * total)


def blocks(values: NDArray[Any], count: int, axis: int) -> list[NDArray[Any]]:
    """Equal blocks along an axis; none where they do not come out even."""
    if count < 1 or values.shape[axis] % count:
        return []
    return np.split(values, count, axis)


def heads(name: str, values: NDArray[Any], config: Mapping[str, Any]) -> list[NDArray[Any]]:
    """The part of each attention head in a projection: rows of q, k, v and their biases, columns of o."""
    layer, module = place(name)
    last, queries = module.split(".")[-1], int(config.get("num_attention_heads", 0))
    keys = int(config.get("num_key_value_heads") or queries)
    if layer == "-":
        return []
    if last in BY_ROWS and values.ndim in (1, 2):
        return blocks(values, keys if last in OF_KEYS else queries, 0)
    if any(module == end or module.endswith("." + end) for end in BY_COLUMNS) and values.ndim == 2:
        return blocks(values, queries, 1)
    return []


def groups(neurons: int, count: int) -> list[tuple[int, int]]:
    """First and last neuron (inclusive) of `count` groups of near-equal size, no more than there are neurons."""
    count = min(count, neurons)
    return [(g * neurons // count, (g + 1) * neurons // count - 1) for g in range(count)]


def neurons(name: str, values: NDArray[Any], count: int) -> list[tuple[int, int, NDArray[Any]]]:
    """First and last neuron and the part of each group: rows of gate and up, columns of down."""
    axis = {"gate_proj": 0, "up_proj": 0, "down_proj": 1}.get(place(name)[1].split(".")[-1])
    if axis is None or values.ndim != 2:
        return []
    parts = groups(values.shape[axis], count)
    return [(first, last, np.take(values, np.arange(first, last + 1), axis)) for first, last in parts]


def tokens(base: NDArray[Any], tuned: NDArray[Any], count: int) -> list[int]:
    """The rows that changed most, by the norm of their change; of equal ones the first."""
    squares, changed = [], []
    for r, (b, x) in enumerate(zip(base, tuned, strict=True)):
        finite = np.isfinite(b) & np.isfinite(x)
        squares.append(math.fsum(delta(b[finite], x[finite]) ** 2))
        if (_bits(b) != _bits(x)).any():
            changed.append(r)
    return sorted(changed, key=lambda r: (-squares[r], r))[:count]


def ancestry(pairs: Iterable[tuple[NDArray[Any], NDArray[Any]]]) -> dict[str, Any]:
    """Whether the one can come from the other: the cosine of all matrices laid end to end."""
    matrices = [(b.ravel(), x.ravel()) for b, x in pairs if b.ndim >= 2]
    if not matrices:
        return {"cosine": None, "relative_l2": None, "verdict": "unknown"}
    figures = row(*(np.concatenate(side) for side in zip(*matrices, strict=True)))
    like = figures["cosine"]
    verdict = "related" if like >= RELATED else "strangers" if like < STRANGERS else "doubtful"
    return {"cosine": like, "relative_l2": figures["relative_l2"], "verdict": verdict}


def pair(base: NDArray[Any], a: NDArray[Any], b: NDArray[Any]) -> dict[str, float]:
    """Two fine-tunes of one base: the cosine of their changes, and where both changed, whether the same way."""
    o, x, y = base.ravel(), a.ravel(), b.ravel()
    finite = np.isfinite(o) & np.isfinite(x) & np.isfinite(y)
    one, two = (delta(o[finite], side[finite]) for side in (x, y))
    both = int(((one != 0) & (two != 0)).sum())
    same = int((np.sign(one) * np.sign(two) > 0).sum())
    return {
        "elements": o.size,
        "cosine": cosine(one, two, of_nothing=0.0),
        "both": _share(both, o.size),
        "agree": _share(same, both),
    }


def tops(base: NDArray[Any], a: NDArray[Any], b: NDArray[Any]) -> tuple[int, int, int]:
    """Of one tensor, how many elements each fine-tune changed most (at or beyond its own q99), and both did."""
    chosen = []
    for tuned in (a, b):
        o, x = base.ravel(), tuned.ravel()
        finite = np.isfinite(o) & np.isfinite(x)
        sizes = np.zeros(o.size)
        sizes[finite] = np.abs(delta(o[finite], x[finite]))
        chosen.append((sizes >= quantile(np.sort(sizes[finite]), QUANTILES["q99"])) & (sizes > 0))
    return int(chosen[0].sum()), int(chosen[1].sum()), int((chosen[0] & chosen[1]).sum())


def overlap(triples: Iterable[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]) -> float:
    """How much of what either changed most the other changed most too, over any number of tensors."""
    of_a, of_b, of_both = (sum(counts) for counts in zip(*(tops(*triple) for triple in triples), strict=True))
    return _share(of_both, min(of_a, of_b))


def cosine(one: NDArray[np.float64], two: NDArray[np.float64], of_nothing: float) -> float:
    """The cosine of two vectors: 0 if one is zero, `of_nothing` if both are."""
    norms = _norm(one), _norm(two)
    if 0.0 in norms:
        return of_nothing if norms == (0.0, 0.0) else 0.0
    return float(np.dot(one / norms[0], two / norms[1]))


def _bits(values: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}").ravel()


def _norm(values: NDArray[np.float64]) -> float:
    largest = float(np.abs(values).max(initial=0.0))
    return largest * float(np.linalg.norm(values / largest)) if largest else 0.0


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else 0.0


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _ratio(top: float, bottom: float) -> float:
    if bottom == 0.0:
        return 0.0 if top == 0.0 else float("inf")
    return top / bottom
