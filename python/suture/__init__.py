"""Tensor surgery for model checkpoints: inspect, compare, swap layers and merge, out of core.

>>> import suture
>>> report = suture.swap("task-expert", "language-expert", "out", bottom=5, top=2, transition=1)

Functions that read: :func:`open` and :func:`inspect` a checkpoint, :func:`diff` fine-tunes with their base,
:func:`compat` of models with each other, :func:`propose` a swap, list :func:`methods`, :func:`verify` an output,
:func:`init` a merge config, :func:`diff_recipes` of two outputs, :func:`schema` of what goes in and comes out,
:func:`mask` says which parameters a training changes.
Functions that write: :func:`swap`, :func:`revert`, :func:`merge`, :func:`layers`, :func:`convert`, :func:`assemble`,
and of adapters :func:`fold`, :func:`merge_adapters`, :func:`split_adapter` and :func:`convert_adapter`; they
return a :class:`Report`.
:func:`search` finds coefficients of a merge by trying.
Of an output that several processes or machines make, each a `part`: :func:`plan` says how it divides, :func:`settle`
joins what a round has found, :func:`finish` puts the parts together.
Of deltas, what leads from a model to a fine-tune, the functions are in the module ``suture.delta``: ``extract``,
``apply``, ``revert``, ``compose``, ``info``, ``read_diff``, ``write_diff``; of twins, a shared model and what each of
several experts has beyond it, in ``suture.twin``: ``make``, ``materialise``, ``info``; of vocabularies, in
``suture.vocabulary``: ``inspect``, ``compare``, ``trim``, ``add``, ``clone``, ``transliterate``, ``transplant``,
``align``, ``graft``, ``words``, ``apply``, ``undo``, and of packs ``add_pack`` and so on; of models of experts, in
``suture.moe``: ``make``, ``from_dense``, ``split``, ``join``, ``drop``, ``keep``, ``swap``, ``average``, ``dense``;
of language modules, in ``suture.modules``: ``listed``, ``keep``, ``drop``, ``clone``, ``graft``, ``default`` and
``split``.
What runs models on text is in ``suture.text``: ``loss``, ``similarity``, ``rank``, ``script_gap``, ``influence``,
``statistics``, and more.

Every function takes paths and a :class:`Settings`; the same functions are behind the command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from suture._core import __version__
from suture.errors import SutureError, UsageError

if TYPE_CHECKING:
    from suture import text
    from suture.analysis.compat import compat
    from suture.analysis.diff import diff
    from suture.analysis.init import init
    from suture.analysis.inspect import inspect
    from suture.analysis.mask import mask
    from suture.analysis.methods import methods
    from suture.analysis.recipes import diff_recipes
    from suture.analysis.schema import schema
    from suture.analysis.verify import verify
    from suture.checkpoint import Checkpoint, TensorInfo, open
    from suture.render.command import command_of
    from suture.results.report import Report
    from suture.searching.run import search
    from suture.settings import Settings
    from suture.surgery import cluster, delta, modules, moe, twin, vocabulary
    from suture.surgery.assemble import assemble
    from suture.surgery.convert import convert
    from suture.surgery.finish import finish, settle
    from suture.surgery.layers import layers
    from suture.surgery.lora import fold, merge_adapters
    from suture.surgery.lora_convert import AdapterFacts, convert_adapter
    from suture.surgery.lora_split import split_adapter
    from suture.surgery.merge import merge
    from suture.surgery.plan import plan
    from suture.surgery.propose import propose
    from suture.surgery.revert import revert
    from suture.surgery.swap import swap

__all__ = [
    "AdapterFacts",
    "Checkpoint",
    "Report",
    "Settings",
    "SutureError",
    "TensorInfo",
    "UsageError",
    "__version__",
    "assemble",
    "cluster",
    "command_of",
    "compat",
    "convert",
    "convert_adapter",
    "delta",
    "diff",
    "diff_recipes",
    "finish",
    "fold",
    "init",
    "inspect",
    "layers",
    "mask",
    "merge",
    "merge_adapters",
    "methods",
    "modules",
    "moe",
    "open",
    "plan",
    "propose",
    "revert",
    "schema",
    "search",
    "settle",
    "split_adapter",
    "swap",
    "text",
    "twin",
    "verify",
    "vocabulary",
]

#: Where a public name lives: a verb in the module of its own name.
_HOMES = {
    "AdapterFacts": "surgery.lora_convert",
    "Checkpoint": "checkpoint",
    "Report": "results.report",
    "Settings": "settings",
    "TensorInfo": "checkpoint",
    "assemble": "surgery.assemble",
    "command_of": "render.command",
    "compat": "analysis.compat",
    "convert": "surgery.convert",
    "convert_adapter": "surgery.lora_convert",
    "diff": "analysis.diff",
    "diff_recipes": "analysis.recipes",
    "finish": "surgery.finish",
    "fold": "surgery.lora",
    "init": "analysis.init",
    "inspect": "analysis.inspect",
    "layers": "surgery.layers",
    "mask": "analysis.mask",
    "merge": "surgery.merge",
    "merge_adapters": "surgery.lora",
    "methods": "analysis.methods",
    "open": "checkpoint",
    "plan": "surgery.plan",
    "propose": "surgery.propose",
    "revert": "surgery.revert",
    "schema": "analysis.schema",
    "search": "searching.run",
    "settle": "surgery.finish",
    "split_adapter": "surgery.lora_split",
    "swap": "surgery.swap",
    "verify": "analysis.verify",
}


def __getattr__(name: str) -> object:
    """Import a public name at its first use: `suture --help` needs none of them."""
    import importlib

    if name in ("cluster", "delta", "modules", "moe", "twin", "vocabulary"):
        return importlib.import_module(f"suture.surgery.{name}")
    if name == "text":
        return importlib.import_module("suture.text")
    if name not in _HOMES:
        raise AttributeError(f"module 'suture' has no attribute {name!r}")
    return getattr(importlib.import_module(f"suture.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The public names, whether or not they were used yet: for `dir`, completion and `help`."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
