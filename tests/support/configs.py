"""Merge configs in tests, as data and as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from .checkpoints import llama_family

#: The sizes of these models.
SIZES: dict[str, Any] = {"layers": 4, "hidden": 8, "heads": 2, "kv_heads": 1, "ff": 12, "vocab": 10}


def family(folder: Path, *names: str) -> dict[str, Path]:
    """A small base and fine-tunes of it, in f32, by these names."""
    made = llama_family(folder, n=len(names), tied=False, dtype="f32", seed=3, **SIZES)
    return dict(zip(("base", *names), made, strict=True))


def config(models: Mapping[str, Path], weight: Any, **more: Any) -> dict[str, Any]:
    """Task arithmetic with one model, whose weight is looked at."""
    listed = [{"model": str(models["math"]), "parameters": {"weight": weight}}]
    return {"merge_method": "task_arithmetic", "base_model": str(models["base"]), "models": listed, **more}


def soup(models: Mapping[str, Path], *names: str) -> dict[str, Any]:
    """The sum of models, by the names they have here or in the config."""
    listed = [{"model": str(models.get(n, n)), "parameters": {"weight": 1.0}} for n in names]
    return {"merge_method": "linear", "models": listed}


def write(path: Path, *documents: Mapping[str, Any]) -> Path:
    """A config of these documents."""
    path.write_text(yaml.safe_dump_all([dict(d) for d in documents]))
    return path
