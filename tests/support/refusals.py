"""What a refusal is: an error of ours, in words that help, that leaves nothing behind."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import suture

#: What else a dtype may be called.
SPELT = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def refusal(call: Callable[..., Any], *arguments: Any, **options: Any) -> str | None:
    """What a call is refused with; None if it is done. Anything but an error of ours goes through: it is a bug."""
    try:
        call(*arguments, **options)
    except suture.SutureError as e:
        return str(e)
    return None


def refuses_to_open(path: Path, says: str) -> None:
    """Check that a model is refused in one line, which names the file and says what it should."""
    text = refusal(suture.open, path)
    assert text is not None
    assert str(path) in text
    assert says in text
    assert "\n" not in text


def names_dtype(text: str, dtype: str) -> bool:
    """Whether a message names a dtype as the format spells it, or as torch does."""
    words = [dtype, SPELT.get(dtype, dtype)]
    return any(re.search(rf"(?<![A-Za-z0-9_]){word}(?![A-Za-z0-9_])", text, re.IGNORECASE) for word in words)


def listing(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, with what files hold."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def left_behind(folder: Path, known: Iterable[str]) -> list[str]:
    """What is in a folder besides what was there; outputs and work in progress."""
    return sorted(p.name for p in folder.iterdir() if p.name not in set(known))
