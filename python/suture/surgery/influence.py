"""Layers that go because a text hardly needs them: by what ``suture text influence`` found."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

from suture.errors import MALFORMED, SutureError, UsageError

_LEAST = "least:"


def least(drop: str | None, file: str | PathLike[str] | None, layers: int) -> str | None:
    """The layers to drop: as listed, or for ``least:4`` the four of least influence (ShortGPT, arXiv 2403.03853).

    Args:
        drop: what is asked for.
        file: the JSON of ``suture text influence``.
        layers: how many the model has.

    Raises:
        UsageError: if one is given without the other, or the number is none.
        SutureError: if it is no such JSON, or of a model with another number of layers.
    """
    if drop is None or not drop.startswith(_LEAST):
        if file is not None:
            raise UsageError("influence: expected drop as `least:4`, how many layers go", at="influence")
        return drop
    if file is None:
        raise UsageError(f"drop: `{drop}` needs influence, the JSON of `suture text influence`", at="drop")
    path = Path(file)
    try:
        said: Any = json.loads(path.read_text(encoding="utf-8"))
        order = [int(i) for i in said["order"]]
    except OSError as e:
        raise UsageError(f"`{path}`: cannot read: {e.strerror}; expected the JSON of `suture text influence`") from None
    except MALFORMED:
        raise SutureError(f"{path}: is not what `suture text influence --json` prints", path) from None
    if sorted(order) != list(range(layers)):
        raise SutureError(f"{path}: tells of {len(order)} layers, and the model has {layers}; make it of the model, by "
                          "`suture text influence MODEL --json`", path)  # fmt: skip
    count = drop[len(_LEAST) :]
    if count not in map(str, range(1, layers)):
        raise UsageError(f"drop: expected least:1 to least:{layers - 1}, found `{drop}`", at="drop")
    return ",".join(str(i) for i in sorted(order[: int(count)]))
