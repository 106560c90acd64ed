"""Closed forms of the spectral oracles that weigh directions, read data or come around a merge."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ..reference import spectral
from ..reference.spectral.common import polar
from ..reference.spectral.larv import conflict, effective_rank, scores
from .test_spectral_laws import close, random, rotation
from .test_spectral_oracles import planted, shaped, truncation, two_by_two


def test_resmerge_of_one_and_of_identical_tasks() -> None:
    """Coherence and agreement are 1: the rest, and a fifth of its norm along the head."""
    delta = np.diag([5.0, 3.0, 4.0])
    expected = np.diag([0.2 * 5.0, 3.0, 4.0])
    assert close(spectral.resmerge([delta]), expected)
    assert close(spectral.resmerge([delta] * 3), expected)


def test_resmerge_by_hand() -> None:
    """Two residuals at 60 degrees: cosine 1/2, coherence cos 30; heads that agree fully."""
    c = np.sqrt(0.75)
    tasks = [np.zeros((3, 4)), np.zeros((3, 4))]
    for x, angle in zip(tasks, (0.0, np.pi / 3.0), strict=True):
        x[0, 0] = 10.0
        x[1, 1:3] = np.cos(angle), np.sin(angle)
    beta = 1.0 - 0.3 * 0.5 * (0.75 + (c + 1.0) / 2.0)
    expected = np.zeros((3, 4))
    expected[1, 1:3] = c**beta * np.array([np.cos(np.pi / 6.0), np.sin(np.pi / 6.0)])
    expected[0, 0] = 0.2 * c**beta
    assert close(spectral.resmerge(tasks), expected)
    unscored = spectral.resmerge(tasks, scored=False)
    assert np.linalg.norm(unscored[1]) == pytest.approx(c)


def test_resmerge_without_coherence_is_the_mean_of_the_rest() -> None:
    """Orthogonal residuals are chance; opposite ones too; no residual at all: the mean of the tasks."""
    tasks = [np.diag([9.0, 2.0, 0.0]), np.diag([9.0, 0.0, 4.0])]
    rest = np.diag([0.0, 1.0, 2.0])
    rest[0, 0] = 0.2 * np.sqrt(5.0)
    assert close(spectral.resmerge(tasks), rest)
    assert close(spectral.resmerge([np.diag([9.0, 2.0]), np.diag([9.0, -2.0])]), np.zeros((2, 2)))
    assert close(spectral.resmerge([np.diag([9.0, 0.0]), np.diag([3.0, 0.0])]), np.diag([6.0, 0.0]))


def test_regmean_closed_forms() -> None:
    """Equal Gram matrices: the weighted mean. alpha 0: a mean for each input, weighted by its energy."""
    tasks, weights = random((5, 4), 3), [1.0, 2.0, 0.5]
    gram = rotation(4, 6) @ np.diag([5.0, 1.0, 0.1, 3.0]) @ rotation(4, 6).T
    mean = sum(w * x for w, x in zip(weights, tasks, strict=True)) / sum(weights)
    assert close(spectral.regmean(tasks, grams=[gram] * 3, weights=weights), np.asarray(mean))
    energies = np.abs(np.random.default_rng(1).standard_normal((3, 4)))
    expected = sum(x * e for x, e in zip(tasks, energies, strict=True)) / energies.sum(axis=0)
    assert close(spectral.regmean(tasks, grams=[np.diag(e) for e in energies], alpha=0.0), np.asarray(expected))


def test_regmean_solves_the_least_squares() -> None:
    """alpha 1: the layer whose outputs are nearest to every task's on its own inputs, by lstsq on the data."""
    rng = np.random.default_rng(2)
    tasks, inputs = random((5, 4), 3), [rng.standard_normal((20, 4)) for _ in range(3)]
    data, targets = np.vstack(inputs), np.vstack([x @ t.T for x, t in zip(inputs, tasks, strict=True)])
    expected = np.linalg.lstsq(data, targets)[0].T
    assert close(spectral.regmean(tasks, grams=[x.T @ x for x in inputs], alpha=1.0), expected)


