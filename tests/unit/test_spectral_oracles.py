"""The spectral oracles give what the papers' formulas give by hand: a closed form for each."""

from __future__ import annotations

import numpy as np
import pytest

from ..reference import spectral
from ..reference.spectral.common import Matrix, signed
from ..reference.spectral.isotropic import split
from ..reference.spectral.opcm import accumulated
from ..reference.spectral.star import kept_rank
from ..reference.spectral.tsvm import density as spectral_density
from .test_spectral_laws import close, random, rotation

SHAPES = [(9, 6), (6, 9), (8, 8)]
shaped = pytest.mark.parametrize("shape", SHAPES, ids=str)


def truncation(x: Matrix, rank: int) -> Matrix:
    u, s, vt = np.linalg.svd(x)
    return np.asarray((u[:, :rank] * s[:rank]) @ vt[:rank])


def planted(shape: tuple[int, int], sizes: list[list[float]]) -> list[Matrix]:
    """One task per list of singular values; no two share a left or a right singular vector."""
    left, right, tasks, place = rotation(shape[0], 21), rotation(shape[1], 22), [], 0
    for values in sizes:
        columns = slice(place, place + len(values))
        tasks.append((left[:, columns] * np.asarray(values)) @ right[:, columns].T)
        place += len(values)
    return tasks


def two_by_two(values: list[list[float]]) -> Matrix:
    return np.asarray(values, dtype=np.float64)


@shaped
def test_tsvm_of_orthogonal_tasks_is_their_sum(shape: tuple[int, int]) -> None:
    """Nothing to decorrelate: interference 0, and the sum of the rank-k truncations."""
    tasks = planted(shape, [[3.0, 2.0, 0.5], [5.0, 1.0, 0.25]])
    assert close(spectral.tsvm(tasks), tasks[0] + tasks[1])
    assert spectral.interference(tasks) < 1e-9
    three = planted(shape, [[3.0, 2.0], [5.0, 1.0], [4.0, 0.5]])
    assert close(spectral.tsvm(three), np.asarray(sum(three)))


