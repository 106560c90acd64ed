"""Opened checkpoints: what is in them, and single tensors of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suture import _core
from suture.errors import UsageError
from suture.reference import Model, Reference, model_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: NumPy's name for each dtype it has; bf16 is widened to float32, the others come as raw bytes.
_NUMPY = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "I16": "<i2", "U16": "<u2", "I32": "<i4", "U32": "<u4", "I64": "<i8",
    "U64": "<u8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "C64": "<c8",
}  # fmt: skip


def opened(model: Model) -> _core.Checkpoint:
    """The core's checkpoint of a model, with the adapters it is named with.

    Raises:
        SutureError: if a file cannot be read or is not sound, or an adapter is not one of the model.
    """
    found = model_of(model)
    if isinstance(found, Reference):
        return _core.Checkpoint(found.path, list(found.adapters), found.name)
    return _core.Checkpoint(found)


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as its header describes it.

    Attributes:
        name: its name.
        dtype: its element type as safetensors names it, such as ``BF16``.
        shape: its dimensions, outermost first.
        nbytes: its size in bytes.
        shard: the file it lies in.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    shard: str


class Checkpoint:
    """A file of tensors or a folder of them, safetensors or PyTorch's, with headers checked and no data read yet.

    It is also a mapping of names to NumPy arrays, each read when it is asked for: ``checkpoint["lm_head.weight"]``.

    Raises:
        SutureError: if a file cannot be read or is not sound.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self._core = opened(path)
        self.path = Path(path)

    @classmethod
    def stored(cls, delta: str | PathLike[str]) -> Checkpoint:
        """The tensors that a delta keeps its changes in, such as ``model.norm.weight.index``.

        Raises:
            SutureError: if a file cannot be read or is not sound.
        """
        found = cls.__new__(cls)
        found._core, found.path = _core.Checkpoint.stored(os.fspath(delta)), Path(delta)
        return found

    @classmethod
    def plain(cls, path: str | PathLike[str]) -> Checkpoint:
        """The plain model that a quantised one stands for: its weights are decoded when they are read.

        What is quantised in a way that is not decoded stays as it is stored.

        Raises:
            SutureError: if a file cannot be read or is not sound, or stored tensors do not fit each other.
        """
        found = cls(path)
        found._core = found._core.plain()
        return found

    def __repr__(self) -> str:
        """Where it lies and how many tensors it has."""
        count = len(self)
        return f"<Checkpoint: {str(self.path)!r}, {count:,} tensor{'' if count == 1 else 's'}>"

    def __len__(self) -> int:
        """How many tensors there are."""
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        """The names of all tensors, in the order of their bytes."""
        return iter(self.names)

    def __contains__(self, name: object) -> bool:
        """True if there is a tensor of that name."""
        try:
            return isinstance(name, str) and bool(self._core.info_json(name))
        except (KeyError, UnicodeEncodeError):
            return False

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """Read a tensor, as :meth:`numpy` does."""
        return self.numpy(name)

    def keys(self) -> list[str]:
        """The names of all tensors, so that ``dict(checkpoint)`` reads everything."""
        return self.names

    @property
    def folder(self) -> Path:
        """What was opened: `path`, or of a repository in a hub's cache its snapshot."""
        return self._core.path

    @property
    def names(self) -> list[str]:
        """Names of all tensors, in the order of their bytes."""
        return self._core.names()

    def info(self, name: str) -> TensorInfo:
        """Describe a tensor.

        Raises:
            UsageError: if there is none of that name.
        """
        try:
            return _info(json.loads(self._core.info_json(name)))
        except KeyError:
            raise UsageError(f"{self.path}: no tensor `{name}`") from None

    def numpy(self, name: str) -> npt.NDArray[Any]:
        """Read a tensor: in its own dtype where NumPy has it, bf16 as float32, anything else as raw bytes (uint8, 1-D).

        Raises:
            UsageError: if there is none of that name.
            SutureError: if it cannot be read.
        """
        import numpy as np

        info = self.info(name)
        raw = np.frombuffer(self._core.read(name), dtype=np.uint8)
        if info.dtype == "BF16":
            wide: npt.NDArray[np.uint32] = raw.view("<u2").astype(np.uint32) << np.uint32(16)
            return wide.view(np.float32).reshape(info.shape)
        if info.dtype not in _NUMPY:
            return raw
        return raw.view(_NUMPY[info.dtype]).reshape(info.shape)

    def describe(self) -> dict[str, Any]:
        """Everything the headers say: path, bytes, files, layers, tensors; and warnings of what was passed over."""
        described: dict[str, Any] = json.loads(self._core.to_json())
        return described


def _info(raw: dict[str, Any]) -> TensorInfo:
    return TensorInfo(raw["name"], raw["dtype"], tuple(raw["shape"]), raw["nbytes"], raw["shard"])


def open(path: str | PathLike[str]) -> Checkpoint:
    """Open a checkpoint; see :class:`Checkpoint`."""
    return Checkpoint(path)