def test_regmean_with_little_data_stays_near_the_mean() -> None:
    """alpha 1 and fewer samples than inputs: the fit of least change from the mean, inputs at unit energy."""
    rng = np.random.default_rng(4)
    tasks, inputs = random((5, 8), 2), [rng.standard_normal((2, 8)) * np.logspace(0, 2, 8) for _ in range(2)]
    data, mean = np.vstack(inputs), np.mean(tasks, axis=0)
    scale = np.sqrt(np.sum(data**2, axis=0))
    targets = np.vstack([x @ (t - mean).T for x, t in zip(inputs, tasks, strict=True)])
    expected = mean + (np.linalg.pinv(data / scale) @ targets).T / scale
    assert close(spectral.regmean(tasks, grams=[x.T @ x for x in inputs], alpha=1.0), expected, 1e-7)


def test_regmean_without_data_is_the_mean() -> None:
    """Inputs that never fire keep the mean; so do Gram matrices of zeros; weights below zero are refused."""
    tasks = random((5, 4), 2)
    grams = [np.diag([1.0, 0.0, 2.0, 0.0]), np.diag([3.0, 0.0, 0.0, 0.0])]
    out, mean = spectral.regmean(tasks, grams=grams), np.mean(tasks, axis=0)
    assert close(out[:, [1, 3]], mean[:, [1, 3]])
    assert close(out[:, 2], tasks[0][:, 2])
    assert close(out[:, 0], 0.25 * tasks[0][:, 0] + 0.75 * tasks[1][:, 0])
    assert close(spectral.regmean(tasks, grams=[np.zeros((4, 4))] * 2), mean)
    with pytest.raises(ValueError, match="amounts of data"):
        spectral.regmean(tasks, weights=[1.0, -1.0])


def test_dc_merge_closed_forms() -> None:
    """Orthogonal tasks, all entries: the sum; the two largest of four entries: the largest of each task."""
    tasks = planted((9, 6), [[3.0, 2.0], [5.0, 1.0]])
    assert close(spectral.dc_merge(tasks, k_frac=1.0), tasks[0] + tasks[1])
    expected = truncation(tasks[0], 1) + truncation(tasks[1], 1)
    assert close(spectral.dc_merge(tasks, k_frac=1e-3), expected)
    delta = random((8, 6), 1)[0]
    assert close(spectral.dc_merge([delta], k_frac=0.12), truncation(delta, 4))


def test_dc_merge_elects_signs() -> None:
    """One direction of three tasks, 3, 2 and -4: the sum is above zero, so the mean of those that are."""
    a = np.zeros((3, 3))
    a[0, 0] = 1.0
    tasks = [3.0 * a, 2.0 * a, -4.0 * a]
    # All three share one left and one right vector: polar([1, 1, 1]) has entries 1/sqrt(3), the block's diagonal is
    # a third of each task's mean, signs aside.
    assert close(spectral.dc_merge(tasks, k_frac=1.0)[1:], np.zeros((2, 3)))
    u, v = polar(np.ones((1, 3))), polar(np.array([[1.0], [1.0], [-1.0]]).T)
    entries = [x * (u.T @ v) for x in (3.0, 2.0, -4.0)]
    total = np.sum(entries, axis=0)
    agreeing = [np.where(np.sign(e) == np.sign(total), e, np.nan) for e in entries]
    block = np.diag(np.diag(np.nanmean(agreeing, axis=0)))
    assert spectral.dc_merge(tasks, k_frac=1.0)[0, 0] == pytest.approx((u @ block @ v.T).item())


