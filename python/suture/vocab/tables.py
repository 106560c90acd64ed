"""Rows of a model's tables as numbers, a few at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from suture import _core
from suture.checkpoint import opened
from suture.errors import SutureError
from suture.reference import Model

#: Elements that are read at a time.
BLOCK = 2**21
#: Rows that are read to get to the next.
_NEAR = 16
_WIDE = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}


class Table:
    """A tensor with a row for each token: a table of embeddings, or a head over them.

    Attributes:
        name: the tensor.
        rows: how many rows it has.
        width: elements of a row.
    """

    def __init__(self, model: _core.Checkpoint, name: str) -> None:
        info = json.loads(model.info_json(name))
        self._model, self._dtype, self.name = model, info["dtype"], name
        self.rows, self.width = (*info["shape"], 1, 1)[:2] if len(info["shape"]) < 3 else (0, 0)
        if self._dtype not in (*_WIDE, "BF16") or not self.rows:
            message = f"is {self._dtype} {info['shape']}, expected floats, a row for each token"
            raise SutureError(f"{model.path}: tensor `{name}` {message}", model.path, name)

    @classmethod
    def of(cls, model: Model) -> Table:
        """A model's table of embeddings.

        Raises:
            SutureError: if it has none, or none of floats.
        """
        found = opened(model)
        names = found.tables()
        if not names:
            raise SutureError(f"{found.path}: has no table of tokens", found.path)
        return cls(found, names[0])

    def raw(self, first: int, end: int) -> NDArray[np.uint8]:
        """Rows as they are stored: uint8 [rows, bytes of a row].

        Raises:
            SutureError: if they cannot be read.
        """
        data = self._model.read(self.name, first * self.width, end * self.width)
        return np.frombuffer(data, dtype=np.uint8).reshape(end - first, -1)

    def part(self, first: int, end: int) -> NDArray[np.float64]:
        """Rows in f64: [rows, width].

        Raises:
            SutureError: if they cannot be read.
        """
        raw = self.raw(first, end)
        if self._dtype == "BF16":
            wide: NDArray[np.uint32] = raw.view("<u2").astype(np.uint32) << np.uint32(16)
            return wide.view(np.float32).astype(np.float64)
        return raw.view(_WIDE[self._dtype]).astype(np.float64)

    def blocks(self) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """All rows in f64, `BLOCK` elements at a time, and the number of the first of each block."""
        step = max(1, BLOCK // self.width)
        for first in range(0, self.rows, step):
            yield first, self.part(first, min(first + step, self.rows))

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Some rows in f64, in the order given: [rows, width]. Those that lie near each other are read together."""
        found = np.empty((len(rows), self.width))
        for places, first, end in self._runs(rows):
            found[places] = self.part(first, end)[rows[places] - first]
        return found

    def stored(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """The place of each row in the order given, and its bytes; in the order of the table."""
        for places, first, end in self._runs(rows):
            raw = self.raw(first, end)
            for place in places.tolist():
                yield place, raw[int(rows[place]) - first]

    def _runs(self, rows: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], int, int]]:
        """Rows that are read together: their places in `rows`, the first row and the one behind the last.

        A read by itself takes as long as 16 rows of 512 elements do.
        """
        order = np.argsort(rows, kind="stable")
        inside = rows[order]
        most = max(1, BLOCK // self.width)
        # Behind a gap that is not worth reading over, and where as many are held as may be.
        gaps = [*(np.flatnonzero(np.diff(inside) > _NEAR) + 1).tolist(), len(inside)]
        at = 0
        for gap in gaps:
            while at < gap:
                end = min(int(np.searchsorted(inside, inside[at] + most)), gap)
                yield order[at:end], int(inside[at]), int(inside[end - 1]) + 1
                at = end
