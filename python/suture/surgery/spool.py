"""The folder of this machine in which shards of an output that goes to a store are made, one after the other."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from suture import escape
from suture.errors import SutureError
from suture.temporary import lock_on

_WEEK = 7 * 86_400


class Spool:
    """A folder for the shards of one plan on their way to one URL, where a later run finds it again.

    As a context it is this process's alone. It goes at the end; after an error what was made stays, and is told.
    """

    def __init__(self, url: str, plan: str) -> None:
        name = hashlib.sha256(f"{url} {plan}".encode()).hexdigest()[:16]
        self.folder = Path(tempfile.gettempdir()) / f"suture-spool-{os.getuid()}-{name}"
        self.out = self.folder / "out"
        self._url, self._lock = url, -1
        escape.stands_for(str(self.out), url)

    def __enter__(self) -> Spool:
        """Make the folder, and take it.

        Raises:
            SutureError: if it cannot be made, is not ours, or another process has it.
        """
        sweep()
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            found = self.folder.lstat()
            if self.folder.is_symlink() or found.st_uid != os.getuid():
                raise SutureError(f"{self.folder}: is not this user's; TMPDIR names another folder", self.folder)
            self._lock = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._lock)
                raise SutureError(f"{self._url}: another process of this machine is writing it", self._url) from None
        except OSError as e:
            message = f"cannot be made ({e.strerror}); TMPDIR names another folder"
            raise SutureError(f"{self.folder}: {message}", self.folder) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the folder go; it is removed unless shards are left in it that a later run can use.

        Raises:
            SutureError: the error, with where these lie.
        """
        is_left = error is not None and any(self.folder.rglob("*.safetensors"))
        if not is_left:
            shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)
        if is_left and isinstance(error, SutureError):
            told = f"{error}; the same command goes on with what lies in {self.folder}; else remove it"
            raise type(error)(told, error.path, error.tensor, error.at) from None


def sweep() -> None:
    """Remove spools of this user that no process has, and nobody has touched for a week."""
    for folder in Path(tempfile.gettempdir()).glob(f"suture-spool-{os.getuid()}-*"):
        with suppress(OSError):
            last = max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
            if time.time() < last + _WEEK or folder.lstat().st_uid != os.getuid():
                continue
            if (lock := lock_on(folder)) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)
