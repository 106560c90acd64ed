"""Rows of numbers that planners read, a block at a time: those of a checkpoint's table, or held in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

#: So many bytes of rows are widened at a time, where nothing else is said.
BLOCK = 32 * 2**20

Rows = NDArray[np.floating[Any]]


class Table(Protocol):
    """A matrix [count, width] whose rows are read by their numbers."""

    @property
    def count(self) -> int:
        """How many rows it has."""
        ...

    @property
    def width(self) -> int:
        """How long each is."""
        ...

    def read(self, rows: NDArray[np.int64]) -> Rows:
        """Some of the rows, in the order asked for: f64 [rows, width] of a table of f64, else f32.

        Raises:
            SutureError: if they cannot be read, or hold NaN or infinities.
        """
        ...


class Held:
    """A table in memory."""

    def __init__(self, values: Rows) -> None:
        self._values = values

    @property
    def count(self) -> int:
        """How many rows it has."""
        return int(self._values.shape[0])

    @property
    def width(self) -> int:
        """How long each is."""
        return int(self._values.shape[1])

    def read(self, rows: NDArray[np.int64]) -> Rows:
        """Some of the rows."""
        return self._values[rows]


def blocks(rows: NDArray[np.int64], width: int, size: int = BLOCK) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Numbers of rows, in parts that take `size` bytes as f64; with each the place of its first."""
    step = max(size // (8 * max(width, 1)), 1)
    for start in range(0, len(rows), step):
        yield start, rows[start : start + step]


def lengths(table: Table, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """The Euclidean norms of rows, f64 [rows]."""
    found = np.empty(len(rows))
    for start, part in blocks(rows, table.width):
        values = table.read(part).astype(np.float64)
        # Not a product of BLAS, whose order of sums may go by the number of threads.
        found[start : start + len(part)] = np.sqrt(np.einsum("ij,ij->i", values, values))
    return found


def directions(table: Table, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Rows at length 1, f32 [rows, width], and their lengths; rows of zeros stay zeros."""
    made = np.empty((len(rows), table.width), dtype=np.float32)
    size = np.empty(len(rows))
    for start, part in blocks(rows, table.width):
        values = table.read(part).astype(np.float64)
        own = np.sqrt(np.einsum("ij,ij->i", values, values))
        made[start : start + len(part)] = values / np.where(own > 0, own, 1)[:, None]
        size[start : start + len(part)] = own
    return made, size
