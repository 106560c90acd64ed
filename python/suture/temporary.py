"""Folders to work in under TMPDIR: they go with the process, or if it was killed, with the next one that makes one.

A folder is locked as long as its process lives: one that nobody has locked was left. Names tell machines apart, whose
locks may not be seen on others.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

#: Seconds in which one that is just being made may not be locked yet.
YOUNG = 60.0
_locks: dict[Path, tuple[int, int | None]] = {}


def _machine() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]


def made(kind: str) -> Path:
    """A new folder, until :func:`gone` or the end of the process.

    Args:
        kind: a word for its name.

    Raises:
        OSError: if it cannot be made.
    """
    sweep(tempfile.gettempdir())
    folder = Path(tempfile.mkdtemp(prefix=f"suture-{kind}-{_machine()}-")).resolve()
    if not _locks:
        atexit.register(all_gone)
    _locks[folder] = (os.getpid(), lock_on(folder))
    return folder


def gone(folder: Path) -> None:
    """Remove a folder of this process; in one that was forked from it nothing is done."""
    owner, lock = _locks.pop(folder, (0, None))
    if owner == os.getpid():
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def all_gone() -> None:
    """Remove all folders of this process."""
    for folder in list(_locks):
        gone(folder)


@contextlib.contextmanager
def passing(kind: str) -> Iterator[str]:
    """A folder that is gone behind the block; as :func:`made`."""
    folder = made(kind)
    try:
        yield str(folder)
    finally:
        gone(folder)


def lock_on(folder: Path) -> int | None:
    """The lock of a folder, as a file descriptor; None if another process has it, or there are no locks."""
    try:
        found = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(found)
        return None
    return found


@cache
def sweep(place: str) -> None:
    """Remove what processes of this user have left in a folder that were killed on this machine; once a process."""
    for folder in Path(place).glob(f"suture-*-{_machine()}-*"):
        with contextlib.suppress(OSError):
            stat = folder.lstat()
            if stat.st_uid != os.getuid() or time.time() < stat.st_mtime + YOUNG:
                continue
            if (lock := lock_on(folder)) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)
