"""Orthogonal matching pursuit: rows of one space as short sums of others there, to be taken over into another space.

The donor's row of a token that the model lacks is written as a sum of at most k of the donor's rows of tokens that
both have (the anchors); the same sum of the model's rows of these tokens is the new row. Goddard and Fernandes Neto,
"Training-Free Tokenizer Transplantation via Orthogonal Matching Pursuit" (arXiv 2506.06607).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from suture.vocab.mixes import Mixes
from suture.vocab.stored import Table, blocks

#: Correlations in f32 this close together are computed once more, in f64: which is largest goes by no rounding.
_CLOSE = 4e-6
#: An atom that the rows chosen before explain but for this share of its length is dropped.
DEPENDENT = 1e-3
#: A sum is finished when so many atoms were dropped.
_PASSED = 64


@dataclass(frozen=True)
class Pursuit:
    """What was found for targets, in their order.

    Attributes:
        mixes: for each target the anchors, by their places, and their coefficients.
        residual: float64 [targets]: the norm of what the sum leaves of the target, as a share of the target's.
        dropped: how many atoms were passed over, as the ones chosen before explain them.
    """

    mixes: Mixes
    residual: NDArray[np.float64]
    dropped: int


def pursue(
    donor: Table,
    targets: NDArray[np.int64],
    anchors: NDArray[np.int64],
    k: int,
    *,
    tolerance: float = 1e-12,
    normalised: bool = True,
    dependent: float = DEPENDENT,
    budget: int = 2**30,
) -> Pursuit:
    """Write rows of a table as sums of at most k others of it.

    Atoms are looked for in f32 and compared in f64 where they are close; all else is f64. A sum is finished with k
    atoms, or when what is left of the target is below `tolerance`, or no atom stands at an angle of a cosine above
    `dependent` to it. Atoms that are sums of those before them, as equal rows are, are thus never taken: their
    coefficients would have no bound.

    Args:
        donor: the table.
        targets: the rows to write, none of zeros.
        anchors: the rows to write them with.
        k: most atoms of a sum.
        tolerance: norm of what may be left, as a share of the target's.
        normalised: whether atoms are chosen by their angle to what is left; else, as in the published code, by their
            product with it, so that long rows are chosen first.
        dependent: share of an atom's length that the ones before it must leave, for it to be taken.
        budget: bytes that it may hold: the anchors in f32 where they take less than half of it, else they are read
            again for every atom; and the rest for targets side by side.
    """
    k = min(k, donor.width, len(anchors))
    pool = _Pool(donor, anchors, budget // 2, normalised)
    # Of a target there are k directions and two more rows in f64, and a correlation with every anchor.
    each = 8 * donor.width * (k + 4) + 5 * len(anchors)
    side = int(max(min((budget - pool.held) // each, 2048, len(targets)), 1))
    parts: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
    left = np.empty(len(targets))
    dropped = 0
    for start in range(0, len(targets), side):
        values = donor.read(targets[start : start + side]).astype(np.float64)
        batch = _Batch(values, pool, k, tolerance, dependent)
        batch.run()
        parts.extend(batch.sums())
        left[start : start + side] = batch.left()
        dropped += batch.dropped
    return Pursuit(Mixes.of(np.arange(len(targets)), parts), left, dropped)


class _Pool:
    """The anchors, to be compared with what is left of targets."""

    def __init__(self, donor: Table, anchors: NDArray[np.int64], most: int, normalised: bool) -> None:
        self.donor, self.anchors, self.normalised = donor, anchors, normalised
        self.held = 4 * len(anchors) * donor.width
        self._values: NDArray[np.float32] | None = None
        #: Whether what is held are the rows themselves: they are, where they are stored as f32 or narrower.
        self._exact = True
        self.lengths = np.empty(len(anchors))
        if self.held <= most:
            self._values = np.empty((len(anchors), donor.width), dtype=np.float32)
        else:
            self.held = 0
        for start, part in blocks(anchors, donor.width):
            rows = donor.read(part).astype(np.float64)
            stop = start + len(part)
            self.lengths[start:stop] = np.sqrt(np.einsum("ij,ij->i", rows, rows))
            if self._values is not None:
                self._values[start:stop] = rows
                self._exact = self._exact and bool((self._values[start:stop] == rows).all())
        # What correlations with atoms of length 1 are multiplied by; atoms of zeros are never chosen.
        share = 1.0 if normalised else self.lengths / max(self.lengths.max(), 1e-300)
        self.scale = np.where(self.lengths > 0, share, 0)
        self._factor = (self.scale / np.where(self.lengths > 0, self.lengths, 1)).astype(np.float32)

    def correlations(self, wanted: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Absolute products of targets of length 1 with all anchors, f32 [targets, anchors]."""
        if self._values is not None:
            np.matmul(wanted, self._values.T, out=out)
        else:
            for start, part in blocks(self.anchors, self.donor.width):
                out[:, start : start + len(part)] = wanted @ self.donor.read(part).astype(np.float32).T
        np.abs(out, out=out)
        out *= self._factor

    def atoms(self, places: NDArray[np.int64]) -> NDArray[np.float64]:
        """Anchors at length 1, in f64."""
        held = self._values is not None and self._exact
        values = self._values[places] if held and self._values is not None else self.donor.read(self.anchors[places])
        return values.astype(np.float64) / self.lengths[places][:, None]


