"""The model whose vocabulary is worked on: where it lies, and how many rows its tables have."""

from __future__ import annotations

import json
from dataclasses import dataclass
from os import fspath
from pathlib import Path

from suture import _core
from suture.checkpoint import opened
from suture.errors import SutureError, UsageError
from suture.reference import Model, Reference, model_of
from suture.sidecars.gguf import folder_of


@dataclass(frozen=True)
class VocabModel:
    """A model with a vocabulary.

    Attributes:
        checkpoint: its headers.
        folder: where it lies.
        table: its first table that has a row for each token.
        rows: how many rows that has.
        width: how many columns.
    """

    checkpoint: _core.Checkpoint
    folder: Path
    table: str
    rows: int
    width: int


def without_adapters(model: Model) -> str | Reference:
    """A model as :func:`suture.reference.model_of` gives it, which plans of rows read by its folder.

    Raises:
        UsageError: if it is named with adapters, or deltas, which its folder does not have.
    """
    found = model_of(model)
    if isinstance(found, Reference) and found.adapters:
        raise UsageError(f"`{fspath(model)}`: fold the adapters into a model first (suture lora fold)")
    # Of a GGUF model a folder with all that there is of it.
    return found if isinstance(found, Reference) else str(folder_of(found))


def vocab_model(model: Model) -> VocabModel:
    """Open a model whose vocabulary is to change.

    Raises:
        UsageError: if it is named with adapters, or is a single file, which has no tokenizer.
        SutureError: if it is not sound, or has no table of tokens.
    """
    checkpoint = opened(without_adapters(model))
    folder = checkpoint.path
    if not folder.is_dir():
        raise UsageError(f"{folder}: expected the folder of a model, with its config and tokenizer; found a file")
    for name in checkpoint.tables():
        shape = json.loads(checkpoint.info_json(name))["shape"]
        if len(shape) == 2:
            return VocabModel(checkpoint, folder, name, shape[0], shape[1])
    raise SutureError(f"{folder}: has no table with a row for each token", folder)
