"""The oracles of the catalogue give what the papers' formulas give by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ..reference import arcee, elementwise, gram, layers, select, sparse
from ..reference.emr import emr
from ..reference.pcb import pcb
from ..reference.sce import sce, selected
from ..reference.varm import varm


def f32(*values: float) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def zeros(model: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name: np.zeros_like(values) for name, values in model.items()}


def test_layers() -> None:
    assert layers.layer_of("model.layers.3.mlp.up.weight") == 3
    assert layers.layer_of("encoder.block.3.layer.1.wi.weight") == 3
    assert layers.layer_of("model.norm.weight") is None
    assert layers.module_of("model.layers.3.mlp.up.weight") == "mlp"
    assert layers.layer_count(["h.0.a", "h.4.a", "wte"]) == 5
    assert [layers.depth(name, 5) for name in ("h.0.a", "h.1.a", "h.4.a", "wte")] == [0.0, 0.25, 1.0, 0.0]
    assert layers.depth("h.0.a", 1) == 1.0


@pytest.mark.parametrize(
    ("density", "gamma", "kept"),
    [(0.4, 0.2, [2, 4]), (0.4, 0.0, [0, 2]), (0.8, 0.4, [1, 2, 3, 4]), (1.0, 0.4, [0, 1, 2, 3, 4]), (0.1, 0.2, [])],
)
def test_breadcrumbs(density: float, gamma: float, kept: list[int]) -> None:
    """The largest are dropped, as far as enough are left to keep."""
    mask = select.middle_mask(f32(5, -1, 4, 2, -3), density, gamma)
    assert np.flatnonzero(mask).tolist() == kept


def test_della_shares() -> None:
    """The larger the likelier, the earlier of equals first; a row of one has no rank."""
    shares = sparse.della_shares(f32(1, -3, 2, 2, 2, 5).reshape(2, 3), 0.5, 0.1)
    np.testing.assert_allclose(shares, [[0.4, 0.6, 0.5], [0.5, 0.4, 0.6]])
    assert sparse.della_shares(f32(7).reshape(1, 1), 0.3, 0.1).item() == 0.3


def test_cabs_takes_turns() -> None:
    """Two of four each, then the one that is left in the shorter block goes to the first."""
    first, second = {"a": f32(4, 3, 2, 1, 9)}, {"a": f32(9, 1, 3, 2, 7)}
    tuned = [sparse.Tuned(first, 1.0, 0.5), sparse.Tuned(second, 1.0, 0.5)]
    merged = sparse.sparse(sparse.stages("cabs"), zeros(first), tuned, sparse.Shared(block=4))
    np.testing.assert_array_equal(merged["a"], f32(4, 3, 3, 2, 9))


def test_cabs_takes_no_zeros() -> None:
    """A model that changed nothing leaves the place to the next."""
    first, second = {"a": f32(4, 0, 0, 0)}, {"a": f32(9, 5, 6, 1)}
    tuned = [sparse.Tuned(first, 1.0, 0.5), sparse.Tuned(second, 1.0, 0.5)]
    merged = sparse.sparse(sparse.stages("cabs"), zeros(first), tuned, sparse.Shared(block=4))
    np.testing.assert_array_equal(merged["a"], f32(4, 5, 6, 0))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({}, 1.0),
        ({"reduce": "normalized"}, 1 / 3),
        ({"consensus": "sum"}, 3.0),
        ({"consensus": "count"}, -2.0),
        ({"consensus": "count", "reduce": "mean"}, -1.0),
        ({"reduce": "mean"}, 1 / 3),
    ],
)
def test_sparse_consensus(words: dict[str, Any], expected: float) -> None:
    """Two small against one large: by size it wins, by heads they do."""
    merged = sparse.combine(sparse.stages("task_arithmetic", **words), [f32(3), f32(-1), f32(-1)], [1.0] * 3)
    assert merged.item() == pytest.approx(expected)


def test_sparse_tie_is_positive() -> None:
    for consensus in ("sum", "count"):
        found = sparse.stages("ties", consensus=consensus)
        np.testing.assert_array_equal(sparse.combine(found, [f32(2, 0), f32(-2, 0)], [1.0, 1.0]), [2.0, 0.0])


def test_sparse_words() -> None:
    """What `normalize`, `reduce` and `rescale: true` come to."""
    assert sparse.stages("ties").division == "mean"
    assert sparse.stages("ties", consensus="none").division == "normalized"
    assert sparse.stages("ties", normalize=False).division == "sum"
    assert sparse.stages("ties", normalize=False, reduce="mean").division == "mean"
    assert sparse.stages("task_arithmetic", normalize=True).division == "normalized"
    assert sparse.stages("dare_ties", normalize=True).division == "mean"
    assert sparse.stages("localize_and_stitch", normalize=False).division == "mean"
    assert sparse.stages("ties", rescale=True).rescale == "l1"
    assert sparse.stages("della", rescale=False).rescale == "none"


def test_localize_and_stitch() -> None:
    """One threshold for the model, ties in order; what two keep is averaged."""
    first = {"a": f32(3, 1), "b": f32(2, 2)}
    second = {"a": f32(5, 0), "b": f32(0, 4)}
    tuned = [sparse.Tuned(first, 1.0, 0.5), sparse.Tuned(second, 1.0, 0.5)]
    merged = sparse.sparse(sparse.stages("localize_and_stitch"), zeros(first), tuned)
    np.testing.assert_array_equal(merged["a"], f32(4, 0))
    np.testing.assert_array_equal(merged["b"], f32(2, 4))


def test_lines() -> None:
    tuned = {f"layers.{i}.a": f32(1) for i in range(3)} | {"norm": f32(1)}
    merged = sparse.sparse(
        sparse.stages("lines"), zeros(tuned), [sparse.Tuned(tuned)], sparse.Shared(alpha=0.25, beta=0.5)
    )
    assert [v.item() for v in merged.values()] == [0.25, 0.5, 0.75, 0.25]


def test_spherical_means() -> None:
    """Of two orthogonal vectors all take the middle; sizes are averaged or kept."""
    u, v = f32(3, 0), f32(0, 4)
    middle = 3.5 * np.sqrt(0.5)
    np.testing.assert_allclose(gram.multislerp([u, v], [1.0, 1.0]), [middle, middle], rtol=1e-6)
    np.testing.assert_allclose(gram.karcher([u, v]), [middle, middle], rtol=1e-6)
    np.testing.assert_allclose(gram.nuslerp([u, v], [1.0, 1.0]), [3 * np.sqrt(0.5), 4 * np.sqrt(0.5)], rtol=1e-6)
    np.testing.assert_allclose(gram.karcher([f32(2), f32(4), f32(-3)]), [3.0])
    np.testing.assert_allclose(gram.karcher([f32(2), f32(-4), f32(0)]), [2.0])


def test_nuslerp_directions() -> None:
    """Rows (3, 0) and (0, 4) meet at an angle; columns (3, 1) and (6, 2) are parallel."""
    u, v = f32(3, 0, 1, 0).reshape(2, 2), f32(0, 4, 0, 2).reshape(2, 2)
    half = np.sqrt(0.5)
    rows = gram.nuslerp([u, v], [1.0, 1.0], flatten=False)
    np.testing.assert_allclose(rows, half * (u + v), rtol=1e-6)
    columns = gram.nuslerp([u, u * 2], [1.0, 1.0], flatten=False, row_wise=True)
    np.testing.assert_allclose(columns, 1.5 * u, rtol=1e-6)


def test_model_stock() -> None:
    """Models that agree are taken, models at right angles are not."""
    base = f32(1, 1)
    np.testing.assert_allclose(gram.model_stock(base, [f32(2, 3), f32(2, 3)]), [2, 3], rtol=1e-6)
    np.testing.assert_allclose(gram.model_stock(base, [f32(2, 1), f32(1, 2)]), [1, 1], rtol=1e-6)
    np.testing.assert_allclose(gram.model_stock(f32(0), [f32(1), f32(2), f32(-3)]), [0], atol=1e-6)
    rows = [f32(1, 0, 2, 0).reshape(2, 2), f32(1, 0, 0, 2).reshape(2, 2)]
    np.testing.assert_allclose(
        gram.model_stock(np.zeros((2, 2), dtype=np.float32), rows, filter_wise=True), [[1, 0], [0, 0]], atol=1e-6
    )


def test_metagpt() -> None:
    one, two = {"a": f32(1), "b": f32(0)}, {"a": f32(0), "b": f32(3)}
    merged = gram.metagpt(zeros(one), [one, two])
    np.testing.assert_allclose([merged["a"].item(), merged["b"].item()], [0.1, 2.7], rtol=1e-6)


def test_elementwise() -> None:
    base = f32(0, 0, 0)
    np.testing.assert_allclose(elementwise.nearswap(base, f32(1, 0.1, 0), 0.2), [0.2, 0.1, 0.0], rtol=1e-6)
    one, two = f32(1, 2, 0), f32(3, 0, 0)
    np.testing.assert_allclose(elementwise.ram(base, [one, two]), [2, 2, 0])
    np.testing.assert_allclose(elementwise.ramplus_tl(base, [one, two]), [2, 2.04, 0], rtol=1e-6)
    np.testing.assert_array_equal(elementwise.magmax(base, [f32(2, 3, 0), f32(-2, 1, 0)]), [-2, 3, 0])
    np.testing.assert_allclose(elementwise.expo(f32(1), f32(3), 0.5), [4])
    np.testing.assert_allclose(elementwise.fisher([f32(1, 1), f32(4, 4)], [f32(1, 0), f32(2, 0)]), [3, 2.5])


def test_tall_masks() -> None:
    base, one, two = f32(0, 0), f32(4, 1), f32(1, -4)
    lambdas = (0.5, 0.25)
    assert elementwise.tall_masks(base, [one, two], lambdas).tolist() == [[True, False], [False, True]]
    np.testing.assert_array_equal(elementwise.tall_mask(base, [one, two], lambdas, 1), [5, 0])
    np.testing.assert_allclose(elementwise.consensus_ta(base, [one, two], lambdas, k=1), [2, -1.2], rtol=1e-6)
    np.testing.assert_array_equal(elementwise.consensus_ta(base, [one, two], lambdas), base)


def test_sce() -> None:
    """Half of the two elements that vary: the third; by the mask's reading the others stay or move."""
    base, one, two = f32(0, 0, 0, 0), f32(1, 0, -2, 0), f32(1, 3, 2, 0)
    assert selected(base, [one, two], 0.5).tolist() == [False, False, True, False]
    np.testing.assert_allclose(sce(base, [one, two], topk=0.5), [0, 0, 2, 0])
    np.testing.assert_allclose(sce(base, [one, two], topk=0.5, mask="weights"), [1, 3, 2, 0])
    np.testing.assert_allclose(sce(base, [one, two], topk=0.4), base)
    np.testing.assert_allclose(sce(f32(0, 0), [f32(1, 1), f32(3, 3)]), [2.8, 2.8], rtol=1e-6)


