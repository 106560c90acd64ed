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
from suture.reference import Reference
from suture.surgery.vocab_model import without_adapters
from suture.vocab.tables import Table
from suture.vocab.tokens import read

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from suture.vocab.transplant import Model

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

    found = without_adapters(place)
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


class StoredTable(Table):
    """A table of a checkpoint as planners take it, a `suture.vocab.stored.Table`: nothing of it is held."""

    @property
    def count(self) -> int:
        """How many rows it has."""
        return int(self.rows)

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.floating[Any]]:
        """Some of the rows, f64 [rows, width].

        Raises:
            SutureError: if a row has NaN or infinities, or cannot be read.
        """
        import numpy as np

        found = self.take(rows)
        odd = ~np.isfinite(found).all(axis=1)
        if odd.any():
            folder, row = self._model.path, int(rows[odd.argmax()])
            raise SutureError(f"{folder}: tensor `{self.name}`: row {row:,} has NaN or infinities", folder, self.name)
        return found


def file_at(place: str | PathLike[str] | None, option: str, method: str) -> Path:
    """A file that a method needs.

    Raises:
        UsageError: if it is not given.
    """
    if place is None:
        raise UsageError(f"{option}: method {method} needs --{option}", at=option)
    return Path(fspath(place))
