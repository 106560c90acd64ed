"""The spectral oracles keep the laws of merging: zeros, one task, order, scale, rotation, noise below rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ..reference.spectral import METHODS, stacked, svc
from ..reference.spectral.common import Matrix

#: Tall, wide, square, a row, a column, a prime, and a single number.
SHAPES = ((11, 6), (6, 11), (8, 8), (1, 7), (7, 1), (13, 5), (1, 1))
COUNTS = (1, 2, 3, 4, 5, 9)
#: What gives one expert back, and what needs for it that nothing is cut.
FAITHFUL = ("tsvm", "tsvm_reweighted", "knots", "core_space", "wudi", "swudi", "opcm", "cart", "regmean")
UNCUT: dict[str, dict[str, Any]] = {"star": {"eta": 100.0}, "dc_merge": {"k_frac": 1.0}}
#: Weights multiply the deltas: not where statistics or data have weights of their own.
MULTIPLY = sorted(set(METHODS) - {"tsvm_reweighted", "regmean"})
#: No coordinates of their own: a rotation of rows and columns goes through.
ROTATE = sorted(set(METHODS) - {"tsvm_reweighted", "regmean"})
TRANSPOSE = ("tsvm", "tsvm_reweighted", "iso_c", "star", "opcm", "cart", "resmerge", "dc_merge", "core_space")

every = pytest.mark.parametrize("name", sorted(METHODS))
shaped = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
counted = pytest.mark.parametrize("count", COUNTS)


def random(shape: tuple[int, ...], count: int, seed: int = 5) -> list[Matrix]:
    """Tasks with something in common."""
    rng = np.random.default_rng([seed, count, *shape])
    common = rng.standard_normal(shape)
    return [0.5 * common + rng.standard_normal(shape) for _ in range(count)]


def extra(name: str, deltas: list[Matrix]) -> dict[str, Any]:
    """Gram matrices for the method that needs them."""
    if name != "regmean":
        return {}
    rng = np.random.default_rng(6)
    width = deltas[0].shape[-1]
    inputs = [rng.standard_normal((2 * width + 3, width)) for _ in deltas]
    return {"grams": [x.T @ x for x in inputs]}


def rotation(size: int, seed: int) -> Matrix:
    """An orthogonal matrix."""
    return np.asarray(np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0])


def close(left: NDArray[Any], right: NDArray[Any], tolerance: float = 1e-9) -> bool:
    """Equal up to a share of the larger one."""
    size = max(float(np.abs(left).max()), float(np.abs(right).max()))
    return left.shape == right.shape and float(np.abs(left - right).max()) <= tolerance * size


@every
@shaped
@counted
def test_every_shape_and_count_gives_a_finite_change(name: str, shape: tuple[int, int], count: int) -> None:
    """m < n, m > n, m = n; any T, dividing the rank, not dividing it, above it: a finite matrix of the shape."""
    deltas = random(shape, count)
    out = METHODS[name](deltas, **extra(name, deltas))
    assert out.shape == shape
    assert np.isfinite(out).all()
    assert np.abs(out).max() > 0.0


@every
@pytest.mark.parametrize("shape", [(6, 4), (5,)], ids=str)
def test_zero_deltas_give_zero(name: str, shape: tuple[int, ...]) -> None:
    """A0: all experts are the base, so the result is."""
    deltas = [np.zeros(shape)] * 3
    assert not METHODS[name](deltas, **extra(name, deltas)).any()


@every
def test_a_task_of_zeros_does_no_harm(name: str) -> None:
    """An expert that left the tensor alone is counted, and gives neither NaN nor noise."""
    deltas = [*random((9, 6), 2), np.zeros((9, 6))]
    out = METHODS[name](deltas, **extra(name, deltas))
    assert np.isfinite(out).all()


@pytest.mark.parametrize("name", [*FAITHFUL, *UNCUT])
@shaped
def test_one_task_is_given_back(name: str, shape: tuple[int, int]) -> None:
    """A0: N = 1 with weight 1 is the expert, where the method says so."""
    deltas = random(shape, 1)
    out = METHODS[name](deltas, **extra(name, deltas), **UNCUT.get(name, {}))
    assert close(out, deltas[0], 1e-7 if name == "swudi" else 1e-9)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"opcm"}))
@shaped
def test_the_order_of_the_tasks_does_not_count(name: str, shape: tuple[int, int]) -> None:
    """A0: a permutation of the experts with their weights (and data) gives the same."""
    deltas, order, weights = random(shape, 4), [2, 0, 3, 1], [0.7, 1.3, 0.4, 2.0]
    grams = extra(name, deltas)
    shuffled = {key: [value[i] for i in order] for key, value in grams.items()}
    left = METHODS[name](deltas, weights=weights, **grams)
    right = METHODS[name]([deltas[i] for i in order], weights=[weights[i] for i in order], **shuffled)
    assert close(left, right, 1e-8)


@every
@shaped
@pytest.mark.parametrize("scale", [1e-9, -1.0, 1e6])
def test_the_scale_of_the_deltas_goes_through(name: str, shape: tuple[int, int], scale: float) -> None:
    """A1: merge(c deltas) = c merge(deltas); no absolute epsilon anywhere."""
    deltas = random(shape, 3)
    grams = extra(name, deltas)
    assert close(METHODS[name]([scale * x for x in deltas], **grams), scale * METHODS[name](deltas, **grams), 1e-8)


@every
def test_lambda_multiplies_the_result(name: str) -> None:
    """lam is outside of everything."""
    deltas = random((7, 9), 3)
    grams = extra(name, deltas)
    assert close(METHODS[name](deltas, lam=-2.5, **grams), -2.5 * METHODS[name](deltas, **grams))


@pytest.mark.parametrize("name", MULTIPLY)
@shaped
def test_weights_multiply_the_deltas(name: str, shape: tuple[int, int]) -> None:
    """A weighted merge is the merge of weighted deltas."""
    deltas, weights = random(shape, 3), [0.5, -1.5, 2.0]
    left = METHODS[name](deltas, weights=weights)
    right = METHODS[name]([w * x for w, x in zip(weights, deltas, strict=True)])
    assert close(left, right, 1e-8)


@pytest.mark.parametrize("name", ROTATE)
@pytest.mark.parametrize("shape", [(9, 6), (6, 9), (7, 7)], ids=str)
@pytest.mark.parametrize("count", [2, 3, 8])
def test_rotations_go_through(name: str, shape: tuple[int, int], count: int) -> None:
    """Singular vectors are those of the space, not of its axes, and their signs do not count."""
    deltas, left, right = random(shape, count), rotation(shape[0], 1), rotation(shape[1], 2)
    out = METHODS[name]([left @ x @ right.T for x in deltas])
    assert close(out, left @ METHODS[name](deltas) @ right.T, 1e-8)


@pytest.mark.parametrize("name", TRANSPOSE)
@pytest.mark.parametrize("count", [1, 3, 4])
def test_rows_and_columns_are_alike(name: str, count: int) -> None:
    """Methods without a preferred side give the transpose of the transposes."""
    deltas = random((9, 5), count)
    assert close(METHODS[name]([x.T for x in deltas]), METHODS[name](deltas).T, 1e-8)


@every
@pytest.mark.parametrize("shape", [(10, 8), (8, 10), (8, 8)], ids=str)
def test_no_arbitrary_vector_reaches_a_result(name: str, shape: tuple[int, int]) -> None:
    """Tasks of low rank: noise below the cut, which turns all the vectors they lack, moves the result as little."""
    rng = np.random.default_rng(11)
    deltas = [rng.standard_normal((shape[0], 2)) @ rng.standard_normal((2, shape[1])) for _ in range(3)]
    noisy = [x + 1e-9 * rng.standard_normal(shape) for x in deltas]
    grams = extra(name, deltas)
    assert close(METHODS[name](noisy, **grams), METHODS[name](deltas, **grams), 1e-6)


@every
def test_identical_tasks_hide_nothing_arbitrary(name: str) -> None:
    """Identical experts: a disturbance far below bf16's grid does not change what comes out."""
    rng = np.random.default_rng(12)
    delta = random((9, 7), 1)[0]
    deltas = [delta] * 3
    noisy = [delta + 1e-9 * rng.standard_normal(delta.shape) for _ in range(3)]
    grams = extra(name, deltas)
    assert close(METHODS[name](noisy, **grams), METHODS[name](deltas, **grams), 1e-6)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"opcm"}))
