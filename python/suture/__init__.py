"""Tensor surgery for model checkpoints: inspect, compare, swap layers and merge, out of core.

>>> import suture
>>> report = suture.swap("task-expert", "language-expert", "out", bottom=5, top=2, transition=1)

Every function takes paths and a :class:`Settings`; the same functions are behind the command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from suture._core import __version__
from suture.errors import SutureError, UsageError

if TYPE_CHECKING:
    from suture.analysis import diff, inspect, methods, verify
    from suture.checkpoint import Checkpoint, TensorInfo, open
    from suture.settings import Settings
    from suture.surgery import Report, merge, propose, revert, swap

__all__ = [
    "Checkpoint",
    "Report",
    "Settings",
    "SutureError",
    "TensorInfo",
    "UsageError",
    "__version__",
    "diff",
    "inspect",
    "merge",
    "methods",
    "open",
    "propose",
    "revert",
    "swap",
    "verify",
]

_HOMES = {
    "analysis": ("diff", "inspect", "methods", "verify"),
    "checkpoint": ("Checkpoint", "TensorInfo", "open"),
    "settings": ("Settings",),
    "surgery": ("Report", "merge", "propose", "revert", "swap"),
}


def __getattr__(name: str) -> object:
    """Import a public name at its first use: `suture --help` needs none of them."""
    import importlib

    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"suture.{module}"), name)
    raise AttributeError(f"module 'suture' has no attribute {name!r}")
