"""Looking inside models with text: they are run, by torch and transformers (the extra `text`), layer by layer if short
of memory.

>>> import suture
>>> found = suture.text.loss("math", "swahili", "merged", text=["en.txt", "sw.txt"])

Functions: :func:`loss` (bits per byte), :func:`similarity` (of translations, by layer), :func:`rank` (Language Ranker),
:func:`script_gap` (TransliCo), :func:`influence` (what layers do to states), :func:`statistics` (Gram matrices, squared
gradients and importance that merges take), :func:`fit`, :func:`use` and :func:`helpers` (transfer as a regression),
:func:`emit` and :func:`table` (harnesses).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from suture.text.activations import statistics
    from suture.text.blocks import influence
    from suture.text.gap import script_gap
    from suture.text.harness import emit, table
    from suture.text.losses import loss
    from suture.text.predict import fit, helpers, use
    from suture.text.ranked import rank
    from suture.text.similar import similarity

__all__ = [
    "emit",
    "fit",
    "helpers",
    "influence",
    "loss",
    "rank",
    "script_gap",
    "similarity",
    "statistics",
    "table",
    "use",
]
#: The module of each: none of its name, which would take the name's place here once it is imported.
_HOMES = {
    "emit": "harness", "fit": "predict", "helpers": "predict", "influence": "blocks", "loss": "losses",
    "rank": "ranked", "script_gap": "gap", "similarity": "similar", "statistics": "activations", "table": "harness",
    "use": "predict",
}  # fmt: skip


def __getattr__(name: str) -> object:
    """Import a public name at its first use: not all of them need torch."""
    if name not in __all__:
        raise AttributeError(f"module 'suture.text' has no attribute {name!r}")
    return getattr(importlib.import_module(f"suture.text.{_HOMES[name]}"), name)
