"""The folder that a twin is made in, put in its place when it is complete."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path

from suture import _core
from suture.errors import SutureError, UsageError
from suture.reference import plain
from suture.results.twin import RECORD, TwinInfo, read_twin
from suture.store import is_url
from suture.surgery.run import is_file


def free(out: str | PathLike[str], inputs: Sequence[str | PathLike[str]], overwrite: bool) -> Path:
    """Where a twin goes, which is free, or with `overwrite` holds a twin and nothing else.

    Raises:
        UsageError: if it is to be a single file.
        SutureError: if something is in the way, or an input lies in it or around it.
    """
    if is_url(fspath(out)):
        raise UsageError(f"`{fspath(out)}`: is a URL, and twins go to folders only; write a folder, and upload it")
    if is_file(out):
        raise UsageError(f"a twin is a folder; found the file `{fspath(out)}`")
    target = Path(os.path.abspath(out))
    for model in inputs:
        real, own = Path(plain(model)).resolve(), target.resolve()
        if real == own or own in real.parents or real in own.parents:
            raise SutureError(
                f"{target}: overlaps with the input `{fspath(model)}`; choose another output", str(target)
            )
    if not target.parent.is_dir():
        raise SutureError(f"{target}: its folder {target.parent} does not exist; make it first", str(target))
    if not os.path.lexists(target) or (target.is_dir() and not target.is_symlink() and not any(target.iterdir())):
        return target
    if not overwrite:
        raise SutureError(
            f"{target}: is there already, and not empty; choose another output, or pass --overwrite to replace it",
            str(target),
        )
    if target.is_symlink() or not target.is_dir():
        raise SutureError(f"{target}: is no folder; a twin does not replace it", str(target))
    known = {*read_twin(target)["files"], RECORD}
    if os.path.lexists(old := _old(target)):
        raise SutureError(f"{old}: is what a killed run was replacing; remove it if {target} is whole", str(old))
    other = next((file for file in listed_in(target) if file not in known), None)
    if other is not None:
        raise SutureError(f"{target}: holds `{other}`, which is not the twin's; suture will not delete it", str(target))
    return target


def begun(target: Path) -> Path:
    """A new folder beside the place of a twin, to make it in.

    Raises:
        SutureError: if another run has left one, or still works in it, or none can be made.
    """
    made = target.with_name(f".{target.name}.suture-twin")
    try:
        made.mkdir()
    except FileExistsError:
        message = "is of a run that was killed, or that still works; remove it if none does"
        raise SutureError(f"{made}: {message}", str(made)) from None
    except OSError as e:
        raise SutureError(f"{made}: cannot be made: {e.strerror}", str(made)) from None
    return made


def publish(made: Path, target: Path) -> None:
    """Put a complete twin in its place; what was there, as :func:`free` found it, is removed after."""
    old = _old(target)
    try:
        if target.is_dir() and any(target.iterdir()):
            os.rename(target, old)
            try:
                os.rename(made, target)
            except OSError:
                os.rename(old, target)
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(made, target)
        _synced(target.parent)
    except OSError as e:
        raise SutureError(f"{target}: cannot be put in its place: {e.strerror}", str(target)) from None


def _old(target: Path) -> Path:
    """Where what is replaced lies until its successor is there."""
    return target.with_name(f".{target.name}.suture-old")


def write_record(made: Path, record: TwinInfo) -> None:
    """Write what the twin is, behind all that it holds."""
    try:
        with open(made / RECORD, "x", encoding="utf-8") as file:
            file.write(json.dumps(record, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        for folder in (made, made / "experts"):
            _synced(folder)
    except OSError as e:
        raise SutureError(f"{made / RECORD}: cannot be written: {e.strerror}", str(made)) from None


def _synced(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def listed_in(folder: Path) -> list[str]:
    """All files below a folder, by their paths in it."""
    found = [Path(where, name) for where, _, names in os.walk(folder) for name in names]
    return sorted(file.relative_to(folder).as_posix() for file in found)


def weights_in(folder: Path) -> int:
    """Bytes of the files of weights in a folder."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def bytes_of(model: _core.Checkpoint) -> int:
    """Bytes of the files of weights of a model."""
    return sum(int(file["bytes"]) for file in json.loads(model.to_json())["files"])
