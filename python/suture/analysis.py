"""The verbs that only read: inspect, diff, verify, methods."""

from __future__ import annotations

import json
from collections.abc import Callable
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from suture import _core
from suture.checkpoint import Checkpoint
from suture.errors import UsageError
from suture.settings import Settings

Progress = Callable[[int, int], None]


def inspect(
    path: str | PathLike[str],
    *,
    stats: bool = False,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Describe a checkpoint from its headers; with `stats`, read it once for figures of every float tensor.

    The result has ``path``, ``bytes``, ``files``, ``stack`` (the layers), ``tensors``, ``dtypes`` (elements and
    bytes of each) and ``config`` (the model type and sizes of config.json, if there is one).

    Raises:
        SutureError: if the checkpoint is not sound.
    """
    settings = settings or Settings()
    checkpoint = Checkpoint(path)
    described = checkpoint.describe()
    dtypes: dict[str, dict[str, int]] = {}
    for tensor in described["tensors"]:
        entry = dtypes.setdefault(tensor["dtype"], {"tensors": 0, "elements": 0, "bytes": 0})
        entry["tensors"] += 1
        entry["elements"] += _elements(tensor["shape"])
        entry["bytes"] += tensor["nbytes"]
    described["dtypes"] = dtypes
    described["config"] = _config(Path(path))
    if stats:
        total = described["bytes"]
        found = checkpoint._core.stats_json(settings.io, settings.thread_count, _scaled(progress, total))
        for tensor, figures in zip(described["tensors"], json.loads(found), strict=True):
            tensor["stats"] = figures
    return described


def diff(
    base: str | PathLike[str],
    tuned: str | PathLike[str],
    *,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure what a fine-tune changed, reading each checkpoint once.

    The result has ``metrics`` (name and meaning of each), their values in ``total``, ``tensors``, ``modules``,
    ``layers`` and ``cells`` (layer by module), and the names in ``only_base``, ``only_tuned`` and ``reshaped``.

    Raises:
        SutureError: if a checkpoint is not sound.
        UsageError: if the two have no tensor in common.
    """
    settings = settings or Settings()
    first, second = Checkpoint(base), Checkpoint(tuned)
    total = _core.compare_bytes(first._core, second._core)
    found: dict[str, Any] = json.loads(
        _core.compare_json(first._core, second._core, settings.io, settings.thread_count, _scaled(progress, total))
    )
    if not found["tensors"] and (found["only_base"] or found["only_tuned"]):
        raise UsageError(f"{base} and {tuned} have no tensor in common; are these the right checkpoints?")
    return found


def verify(
    out: str | PathLike[str], *, settings: Settings | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Read an output again and compare it with the digests in its suture.json.

    The result has ``tensors`` and ``bytes`` compared and ``differing``, the names of tensors that differ.

    Raises:
        SutureError: if there are no digests, or if they list other tensors than the checkpoint holds.
    """
    settings = settings or Settings()
    total = sum(t["nbytes"] for t in Checkpoint(out).describe()["tensors"]) if progress else 0
    found: dict[str, Any] = json.loads(
        _core.verify_json(fspath(out), settings.io, settings.thread_count, _scaled(progress, total))
    )
    return found


def methods() -> list[dict[str, Any]]:
    """The spec of every merge method: name, summary, formula, paper, parameters, inputs, cost."""
    specs: list[dict[str, Any]] = json.loads(_core.methods_json())
    return specs


def _scaled(progress: Progress | None, total: int) -> Callable[[int], None] | None:
    return None if progress is None else lambda done: progress(min(done, total), total)


def _elements(shape: list[int]) -> int:
    n = 1
    for d in shape:
        n *= d
    return n


def _config(path: Path) -> dict[str, Any] | None:
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    keys = ("model_type", "architectures", "hidden_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "intermediate_size", "vocab_size", "tie_word_embeddings")  # fmt: skip
    return {k: config[k] for k in keys if k in config} if isinstance(config, dict) else None
