"""The folder that the parts of an output are made in, beside the output: what lies there, and how it is written.

Several machines may share it, so nothing in it is written twice: files are written whole under a name of their own and
then linked or renamed to theirs, and whoever comes first stays. No clock is read, and no lock is relied upon but
between processes of one machine.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterable
from contextlib import suppress
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from suture import _core
from suture.errors import SutureError, UsageError
from suture.sidecars.card import COMPUTED

#: In the folder: the job (its plan, its side files), what rounds have settled.
JOB, PLAN, OUTLINE, BESIDE, SETTLED = "job", "plan.json", "outline.json", "beside", "settled.json"
#: How the folder beside an output begins that holds what was computed for it; it stays until the output is there.
GIVEN = ".{}" + COMPUTED
#: In the job: what `finish` says, once all is published and the folder goes.
SAID = "report.json"
#: Which node of a cluster has made which part, if one did.
CLUSTER = "cluster.json"
#: What the folder may hold that is suture's own.
_OURS = re.compile(
    r"job|cluster\.json|settled\.json|part-\d+\.json|round-\d+-part-\d+\.json|part-\d+\..+|made-\d+\..+|\.new-.+"
)


def folder_of(out: str | PathLike[str]) -> Path:
    """The folder that parts of `out` are made in.

    Raises:
        SutureError: if `out` cannot be the path of an output.
    """
    if "://" in fspath(out):
        raise SutureError(f"{fspath(out)}: is a URL, and parts are made and put together in folders alone", out)
    staging = _core.staging_folder(fspath(out))
    if staging is None:
        raise SutureError(f"{fspath(out)}: is not the path of a new folder", out)
    return staging.with_name(staging.name.removesuffix("partial") + "parts")


def out_of(folder: Path) -> Path:
    """The output that parts in a folder are of.

    Raises:
        UsageError: if it is no such folder.
    """
    name = re.fullmatch(r"\.(.+)\.suture-parts", folder.name)
    if name is None:
        raise UsageError(f"{folder}: is no folder of parts; its name would end in .suture-parts")
    return folder.with_name(name[1])


def machine() -> str:
    """A short name of this machine (or container), for folders that only its processes share."""
    try:
        system = Path("/etc/machine-id").read_text()
    except OSError:
        system = ""
    return hashlib.sha256(f"{host()}\n{system}".encode()).hexdigest()[:8]


def host() -> str:
    """What this machine is called, for people."""
    return platform.node() or "unknown"


def put(path: Path, text: str, *, first: bool = False) -> bool:
    """Write a file whole. With `first` one that is there already stays; returns whether it was written.

    Raises:
        SutureError: if it cannot be written.
    """
    new = path.with_name(f".new-{secrets.token_hex(8)}")
    try:
        with new.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if not first:
            os.replace(new, path)
            return True
        try:
            os.link(new, path)
        except FileExistsError:
            return False
        except OSError as e:
            if e.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                raise
            # A file system without links.
            if path.exists():
                return False
            os.replace(new, path)
        return True
    except OSError as e:
        raise _gone_or(path, e) from None
    finally:
        with suppress(OSError):
            new.unlink()


def put_folder(path: Path, files: Iterable[tuple[str, str | bytes | Path]]) -> bool:
    """Write a folder of files (text, bytes or copies) whole, unless it is there; returns whether it was written.

    Raises:
        SutureError: if it cannot be written.
    """
    new = path.with_name(f".new-{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.mkdir()
        for name, content in files:
            place = new / name
            place.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copyfile(content, place)
            else:
                place.write_bytes(content.encode() if isinstance(content, str) else content)
        try:
            # Onto a folder that holds something it is refused.
            os.rename(new, path)
        except OSError:
            if path.is_dir():
                return False
            raise
        return True
    except OSError as e:
        raise _gone_or(path, e) from None
    finally:
        shutil.rmtree(new, ignore_errors=True)


def read(path: Path) -> Any:
    """What a JSON file of ours holds; None if it is not there.

    Raises:
        SutureError: if it cannot be read, or is none of ours.
    """
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as e:
        raise SutureError(f"{path}: cannot be read ({e}); remove it, and make again what it is of", path) from None
    if not isinstance(found, dict) or "suture" not in found:
        raise SutureError(f"{path}: is no file of suture's; move it away", path)
    return found


def remove(folder: Path) -> list[Path]:
    """Remove what is ours in a folder of parts, the job last, and the folder if it is empty; returns what is left."""
    with suppress(OSError):
        entries = sorted(folder.iterdir(), key=lambda p: p.name == JOB)
        for entry in entries:
            if not _OURS.fullmatch(entry.name):
                continue
            if entry.is_dir() and not entry.is_symlink():
                # What says that all is published goes last: who is killed before goes on with the removal.
                for own in [p for p in entry.iterdir() if entry.name == JOB and p.name != SAID]:
                    _away(own)
            _away(entry)
        folder.rmdir()
    with suppress(OSError):
        # What a process is just writing goes with the folder, when that process finds the job gone.
        return sorted(entry for entry in folder.iterdir() if not _OURS.fullmatch(entry.name))
    return []


def _away(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def said(folder: Path) -> str | None:
    """The report of an output that is published, if the folder of its parts was not yet all removed."""
    with suppress(OSError, UnicodeDecodeError):
        return (folder / JOB / SAID).read_text(encoding="utf-8")
    return None


def _gone_or(path: Path, e: OSError) -> SutureError:
    if isinstance(e, FileNotFoundError):
        message = "is gone: the parts were put together or removed meanwhile; look what there is"
        return SutureError(f"{path.parent}: {message}", path)
    return SutureError(f"{path}: cannot write: {e.strerror}", path)
