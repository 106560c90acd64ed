"""What configs say of a model's layers and attention heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from suture.errors import SutureError
from suture.sidecars.files import read_config, sections


def layer_types(folder: Path) -> list[Any] | None:
    """The `layer_types` of a model's config, if it has any."""
    config = read_config(folder) if folder.is_dir() else None
    if config is None:
        return None
    for section in sections(config):
        if isinstance(section.get("layer_types"), list):
            return list(section["layer_types"])
    return None


def same_heads(folders: list[Path]) -> None:
    """Check that models whose layers are swapped cut their attention into the same heads, as far as configs tell.

    Raises:
        SutureError: naming the first that differs from the recipient, the first folder.
    """
    counts: list[tuple[int, int] | None] = []
    for folder in folders:
        try:
            counts.append(head_counts(folder))
        except SutureError:
            counts.append(None)
    for folder, count in zip(folders[1:], counts[1:], strict=True):
        if counts[0] is not None and count is not None and count != counts[0]:
            message = f"expected {counts[0][0]} attention heads with {counts[0][1]} for keys and values"
            found = f"as {folders[0]} has, found {count[0]} with {count[1]}"
            raise SutureError(f"{folder}: {message}, {found}", folder)


def head_counts(folder: Path) -> tuple[int, int]:
    """The query heads and the key/value heads of each layer, as the model's config.json has them.

    Raises:
        SutureError: if there is no config.json that tells.
    """
    config = read_config(folder) if folder.is_dir() else None
    for section in sections(config or {}):
        query = next((section[k] for k in ("num_attention_heads", "n_head", "num_heads") if k in section), None)
        shared = section.get("num_key_value_heads") or query
        if type(query) is int and type(shared) is int and 0 < query < 2**31 and 0 < shared < 2**31:
            return query, shared
    raise SutureError(
        f"{folder}: no config.json with `num_attention_heads`, which it takes to tell heads apart", folder
    )
