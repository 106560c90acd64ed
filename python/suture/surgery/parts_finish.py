"""Putting the parts of an output together: what they say is checked, and all is published as a single run does."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from suture import _core
from suture.errors import SutureError
from suture.results.parts import MadeShard, Manifest
from suture.settings import Progress, Settings
from suture.surgery import parts_folder as at
from suture.surgery.parts_job import Parts

#: What a run that is not over has in its folder.
_JOURNAL = ".suture-journal"


def _places(parts: Parts, made: Sequence[Manifest]) -> list[tuple[MadeShard, Path]]:
    """Every shard, in the order of the output, and where its part has made it.

    Raises:
        SutureError: if they are not the shards of the plan.
    """
    found = [(shard, place) for one in made for shard, place in zip(one["shards"], parts.shards_of(one), strict=True)]
    own = sorted(found, key=lambda one: one[0]["file"])
    listed = sorted(parts.job["shards"], key=lambda shard: str(shard["file"]))
    if [shard for shard, _ in own] != listed:
        differs = next((s["file"] for s in listed if s not in [shard for shard, _ in own]), own[-1][0]["file"])
        raise SutureError(f"{parts.folder}: `{differs}` is not as the plan has it; make its part again", parts.folder)
    return own


def _report_path(out: Path, text: str) -> Path:
    """Where the report of an output lies: in its folder, or beside the file that it is."""
    name = str(json.loads(text)["files"][-1])
    return out / name if out.is_dir() else out.with_name(name)


def is_there(out: Path, text: str) -> bool:
    """Whether the output that a report is of lies where it was published."""
    with suppress(OSError, ValueError, KeyError):
        return bool(json.loads(_report_path(out, text).read_bytes()) == json.loads(text))
    return False


def is_published(parts: Parts, made: Sequence[Manifest], text: str) -> bool:
    """Whether an earlier call has published the output, and was stopped before it had removed the parts.

    What else it left is removed then: what it was to replace, and its journal.
    """
    places, staging = _places(parts, made), _core.staging_folder(str(parts.out))
    begun = staging is not None and (staging / _JOURNAL).exists()
    if any(place.exists() for _, place in places) or begun:
        return False
    with suppress(OSError, ValueError, KeyError):
        if not is_there(parts.out, text):
            return False
        for shard, _ in places:
            file = parts.out / shard["file"] if parts.out.is_dir() else parts.out
            if file.stat().st_size != shard["bytes"]:
                return False
        if parts.out.is_dir():
            (parts.out / _JOURNAL).unlink(missing_ok=True)
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        return True
    return False


def publish(parts: Parts, made: Sequence[Manifest], text: str, overwrite: bool) -> None:
    """Move all shards into one folder, add what goes beside them, and put it in its place.

    Raises:
        SutureError: if a shard is not what it was when it was made, or something is in the way; the same call goes on.
    """
    shards = [
        (shard["file"], str(place), shard["bytes"], shard["header_bytes"], shard["header"])
        for shard, place in _places(parts, made)
    ]
    beside = parts.folder / at.JOB / at.BESIDE
    copied = [(name, str(beside / str(i))) for i, name in enumerate(parts.job["files"])]
    key = f"{parts.job['plan']} {' '.join(one['folder'] for one in made)}"
    _core.finish_parts(str(parts.out), shards, key, ([], copied), text, overwrite)
    begin = at.GIVEN.format(parts.out.name)
    for folder in [p for p in parts.out.absolute().parent.iterdir() if p.name.startswith(begin)]:
        shutil.rmtree(folder, ignore_errors=True)


def check_digests(parts: Parts, made: Sequence[Manifest], settings: Settings, progress: Progress | None) -> None:
    """Read all shards again and compare every tensor with its digest.

    Raises:
        SutureError: if one differs, with the part to make again.
    """
    from suture.analysis.verify import verify

    places, staging = _places(parts, made), _core.staging_folder(str(parts.out))
    outline = json.loads((parts.folder / at.JOB / at.OUTLINE).read_bytes())
    names, digests = list(outline["tensors"]), {}
    for one in made:
        for line in one["tensors"]:
            digests[names[line["tensor"]]] = line["digest"]
    listed = {name: {**outline["tensors"][name], "digest": digest} for name, digest in digests.items()}
    folder = parts.folder / f".new-{secrets.token_hex(8)}"
    try:
        folder.mkdir()
        for shard, place in places:
            moved = place if place.exists() or staging is None else staging / shard["file"]
            os.symlink(moved, folder / ("model.safetensors" if len(places) == 1 else shard["file"]))
        for i, name in enumerate(parts.job["files"]):
            if str(name).endswith(".index.json"):
                shutil.copyfile(parts.folder / at.JOB / at.BESIDE / str(i), folder / name)
        record = {"suture": _core.__version__, "digest": outline["digest"], "tensors": listed, "beside": {}}
        (folder / "suture.json").write_text(json.dumps(record), encoding="utf-8")
        found = verify(folder, settings=settings, progress=progress)
    except OSError as e:
        raise SutureError(f"{parts.folder}: cannot look at the shards: {e.strerror}", parts.folder) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if found["differing"]:
        name = found["differing"][0]
        number = names.index(name)
        part = next(one["part"] for one in made if any(line["tensor"] == number for line in one["tensors"]))
        again = f"remove {parts.folder / f'part-{part}.json'}, and make part {part} again"
        raise SutureError(f"{parts.out}: tensor `{name}` differs from its digest; {again}", parts.out, name)
