"""Oracle: sparse task arithmetic, one pipeline and its presets, over whole models.

Thin every change, restore some of its size, weight, elect a sign, sum. Presets: task arithmetic (arXiv
2212.04089), TIES (2306.01708), DARE (2311.03099), DELLA (2406.11617), model breadcrumbs (2312.06795), CABS
(2503.01874), Localize-and-Stitch without data (2408.13656), LiNeS (2410.17146).

Everything after the change itself is in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .layers import depth, layer_count
from .philox import keep_mask, words
from .select import descending, keep_count, middle_mask, rows, top_k_mask
from .task_arithmetic import add_back, delta

Model = Mapping[str, NDArray[Any]]
Mask = NDArray[np.bool_]
Key = Callable[[int, str], int]


@dataclass(frozen=True)
class Stages:
    """The words of a pipeline; `restore` is what `rescale: true` means, `reduce: auto` what `normalize` says."""

    sparsify: str = "none"
    scope: str = "tensor"
    rescale: str = "none"
    restore: str = "l1"
    consensus: str = "none"
    normalize: bool = False
    reduce: str = "auto"

    @property
    def division(self) -> str:
        """`sum`, `normalized` or `mean`."""
        if self.reduce != "auto":
            return self.reduce
        return ("normalized" if self.consensus == "none" else "mean") if self.normalize else "sum"


PRESETS = {
    "task_arithmetic": Stages(restore="density"),
    "ties": Stages("magnitude", consensus="sum", normalize=True),
    "dare_linear": Stages("random", rescale="density", restore="density"),
    "dare_ties": Stages("random", rescale="density", restore="density", consensus="sum"),
    "della": Stages("della", "row", "density", "density", consensus="sum", normalize=True),
    "della_linear": Stages("della", "row", "density", "density"),
    "breadcrumbs": Stages("breadcrumbs"),
    "breadcrumbs_ties": Stages("breadcrumbs", consensus="sum"),
    "cabs": Stages("cabs"),
    "localize_and_stitch": Stages("magnitude", "model", reduce="mean"),
    "lines": Stages(restore="none"),
}


def stages(method: str, **words: Any) -> Stages:
    """A preset with what a recipe sets."""
    found = PRESETS[method]
    if isinstance(words.get("rescale"), bool):
        words["rescale"] = found.restore if words["rescale"] else "none"
    return replace(found, **words)


@dataclass(frozen=True)
class Tuned:
    """A fine-tune and its own parameters."""

    tensors: Model
    weight: float = 1.0
    density: float = 1.0
    gamma: float = 0.01
    epsilon: float = 0.15


@dataclass(frozen=True)
class Shared:
    """Parameters of the merge; the key of a model's random words is the caller's to say."""

    key: Key = field(default=lambda model, tensor: 0)
    block: int = 256
    lam: float = 1.0
    alpha: float = 1.0
    beta: float = 0.0


def _choose(change: Model, scope: str, choose: Callable[[NDArray[Any]], Mask]) -> dict[str, Mask]:
    """Choose among all elements of a row, a tensor or the model."""
    if scope == "tensor":
        return {name: choose(values) for name, values in change.items()}
    if scope == "row":
        return {
            name: np.asarray([choose(row) for row in rows(values)], dtype=np.bool_).reshape(values.shape)
            for name, values in change.items()
        }
    if scope == "model":
        chosen = choose(np.concatenate([values.ravel() for values in change.values()]))
        ends = np.cumsum([values.size for values in change.values()])
        parts = np.split(chosen, ends[:-1])
        return {name: part.reshape(change[name].shape) for name, part in zip(change, parts, strict=True)}
    raise ValueError(f"unknown scope {scope!r}")


def della_shares(change: NDArray[Any], density: float, epsilon: float) -> NDArray[np.float64]:
    """The probability to keep each element: linear in its rank within the row, density in the middle."""
    shares: NDArray[np.float64] = np.full(rows(change).shape, density, dtype=np.float64)
    length = int(shares.shape[-1])
    if length > 1:
        for share, row in zip(shares, rows(change), strict=True):
            rank = np.empty(length)
            rank[descending(row)] = np.arange(length, 0, -1)
            share[:] = density - epsilon + 2.0 * epsilon * (rank - 1.0) / (length - 1.0)
    return shares.reshape(change.shape)


def _cabs(changes: Sequence[NDArray[Any]], densities: Sequence[float], block: int) -> list[Mask]:
    """Every model in turn takes its largest of each block's elements that are not taken yet.

    Where it has no change there is nothing to take: a zero among its largest stays free for the others.
    """
    masks = [np.zeros(changes[0].size, dtype=np.bool_) for _ in changes]
    for start in range(0, changes[0].size, block):
        free = np.arange(start, min(start + block, changes[0].size))
        length = free.size
        for change, density, mask in zip(changes, densities, masks, strict=True):
            taken = top_k_mask(change.ravel()[free], min(keep_count(density, length), free.size))
            mask[free[taken]] = True
            free = free[~taken | (change.ravel()[free] == 0.0)]
    return [mask.reshape(changes[0].shape) for mask in masks]


def _own_masks(found: Stages, change: Model, own: Tuned, key: Callable[[str], int]) -> dict[str, Mask]:
    """What a model keeps that chooses by itself."""

    def largest(values: NDArray[Any]) -> Mask:
        return top_k_mask(values, keep_count(own.density, values.size))

    def middle(values: NDArray[Any]) -> Mask:
        return middle_mask(values, own.density, own.gamma)

    def drawn(name: str, values: NDArray[Any]) -> Mask:
        return keep_mask(key(name), values.size, own.density).reshape(values.shape)

    def drawn_by_rank(name: str, values: NDArray[Any]) -> Mask:
        draws = words(key(name), values.size).reshape(values.shape).astype(np.float64)
        return np.asarray(draws < della_shares(values, own.density, own.epsilon) * 2.0**32, dtype=np.bool_)

    if found.sparsify == "breadcrumbs":
        return _choose(change, found.scope, middle)
    if found.sparsify == "none" or own.density >= 1.0:
        return {name: np.ones(values.shape, dtype=np.bool_) for name, values in change.items()}
    if found.sparsify == "magnitude":
        return _choose(change, found.scope, largest)
    draw = {"random": drawn, "della": drawn_by_rank}[found.sparsify]
    return {name: draw(name, values) for name, values in change.items()}


def masks(found: Stages, changes: Sequence[Model], tuned: Sequence[Tuned], shared: Shared) -> list[dict[str, Mask]]:
    """What each model keeps."""
    if found.sparsify == "cabs":
        densities = [own.density for own in tuned]
        chosen = {name: _cabs([c[name] for c in changes], densities, shared.block) for name in changes[0]}
        return [{name: by_model[i] for name, by_model in chosen.items()} for i in range(len(tuned))]
    return [
        _own_masks(found, change, own, partial(shared.key, i))
        for i, (change, own) in enumerate(zip(changes, tuned, strict=True))
    ]


def restored(found: Stages, change: NDArray[Any], kept: Mask, own: Tuned) -> NDArray[np.float64]:
    """What is kept of one change of one tensor, with the size it should have."""
    whole = change.astype(np.float64)
    thinned = np.where(kept, whole, 0.0)
    if found.rescale == "none":
        return thinned
    if found.rescale == "density":
        if found.sparsify == "none" or own.density >= 1.0:
            return thinned
        if found.sparsify == "della":
            return thinned / della_shares(change, own.density, own.epsilon)
        return thinned / own.density
    order = {"l1": 1, "l2": 2}[found.rescale]
    before, after = (float(np.linalg.norm(values.ravel(), order)) for values in (whole, thinned))
    return thinned * (before / after) if after > 0.0 else thinned


def thinned(found: Stages, base: Model, tuned: Sequence[Tuned], shared: Shared) -> list[dict[str, NDArray[np.float64]]]:
    """The changes of each model, sparse and rescaled, before they are weighted."""
    changes = [{name: delta(values, own.tensors[name]) for name, values in base.items()} for own in tuned]
    layers = layer_count(base)
    factors = {name: shared.alpha + shared.beta * depth(name, layers) for name in base}
    return [
        {name: factors[name] * restored(found, change[name], kept[name], own) for name in base}
        for change, kept, own in zip(changes, masks(found, changes, tuned, shared), tuned, strict=True)
    ]


def combine(found: Stages, kept: Sequence[NDArray[Any]], weights: Sequence[float]) -> NDArray[np.float64]:
    """The merged change of one tensor."""
    factors = np.asarray(weights, dtype=np.float64).reshape(-1, *([1] * kept[0].ndim))
    entries = np.stack(kept).astype(np.float64) * factors
    if found.consensus != "none":
        votes = entries if found.consensus == "sum" else np.sign(entries)
        elected = np.where(votes.sum(axis=0) >= 0.0, 1.0, -1.0)
        entries = np.where(np.sign(entries) == elected, entries, 0.0)
    total = entries.sum(axis=0)
    if found.division == "normalized":
        if sum(weights) == 0.0:
            raise ValueError("weights sum to zero")
        total = total / sum(weights)
    elif found.division == "mean":
        divisor = np.where(entries != 0.0, factors, 0.0).sum(axis=0)
        total = total / np.where(divisor == 0.0, 1.0, divisor)
    return np.asarray(total, dtype=np.float64)


def sparse(
    found: Stages, base: Model, tuned: Sequence[Tuned], shared: Shared | None = None
) -> dict[str, NDArray[np.float32]]:
    """base + lambda * the merged changes."""
    shared = shared or Shared()
    kept = thinned(found, base, tuned, shared)
    weights = [own.weight for own in tuned]
    return {n: add_back(v, combine(found, [k[n] for k in kept], weights), shared.lam) for n, v in base.items()}
