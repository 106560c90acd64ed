"""Paths in a config."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from suture.errors import UsageError


def find(text: str, folder: Path | None) -> Path | None:
    """What a path in a config stands for: from the current folder, else from the config's."""
    expanded = Path(os.path.expanduser(text))
    candidates = [expanded] if folder is None or expanded.is_absolute() else [expanded, folder / expanded]
    # Not `Path.exists`, which takes a name that is too long for a failure.
    return next((path for path in candidates if os.path.exists(path)), None)


def model_path(value: Any, at: str, folder: Path | None) -> Any:
    """The path of a model in a config; what is not even text is left to the core to refuse.

    Raises:
        UsageError: if there is no such file or folder.
    """
    if isinstance(value, dict):
        inner = value.get("model")
        if value.get("lora") is not None:
            raise UsageError(
                f"{at}: adapters (`lora`) are not supported yet; fold the adapter into its model first", at=at
            )
        if isinstance(inner, dict) and set(value) <= {"model", "lora", "override_architecture"}:
            value = inner.get("path")
    if not isinstance(value, str) or not value.strip():
        return value
    found = find(value, folder)
    if found is not None:
        return str(found)
    if "+" in value:
        message = "adapters (`model+lora`) are not supported yet; fold the adapter into its model first"
    else:
        tried = os.path.expanduser(value)
        beside = "" if folder is None or str(folder / tried) == tried else f" and {folder / tried}"
        message = f"no such file or folder (tried {tried}{beside}); models are paths, nothing is downloaded"
    raise UsageError(f"{at}: `{value}`: {message}", at=at)
