"""Masks drawn at random: of the right share, independent, and a function of what they are said to be a function of."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from numpy.typing import NDArray

from ..reference.philox import keep_mask, words
from ..reference.sparse import della_shares
from ..support.catalogue import SPAN, SPECS, Case, merge, model

Mask = NDArray[np.bool_]
#: Presets that thin at random, and a preset that is made to.
RANDOM = [Case(name) for name in SPECS if Case(name).set("sparsify") in ("random", "della")]
RANDOM.append(Case("task_arithmetic", "sparsify=random", {"sparsify": "random", "rescale": "density"}))
EPSILON = 0.09


def shares(case: Case, shape: tuple[int, ...], density: float) -> NDArray[np.float64]:
    """The probability to keep each element, where all changes are equal: by rank the first of a row is the largest."""
    if case.set("sparsify") == "della":
        return della_shares(np.ones(shape, np.float32), density, epsilon(density))
    return np.full(shape, density)


def epsilon(density: float) -> float:
    """A spread that leaves all probabilities inside (0, 1)."""
    return min(EPSILON, density / 2, (1 - density) / 2)


def draw(
    case: Case, folder: Path, shape: tuple[int, ...], density: float, seed: int, tensors: Sequence[str], label: str
) -> dict[str, Mask]:
    """The masks made for the tensors of one expert, all of whose changes are one."""
    base, expert = folder / "base", folder / label
    if not base.exists():
        model(base, **{name: np.zeros(shape, np.float32) for name in tensors})
    if not expert.exists():
        model(expert, **{name: np.ones(shape, np.float32) for name in tensors})
    own = {"weight": 1.0, "density": density, "epsilon": epsilon(density)}
    config = {
        "merge_method": case.name, "base_model": str(base), "models": [{"model": str(expert), "parameters": own}],
        "parameters": {**case.parameters, "normalize": False},
    }  # fmt: skip
    out = merge(config, folder / f"out-{label}-{seed}-{density}", seed=seed)
    expected = 1 / shares(case, shape, density)
    found = {tensor: out[tensor].values() for tensor in tensors}
    for values in found.values():
        kept = values != 0
        np.testing.assert_allclose(values[kept], expected[kept], rtol=1e-6)
    return {tensor: values != 0 for tensor, values in found.items()}


def key(seed: int, label: str, tensor: str) -> int:
    """The key of the random words of a tensor."""
    return xxhash.xxh3_128_intdigest(f"{seed}\0{label}\0{tensor}".encode()) & (2**64 - 1)


def within_five_deviations(count: int, probabilities: NDArray[np.float64]) -> bool:
    """Whether so many of independent events of these probabilities may well have happened."""
    deviation = np.sqrt((probabilities * (1 - probabilities)).sum())
    return bool(abs(count - probabilities.sum()) < 5 * deviation + 1)


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("case", RANDOM, ids=str)
def test_masks_keep_their_share(case: Case, density: float, tmp_path: Path) -> None:
    """Of n elements a binomial number is kept, within five deviations, in every part of the tensor."""
    shape = (7, 28_571)
    mask = draw(case, tmp_path, shape, density, 0, ["a"], "one")["a"].ravel()
    p = shares(case, shape, density).ravel()
    rank = np.arange(p.size) % shape[1]
    parts: list[Any] = [slice(None), slice(None, None, 2), slice(1, None, 4), slice(p.size // 3), slice(-1000, None)]
    for part in [*parts, rank < 9000, rank > 20_000]:
        assert within_five_deviations(int(mask[part].sum()), p[part])
    # Neighbours are independent as well; pairs that have no element in common, so that they are so too.
    for first in (0, 1):
        a, b = slice(first, -1, 2), slice(first + 1, None, 2)
        length = min(p[a].size, p[b].size)
        both = mask[a][:length] & mask[b][:length]
        assert within_five_deviations(int(both.sum()), p[a][:length] * p[b][:length])


@pytest.mark.parametrize("case", RANDOM, ids=str)
def test_masks_are_independent(case: Case, tmp_path: Path) -> None:
    """Masks of other tensors, models and seeds agree as often as chance has it, within five deviations."""
    shape, density = (3, 33_335), 0.3
    masks: list[Mask] = []
    for label, seed in [("one", 0), ("two", 0), ("one", 1), ("one", 2**64 - 1)]:
        masks += draw(case, tmp_path, shape, density, seed, ["a", "b"], label).values()
    p = shares(case, shape, density)
    for first, second in itertools.combinations(masks, 2):
        assert within_five_deviations(int((first == second).sum()), p**2 + (1 - p) ** 2)


@pytest.mark.parametrize("case", RANDOM, ids=str)
def test_mask_depends_on_the_named_things_alone(case: Case, tmp_path: Path) -> None:
    """Law 3: a mask is a function of seed, folder name, tensor name and index; place and company do not matter."""
    first = draw(case, tmp_path / "here", (3, 5003), 0.4, 3, ["a", "b"], "one")
    again = draw(case, tmp_path / "there", (4, 5003), 0.4, 3, ["b", "c"], "one")
    np.testing.assert_array_equal(first["b"], again["b"][:3])
    # A smaller density keeps a part of what a larger one keeps.
    fewer = draw(case, tmp_path / "here", (3, 5003), 0.2, 3, ["a", "b"], "one")
    assert not (fewer["a"] & ~first["a"]).any()


def test_presets_draw_the_same(tmp_path: Path) -> None:
    """The mask does not depend on what is done with it: one mask for all that thin alike."""
    masks: dict[str, list[Mask]] = {"random": [], "della": []}
    for case in RANDOM:
        found = draw(case, tmp_path / str(case), (5003,), 0.4, 9, ["a"], "one")["a"]
        masks[str(case.set("sparsify"))].append(found)
    for alike in masks.values():
        assert len(alike) > 1
        for mask in alike[1:]:
            np.testing.assert_array_equal(mask, alike[0])


@pytest.mark.parametrize("seed", [0, 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("case", RANDOM, ids=str)
def test_mask_is_philox(case: Case, seed: int, tmp_path: Path) -> None:
    """Law 3 to the bit: Philox4x32-10 under the low half of XXH3-128 of seed, folder name and tensor name."""
    shape, density = (4099,), 0.35
    for label, tensor in [("one", "model.layers.3.mlp.up_proj.weight"), ("mödel", "ünï")]:
        mask = draw(case, tmp_path / label, shape, density, seed, [tensor], label)[tensor]
        words_of = words(key(seed, label, tensor), 4099)
        np.testing.assert_array_equal(mask, words_of < np.floor(shares(case, shape, density) * 2.0**32))
        if case.set("sparsify") == "random":
            np.testing.assert_array_equal(mask, keep_mask(key(seed, label, tensor), 4099, density))


def test_mask_goes_on_beyond_a_span(tmp_path: Path) -> None:
    """Law 3: the counter is the element's index in the tensor, wherever the engine cuts it."""
    size = SPAN + 2051
    mask = draw(Case("dare_linear"), tmp_path, (size,), 0.5, 0, ["a"], "one")["a"]
    np.testing.assert_array_equal(mask[-4099:], keep_mask(key(0, "one", "a"), 4099, 0.5, start=size - 4099))
    np.testing.assert_array_equal(mask[:4099], keep_mask(key(0, "one", "a"), 4099, 0.5))


def test_ranked_mask_goes_on_beyond_a_span(tmp_path: Path) -> None:
    """Law 3 for draws by rank in rows of odd length, one of which lies in two spans."""
    shape, density, first = (700, 6007), 0.5, 697
    mask = draw(Case("della"), tmp_path, shape, density, 0, ["a"], "one")["a"]
    drawn = words(key(0, "one", "a"), 3 * 6007, start=first * 6007).reshape(3, 6007)
    np.testing.assert_array_equal(mask[first:], drawn < shares(Case("della"), (3, 6007), density) * 2.0**32)
