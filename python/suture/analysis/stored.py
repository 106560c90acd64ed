"""The tables of a model's vocabulary, read by blocks of rows.

Of safetensors a block at a time is read and held; of other files, and of models with adapters, the table is read whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suture import _core
from suture.checkpoint import Checkpoint
from suture.errors import SutureError
from suture.reference import Reference, model_of

#: Bytes of a block as float32.
BLOCK = 2**24
#: Rows that are as near as this are read together.
_NEAR = 2**16
#: How each dtype that is computed on is stored.
_STORED = {"F32": "<f4", "F64": "<f8", "F16": "<f2", "BF16": "<u2"}
#: How files of weights end.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


@dataclass(frozen=True)
class Table:
    """A tensor with a row for each token.

    Attributes:
        checkpoint: the model.
        name: the tensor.
        dtype: its dtype, as safetensors names it.
        shape: its shape; ``[rows, width]`` of embeddings and heads.
        role: ``embedding``, ``head`` or ``beside`` (biases, embeddings per layer).
        shard: the file it lies in.
    """

    checkpoint: Checkpoint
    name: str
    dtype: str
    shape: tuple[int, ...]
    role: str
    shard: str

    @property
    def rows(self) -> int:
        """How many rows it has; a bias of shape ``[1, rows]`` has its rows in the second place."""
        return self.shape[1] if len(self.shape) == 2 and self.shape[0] == 1 else self.shape[0]

    @property
    def width(self) -> int:
        """Elements of a row."""
        return math.prod(self.shape[1:])

    def check(self) -> None:
        """Look whether it can be computed on.

        Raises:
            SutureError: if its dtype is none that is computed on, such as one of quantised weights.
        """
        if self.dtype not in _STORED:
            message = f"{self.checkpoint.path}: tensor `{self.name}` is {self.dtype}; expected F32, F16, BF16 or F64"
            raise SutureError(message, self.checkpoint.path, self.name)

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[int, NDArray[Any]]]:
        """All rows in order: the first row's number, and a block [n, width], float32 or of F64 float64."""
        step = max(size // (4 * max(self.width, 1)), 1)
        for start in range(0, self.shape[0], step):
            yield start, self.slice(start, min(start + step, self.shape[0]))

    def slice(self, start: int, stop: int) -> NDArray[Any]:
        """Rows from `start` to before `stop`, [stop - start, width], float32 or of F64 float64.

        Raises:
            SutureError: if they cannot be read.
        """
        return self._values(self._bytes(start, stop)).reshape(stop - start, self.width)

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Some rows, which are given in ascending order, [len(rows), width]; as `slice`."""
        found = np.empty((len(rows), self.width), np.float64 if self.dtype == "F64" else np.float32)
        if not len(rows):
            return found
        reach = max(_NEAR // max(self._row, 1), 1)
        most = max(BLOCK // max(self._row, 1), 1)
        at = 0
        while at < len(rows):
            # Up to the first gap that is larger than it costs to read it.
            near = np.flatnonzero(np.diff(rows[at:]) > reach)
            end = at + int(near[0]) + 1 if len(near) else len(rows)
            end = min(end, int(np.searchsorted(rows, rows[at] + most)))
            first = int(rows[at])
            found[at:end] = self.slice(first, int(rows[end - 1]) + 1)[rows[at:end] - first]
            at = end
        return found

    @property
    def _row(self) -> int:
        """Bytes of a row."""
        return self.width * np.dtype(_STORED[self.dtype]).itemsize

    @cached_property
    def _place(self) -> tuple[Path, int] | None:
        """The file it lies in and where it begins there; None if it is not in a safetensors file as it is."""
        if not _as_stored(self.checkpoint):
            return None
        return _place(_file(self.checkpoint, self.shard), self.name, self.shape)

    @cached_property
    def _whole(self) -> bytes:
        return self.checkpoint._core.read(self.name)

    def _bytes(self, start: int, stop: int) -> NDArray[np.uint8]:
        self.check()
        if self._place is None:
            return np.frombuffer(self._whole, np.uint8)[start * self._row : stop * self._row]
        path, offset = self._place
        wanted = (stop - start) * self._row
        try:
            found = np.fromfile(path, np.uint8, wanted, offset=offset + start * self._row)
        except OSError as e:
            raise SutureError(f"{path}: cannot be read: {e.strerror or e}", path, self.name) from None
        if len(found) != wanted:
            raise SutureError(f"{path}: ends within tensor `{self.name}`; fetch it again", path, self.name)
        return found

    def _values(self, raw: NDArray[np.uint8]) -> NDArray[Any]:
        stored = raw.view(_STORED[self.dtype])
        if self.dtype == "BF16":
            return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return stored if self.dtype == "F64" else stored.astype(np.float32)


def tables(checkpoint: Checkpoint) -> list[Table]:
    """The tensors of a model with a row for each token, embeddings first, then heads, then what stands beside them."""
    inputs = set(checkpoint._core.tables())
    found = []
    for name in checkpoint.names:
        if not _core.is_vocabulary(name) and name not in inputs:
            continue
        info = checkpoint.info(name)
        # A table beside the embedding has fewer rows, and tokens of its own count.
        beside = len(info.shape) != 2 or info.shape[0] == 1 or "per_layer" in name
        role = "beside" if beside else "embedding" if name in inputs else "head"
        found.append(Table(checkpoint, name, info.dtype, info.shape, role, info.shard))
    return sorted(found, key=lambda t: (("embedding", "head", "beside").index(t.role), t.name))


def embedding(checkpoint: Checkpoint) -> Table:
    """The embedding of a model: the one its language model reads tokens by.

    Raises:
        SutureError: if it has none, or its dtype is none that is computed on.
    """
    found = next((t for t in tables(checkpoint) if t.role == "embedding"), None)
    if found is None:
        message = "has no table of tokens; expected one such as `model.embed_tokens.weight`"
        raise SutureError(f"{checkpoint.path}: {message}", checkpoint.path)
    found.check()
    return found


def has_weights(model: Path) -> bool:
    """Whether a path is of a model, and not of a tokenizer alone."""
    return not model.is_dir() or any(one.name.endswith(_WEIGHTS) for one in model.iterdir())


def raw(checkpoint: Checkpoint, name: str, size: int = BLOCK) -> Iterator[bytes]:
    """The bytes of a tensor, a block at a time; whole, where it is not in a safetensors file as it is.

    Raises:
        SutureError: if it cannot be read.
    """
    info = checkpoint.info(name)
    path = _file(checkpoint, info.shard)
    place = _place(path, name, info.shape) if _as_stored(checkpoint) else None
    if place is None:
        yield checkpoint._core.read(name)
        return
    left = info.nbytes
    try:
        with path.open("rb") as file:
            file.seek(place[1])
            while left and (block := file.read(min(size, left))):
                left -= len(block)
                yield block
    except OSError as e:
        raise SutureError(f"{path}: cannot be read: {e.strerror or e}", path, name) from None
    if left:
        raise SutureError(f"{path}: ends within tensor `{name}`; fetch it again", path, name)


def _as_stored(checkpoint: Checkpoint) -> bool:
    """Whether tensors are what is in the files: those of a model with adapters are computed."""
    found = model_of(checkpoint.path)
    return not (isinstance(found, Reference) and found.adapters) and checkpoint._core.computed() is None


def _file(checkpoint: Checkpoint, shard: str) -> Path:
    return checkpoint.folder if checkpoint.folder.is_file() else checkpoint.folder / shard


def _place(path: Path, name: str, shape: tuple[int, ...]) -> tuple[Path, int] | None:
    """Where a tensor begins in a safetensors file, whose header the core has checked."""
    try:
        start, entries = _header(path, path.stat().st_mtime_ns)
        entry = entries.get(name)
    except (OSError, ValueError, AttributeError):
        return None
    if not isinstance(entry, dict) or tuple(entry.get("shape", ())) != shape:
        return None
    return path, start + int(entry["data_offsets"][0])


@lru_cache(maxsize=256)
def _header(path: Path, _: int) -> tuple[int, dict[str, Any]]:
    """Where the data of a safetensors file begins, and its entries; the time it was changed tells it from another."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            raise ValueError("no safetensors file")
        return 8 + length, json.loads(file.read(length))
