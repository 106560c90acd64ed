"""Models in a config, by their paths and adapters."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from suture.errors import UsageError
from suture.reference import Reference, existing, model_of

#: What a model that is a mapping has: mergekit's keys.
_KEYS = {"model", "lora", "override_architecture"}


def model_path(value: Any, at: str, folder: Path | None) -> Any:
    """The model that a config names: a path, or a reference where it has adapters.

    What is not even text is left to the core to refuse.

    Raises:
        UsageError: if there is no such file or folder.
    """
    if isinstance(value, dict) and isinstance(value.get("path"), str) and set(value) <= {"path", "adapters", "name"}:
        # As a report has it.
        adapters = [{**a, "path": _found(a["path"], at, folder)} for a in value.get("adapters") or ()]
        listed = tuple((str(a["path"]), float(a.get("weight", 1))) for a in adapters)
        return Reference(_found(value["path"], at, folder), listed, value.get("name"))
    if isinstance(value, dict) and isinstance(value.get("model"), dict) and set(value) <= _KEYS:
        own, lora = (value.get(key) or {} for key in ("model", "lora"))
        if not isinstance(lora, dict) or not all(isinstance(m.get("path"), str) for m in (own, lora) if m):
            raise UsageError(f"{at}: expected `path` in `model` and in `lora`", at=at)
        model = _found(own["path"], at, folder)
        return Reference(model, ((_found(lora["path"], at, folder), 1.0),)) if lora else model
    if not isinstance(value, str) or not value.strip():
        return value
    return _found(value, at, folder)


def _found(value: str, at: str, folder: Path | None) -> Any:
    try:
        found = model_of(value, folder)
    except UsageError as e:
        raise UsageError(f"{at}: {e}", at=at) from None
    if isinstance(found, Reference) or existing(found, folder) is not None:
        return found
    tried = os.path.expanduser(value)
    beside = "" if folder is None or str(folder / tried) == tried else f" and {folder / tried}"
    message = f"no such file or folder (tried {tried}{beside}); models are paths, nothing is downloaded"
    raise UsageError(f"{at}: `{value}`: {message}", at=at)
