"""Orthogonal matching pursuit against the textbook's, and what keeps it from harm."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suture.vocab.omp import Pursuit, pursue
from suture.vocab.stored import Held

from ..reference.transplant import omp


def sums(found: Pursuit, i: int) -> tuple[list[int], Any]:
    part = slice(found.mixes.starts[i], found.mixes.starts[i + 1])
    return found.mixes.index[part].tolist(), found.mixes.weight[part]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(12, 40), st.integers(1, 8), st.booleans())
def test_it_is_the_textbooks(seed: int, width: int, atoms: int, k: int, held: bool) -> None:
    """The same atoms and coefficients, whether the anchors are held or read again for each atom."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(atoms + 5, width)) * rng.lognormal(size=(atoms + 5, 1))
    # Where a table of f32 is read, f64 arithmetic is on its values.
    budget = 2**30 if held else 8
    found = pursue(Held(values), np.arange(atoms, atoms + 5), np.arange(atoms), k, budget=budget, dependent=1e-9)
    for i in range(5):
        chosen, weights = omp(values[atoms + i], values[:atoms], min(k, width))
        own, coefficients = sums(found, i)
        if len(chosen) == width:
            # The last of a full set are many ways to the same row.
            np.testing.assert_allclose(coefficients @ values[own], values[atoms + i], atol=1e-8)
            continue
        assert own == sorted(chosen)
        np.testing.assert_allclose(coefficients, weights[np.argsort(chosen)], rtol=1e-8, atol=1e-10)
        left = np.linalg.norm(values[atoms + i] - coefficients @ values[own]) / np.linalg.norm(values[atoms + i])
        np.testing.assert_allclose(found.residual[i], left, atol=1e-9)


def test_a_planted_support_is_recovered() -> None:
    """Targets that are sums of three atoms are found as these three, to 1e-10, and nothing else."""
    rng = np.random.default_rng(1)
    atoms = rng.normal(size=(400, 64))
    support = np.array([rng.choice(400, 3, replace=False) for _ in range(50)])
    weights = rng.uniform(0.5, 2, size=(50, 3)) * rng.choice([-1, 1], size=(50, 3))
    targets = np.einsum("ts,tsd->td", weights, atoms[support])
    found = pursue(Held(np.concatenate([atoms, targets])), np.arange(400, 450), np.arange(400), 64)
    for i in range(50):
        own, coefficients = sums(found, i)
        order = np.argsort(support[i])
        assert own == support[i][order].tolist()
        np.testing.assert_allclose(coefficients, weights[i][order], rtol=1e-10)
    assert found.residual.max() < 1e-12


@pytest.mark.parametrize("normalised", [True, False])
def test_a_linear_map_is_followed_exactly(normalised: bool) -> None:
    """If the model's rows are the donor's times M, with k as large as the width, new rows are the targets' times M."""
    rng = np.random.default_rng(2)
    donor = rng.normal(size=(300, 24)) * rng.lognormal(size=(300, 1))
    base = donor @ rng.normal(size=(24, 40))
    found = pursue(Held(donor), np.arange(250, 300), np.arange(250), 64, normalised=normalised)
    for i in range(50):
        own, coefficients = sums(found, i)
        np.testing.assert_allclose(coefficients @ base[own], base[250 + i], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("noise", [0.0, 1e-12, 1e-9, 1e-6, 1e-4])
def test_duplicates_give_no_huge_coefficients(noise: float, normalised: bool) -> None:
    """Anchors that are equal, or nearly, as rows of unused tokens are; without care coefficients are 1e15."""
    rng = np.random.default_rng(3)
    unused = rng.normal(size=16)
    atoms = np.concatenate([np.tile(unused, (30, 1)), unused + noise * rng.normal(size=(30, 16)), np.zeros((2, 16))])
    targets = np.concatenate([[unused], [unused + 0.1 * rng.normal(size=16)], rng.normal(size=(6, 16))])
    found = pursue(Held(np.concatenate([atoms, targets])), np.arange(62, 70), np.arange(62), 64, normalised=normalised)
    assert found.mixes.sizes().max() < 10
    assert len(sums(found, 0)[0]) == 1
    if normalised:
        assert sums(found, 0)[0] == [0]
    # The one direction there is is found all the same.
    best = np.array([abs(t @ unused) / np.linalg.norm(unused) / np.linalg.norm(t) for t in targets])
    np.testing.assert_allclose(found.residual, np.sqrt(np.maximum(1 - best**2, 0)), atol=2e-3)


def test_long_rows_do_not_come_first() -> None:
    """One row of a large norm is chosen by products for nearly all targets, by angles for few."""
    rng = np.random.default_rng(4)
    atoms = rng.normal(size=(200, 32))
    atoms[7] *= 1000
    values = np.concatenate([atoms, rng.normal(size=(100, 32))])
    first = {
        normalised: np.mean([7 in sums(found, i)[0] for i in range(100)])
        for normalised in (True, False)
        for found in [pursue(Held(values), np.arange(200, 300), np.arange(200), 1, normalised=normalised)]
    }
    assert first[False] > 0.9
    assert first[True] < 0.1


def test_nothing_is_made_of_nothing() -> None:
    """A target at right angles to all anchors gets no atoms; no anchors at all are no failure."""
    values = np.eye(8)
    found = pursue(Held(values), np.array([7]), np.arange(5), 4)
    assert len(found.mixes.index) == 0
    assert found.residual.tolist() == [1.0]


_SCRIPT = """
import numpy as np, hashlib
from suture.vocab.omp import pursue
from suture.vocab.stored import Held
rng = np.random.default_rng(5)
values = rng.normal(size=(460, 48)).astype(np.float32)
values[100:150] = values[:50]
from suture.vocab.clp import weigh
from suture.vocab.neighbours import nearest, sparse
table, targets, anchors = Held(values), np.arange(400, 460), np.arange(400)
all_of = [
    pursue(table, targets, anchors, 16, budget=BUDGET).mixes,
    weigh(table, targets, anchors),
    weigh(table, targets, anchors, top_k=7),
    nearest(table, targets, table, anchors),
    sparse(table, targets, anchors),
]
print([hashlib.sha256(m.index.tobytes() + m.weight.tobytes()).hexdigest() for m in all_of])
"""


def test_the_plan_is_the_same_whatever_the_threads() -> None:
    """Of every method, bit for bit, with one thread of BLAS and with two; OMP with all anchors held or none."""
    digests = set()
    for threads, budget in (("1", 2**30), ("2", 2**30), ("2", 8)):
        env = {**os.environ, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        script = _SCRIPT.replace("BUDGET", str(budget))
        done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
        digests.add(done.stdout)
    assert len(digests) == 1