@pytest.mark.parametrize("count", [2, 3, 4, 5, 9])
def test_tsvm_of_identical_tasks_is_the_truncation(count: int) -> None:
    """The robust polar factor: rank 6 // T of the delta, where the completion vectors double the energy."""
    delta = random((9, 6), 1)[0]
    # Joined, T equal halves of the whitened parts: sum over T of 1/T.
    assert close(spectral.tsvm([delta] * count), truncation(delta, max(1, 6 // count)))


def test_tsvm_official_keeps_the_completion_vectors() -> None:
    """The trap of the released code: identical tasks come out wrong by as much as they are large."""
    delta = random((8, 8), 1)[0]
    right = truncation(delta, 4)
    wrong = spectral.tsvm([delta, delta], official=True)
    assert np.linalg.norm(wrong - right) > 0.5 * np.linalg.norm(right)
    tasks = random((8, 6), 3)
    assert close(spectral.tsvm(tasks, official=True), spectral.tsvm(tasks))


def test_tsvm_whitens_by_the_inverse_root_of_the_gram_matrix() -> None:
    """polar(U) = U (UtU)^(-1/2), on two rank-1 tasks at 60 degrees, by hand."""
    c, s = 0.5, np.sqrt(0.75)
    a, b = np.array([1.0, 0.0]), np.array([c, s])
    tasks = [np.outer(a, a) * 2.0, np.outer(b, b) * 3.0]
    u = np.stack([a, b], axis=1)
    values, vectors = np.linalg.eigh(u.T @ u)
    white = u @ (vectors / np.sqrt(values)) @ vectors.T
    assert close(spectral.tsvm(tasks), (white * [2.0, 3.0]) @ white.T)
    # (UtU - I) = 0.5 off the diagonal: 0.5 * 3 * 0.5 and 0.5 * 2 * 0.5 on the diagonal of the product.
    assert spectral.interference(tasks) == pytest.approx(0.25 * 5.0)


def test_reweighted_with_equal_statistics_is_tsvm() -> None:
    """Equal outlier mass and density: the same as tsvm, also where T does not divide the rank."""
    rng = np.random.default_rng(3)
    first = rng.standard_normal((16, 10)) ** 3
    tasks = [first, first[rng.permutation(16)][:, rng.permutation(10)], first[::-1] * -1.0]
    assert close(spectral.tsvm_reweighted(tasks), spectral.tsvm(tasks))
    flat = [np.where(x > 0.0, 1.0, -1.0) for x in tasks]
    assert close(spectral.tsvm_reweighted(flat), spectral.tsvm(flat), 1e-6)


def hadamard(size: int) -> Matrix:
    """Entries of 1 and -1, columns orthogonal; the size is a power of 2."""
    return np.ones((1, 1)) if size == 1 else np.asarray(np.kron(hadamard(size // 2), [[1.0, 1.0], [1.0, -1.0]]))


def test_reweighted_weighs_by_outliers() -> None:
    """All the outliers in one task: its singular value doubles, the other's vanish; by hand."""
    dense, sparse = np.zeros((8, 8)), np.zeros((8, 8))
    dense[:4, :4] = hadamard(4) * [4.0, 3.0, 2.0, 1.0]
    sparse[7, 7] = 40.0
    # dense: mean 40 / 64, deviation 1.22, so its 4 is no outlier; sparse: 0.625 and 4.96.
    assert close(spectral.tsvm_reweighted([dense, sparse]), 2.0 * sparse)
    assert close(spectral.tsvm_reweighted([dense, sparse], sigmas=1e3), dense + sparse)


def test_reweighted_ranks_by_density() -> None:
    """Densities 1 and 7/64 of a mean of 71/128, k = 4: ranks floor(7.2) and, raised from floor(0.8), 1."""
    dense, sparse = hadamard(8) * np.arange(8.0, 0.0, -1.0), np.diag(np.arange(1.0, 9.0) ** 2)
    # The root mean squares are 5.0 and 11.7: of the diagonal the first one, 1, is below a tenth.
    assert spectral_density(sparse, 0.1) == pytest.approx(7.0 / 64.0)
    parts = [np.linalg.svd(x) for x in (dense, sparse)]
    u = np.hstack([parts[0][0][:, :7], parts[1][0][:, :1]])
    v = np.hstack([parts[0][2][:7].T, parts[1][2][:1].T])
    s = np.concatenate([parts[0][1][:7], parts[1][1][:1]])
    white = []
    for x in (u, v):
        values, vectors = np.linalg.eigh(x.T @ x)
        white.append(x @ (vectors / np.sqrt(values)) @ vectors.T)
    merged = spectral.tsvm_reweighted([dense, sparse], sigmas=1e3)
    assert close(merged, (white[0] * s) @ white[1].T, 1e-8)


@pytest.mark.parametrize("size", [1, 4, 7])
def test_iso_c_of_an_orthogonal_matrix_is_itself(size: int) -> None:
    """All singular values are 1 and stay."""
    matrix = rotation(size, 5)
    assert close(spectral.iso_c([matrix]), matrix)
    assert close(spectral.iso_c([0.25 * matrix, 0.75 * matrix]), matrix)


def test_iso_c_spreads_the_mean_of_all() -> None:
    """diag(3, 1, 0, 0): the mean of all four is 1, on the two directions there are."""
    assert close(spectral.iso_c([np.diag([3.0, 1.0, 0.0, 0.0])]), np.diag([1.0, 1.0, 0.0, 0.0]))
    assert close(spectral.iso_c([np.diag([3.0, 0.0]), np.diag([0.0, 1.0])]), 2.0 * np.eye(2))


@pytest.mark.parametrize(
    ("rank", "tasks", "common", "expected"),
    [
        (10, 2, 0.8, (8, 1)),
        (10, 1, 0.8, (8, 2)),
        (16, 3, 0.8, (13, 1)),
        (10, 4, 0.8, (10, 0)),
        (6, 4, 0.8, (6, 0)),
        (11, 2, 0.8, (7, 2)),
        (3, 5, 0.2, (3, 0)),
        (8, 3, 0.0, (8 - 6, 2)),
        (7, 4, 0.0, (7 - 4, 1)),
        (1, 2, 0.8, (1, 0)),
    ],
)
def test_iso_cts_splits_the_rank(rank: int, tasks: int, common: float, expected: tuple[int, int]) -> None:
    """c + T d = rank, rounded half to even, within the rank."""
    shared, own = split(rank, tasks, common)
    assert (shared, own) == expected
    assert shared + tasks * own == rank


@shaped
def test_iso_cts_without_own_directions_is_iso_c(shape: tuple[int, int]) -> None:
    """d = 0 (a common share of 1, or many tasks), and T = 1: the common subspace is all."""
    tasks = random(shape, 3)
    assert close(spectral.iso_cts(tasks, common_space_fraction=1.0), spectral.iso_c(tasks))
    assert close(spectral.iso_cts(tasks[:1]), spectral.iso_c(tasks[:1]))


def test_iso_cts_by_hand() -> None:
    """Two diagonal tasks; common: the two largest of the sum; own: one each of the rest; the mean of the four."""
    tasks = [np.diag([4.0, 3.0, 1.0, 0.0]), np.diag([4.0, 3.0, 0.0, 2.0])]
    # The sum: 8, 6, 2, 1. Common 8 and 6, own 1 and 2: 17 / 4.
    assert close(spectral.iso_cts(tasks, common_space_fraction=0.5), 4.25 * np.eye(4))


def test_star_at_a_hundred_is_the_identity() -> None:
    """Nothing cut, nothing rescaled: the mean of the tasks."""
    tasks = random((9, 6), 3)
    assert close(spectral.star(tasks, eta=100.0), np.mean(tasks, axis=0))


@pytest.mark.parametrize(("eta", "rank"), [(1.0, 1), (40.0, 1), (50.0, 1), (50.1, 2), (80.0, 2), (90.0, 3), (100.0, 4)])
def test_star_keeps_the_smallest_rank_that_reaches_eta(eta: float, rank: int) -> None:
    """5, 3, 1.5, 0.5: half at the first, four fifths at the second; the kept ones sum to ten again."""
    assert kept_rank(np.array([5.0, 3.0, 1.5, 0.5]), eta) == rank
    values = np.array([5.0, 3.0, 1.5, 0.5])[:rank]
    expected = np.diag(np.concatenate([values * 10.0 / values.sum(), np.zeros(4 - rank)]))
    assert close(spectral.star([np.diag([5.0, 3.0, 1.5, 0.5])], eta=eta), expected)


@pytest.mark.parametrize("size", range(3, 20))
def test_star_counts_equal_values_exactly(size: int) -> None:
    """Sums that rounding leaves just short of eta count: j of n equal values are j / n of their sum."""
    for j in range(1, size + 1):
        assert kept_rank(np.full(size, 0.1), 100.0 * j / size) == j


@pytest.mark.parametrize("method", [spectral.knots, spectral.core_space])
@shaped
def test_shared_bases_with_the_mean_are_the_mean(method: object, shape: tuple[int, int]) -> None:
    """A change of basis loses nothing."""
    assert callable(method)
    for tasks in (random(shape, 3), planted(shape, [[2.0], [3.0, 1.0]])):
        assert close(method(tasks), np.mean(tasks, axis=0))


def test_shared_bases_merge_coordinates() -> None:
    """An element-wise maximum in the joint basis: axes, so by hand."""

    def top(tasks: list[Matrix]) -> Matrix:
        return np.asarray(np.max(np.abs(tasks), axis=0), dtype=np.float64)

    tasks = [np.diag([3.0, 1.0]), np.diag([-5.0, 0.5])]
    assert close(spectral.knots(tasks, inner=top), np.diag([5.0, 1.0]))
    assert close(spectral.core_space(tasks, inner=top), np.diag([5.0, 1.0]))


def test_shared_bases_have_fixed_signs() -> None:
    """The entry of largest magnitude of a basis vector is positive, so a merge that sees signs is defined."""

    def highest(tasks: list[Matrix]) -> Matrix:
        return np.asarray(np.max(tasks, axis=0), dtype=np.float64)

    basis = signed(np.asarray([[0.6, -1.0], [-0.8, 0.0]]))
    assert close(basis, two_by_two([[-0.6, 1.0], [0.8, 0.0]]))
    tasks = [np.diag([-3.0, 1.0]), np.diag([-5.0, 0.5])]
    assert close(spectral.knots(tasks, inner=highest), np.diag([-3.0, 1.0]))
    assert close(spectral.knots([-x for x in tasks], inner=highest), np.diag([5.0, -0.5]))
    assert close(spectral.core_space(tasks, inner=highest), np.diag([-3.0, 1.0]))


def test_core_space_of_adapters_is_lossless() -> None:
    """U_B and V_A from the factors alone; different ranks."""
    rng = np.random.default_rng(8)
    factors = [(rng.standard_normal((9, r)), rng.standard_normal((r, 7))) for r in (1, 3, 2)]
    tasks = [b @ a for b, a in factors]
    assert close(spectral.core_space(tasks, factors=factors), np.mean(tasks, axis=0))


@shaped
def test_wudi_minimises_its_loss(shape: tuple[int, int]) -> None:
    """The closed form: no step in any direction lowers sum ||(X - T_i) T_it||^2 / ||T_i||^2; the sum is no minimum."""

    def loss(x: Matrix) -> float:
        return float(sum(np.sum(((x - t) @ t.T) ** 2) / np.sum(t**2) for t in tasks))

    tasks = random(shape, 3)
    out, rng = spectral.wudi(tasks), np.random.default_rng(9)
    lowest = loss(out)
    for _ in range(20):
        assert loss(out + 1e-3 * rng.standard_normal(shape)) >= lowest * (1.0 - 1e-12)
    assert loss(np.asarray(sum(tasks))) > 1.5 * lowest


def test_wudi_of_disjoint_inputs_is_the_sum() -> None:
    """Tasks that read different inputs do not disturb one another; identical ones are one."""
    tasks = planted((9, 6), [[3.0, 2.0], [1.0], [4.0, 0.5]])
    assert close(spectral.wudi(tasks), np.asarray(sum(tasks)))
    assert close(spectral.wudi([tasks[0]] * 3), tasks[0])


@pytest.mark.parametrize("start", ["mean", "sum"])
def test_swudi_goes_from_its_start_to_wudi(start: str) -> None:
    """Time 0: the start; time without end on all directions: the closed form."""
    tasks = random((12, 5), 3)
    begin = np.mean(tasks, axis=0) if start == "mean" else np.sum(tasks, axis=0)
    assert close(spectral.swudi(tasks, start=start, time=0.0), begin)
    assert close(spectral.swudi(tasks, start=start, time=1e9, rank_ratio=1.0), spectral.wudi(tasks))


def test_swudi_by_hand() -> None:
    """diag(2, 0) and diag(0, 1): C = I, so f = 1 - 1/e at time 1, all of the sum's directions at ratio 1."""
    tasks = [np.diag([2.0, 0.0]), np.diag([0.0, 1.0])]
    f = 1.0 - np.exp(-1.0)
    expected = np.diag([2.0, 1.0]) * (0.5 * (1.0 - f) + f)
    assert close(spectral.swudi(tasks, time=1.0, rank_ratio=1.0), expected)


def test_opcm_depends_on_the_order() -> None:
    """By definition: diag(2, 1) first, then a matrix of ones, and the other way round; by hand."""
    a, b = np.diag([2.0, 1.0]), np.ones((2, 2))
    # 2 of 3 is above a half: the block is empty, the diagonal goes.
    assert close(accumulated([a, b], 0.5), two_by_two([[2.0, 1.0], [1.0, 1.0]]))
    # All of the ones' one direction goes: u = v = (1, 1) / sqrt(2), ut a v = 1.5; nothing else is cleared.
    assert close(accumulated([b, a], 0.5), two_by_two([[2.25, 0.25], [0.25, 1.25]]))
    assert not close(spectral.opcm([a, b]), spectral.opcm([b, a]), 1e-3)


def test_opcm_clears_the_leading_block() -> None:
    """alpha 1: all that lies in the merge's row and column space; what lies outside of it stays."""
    a = np.zeros((3, 4))
    a[0, 0], a[1, 1] = 2.0, 1.0
    b = np.arange(12.0).reshape(3, 4)
    expected = a + b
    expected[:2, :2] = a[:2, :2]
    assert close(accumulated([a, b], 1.0), expected)
    # alpha 0.7: the first of 2 and 1 is 0.67 of the sum.
    expected[0, 1], expected[1, 0] = b[0, 1], b[1, 0]
    assert close(accumulated([a, b], 0.7), expected)


def test_opcm_of_identical_tasks_and_its_norm() -> None:
    """Nothing new in a second one; the result has the tasks' mean norm, or that of whole models."""
    tasks = random((6, 5), 3)
    assert close(spectral.opcm([tasks[0]] * 4), tasks[0])
    assert np.linalg.norm(spectral.opcm(tasks)) == pytest.approx(np.mean([np.linalg.norm(x) for x in tasks]))
    models = [{"w": x, "b": x[0]} for x in tasks]
    out = spectral.opcm_model(models)
    sizes = [np.sqrt(np.sum(x**2) + np.sum(x[0] ** 2)) for x in tasks]
    assert np.sqrt(sum(np.sum(x**2) for x in out.values())) == pytest.approx(np.mean(sizes))
    assert close(out["w"] / np.linalg.norm(out["w"]), spectral.opcm(tasks) / np.linalg.norm(spectral.opcm(tasks)))


def test_opcm_by_the_papers_recursion() -> None:
    """The running factor lambda_t of the paper, step by step with full bases, equals one factor at the end."""
    tasks = random((6, 6), 4)
    merged, factor, norms = tasks[0], 1.0, [np.linalg.norm(tasks[0])]
    for x in tasks[1:]:
        norms.append(np.linalg.norm(x))
        u, s, vt = np.linalg.svd(merged)
        r = int(np.argmax(np.cumsum(s) / s.sum() > 0.5))
        inside = u.T @ x @ vt.T
        np.fill_diagonal(inside, 0.0)
        inside[:r, :r] = 0.0
        step = factor * merged + u @ inside @ vt
        factor = float(np.linalg.norm(step) / np.mean(norms))
        merged = step / factor
    assert close(spectral.opcm(tasks), merged)


def test_cart_closed_forms() -> None:
    """Ratio 0 and 1: the mean, as for two tasks and for identical ones; three orthogonal ones by hand."""
    tasks = random((9, 6), 3)
    for ratio in (0.0, 1.0):
        assert close(spectral.cart(tasks, rank_ratio=ratio), np.mean(tasks, axis=0))
    assert close(spectral.cart(tasks[:2], rank_ratio=0.3), np.mean(tasks[:2], axis=0))
    assert close(spectral.cart([tasks[0]] * 3), tasks[0])
    axes = [np.diag(row) for row in (3.0 * np.eye(3))]
    # The mean is I; each difference diag(2, -1, -1) is 2 at rank 1: I + 2 I, and I + I at half the scale.
    assert close(spectral.cart(axes), 3.0 * np.eye(3))
    assert close(spectral.cart(axes, scale=0.5), 2.0 * np.eye(3))
