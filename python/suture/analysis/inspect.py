"""What is in a checkpoint."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any, cast

from suture.analysis.progress import scaled
from suture.analysis.verdict import verdict
from suture.checkpoint import Checkpoint
from suture.results import Inspection
from suture.results.reading import DtypeSum
from suture.settings import Progress, Settings
from suture.sidecars.gguf import folder_of


def inspect(
    path: str | PathLike[str],
    *,
    stats: bool = False,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Inspection:
    """Describe a checkpoint from its headers; with `stats`, read it once for figures of every float tensor.

    The result has ``path``, ``bytes``, ``files``, ``stacks`` (of layers), ``tensors``, ``warnings`` (what was passed
    over), ``dtypes`` (elements and bytes of each), ``config`` (the model type and sizes of config.json, if there is
    one) and ``verdict``, what all this makes of it, in sentences.

    Raises:
        SutureError: if the checkpoint is not sound.
    """
    settings = settings or Settings()
    checkpoint = Checkpoint(path)
    described = cast(Inspection, {"schema": 1, **checkpoint.describe()})
    dtypes: dict[str, DtypeSum] = {}
    for tensor in described["tensors"]:
        entry = dtypes.setdefault(tensor["dtype"], {"tensors": 0, "elements": 0, "bytes": 0})
        entry["tensors"] += 1
        entry["elements"] += _elements(tensor["shape"])
        entry["bytes"] += tensor["nbytes"]
    described["dtypes"] = dtypes
    folder = folder_of(checkpoint.folder)
    whole = _config(folder)
    described["config"] = {k: whole[k] for k in _TOLD if k in whole} if whole is not None else None
    described["verdict"] = verdict(described, whole or {}, folder)
    if stats:
        total = described["bytes"]
        found = checkpoint._core.stats_json(settings.io, settings.thread_count, scaled(progress, total))
        for tensor, figures in zip(described["tensors"], json.loads(found), strict=True):
            tensor["stats"] = figures
    return described


#: What of a config.json is told.
_TOLD = ("model_type", "architectures", "hidden_size", "num_hidden_layers", "num_attention_heads",
         "num_key_value_heads", "intermediate_size", "vocab_size", "tie_word_embeddings")  # fmt: skip


def _elements(shape: list[int]) -> int:
    n = 1
    for d in shape:
        n *= d
    return n


def _config(path: Path) -> dict[str, Any] | None:
    if not (path / "config.json").is_file():
        return None
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return config if isinstance(config, dict) else None
