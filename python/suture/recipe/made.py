"""Models that other merges of the same config make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

#: What stands before the name of such a model in a recipe, until its place is known.
MADE = "\\0made:"


def made_names(node: Any) -> set[str]:
    """Names of the merges a recipe uses as models."""
    if isinstance(node, dict):
        return set().union(*map(made_names, node.values()))
    if isinstance(node, list):
        return set().union(*map(made_names, node))
    return {node.removeprefix(MADE)} if isinstance(node, str) and node.startswith(MADE) else set()


def with_made(node: Any, folder: Path) -> Any:
    """A recipe with the folders, in `folder`, of the merges it uses."""
    if isinstance(node, dict):
        return {k: with_made(v, folder) for k, v in node.items()}
    if isinstance(node, list):
        return [with_made(v, folder) for v in node]
    if isinstance(node, str) and node.startswith(MADE):
        return str(folder / node.removeprefix(MADE))
    return node
