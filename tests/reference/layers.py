"""Oracle: what a tensor's name says about its place: its layer, and its module within the layer."""

from __future__ import annotations

import re
from collections.abc import Iterable

LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks|block)\.(\d+)(?:\.|$)")


def layer_of(name: str) -> int | None:
    """The layer number, by the first layer marker in the name."""
    found = LAYER.search(name)
    return int(found[1]) if found else None


def module_of(name: str) -> str | None:
    """The first dotted part behind the layer number."""
    found = LAYER.search(name)
    return name[found.end() :].split(".")[0] if found else None


def layer_count(names: Iterable[str]) -> int:
    """How many layers the names speak of."""
    return 1 + max((layer for name in names if (layer := layer_of(name)) is not None), default=-1)


def depth(name: str, layers: int) -> float:
    """0 at the first layer and outside the layers, 1 at the last; 1 for a lone layer."""
    layer = layer_of(name)
    if layer is None:
        return 0.0
    return 1.0 if layers == 1 else layer / (layers - 1)
