"""Reading and writing the small JSON files beside weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from suture.errors import SutureError

#: The configs inside a config that may be those of its language model.
INNER = ("text_config", "llm_config", "language_config")


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any] | None:
    """A JSON object beside a model's weights; None if there is no such file.

    Raises:
        SutureError: if it is not a JSON object.
    """
    path = folder / name
    if not path.is_file():
        return None
    try:
        text = path.read_text(encoding="utf-8")
        if (what := _something_else(text)) is not None:
            raise SutureError(f"{path}: is {what}, not the file it stands for; fetch it again", path)
        config = json.loads(text)
    except (OSError, ValueError, RecursionError) as e:
        raise SutureError(f"{path}: cannot be read as JSON: {e}", path) from None
    if not isinstance(config, dict):
        raise SutureError(f"{path}: expected a JSON object", path)
    return config


def _something_else(text: str) -> str | None:
    """What a file is that a download left in the place of another."""
    if text.startswith("version https://git-lfs"):
        return "a Git LFS pointer"
    return "an HTML page" if text.lstrip("\ufeff \t\r\n").lower().startswith(("<!doctype html", "<html")) else None


def inside(config: dict[str, Any], path: str) -> Any:
    """The config at a path such as ``text_config``; the whole for an empty one, None if there is none."""
    found: Any = config
    for key in path.split(".") if path else ():
        found = found.get(key) if isinstance(found, dict) else None
    return found


def as_bytes(data: dict[str, Any]) -> bytes:
    """A JSON file's bytes."""
    try:
        return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:
        # JSON can name half a character, UTF-8 cannot.
        return (json.dumps(data, indent=2) + "\n").encode()
