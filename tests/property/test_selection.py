"""Law 4: exactly k elements are kept, equal magnitudes by index, of bf16 inputs, in which magnitudes keep repeating."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ..reference.arcee import importance, threshold
from ..reference.select import keep_count, middle_mask, top_k_mask
from ..reference.sparse import Shared, Tuned, masks, stages
from ..support.catalogue import SPAN, Case, configure, merge, model, one
from ..support.checkpoints import Raw, encode, write_checkpoint

Tensors = dict[str, NDArray[Any]]


def coarse(shape: tuple[int, ...], rng: np.random.Generator, around: int = 3) -> tuple[Raw, Raw]:
    """A tensor and its fine-tune, whose changes have `around` sizes besides zero."""
    base = encode(np.round(rng.standard_normal(shape) * 8) / 64 + 1, "BF16")
    return base, encode(base.values() + rng.integers(-around, around + 1, shape) / np.float32(64), "BF16")


def write_pair(folder: Path, pairs: Mapping[str, tuple[Raw, Raw]]) -> list[Path]:
    """A base and its only fine-tune."""
    base = write_checkpoint(folder / "base", {name: pair[0] for name, pair in pairs.items()})
    return [base, write_checkpoint(folder / "one", {name: pair[1] for name, pair in pairs.items()})]


def alone(method: str, models: list[Path], **parameters: Any) -> dict[str, Any]:
    """A merge of one fine-tune with weight one, in f32: where it is kept the result is the fine-tune."""
    return {
        "merge_method": method, "base_model": str(models[0]), "models": [{"model": str(models[1])}],
        "parameters": {"weight": 1.0, **parameters}, "out_dtype": "float32",
    }  # fmt: skip


def assert_kept(found: NDArray[Any], pair: tuple[Raw, Raw], mask: NDArray[np.bool_]) -> None:
    """The fine-tune where the mask is, the base elsewhere, bit for bit."""
    np.testing.assert_array_equal(found, np.where(mask, pair[1].values(), pair[0].values()))


def change(pair: tuple[Raw, Raw]) -> NDArray[Any]:
    """What the fine-tune changed."""
    moved: NDArray[Any] = pair[1].values() - pair[0].values()
    return moved


SELECTIONS = [
    *itertools.product([1, 2, 9, 1023, 20_011], [1e-9, 0.1, 0.29, 0.5, 0.999, 1.0]),
    *itertools.product([SPAN + 1003], [0.29, 0.5]),
]


@pytest.mark.parametrize(("size", "density"), SELECTIONS)
def test_ties_keeps_exactly_k(size: int, density: float, tmp_path: Path) -> None:
    """Of a tensor exactly the top k remain, ties by index."""
    pair = coarse((size,), np.random.default_rng(size))
    found = one(alone("ties", write_pair(tmp_path, {"a": pair}), density=density), tmp_path / "out")
    k = keep_count(density, size)
    moved = found != pair[0].values()
    assert int(moved.sum()) <= k
    kept = np.sort(np.abs(change(pair)[moved]))[::-1]
    np.testing.assert_array_equal(kept, np.sort(np.abs(change(pair)))[::-1][:k][: kept.size])
    assert_kept(found, pair, top_k_mask(change(pair), k))


@pytest.mark.parametrize("density", [0.5, 0.9995])
@pytest.mark.parametrize("chunk", ["4KiB", "64KiB", "16MiB"])
def test_ties_keeps_exactly_k_however_it_is_cut(chunk: str, density: float, tmp_path: Path) -> None:
    """Laws 3 and 4: where all changes are equal the first k elements are kept, whatever the chunks and spans."""
    size = SPAN + 5003
    base = np.ones(size, np.float32)
    models = [model(tmp_path / "base", a=base), model(tmp_path / "one", a=base + np.float32(2.0**-7))]
    moved = one(alone("ties", models, density=density), tmp_path / "out", chunk=chunk, threads=5) != base
    k = keep_count(density, size)
    assert int(moved.sum()) == k
    assert moved[:k].all()


ROWS = [
    *itertools.product([(1, 1), (3, 1), (1, 1023), (7, 9001), (300, 37), (2, 3, 50)], [1e-9, 0.29, 0.5]),
    ((700, 6007), 0.29),
]


@pytest.mark.parametrize(("shape", "density"), ROWS, ids=str)
def test_rows_keep_exactly_k(density: float, shape: tuple[int, ...], tmp_path: Path) -> None:
    """`scope: row`: of each row exactly the top k remain, ties by index."""
    pair = coarse(shape, np.random.default_rng(1))
    found = one(alone("ties", write_pair(tmp_path, {"a": pair}), density=density, scope="row"), tmp_path / "out")
    rows = change(pair).reshape(-1, shape[-1])
    k = keep_count(density, shape[-1])
    assert_kept(found, pair, np.stack([top_k_mask(row, k) for row in rows]).reshape(shape))


MIDDLES = [
    *itertools.product([(1,), (9,), (3, 9001)], [1e-9, 0.29, 0.5, 0.9, 1.0], [0.0, 0.01, 0.3]),
    ((SPAN + 1003,), 0.29, 0.01),
    ((SPAN + 1003,), 0.5, 0.0),
]


@pytest.mark.parametrize(("shape", "density", "gamma"), MIDDLES, ids=str)
def test_breadcrumbs_keeps_exactly_its_middle(
    shape: tuple[int, ...], density: float, gamma: float, tmp_path: Path
) -> None:
    """Of the descending order exactly int(density n) remain, below the int(gamma n) largest; ties by index."""
    pair = coarse(shape, np.random.default_rng(2))
    models = write_pair(tmp_path, {"a": pair})
    found = one(alone("breadcrumbs", models, density=density, gamma=gamma), tmp_path / "out")
    assert_kept(found, pair, middle_mask(change(pair), density, gamma))
    rows = np.stack([middle_mask(row, density, gamma) for row in change(pair).reshape(-1, shape[-1])])
    found = one(alone("breadcrumbs", models, density=density, gamma=gamma, scope="row"), tmp_path / "rows")
    assert_kept(found, pair, rows.reshape(shape))


#: In the order of the bytes; between two spans, so that running counts have to go on from tensor to tensor.
MODEL = {"z": (3, 1001), "a.layers.0.x": (SPAN + 1003,), "none": (0, 3), "one": (), "a": (20_011,)}


@pytest.mark.parametrize("preset", ["localize_and_stitch", "ties", "breadcrumbs"])
@pytest.mark.parametrize("density", [1e-9, 0.0005, 0.4, 0.9991])
def test_model_keeps_exactly_k(density: float, preset: str, tmp_path: Path) -> None:
    """`scope: model`: of all tensors together exactly k remain, ties in the order of the tensors, then by index."""
    rng = np.random.default_rng(3)
    pairs = {name: coarse(shape, rng) for name, shape in MODEL.items()}
    parameters: dict[str, Any] = {"density": density, "scope": "model"}
    if preset == "breadcrumbs":
        parameters["gamma"] = 0.07
    config = alone(preset, write_pair(tmp_path, pairs), **parameters)
    found = merge(config, tmp_path / "out", threads=5, chunk="100KB", shard_size="5MB")
    changes = np.concatenate([change(pair).ravel() for pair in pairs.values()])
    if preset == "breadcrumbs":
        whole = middle_mask(changes, density, 0.07)
    else:
        whole = top_k_mask(changes, keep_count(density, changes.size))
    at = 0
    for name, pair in pairs.items():
        size = change(pair).size
        assert_kept(found[name].values(), pair, whole[at : at + size].reshape(MODEL[name]))
        at += size


@pytest.mark.parametrize(
    ("size", "share"),
    [*itertools.product([1, 9, 20_011], [0.0001, 0.31, 0.5, 0.999]), (SPAN + 1003, 0.31), (SPAN + 1003, 0.999)],
)
def test_sce_selects_exactly_k(size: int, share: float, tmp_path: Path) -> None:
    """Of the elements with a variance exactly the top k are selected, ties by index.

    Only one of two models moves, so that the variance orders as its changes do and its changes are the result.
    """
    pair = coarse((size,), np.random.default_rng(4))
    models = [*write_pair(tmp_path, {"a": pair}), write_checkpoint(tmp_path / "still", {"a": pair[0]})]
    config = configure(Case("sce", parameters={"select_topk": share}), [*models, models[0]])
    config["models"] = config["models"][:2]
    found = one(config | {"out_dtype": "float32"}, tmp_path / "out")
    k = int(np.float32(np.count_nonzero(change(pair))) * np.float32(share))
    assert_kept(found, pair, top_k_mask(change(pair), k))
    assert int((found != pair[0].values()).sum()) == k


def test_sce_weights_do_not_jump_where_all_is_selected(tmp_path: Path) -> None:
    """`mask: weights`: nearly all of what varies and all of it weigh the models alike; what all changed alike is out.

    The models changed a thousandth of the elements by one and by three steps, the rest alike and by more: of the
    former alone the weights are as 1 to 9, from all elements nearly even.
    """
    rng = np.random.default_rng(6)
    base = rng.standard_normal(20_000).astype(np.float32)
    step, varies = np.float32(2.0**-4), np.arange(20_000) % 1000 == 0
    tuned = [base + np.where(varies, factor * step, 64 * step).astype(np.float32) for factor in (1, 3)]
    models = [model(tmp_path / "base", a=base), *(model(tmp_path / f"tuned-{i}", a=x) for i, x in enumerate(tuned))]
    results = []
    for share in (0.99, float(np.nextafter(np.float32(1), np.float32(0))), 1.0):
        case = Case("sce", parameters={"select_topk": share, "mask": "weights"})
        config = configure(case, [*models, models[0]]) | {"out_dtype": "float32"}
        config["models"] = config["models"][:2]
        results.append(one(config, tmp_path / str(share)))
    want = base + np.where(varies, 0.1 * step + 0.9 * 3 * step, 64 * step)
    for found in results:
        np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("block", [1, 7, 256, 5000])
@pytest.mark.parametrize("density", [1e-9, 0.29, 0.4, 1.0])
def test_cabs_keeps_exactly_k_of_a_block(density: float, block: int, tmp_path: Path) -> None:
    """Of each block exactly the top k remain, and of what is left the top k of the next model; ties by index."""
    rng = np.random.default_rng(5)
    shape = (5, 2003)
    base, first = coarse(shape, rng)
    second = encode(base.values() + rng.integers(-3, 4, shape) / np.float32(64), "BF16")
    raws = {"base": base, "one": first, "two": second}
    models = [write_checkpoint(tmp_path / name, {"a": raw}) for name, raw in raws.items()]
    values = {name: {"a": raw.values()} for name, raw in raws.items()}
    changes = [{"a": values[name]["a"] - values["base"]["a"]} for name in ("one", "two")]
    tuned = [Tuned(values["one"], density=density), Tuned(values["two"], density=density)]
    kept = [mask["a"] for mask in masks(stages("cabs"), changes, tuned, Shared(block=block))]
    config = alone("cabs", models, density=density, block=block)
    config["models"].append({"model": str(models[2])})
    found = one(config, tmp_path / "out")
    # The grid is coarse enough for exact sums; no element is kept of both models.
    merged = sum(np.where(mask, own["a"], np.float32(0)) for mask, own in zip(kept, changes, strict=True))
    np.testing.assert_array_equal(found, values["base"]["a"] + merged)
    both = (changes[0]["a"] != 0) & (changes[1]["a"] != 0) & kept[0] & kept[1]
    assert not both.any()
    flat = kept[0].ravel()
    for start in range(0, flat.size, block):
        part = flat[start : start + block]
        assert part.sum() == keep_count(density, part.size)


def deceptive(kind: str, size: int) -> NDArray[Any]:
    """Changes that a sample says little, or something wrong, of."""
    rng = np.random.default_rng(len(kind))
    few = rng.integers(-4, 5, size) / np.float32(256)
    if kind == "few":
        return few
    if kind == "many":
        return rng.standard_normal(size).astype(np.float32)
    if kind == "one":
        return np.full(size, np.float32(2.0**-7))
    if kind == "none":
        return np.zeros(size, np.float32)
    if kind == "by rows":
        # Rows of 1,024 have sizes of their own: what lies in the sample decides what it says.
        return few * np.float32(2.0) ** (np.arange(size) // 1024 % 23).astype(np.float32)
    # Many values between few: the k-th is now one of these, now one of those.
    return np.where(rng.random(size) < 0.9, few, rng.standard_normal(size).astype(np.float32) * np.float32(2.0**-8))


@pytest.mark.parametrize("size", [1 << 19, SPAN + 70_001])
@pytest.mark.parametrize("density", [0.1, 0.37, 0.5, 0.93])
@pytest.mark.parametrize("kinds", [("few",), ("many",), ("one",), ("by rows", "few"), ("both", "many", "none", "few")])
def test_a_sample_decides_nothing(kinds: tuple[str, ...], density: float, size: int, tmp_path: Path) -> None:
    """Law 4: large tensors are sampled first; whatever the sample says, exactly k are kept, of each model."""
    # Changes of nothing are what they are, to the last bit.
    base = np.zeros(size, np.float32)
    moved = [deceptive(kind, size) for kind in kinds]
    models = [model(tmp_path / "base", a=base), *(model(tmp_path / f"{i}", a=m) for i, m in enumerate(moved))]
    k = keep_count(density, size)
    for i, tuned in enumerate(moved):
        masked = top_k_mask(tuned, k)
        # All models are searched together, and one of them is looked at.
        weights = [1.0 if j == i else 0.0 for j in range(len(moved))]
        listed = [{"model": str(p), "parameters": {"weight": w}} for p, w in zip(models[1:], weights, strict=True)]
        recipe = {"merge_method": "ties", "base_model": str(models[0]), "models": listed, "out_dtype": "float32",
                  "parameters": {"density": density, "normalize": False}}  # fmt: skip
        found = one(recipe, tmp_path / f"out-{i}")
        np.testing.assert_array_equal(found, np.where(masked, tuned, base))


@pytest.mark.parametrize("size", [1 << 19, SPAN + 70_001])
@pytest.mark.parametrize("share", [0.0001, 0.2, 0.93])
@pytest.mark.parametrize("kind", ["few", "many", "none", "by rows", "both"])
def test_a_sample_decides_nothing_of_a_variance(kind: str, share: float, size: int, tmp_path: Path) -> None:
    """Law 4: how many `sce` selects is a share of what varies, which a sample tells no better than the rest."""
    base, moved = np.zeros(size, np.float32), deceptive(kind, size)
    models = [model(tmp_path / name, a=values) for name, values in (("base", base), ("one", moved), ("still", base))]
    listed = [{"model": str(path)} for path in models[1:]]
    recipe = {"merge_method": "sce", "base_model": str(models[0]), "models": listed, "out_dtype": "float32",
              "parameters": {"select_topk": share}}  # fmt: skip
    found = one(recipe, tmp_path / "out")
    k = int(np.float32(np.count_nonzero(moved)) * np.float32(share))
    np.testing.assert_array_equal(found, np.where(top_k_mask(moved**2, k), moved, base))


@pytest.mark.parametrize("shape", [(512, 1024), (4300, 1024)])
def test_a_sample_decides_nothing_of_a_threshold(shape: tuple[int, ...], tmp_path: Path) -> None:
    """Law 4: the quartiles of `arcee_fusion` are those of a sort; what is taken over differs at the threshold alone."""
    rng = np.random.default_rng(11)
    base = rng.standard_normal(shape).astype(np.float32)
    tuned = base + (rng.standard_normal(shape) * rng.uniform(0.001, 0.1, (shape[0], 1))).astype(np.float32)
    models = [model(tmp_path / "base", a=base), model(tmp_path / "one", a=tuned)]
    recipe = {"merge_method": "arcee_fusion", "base_model": str(models[0]),
              "models": [{"model": str(path)} for path in models]}  # fmt: skip
    found = one(recipe, tmp_path / "out")
    weight = importance(base, tuned)
    limit = threshold(weight)
    sure = np.abs(weight - limit) > 1e-6 * limit
    assert np.count_nonzero(~sure) < 20
    np.testing.assert_array_equal(found[sure], np.where(weight >= limit, tuned, base)[sure])


@pytest.mark.parametrize("kind", ["few", "many", "by rows", "both"])
def test_a_sample_decides_nothing_of_what_lies_between(kind: str, tmp_path: Path) -> None:
    """Law 4: the same where the largest are dropped too, which takes two cuts of one model."""
    size = SPAN + 70_001
    base = np.zeros(size, np.float32)
    tuned = deceptive(kind, size)
    models = [model(tmp_path / "base", a=base), model(tmp_path / "one", a=tuned)]
    found = one(alone("breadcrumbs", models, density=0.6, gamma=0.05), tmp_path / "out")
    mask = middle_mask(tuned, 0.6, 0.05)
    np.testing.assert_array_equal(found, np.where(mask, tuned, base))


@pytest.mark.parametrize("kinds", [("few", "few"), ("both", "by rows"), ("none", "many")])
def test_a_sample_decides_nothing_of_a_whole_model(kinds: tuple[str, str], tmp_path: Path) -> None:
    """Law 4: the same over all tensors together, one of which alone would not be sampled."""
    sizes = (SPAN + 70_001, 300_003)
    tuned = {name: deceptive(kind, size) for name, kind, size in zip("ab", kinds, sizes, strict=True)}
    base = {name: np.zeros(len(t), np.float32) for name, t in tuned.items()}
    models = [model(tmp_path / "base", **base), model(tmp_path / "one", **tuned)]
    found = merge(alone("ties", models, density=0.4, scope="model"), tmp_path / "out", threads=3)
    joined = np.concatenate([tuned[name] for name in "ab"])
    wanted = np.where(top_k_mask(joined, keep_count(0.4, joined.size)), joined, np.float32(0))
    np.testing.assert_array_equal(np.concatenate([found[name].values() for name in "ab"]), wanted)
