"""Mixes of rows, as planners make them: sparse, in the order of the rows they make."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from suture.vocab.stored import BLOCK, Table

#: A mix of more rows than this, on average, is multiplied as a dense matrix.
_DENSE = 1024


@dataclass(frozen=True)
class Mixes:
    """Rows that are sums of weighted rows.

    Attributes:
        at: int64 [mixes]: the number of the row that each makes, ascending.
        starts: int64 [mixes + 1]: where the entries of each begin.
        index: int64 [entries]: rows that are mixed, ascending within a mix.
        weight: float64 [entries]: their weights.
    """

    at: NDArray[np.int64]
    starts: NDArray[np.int64]
    index: NDArray[np.int64]
    weight: NDArray[np.float64]

    @classmethod
    def none(cls) -> Mixes:
        """No mix."""
        return cls(np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros(0, np.int64), np.zeros(0))

    @classmethod
    def of(cls, at: NDArray[np.int64], parts: Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]]) -> Mixes:
        """Mixes by the rows and weights of each; they are put in order, and rows named twice are one entry."""
        made = []
        for rows, weights in parts:
            own, inverse = np.unique(rows, return_inverse=True)
            total = np.zeros(len(own))
            np.add.at(total, inverse.ravel(), weights)
            made.append((own, total))
        return cls.joined(at, made)

    @classmethod
    def joined(cls, at: NDArray[np.int64], parts: Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]]) -> Mixes:
        """The same of parts whose rows ascend."""
        counts = np.array([len(rows) for rows, _ in parts], dtype=np.int64)
        joined = cls(
            np.asarray(at, dtype=np.int64),
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            np.concatenate([np.zeros(0, np.int64), *(rows for rows, _ in parts)]),
            np.concatenate([np.zeros(0), *(weights for _, weights in parts)]),
        )
        return joined.taken(np.argsort(joined.at, kind="stable"))

    @classmethod
    def union(cls, some: Sequence[Mixes]) -> Mixes:
        """Mixes of different rows together."""
        starts = np.concatenate([[0], np.cumsum(np.concatenate([m.counts for m in some]))]).astype(np.int64)
        joined = cls(
            np.concatenate([m.at for m in some]),
            starts,
            np.concatenate([m.index for m in some]),
            np.concatenate([m.weight for m in some]),
        )
        return joined.taken(np.argsort(joined.at, kind="stable"))

    def renamed(self, at: NDArray[np.int64], index: NDArray[np.int64]) -> Mixes:
        """The same with places replaced by numbers: those made by `at`, those mixed by `index`."""
        moved = index[self.index]
        owner = np.repeat(np.arange(len(self)), self.counts)
        order = np.lexsort((moved, owner)) if len(index) > 1 and (np.diff(index) < 0).any() else slice(None)
        made = Mixes(at[self.at], self.starts, moved[order], self.weight[order])
        return made.taken(np.argsort(made.at, kind="stable"))

    def __len__(self) -> int:
        """How many there are."""
        return len(self.at)

    @property
    def counts(self) -> NDArray[np.int64]:
        """How many entries each has."""
        return np.diff(self.starts)

    def taken(self, which: NDArray[np.int64]) -> Mixes:
        """Some of the mixes, by their places."""
        if len(which) == len(self) and (which == np.arange(len(self))).all():
            return self
        counts = self.counts[which]
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        entries = np.arange(starts[-1]) + np.repeat(self.starts[which] - starts[:-1], counts)
        return Mixes(self.at[which], starts, self.index[entries], self.weight[entries])

    def scaled(self, factors: NDArray[np.float64]) -> Mixes:
        """Each mix times a number of its own."""
        return Mixes(self.at, self.starts, self.index, self.weight * np.repeat(factors, self.counts))

    def sizes(self) -> NDArray[np.float64]:
        """The sum of the absolute weights of each."""
        return summed(np.abs(self.weight), self.starts)


def summed(values: NDArray[np.float64], starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums over the entries of each mix, in their order; 0 for one without entries."""
    made = np.zeros(len(starts) - 1)
    np.add.at(made, np.repeat(np.arange(len(made)), np.diff(starts)), values)
    return made


def products(mixes: Mixes, table: Table) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """What the mixes make of a table's rows, f64 [part, width], a part at a time.

    It holds 32 MiB of rows, and of mixes of very many rows the same again.
    """
    width, counts = table.width, mixes.counts
    dense = len(mixes) > 0 and counts.mean() > _DENSE
    most = max(BLOCK // (8 * width), 1)
    start = 0
    while start < len(mixes):
        stop = start + 1
        while stop < len(mixes) and (
            stop - start < most if dense else mixes.starts[stop + 1] - mixes.starts[start] <= most
        ):
            stop += 1
        part = slice(start, stop)
        yield part, _dense(mixes, part, table, most) if dense else _sparse(mixes, part, table, most)
        start = stop


def _sparse(mixes: Mixes, part: slice, table: Table, most: int) -> NDArray[np.float64]:
    """Mix by mix, in the order of the entries; the rows of many are read together."""
    made = np.zeros((part.stop - part.start, table.width))
    first, last = int(mixes.starts[part.start]), int(mixes.starts[part.stop])
    # More than once around for a single mix alone.
    for start in range(first, last, most):
        stop = min(start + most, last)
        rows, place = np.unique(mixes.index[start:stop], return_inverse=True)
        values = table.read(rows).astype(np.float64)
        for i in range(part.start, part.stop):
            own = slice(max(int(mixes.starts[i]), start), min(int(mixes.starts[i + 1]), stop))
            if own.start < own.stop:
                entries = place[own.start - start : own.stop - start]
                made[i - part.start] += np.einsum("i,ij->j", mixes.weight[own], values[entries])
    return made


def _dense(mixes: Mixes, part: slice, table: Table, most: int) -> NDArray[np.float64]:
    """As products of matrices, a block of the table's rows at a time."""
    first, last = mixes.starts[part.start], mixes.starts[part.stop]
    index, weight = mixes.index[first:last], mixes.weight[first:last]
    owner = np.repeat(np.arange(part.stop - part.start), mixes.counts[part])
    made = np.zeros((part.stop - part.start, table.width))
    rows = np.unique(index)
    place = np.searchsorted(rows, index)
    step = min(most, 4096)
    for start in range(0, len(rows), step):
        own = (place >= start) & (place < start + step)
        block = np.zeros((len(made), min(step, len(rows) - start)))
        block[owner[own], place[own] - start] = weight[own]
        made += block @ table.read(rows[start : start + step]).astype(np.float64)
    return made