def test_arcee() -> None:
    assert arcee.threshold(np.array([3.0, 0.0, 4.0, 1.0, 2.0])) == 5.0
    base, tuned = f32(0, 0), f32(np.log(3), 0)
    moved = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    np.testing.assert_allclose(arcee.importance(base, tuned), [np.log(3) * moved, 0], rtol=1e-6)


def test_pcb() -> None:
    """Of four scores the upper half starts at the third, which is the zero of what is left."""
    tuned = {"a": f32(1, 4), "b": f32(-3, 2)}
    merged = pcb(zeros(tuned), [tuned], ratio=0.5, clip=0.0)
    np.testing.assert_allclose(np.concatenate([merged["a"], merged["b"]]), [0, 4, 0, 0])


def test_emr() -> None:
    one, two = {"a": f32(2, -1, 1)}, {"a": f32(1, -3, -1)}
    base = zeros(one)
    np.testing.assert_array_equal(emr(base, [one, two])["a"], [2, -3, -1])
    np.testing.assert_allclose(emr(base, [one, two], task=2)["a"], [5 / 6 * v for v in (2, -3, -1)], rtol=1e-6)
    np.testing.assert_allclose(emr(base, [one, two], task=1)["a"], [4 / 5 * v for v in (2, -3, 0)], rtol=1e-6)
    np.testing.assert_array_equal(emr(base, [one], task=1)["a"], one["a"])


@pytest.mark.parametrize(
    ("granularity", "shares"),
    [
        ("item", [1, 0, 1, 0, 1]),
        ("param", [1, 0, 1, 0, 1]),
        ("module", [9 / 10, 9 / 10, 1, 0, 1]),
        ("layer", [18 / 19, 18 / 19, 18 / 19, 0, 1 / 2]),
        ("model", [27 / 29] * 5),
    ],
)
def test_varm(granularity: str, shares: list[float]) -> None:
    """One model changes two tensors by 1, the other three by 3; `shares` are the second's."""
    names = ["layers.0.attn.a", "layers.0.attn.b", "layers.0.mlp.a", "layers.1.mlp.a", "norm"]
    first, second = [0, 1, 0, 1, 0], [3, 0, 3, 0, 3]
    models = [dict(zip(names, map(f32, values), strict=True)) for values in (first, second)]
    merged = varm(zeros(models[0]), models, granularity=granularity)
    wanted = [(1 - share) * a + share * b for share, a, b in zip(shares, first, second, strict=True)]
    np.testing.assert_allclose([merged[name].item() for name in names], wanted, rtol=1e-6)
