"""Figures of a candidate's weights that a search can go by without data; all are better when they are lower.

With D the candidate's change of the base and D_i that of model i, over all float tensors as one vector, in f64:

* ``distance:TARGET``: ||candidate - target|| / ||target||, the 2-norms.
* ``balance``: 1 - min_i cos(D, D_i): how little the candidate has of the model it has least of.
* ``interference``: the mean over i of sum |D_i| [sign D != sign D_i] / sum |D_i|: the share of what model i
  learned that the candidate has the other way round, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from suture.checkpoint import opened
from suture.errors import UsageError, near
from suture.searching.judge import JudgingError

Floats = npt.NDArray[np.float64]
#: Elements of each model that are read at a time.
_STEP = 1 << 20
_NAMES = ("distance:TARGET", "balance", "interference")
_FLOATS = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}


def objective_of(name: str, config: Mapping[str, Any]) -> Callable[[Path], float]:
    """What judges a candidate by the name of a figure.

    Raises:
        UsageError: if there is none of that name, or the config has no base or models to go by.
    """
    if name.startswith("distance:") and name != "distance:":
        target = _Model(name.removeprefix("distance:"))
        return lambda place: _distance(_Model(place), target)
    if name not in ("balance", "interference"):
        raise UsageError(
            f"objective: expected {', '.join(_NAMES)}, found `{name}`{near(name, ('balance', 'interference'))}",
            at="objective",
        )
    base, listed = config.get("base_model"), config.get("models")
    models = [m["model"] for m in listed if isinstance(m, dict) and "model" in m] if isinstance(listed, list) else []
    models = [m for m in models if m != base]
    if base is None or not models:
        message = f"objective: `{name}` is of changes; the config needs a `base_model` and `models`"
        raise UsageError(message, at="objective")
    opened_ = _Model(base), [_Model(m) for m in models]
    figure = _balance if name == "balance" else _interference
    return lambda place: figure(_Model(place), *opened_)


class _Model:
    """A checkpoint that is read piece by piece, quantised weights as what they stand for."""

    def __init__(self, model: Any) -> None:
        import json

        self.label = str(model)
        self._core = opened(model).plain()
        described = json.loads(self._core.to_json())
        self.tensors = {t["name"]: tuple(t["shape"]) for t in described["tensors"] if t["dtype"] in ("BF16", *_FLOATS)}
        self._dtypes = {t["name"]: t["dtype"] for t in described["tensors"]}

    def read(self, name: str, start: int, stop: int) -> Floats:
        """Elements of a tensor, in f64."""
        raw = self._core.read(name, start, stop)
        if self._dtypes[name] == "BF16":
            return (np.frombuffer(raw, "<u2").astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
        return np.frombuffer(raw, _FLOATS[self._dtypes[name]]).astype(np.float64)


def _pieces(candidate: _Model, others: Sequence[_Model]) -> Iterator[list[Floats]]:
    """The same elements of all, piece by piece.

    Raises:
        JudgingError: if a model lacks a tensor of the candidate's, or has it in another shape.
    """
    for name, shape in candidate.tensors.items():
        for other in others:
            if other.tensors.get(name) != shape:
                found = other.tensors.get(name, "none")
                raise JudgingError(f"{other.label}: tensor `{name}`: expected the shape {list(shape)}, found {found}")
        count = int(np.prod(shape, dtype=np.int64))
        for start in range(0, count, _STEP):
            stop = min(start + _STEP, count)
            yield [m.read(name, start, stop) for m in (candidate, *others)]


def _distance(candidate: _Model, target: _Model) -> float:
    apart = size = 0.0
    for x, t in _pieces(candidate, [target]):
        apart += float(np.dot(x - t, x - t))
        size += float(np.dot(t, t))
    if size == 0:
        raise JudgingError(f"{target.label}: all its weights are 0, so nothing lies at a distance relative to it")
    return float(np.sqrt(apart / size))


def _balance(candidate: _Model, base: _Model, models: Sequence[_Model]) -> float:
    own, sizes, both = 0.0, [0.0] * len(models), [0.0] * len(models)
    for x, b, *each in _pieces(candidate, [base, *models]):
        d = x - b
        own += float(np.dot(d, d))
        for i, m in enumerate(each):
            sizes[i] += float(np.dot(m - b, m - b))
            both[i] += float(np.dot(d, m - b))
    # A change of nothing points nowhere.
    return 1 - min(t / (own * s) ** 0.5 if own * s > 0 else 0.0 for t, s in zip(both, sizes, strict=True))


def _interference(candidate: _Model, base: _Model, models: Sequence[_Model]) -> float:
    sizes, lost = [0.0] * len(models), [0.0] * len(models)
    for x, b, *each in _pieces(candidate, [base, *models]):
        sign = np.sign(x - b)
        for i, m in enumerate(each):
            change = m - b
            sizes[i] += float(np.abs(change).sum())
            lost[i] += float(np.abs(change[np.sign(change) != sign]).sum())
    shares = [t / s for t, s in zip(lost, sizes, strict=True) if s > 0]
    return sum(shares) / len(shares) if shares else 0.0
