"""Lines of large texts, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from suture.errors import SutureError, UsageError

#: Bytes of text that are held at once, about: two threads have enough to do with it.
BATCH = 2**20
#: Longer lines are no lines of text, and a tokenizer takes hundreds of times their bytes for each.
_LONGEST = 8 * 2**20


def checked(path: Path) -> Path:
    """A text that can be read more than once.

    Raises:
        UsageError: if it is no file, or is empty.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file of text; it is read more than once, so a pipe is none", at=str(path))
    if not path.stat().st_size:
        raise UsageError(f"{path}: has no text", at=str(path))
    return path


def batches(path: Path, size: int = BATCH) -> Iterator[tuple[int, int, list[str]]]:
    """The lines of a text without their ends, about `size` bytes at a time: the number of the first, their bytes, they.

    Raises:
        SutureError: if a line is not UTF-8, or longer than 8 MiB (the message has its number), or the file cannot be
            read.
    """
    first = 1
    try:
        with path.open("rb") as file:
            while raw := file.readlines(size):
                yield first, sum(map(len, raw)), [_line(one, path, first + i) for i, one in enumerate(raw)]
                first += len(raw)
    except OSError as e:
        raise SutureError(f"{path}: cannot be read: {e}", path) from None


def _line(raw: bytes, path: Path, number: int) -> str:
    if len(raw) > _LONGEST:
        raise SutureError(f"{path}:{number}: the line has {len(raw):,} bytes; break it at {_LONGEST:,}", path)
    try:
        text = raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as e:
        message = f"is not UTF-8: byte {e.start + 1} of the line is 0x{raw[e.start]:02x}; convert it to UTF-8"
        raise SutureError(f"{path}:{number}: {message}", path) from None
    # What some write before a text to say that it is UTF-8.
    return text.removeprefix("\ufeff") if number == 1 else text