class _Batch:
    """Targets that are worked on side by side."""

    def __init__(self, values: NDArray[np.float64], pool: _Pool, k: int, tolerance: float, dependent: float) -> None:
        count, width = values.shape
        self.pool, self.k, self.tolerance, self.dependent = pool, k, tolerance, dependent
        self.norm = np.sqrt(np.einsum("ij,ij->i", values, values))
        self.rest = values / np.where(self.norm > 0, self.norm, 1)[:, None]
        #: What is left of each target relative to it, which is set to length 1.
        self.size = np.where(self.norm > 0, 1.0, 0.0)
        self.basis = np.zeros((count, k, width))
        self.upper = np.zeros((count, k, k))
        self.along = np.zeros((count, k))
        self.taken = np.zeros(count, dtype=np.int64)
        self.chosen = np.full((count, k), -1, dtype=np.int64)
        # What stands at an angle of this cosine to what is left has at least that share of its length left by the atoms
        # before it. Below it, by angles, all atoms may be their sums; by products it is where f32 ends.
        self._least = max(dependent, 1e-7) if pool.normalised else 1e-7
        self.passed: list[set[int]] = [set() for _ in range(count)]
        self.dropped = 0
        self._space = np.empty((count, len(pool.anchors)), dtype=np.float32)

    def run(self) -> None:
        """Choose atoms until every sum is finished."""
        going = np.flatnonzero((self.size > self.tolerance) & (self.taken < self.k))
        while len(going):
            places, best = self._best(going)
            live = best > self._least
            going, places = going[live], places[live]
            if len(going):
                self._take(going, places)
            tired = np.array([len(self.passed[i]) >= _PASSED for i in going.tolist()], dtype=bool)
            going = going[(self.size[going] > self.tolerance) & (self.taken[going] < self.k) & ~tired]

    def _best(self, going: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """For each target the atom that explains most of what is left, and how much, of 1; the first of equal ones."""
        unit = self.rest[going] / self.size[going][:, None]
        found = self._space[: len(going)]
        self.pool.correlations(unit.astype(np.float32), found)
        rows, columns = np.nonzero(self.chosen[going] >= 0)
        found[rows, self.chosen[going][rows, columns]] = 0
        for i, target in enumerate(going.tolist()):
            if self.passed[target]:
                found[i, list(self.passed[target])] = 0
        places = found.argmax(axis=1)
        top = found[np.arange(len(going)), places].astype(np.float64)
        slack = (_CLOSE * self.pool.scale).astype(np.float32)
        edge = (top - slack[places]).astype(np.float32)
        for i in np.flatnonzero((top > self._least) & ((found + slack >= edge[:, None]).sum(axis=1) > 1)).tolist():
            near = np.flatnonzero((found[i] + slack >= edge[i]) & (found[i] > 0))
            parts = [self.pool.atoms(part) for _, part in blocks(near, self.basis.shape[2])]
            exact = np.concatenate([np.abs(np.einsum("ij,j->i", part, unit[i])) for part in parts])
            exact *= self.pool.scale[near]
            # Equal atoms may differ by the last bits of their sums.
            places[i] = near[np.flatnonzero(exact >= exact.max() * (1 - 1e-13))[0]]
        return places, top

    def _take(self, going: NDArray[np.int64], places: NDArray[np.int64]) -> None:
        """Add an atom to each sum: Gram-Schmidt, once more where most of the atom went away."""
        atoms = self.pool.atoms(places)
        most: int = self.taken[going].max().item()
        parts = np.zeros((len(going), most))
        for i, target in enumerate(going.tolist()):
            basis = self.basis[target, : self.taken[target]]
            for _ in range(2):
                own = np.einsum("kd,d->k", basis, atoms[i])
                atoms[i] -= np.einsum("k,kd->d", own, basis)
                parts[i, : len(own)] += own
                if np.einsum("d,d->", atoms[i], atoms[i]) > 0.5:
                    break
        left = np.sqrt(np.einsum("ij,ij->i", atoms, atoms))
        good = left >= self.dependent
        for i in np.flatnonzero(~good).tolist():
            self.passed[int(going[i])].add(int(places[i]))
            self.dropped += 1
        going, places, parts, left = going[good], places[good], parts[good], left[good]
        atoms = atoms[good] / left[:, None]
        at = self.taken[going]
        self.basis[going, at] = atoms
        self.upper[going, :most, at] = parts
        self.upper[going, at, at] = left
        share = np.einsum("ij,ij->i", atoms, self.rest[going])
        self.along[going, at] = share
        self.chosen[going, at] = places
        rest = self.rest[going] - share[:, None] * atoms
        self.rest[going] = rest
        self.size[going] = np.sqrt(np.einsum("ij,ij->i", rest, rest))
        self.taken[going] += 1

    def sums(self) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """The atoms of each sum and their coefficients."""
        weight = np.zeros_like(self.along)
        for j in range(self.k - 1, -1, -1):
            known = np.einsum("bi,bi->b", self.upper[:, j, j + 1 :], weight[:, j + 1 :])
            own = self.upper[:, j, j]
            weight[:, j] = np.where(own > 0, (self.along[:, j] - known) / np.where(own > 0, own, 1), 0)
        made = []
        for i, count in enumerate(self.taken.tolist()):
            places = self.chosen[i, :count]
            made.append((places, weight[i, :count] * self.norm[i] / self.pool.lengths[places]))
        return made

    def left(self) -> NDArray[np.float64]:
        """What is left of each target, as a share of its length."""
        return self.size