@shaped
def test_svc_closed_forms(shape: tuple[int, int]) -> None:
    """A large alpha divides by it; a task is left as it is; a sum of T identical tasks is one of them."""
    tasks = random(shape, 3)
    merged = np.asarray(sum(tasks))
    assert close(spectral.svc(merged, tasks, alpha=1e6), merged / 1e6)
    assert close(spectral.svc(tasks[0], tasks[:1]), tasks[0])
    assert close(spectral.svc(tasks[0], [tasks[0], np.zeros(shape)]), tasks[0])
    assert close(spectral.svc(4.0 * tasks[0], [tasks[0]] * 4), tasks[0])
    assert close(spectral.svc(merged[0], [x[0] for x in tasks]), merged[0])


def test_svc_by_hand() -> None:
    """Two tasks share the first direction and not the second: gamma 2 / (1.5 + 3) and 2 / (0.1 + 1)."""
    tasks = [np.diag([2.0, 1.0]), np.diag([1.0, 0.0])]
    assert close(spectral.svc(np.diag([3.0, 1.0]), tasks), np.diag([3.0 * 2.0 / 4.5, 2.0 / 1.1]))
    with pytest.raises(ValueError, match="above zero"):
        spectral.svc(np.eye(2), tasks, alpha=0.0)


def test_svc_after_iso_c_uses_the_sums_directions() -> None:
    """Equal singular values have no directions of their own: those of the sum of the deltas are used."""
    u, v = rotation(4, 7), rotation(4, 8)
    tasks = [(u * [4.0, 3.0, 2.0, 1.0]) @ v.T, (u * [4.0, 0.0, 2.0, 1.0]) @ v.T]
    merged = spectral.iso_c(tasks)
    size = (8.0 + 3.0 + 4.0 + 2.0) / 4.0
    gammas = [2.0 / (2.0 * size / 4.0), 2.0 / (size / 3.0 + 0.1), 2.0 / (2.0 * size / 2.0), 2.0 / (2.0 * size)]
    assert close(spectral.svc(merged, tasks), (u * (size * np.asarray(gammas))) @ v.T)


def test_larv_diagnostics() -> None:
    """Effective rank counts equal singular values; matrices that commute do not conflict; neither knows scale."""
    assert effective_rank(np.diag([2.0, 2.0, 2.0, 0.0])) == pytest.approx(3.0)
    assert effective_rank(np.zeros((2, 3))) == 1.0
    a, b = np.diag([1.0, 2.0]), two_by_two([[0.0, 1.0], [0.0, 0.0]])
    assert conflict(a, np.diag([3.0, 1.0])) == 0.0
    # A Bt - B At and At B - Bt A: 2 and 1 off the diagonals.
    assert conflict(a, b) == pytest.approx(0.5 * (2.0 + 1.0) * np.sqrt(2.0) / np.sqrt(5.0))
    assert conflict(7.0 * a, 1e-9 * b) == pytest.approx(conflict(a, b))


def test_larv_scales() -> None:
    """Equal layers: the depth alone counts, r = sqrt((l + 1) / L) / (1 + ln 2); a layer left alone gets 1."""
    base: list[list[NDArray[np.float64]]] = [[np.eye(4)]] * 4
    task: list[list[NDArray[np.float64]]] = [[1e-3 * np.eye(4)]] * 4
    expected = np.sqrt(np.arange(1.0, 5.0) / 4.0) / (1.0 + np.log(2.0))
    assert scores(base, task) == pytest.approx(expected)
    assert spectral.larv(base, task) == pytest.approx(list(1.0 + 0.5 * np.tanh(3.0 * (expected - 1.0))))
    assert spectral.larv(base, task, gate="tiered") == [0.5, 0.5, 1.0, 1.5]
    left = [*task[:3], [np.zeros((4, 4))]]
    assert spectral.larv(base, left)[3] == 1.0
    assert spectral.larv(base, [[np.zeros((4, 4))]] * 4) == [1.0] * 4
    lower = [[np.diag([1e-3, 0.0, 0.0, 0.0])], *task[1:]]
    assert spectral.larv(base, lower)[0] > spectral.larv(base, task)[0]
