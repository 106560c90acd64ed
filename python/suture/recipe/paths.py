"""Models in a config, by their paths and adapters."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from suture.errors import SutureError, UsageError
from suture.reference import Reference, existing, model_of

#: What a model that is a mapping has: mergekit's keys.
_KEYS = {"model", "lora", "override_architecture"}


def model_path(value: Any, at: str, folder: Path | None) -> Any:
    """The model that a config names: a path, or a reference where it has adapters.

    What is not even text is left to the core to refuse.

    Raises:
        UsageError: if there is no such file or folder.
        SutureError: if a store does not give it.
    """
    if isinstance(value, dict) and isinstance(value.get("path"), str):
        return _reported(value, at, folder)
    if isinstance(value, dict) and isinstance(value.get("model"), dict | str) and set(value) <= _KEYS:
        own, lora = (_written(value.get(key), f"{at}.{key}", folder) for key in ("model", "lora"))
        value = own if lora is None else f"{own}+{lora}"
    if not isinstance(value, str) or not value.strip():
        return value
    found = _found(value, at, folder)
    if isinstance(found, Reference) and ".parameters" in at:
        if found.adapters:
            raise UsageError(f"{at}: `{value}`: what a parameter names has no adapters; fold them first", at=at)
        return found.path
    return found


def _reported(value: dict[str, Any], at: str, folder: Path | None) -> Reference:
    """A model as a report has it."""
    if unknown := next((key for key in value if key not in ("path", "adapters", "name")), None):
        ways = f"`{{model: {{path: ..., {unknown}: ...}}}}`, or in short `org/name@revision`"
        raise UsageError(f"{at}.{unknown}: unknown key; mergekit writes {ways}", at=f"{at}.{unknown}")
    found = _found(value["path"], at, folder)
    own = found if isinstance(found, Reference) else Reference(found)
    listed = value.get("adapters") or []
    if not isinstance(listed, list) or not all(map(_is_adapter, listed)):
        raise UsageError(f"{at}.adapters: expected a list of mappings with `path` and `weight`", at=f"{at}.adapters")
    adapters = [(_found(a["path"], at, folder), float(a.get("weight", 1))) for a in listed]
    applied = tuple((adapter.path if isinstance(adapter, Reference) else adapter, w) for adapter, w in adapters)
    return Reference(own.path, (*own.adapters, *applied), value.get("name") or own.name)


def _is_adapter(value: Any) -> bool:
    weight = value.get("weight", 1) if isinstance(value, dict) else None
    own = isinstance(value, dict) and set(value) <= {"path", "weight"}
    return own and isinstance(weight, int | float) and abs(weight) < float("inf") and isinstance(value.get("path"), str)


def _written(part: Any, at: str, folder: Path | None) -> str | None:
    """A model of mergekit's long form, ``{path: ..., revision: ...}``, as people write it in short."""
    if part is None:
        return None
    if isinstance(part, str):
        return part
    path, revision = (part.get(key) for key in ("path", "revision")) if isinstance(part, dict) else (None, None)
    if not isinstance(path, str):
        raise UsageError(f"{at}: expected a mapping with `path`, found `{part}`", at=at)
    if revision is None:
        return path
    if existing(path, folder) is not None:
        raise UsageError(f"{at}.revision: {path} is a folder, which has no revisions; remove the key", at=at)
    return f"{path}@{revision}"


def _found(value: str, at: str, folder: Path | None) -> Any:
    try:
        found = model_of(value, folder, "tokenizer" if at.startswith("tokenizer") else "model")
    except SutureError as e:
        # A name that is no path and on no hub is a wrong config; a store that does not give what it has has failed.
        raise (type(e) if "://" in value else UsageError)(f"{at}: {e}", e.path, at=at) from None
    if isinstance(found, Reference) or existing(found, folder) is not None:
        return found
    tried = os.path.expanduser(value)
    beside = "" if folder is None or str(folder / tried) == tried else f" and {folder / tried}"
    words = ", or the words base and union" if at in ("tokenizer_source", "tokenizer.source") else ""
    message = f"no such file or folder (tried {tried}{beside}); models are paths, or `org/name` of a hub{words}"
    raise UsageError(f"{at}: `{value}`: {message}", at=at)
