"""Models as planners of vocabularies see them: their tokens, and tables whose rows are read where they lie."""

from __future__ import annotations

import json
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suture import _core
from suture.checkpoint import opened
from suture.errors import SutureError, UsageError
from suture.reference import Model as Named
from suture.reference import Reference, model_of
from suture.vocab.tokens import read

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from suture.vocab.transplant import Model

#: What each dtype that can be mixed is stored as.
_STORED = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.index.json")


def model_at(place: Named, *, bare: bool = False) -> Model:
    """A model with its tokenizer.

    Args:
        place: where it is, or its name on a hub.
        bare: whether a folder of tokenizer files alone will do.

    Raises:
        UsageError: if it has adapters, or is one file, which has no tokenizer.
        SutureError: if a file is not sound, or it has no table of tokens.
    """
    from suture.vocab.transplant import Model

    found = model_of(place)
    if isinstance(found, Reference) and found.adapters:
        raise UsageError(f"{found}: has adapters; fold them in first: suture lora fold")
    path = Path(found.path if isinstance(found, Reference) else found)
    if bare and path.is_dir() and not any(any(path.glob(pattern)) for pattern in _WEIGHTS):
        return Model(path, read(path))
    core = opened(found)
    if not core.path.is_dir():
        raise UsageError(f"{core.path}: is one file, which has no tokenizer; give the folder of the model")
    embed, head = tables_of(core)
    return Model(core.path, read(core.path), StoredTable(core, embed), StoredTable(core, head) if head else None)


def tables_of(core: _core.Checkpoint) -> tuple[str, str | None]:
    """The names of a model's embeddings, and of its head if that is another table.

    Raises:
        SutureError: if it has no embeddings.
    """
    shapes = {name: json.loads(core.info_json(name))["shape"] for name in core.names() if _core.is_vocabulary(name)}
    tables = [name for name in core.tables() if len(shapes.get(name, ())) == 2]
    if not tables:
        raise SutureError(f"{core.path}: has no table of tokens", core.path)
    # Gemma 3n has a second table, of fewer tokens.
    embed = max(tables, key=lambda name: shapes[name][0])
    heads = [name for name in shapes if name not in core.tables() and len(shapes[name]) == 2]
    return embed, None if core.tied or not heads else heads[0]


class StoredTable:
    """A matrix of a checkpoint, whose rows are read where they lie; a `suture.vocab.stored.Table`.

    Of a safetensors file nothing is held; a table of another is read once and kept as it is stored.
    """

    def __init__(self, core: _core.Checkpoint, name: str) -> None:
        info = json.loads(core.info_json(name))
        self.name, self.folder, self.dtype = name, core.path, info["dtype"]
        if self.dtype not in _STORED:
            message = f"{core.path}: tensor `{name}`: expected a table of floats, found {self.dtype}; dequantise it"
            raise SutureError(message, core.path, name)
        self.count, self.width = info["shape"]
        self._values = self._mapped(core.path / info["shard"])
        if self._values is None:
            import numpy as np

            self._values = np.frombuffer(core.read(name), dtype=_STORED[self.dtype]).reshape(info["shape"])

    def _mapped(self, file: Path) -> NDArray[Any] | None:
        """The table in its file; None where the file is of another form."""
        import numpy as np

        try:
            with file.open("rb") as opened_file:
                size = int.from_bytes(opened_file.read(8), "little")
                header = json.loads(opened_file.read(size)) if size < 2**28 else {}
            at = 8 + size + header[self.name]["data_offsets"][0]
            shape = (self.count, self.width)
            return np.memmap(file, dtype=_STORED[self.dtype], mode="r", offset=at, shape=shape)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.floating[Any]]:
        """Some of the rows, f32 [rows, width]; f64 of a table of f64.

        Raises:
            SutureError: if a row has NaN or infinities.
        """
        import numpy as np

        assert self._values is not None
        found = np.asarray(self._values[rows])
        if self.dtype == "BF16":
            wide: NDArray[np.uint32] = found.astype(np.uint32) << np.uint32(16)
            made: NDArray[np.floating[Any]] = wide.view(np.float32)
        else:
            made = found if self.dtype == "F64" else found.astype(np.float32)
        odd = ~np.isfinite(made).all(axis=1)
        if odd.any():
            row = int(rows[odd.argmax()])
            raise SutureError(f"{self.folder}: tensor `{self.name}`: row {row:,} has NaN or infinities", self.folder,
                              self.name)  # fmt: skip
        return made


def file_at(place: str | PathLike[str] | None, option: str, method: str) -> Path:
    """A file that a method needs.

    Raises:
        UsageError: if it is not given.
    """
    if place is None:
        raise UsageError(f"{option}: method {method} needs --{option}", at=option)
    return Path(fspath(place))