def test_vectors_get_the_mean(name: str) -> None:
    """1-D tensors: the sum of the weighted deltas over T (over the sum of the weights for regmean)."""
    deltas, weights = random((6,), 3), [1.0, 0.5, 2.0]
    total = sum(w * x for w, x in zip(weights, deltas, strict=True))
    divisor = sum(weights) if name == "regmean" else 3
    assert close(METHODS[name](deltas, weights=weights), np.asarray(total / divisor))


def test_opcm_of_vectors_is_the_sum_at_the_mean_norm() -> None:
    """OPCM projects linear layers alone; the rest is summed and rescaled."""
    deltas = random((6,), 3)
    total = np.sum(deltas, axis=0)
    size = np.mean([np.linalg.norm(x) for x in deltas])
    assert close(METHODS["opcm"](deltas), total * size / np.linalg.norm(total))


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"regmean"}))
def test_stacked_experts_are_matrices_of_their_own(name: str) -> None:
    """(E, m, n): what becomes of one expert does not depend on its neighbours."""
    deltas = random((3, 6, 5), 2)
    out = stacked(METHODS[name], deltas, lam=0.5)
    assert close(out[1], METHODS[name]([x[1] for x in deltas], lam=0.5))


@pytest.mark.parametrize("name", sorted(METHODS))
def test_svc_keeps_the_laws(name: str) -> None:
    """After any merge: scale and rotation go through, order does not count."""
    deltas = random((8, 6), 3)
    merged = METHODS[name](deltas, **extra(name, deltas))
    out = svc(merged, deltas)
    assert close(svc(1e-7 * merged, [1e-7 * x for x in deltas]), 1e-7 * out)
    assert close(svc(merged, deltas[::-1]), out)
    left, right = rotation(8, 3), rotation(6, 4)
    assert close(svc(left @ merged @ right.T, [left @ x @ right.T for x in deltas]), left @ out @ right.T, 1e-8)
