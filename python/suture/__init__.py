"""Tensor surgery for model checkpoints: inspect, compare, swap layers and merge, out of core.

>>> import suture
>>> report = suture.swap("task-expert", "language-expert", "out", bottom=5, top=2, transition=1)

Functions that read: :func:`open` and :func:`inspect` a checkpoint, :func:`diff` fine-tunes with their base,
:func:`compat` of models with each other, :func:`propose` a swap, list :func:`methods`, :func:`verify` an output,
:func:`init` a merge config, :func:`diff_recipes` of two outputs, :func:`schema` of what goes in and comes out.
Functions that write: :func:`swap`, :func:`revert`, :func:`merge`, :func:`convert`, and of adapters :func:`fold` and
:func:`merge_adapters`; they return a :class:`Report`.
Of deltas, what leads from a model to a fine-tune, the functions are in the module ``suture.delta``: ``extract``,
``apply``, ``revert``, ``compose``, ``info``, ``read_diff``, ``write_diff``; of twins, a shared model and what each of
several experts has beyond it, in ``suture.twin``: ``make``, ``materialise``, ``info``; of vocabularies, in
``suture.vocabulary``: ``inspect``, ``compare``, ``trim``, ``add``, ``clone``, ``transliterate``, ``transplant``,
``align``, ``graft``, ``words``, ``apply``, ``undo``, and of packs ``add_pack`` and so on.

Every function takes paths and a :class:`Settings`; the same functions are behind the command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from suture._core import __version__
from suture.errors import SutureError, UsageError

if TYPE_CHECKING:
    from suture.analysis.compat import compat
    from suture.analysis.diff import diff
    from suture.analysis.init import init
    from suture.analysis.inspect import inspect
    from suture.analysis.methods import methods
    from suture.analysis.recipes import diff_recipes
    from suture.analysis.schema import schema
    from suture.analysis.verify import verify
    from suture.checkpoint import Checkpoint, TensorInfo, open
    from suture.render.command import command_of
    from suture.results.report import Report
    from suture.settings import Settings
    from suture.surgery import delta, twin, vocabulary
    from suture.surgery.convert import convert
    from suture.surgery.lora import fold, merge_adapters
    from suture.surgery.merge import merge
    from suture.surgery.propose import propose
    from suture.surgery.revert import revert
    from suture.surgery.swap import swap

__all__ = [
    "Checkpoint",
    "Report",
    "Settings",
    "SutureError",
    "TensorInfo",
    "UsageError",
    "__version__",
    "command_of",
    "compat",
    "convert",
    "delta",
    "diff",
    "diff_recipes",
    "fold",
    "init",
    "inspect",
    "merge",
    "merge_adapters",
    "methods",
    "open",
    "propose",
    "revert",
    "schema",
    "swap",
    "twin",
    "verify",
    "vocabulary",
]

#: Where a public name lives: a verb in the module of its own name.
_HOMES = {
    "Checkpoint": "checkpoint",
    "Report": "results.report",
    "Settings": "settings",
    "TensorInfo": "checkpoint",
    "command_of": "render.command",
    "compat": "analysis.compat",
    "convert": "surgery.convert",
    "diff": "analysis.diff",
    "diff_recipes": "analysis.recipes",
    "fold": "surgery.lora",
    "init": "analysis.init",
    "inspect": "analysis.inspect",
    "merge": "surgery.merge",
    "merge_adapters": "surgery.lora",
    "methods": "analysis.methods",
    "open": "checkpoint",
    "propose": "surgery.propose",
    "revert": "surgery.revert",
    "schema": "analysis.schema",
    "swap": "surgery.swap",
    "verify": "analysis.verify",
}


def __getattr__(name: str) -> object:
    """Import a public name at its first use: `suture --help` needs none of them."""
    import importlib

    if name in ("delta", "twin", "vocabulary"):
        return importlib.import_module(f"suture.surgery.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'suture' has no attribute {name!r}")
    return getattr(importlib.import_module(f"suture.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The public names, whether or not they were used yet: for `dir`, completion and `help`."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
