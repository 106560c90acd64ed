"""The files that a search reads: where they lie, what they are, and read ahead of the candidates."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from suture.escape import shown
from suture.recipe import with_models
from suture.reference import Reference, model_of


def places(config: dict[str, Any]) -> list[Path]:
    """Where the inputs lie."""
    found: dict[str, None] = {}

    def note(model: Any, at: str) -> Any:
        if isinstance(model, Reference):
            found.update(dict.fromkeys((model.path, *(path for path, _ in model.adapters))))
        elif isinstance(model, str):
            found[model] = None
        return model

    with_models(config, note)
    return [Path(place) for place in found]


def stamps(config: dict[str, Any], target: str | None) -> list[Any]:
    """What the inputs, and the target that there may be, are: names, sizes and times of their files, of a store their
    tags, so that scores of other weights are not mixed in."""
    found = []
    for place in places(config if target is None else {**config, "model": model_of(target)}):
        files = sorted(p for p in place.iterdir() if p.is_file()) if place.is_dir() else [place]
        state = _tag if _far(place) else _time
        stats = [[p.name, p.stat().st_size, state(p)] for p in files if p.exists()]
        found.append([place.name, hashlib.sha256(repr(stats).encode()).hexdigest()[:16]])
    return found


def _far(place: Path) -> bool:
    """Whether a place stands for one in a store."""
    return shown(str(place)) != str(place)


def _time(file: Path) -> Any:
    return file.stat().st_mtime_ns


def _tag(file: Path) -> Any:
    """What tells the states of an object apart: its tag, or of what was fetched whole its first 16 MiB."""
    from suture.store.folders import object_at

    of = object_at(file)
    if of is not None:
        return of.etag
    with file.open("rb") as data:
        return hashlib.sha256(data.read(1 << 24)).hexdigest()


def read_ahead(config: dict[str, Any]) -> None:
    """Read the inputs once, if half of the memory that is free has room: merges leave what is cached where it is."""
    files = [f for p in places(config) if not _far(p) for f in (p.iterdir() if p.is_dir() else [p]) if f.is_file()]
    try:
        told = Path("/proc/meminfo").read_text(encoding="ascii").split("MemAvailable:")[1]
        if sum(f.stat().st_size for f in files) > int(told.split()[0]) * 512:
            return
        for file in files:
            with file.open("rb", buffering=0) as opened:
                while opened.read(1 << 24):
                    pass
    except (OSError, IndexError, ValueError):
        # It is only slower without: whoever needs the file says what is wrong with it.
        return
