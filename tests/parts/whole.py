"""Outputs made whole and in parts, and what is compared of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import suture
from suture.errors import UsageError

#: Makes an output, as the settings say.
Verb = Callable[[Path, suture.Settings], Any]


def files(folder: Path) -> dict[str, bytes]:
    """All files of an output but its report, by name."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    found.pop("suture.json", None)
    return found


def told(folder: Path) -> dict[str, Any]:
    """The report of an output but for how the run went."""
    report: dict[str, Any] = json.loads((folder / "suture.json").read_bytes())
    return {key: value for key, value in report.items() if key != "run"}


def in_parts(verb: Verb, out: Path, n: int, order: Sequence[int] | None = None, **how: Any) -> int:
    """Make an output in `n` parts, in any order, in as many rounds as are wanted; returns how many there were."""
    rounds = 0
    turns = list(order or range(1, n + 1))
    while True:
        try:
            verb(out, suture.Settings(part=f"{turns[0]}/{n}", **how))
            break
        except UsageError as e:
            if "--round" not in str(e):
                raise
        rounds += 1
        for i in turns:
            verb(out, suture.Settings(part=f"{i}/{n}", round=rounds, **how))
        suture.settle(out)
    for i in turns[1:]:
        verb(out, suture.Settings(part=f"{i}/{n}", **how))
    suture.finish(out)
    return rounds


def check_same(whole: Path, parts: Path) -> None:
    """The bytes of every file and all that the report says but of the run are the same, and nothing else is left."""
    a, b = files(whole), files(parts)
    assert list(a) == list(b)
    assert [name for name in a if a[name] != b[name]] == []
    assert told(whole) == told(parts)
    beside = [p.name for p in parts.parent.iterdir() if p.name.startswith(f".{parts.name}.")]
    assert beside == []
