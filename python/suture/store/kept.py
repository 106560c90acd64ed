"""Ranges that are kept on a disk, for the next run: by URL, state and place; several processes may share the folder.

An entry is a file: a digest of what follows, and the bytes. One that does not agree with its digest is removed and
fetched anew. Entries that were used last longest ago go first where there are more bytes than allowed.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from suture.errors import SutureError

#: Bytes that are kept where nobody says.
SIZE = 50_000_000_000
_DIGEST = 32
#: Names of entries, and of those that are being written.
_OURS = re.compile(r"([0-9a-f]{2})/(\1[0-9a-f]{62}|\.range-[0-9a-f]{16})")
#: What is written between two looks at how much there is: a share of what is allowed.
_SHARE = 32


class Kept:
    """The ranges in a folder.

    Args:
        folder: where they lie; made if it is not there.
        size: bytes that are kept, about.

    Raises:
        SutureError: if the folder cannot be made.
    """

    def __init__(self, folder: Path, size: int = SIZE) -> None:
        self.folder, self.size = folder, size
        self._written, self._lock = size, threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise SutureError(f"{folder}: cannot be made ({e.strerror}); give --cache another folder", folder) from None

    def range(self, url: str, state: str, start: int, stop: int, fetch: Callable[[], bytes]) -> bytes:
        """The bytes from `start` to `stop` of an object in a state: those that are kept, else what `fetch` gives."""
        name = hashlib.sha256(f"{url}\0{state}\0{start}-{stop}".encode()).hexdigest()
        path = self.folder / name[:2] / name
        found = _read(path, stop - start)
        if found is None:
            found = fetch()
            self._write(path, found)
        return found

    def _write(self, path: Path, data: bytes) -> None:
        fresh = path.with_name(f".range-{secrets.token_hex(8)}")
        # A full disk, or one that is not ours to write: nothing is kept.
        with suppress(OSError):
            path.parent.mkdir(exist_ok=True)
            try:
                with fresh.open("wb") as file:
                    file.write(hashlib.blake2b(data, digest_size=_DIGEST).digest())
                    file.write(data)
                fresh.replace(path)
            finally:
                fresh.unlink(missing_ok=True)
        with self._lock:
            self._written += len(data)
            due = self._written * _SHARE > self.size
            self._written = 0 if due else self._written
        if due:
            self._trim()

    def _trim(self) -> None:
        entries = []
        for path in self.folder.glob("??/*"):
            # The folder may be anybody's: nothing else in it is ours to remove.
            if not _OURS.fullmatch(f"{path.parent.name}/{path.name}"):
                continue
            # Another process may remove it meanwhile.
            with suppress(OSError):
                stat = path.stat()
                entries.append((stat.st_mtime_ns, stat.st_size, path))
        over = sum(size for _, size, _ in entries) - self.size
        for _, size, path in sorted(entries, key=lambda e: e[:2]):
            if over <= 0:
                return
            with suppress(OSError):
                path.unlink()
            over -= size


def _read(path: Path, length: int) -> bytes | None:
    """What an entry holds, if it is there and sound; one that is not is removed."""
    try:
        with path.open("rb") as file:
            digest, data = file.read(_DIGEST), file.read()
    except OSError:
        return None
    if len(data) == length and hashlib.blake2b(data, digest_size=_DIGEST).digest() == digest:
        # It was used now.
        with suppress(OSError):
            os.utime(path)
        return data
    with suppress(OSError):
        path.unlink()
    return None


_used: list[Kept] = []


def keep(folder: str | os.PathLike[str] | None, size: int = SIZE) -> None:
    """Keep what is fetched from now on in a folder; None for no longer."""
    _used[:] = [] if folder is None else [Kept(Path(folder), size)]


def used() -> Kept | None:
    """Where ranges are kept, if anywhere."""
    return _used[0] if _used else None
