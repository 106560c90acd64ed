"""Folders of stand-ins: made once for each URL, gone when the process ends."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import struct
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path

from suture import _core, escape, temporary
from suture.errors import SutureError
from suture.hub.needed import Kind
from suture.store.chosen import chosen
from suture.store.gguf_head import head
from suture.store.listing import objects
from suture.store.objects import Object
from suture.store.places import WEIGHTS, Place, place
from suture.store.together import aside, in_flight, side_by_side

#: What is fetched of a file of weights to begin with: the header of all but the largest.
_FIRST = 1 << 20
#: The longest header that is read; the core's bound.
_LONGEST_HEADER = 100_000_000
#: The largest file without a safetensors header that is fetched whole: such files are read here and there.
LARGEST_WHOLE = 2 << 30
_ODD = re.compile(r"[^A-Za-z0-9._-]")
_LONGEST_NAME = 255

_made: dict[tuple[str, Kind], Path] = {}
_stood: dict[str, Object] = {}
_lock = threading.Lock()


def made(url: str, kind: Kind) -> Path:
    """The stand-in of what is at `url`; see :func:`suture.store.stand_in`."""
    at = place(url)
    with _lock:
        # What was found once is what the run is about, whatever becomes of the store.
        known = _made.get((at.url, kind)) or _made.get((at.url, "model"))
        if known is None:
            known = _made[(at.url, kind)] = _make(at, kind)
        return known


def object_at(path: Path) -> Object | None:
    """The object that a file stands for; None if it is none that does."""
    return _stood.get(str(path))


def forget(url: str) -> None:
    """Forget what was found at a URL: this process has written there."""
    at = place(url)
    with _lock:
        for key in [key for key in _made if key[0] == at.url or key[0].startswith(f"{at.url}/")]:
            del _made[key]


@cache
def _root() -> Path:
    """The folder of all stand-ins of this process."""
    root, owner = temporary.made("store"), os.getpid()
    # Before it is removed.
    atexit.register(lambda: _core.stop_fetching() if os.getpid() == owner else None)
    return root


def leave(code: int) -> None:
    """End the process with `code` where requests are in flight: nothing waits for them, and the stand-ins go.

    Threads that come back while the interpreter goes away would end it badly.
    """
    if _core.stop_fetching() or in_flight():
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        temporary.all_gone()
        os._exit(code)


def _make(at: Place, kind: Kind) -> Path:
    found = objects(at)
    own = Path(tempfile.mkdtemp(dir=_root(), prefix=""))
    if at.scheme == "hf":
        commit = next(iter(found.values())).url.partition("@")[2].partition("/")[0]
        folder = own / f"models--{at.root.replace('/', '--')}" / "snapshots" / commit
        folder = folder / at.path if at.path and not at.is_file else folder
    else:
        parts = at.url.partition("://")[2].split("/")
        # Random masks go by what a model is called.
        name = parts[-2] if at.is_file and len(parts) > 1 else parts[-1]
        folder = own / (name if _is_plain(name) else _ODD.sub("_", name)[:_LONGEST_NAME])
    folder.mkdir(parents=True)
    shown = at.url.removesuffix(f"/{at.name}") if at.is_file else at.url
    escape.stands_for(str(folder), shown)
    _core.show_remote(str(folder), shown)
    if at.is_file:
        names = list(found)
    else:
        names = chosen(list(found), kind, lambda name: aside(found[name].whole) if name in found else None, at.url)
    try:
        side_by_side(lambda name: _put(folder / name, found[name]), names)
    except OSError as e:
        raise SutureError(f"{folder}: cannot be written ({e.strerror}); TMPDIR names another folder", folder) from None
    return folder / at.name if at.is_file else folder


def _is_plain(name: str) -> bool:
    """Whether a folder can have a name."""
    return name not in ("", ".", "..") and len(name.encode()) <= _LONGEST_NAME


def _put(path: Path, of: Object) -> None:
    """Write an object's stand-in, or all of what is read as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.name.endswith(WEIGHTS) or not of.size:
        path.write_bytes(of.whole())
        return
    first = _fetch(of, 0, min(_FIRST, of.size))
    if path.name.endswith(".gguf"):
        _put_head(path, of, head(first, lambda start, stop: _fetch(of, start, stop), of.size, _LONGEST_HEADER))
        return
    length = struct.unpack("<Q", first[:8])[0] if len(first) >= 8 else 0
    if not path.name.endswith(".safetensors") or length > min(_LONGEST_HEADER, of.size - 8):
        _put_whole(path, of, first)
        return
    start = first[: 8 + length]
    if len(start) < 8 + length:
        start += _fetch(of, len(start), 8 + length)
    _put_head(path, of, start)


def _put_head(path: Path, of: Object, start: bytes) -> None:
    """Write what stands for a file: its head, and its length."""
    with path.open("wb") as file:
        file.write(start)
        file.truncate(of.size)
    _core.remote(str(path), of.url, of.size, of.etag, of.fetch)
    _stood[str(path)] = of


def _put_whole(path: Path, of: Object, first: bytes) -> None:
    """Write a file that has no safetensors header: a pickle, or what is no file of weights at all."""
    if not first.startswith(b"PK") and path.name.endswith(".safetensors"):
        # The core says what it is.
        path.write_bytes(first)
        os.truncate(path, of.size)
        return
    if of.size > LARGEST_WHOLE:
        raise SutureError(
            f"{of.url}: is a pickle of {of.size / 1e9:.1f} GB, which is not read by ranges; "
            "download it, and name its folder (`suture convert` makes safetensors of it)",
            of.url,
        )
    with path.open("wb") as file:
        file.write(first)
        for at in range(len(first), of.size, 16 << 20):
            file.write(_fetch(of, at, min(at + (16 << 20), of.size)))


def _fetch(of: Object, start: int, stop: int) -> bytes:
    try:
        return of.fetch(start, stop)
    except SutureError as e:
        raise SutureError(f"{of.url}: {e}", of.url) from None
