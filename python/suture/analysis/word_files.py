"""Word vectors as files: word2vec's text, NumPy's array with a list of words, safetensors."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from suture.errors import SutureError, UsageError

#: Blocks of vectors, float32 [n, width], in the order of the words.
Blocks = Iterable[NDArray[np.float32]]
#: The endings of files, and how they are written.
SUFFIXES = (".vec", ".txt", ".npy", ".safetensors")


def check(out: str | PathLike[str], words: list[str], overwrite: bool, read: Path | None = None) -> None:
    """Look whether word vectors can be written.

    Raises:
        UsageError: if the file is there already, its ending is none of `SUFFIXES`, or two words are one in it.
    """
    path = Path(out)
    if path.suffix not in SUFFIXES:
        listed = ", ".join(f"`{suffix}`" for suffix in SUFFIXES)
        raise UsageError(f"`{fspath(out)}`: expected a name that ends in one of {listed}", at="out")
    for one in files_of(path):
        if read is not None and one.exists() and one.samefile(read):
            raise UsageError(f"{one}: the list of words is read from it; choose another name", at="out")
        if one.exists() and not overwrite:
            raise UsageError(f"{one}: exists already; choose another name, or replace it with overwrite (--overwrite)")
    if path.suffix in (".vec", ".txt"):
        seen: dict[str, str] = {}
        for word in words:
            if (other := seen.setdefault(_joined(word), word)) != word:
                message = f"`{other}` and `{word}` are one word in word2vec's text, which has no spaces in words"
                raise UsageError(f"{path}: {message}; write .npy or .safetensors", at="out")


def files_of(path: Path) -> list[Path]:
    """The files that are written for a name."""
    return [path, path.with_suffix(".txt")] if path.suffix == ".npy" else [path]


def write(out: str | PathLike[str], words: list[str], width: int, blocks: Blocks) -> list[str]:
    """Write word vectors, a block at a time, and give the names of the files; `check` is done before.

    Raises:
        SutureError: if they cannot be written.
    """
    path = Path(out)
    how: Callable[[IO[bytes], list[str], int, Blocks], None] = {
        ".npy": _array, ".safetensors": _safetensors,
    }.get(path.suffix, _text)  # fmt: skip
    try:
        with _replaced(path) as file:
            how(file, words, width, blocks)
        if path.suffix == ".npy":
            with _replaced(path.with_suffix(".txt")) as file:
                file.writelines(f"{word}\n".encode() for word in words)
    except OSError as e:
        raise SutureError(f"{path}: cannot be written: {e.strerror or e}", path) from None
    return [str(one) for one in files_of(path)]


@contextmanager
def _replaced(path: Path) -> Iterator[IO[bytes]]:
    """A file that has its name only when it is whole."""
    part = path.with_name(f".{path.name}.suture-partial")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _text(file: IO[bytes], words: list[str], width: int, blocks: Blocks) -> None:
    """A line of how many and how wide, then each word and its numbers, in nine digits, which give float32 back."""
    file.write(f"{len(words)} {width}\n".encode())
    rest = iter(words)
    for block in blocks:
        for row in block.tolist():
            file.write(f"{_joined(next(rest))} {' '.join(f'{value:.9g}' for value in row)}\n".encode())


def _joined(word: str) -> str:
    return "_".join(word.split())


def _array(file: IO[bytes], words: list[str], width: int, blocks: Blocks) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(words), width)}
    np.lib.format.write_array_header_1_0(file, header)
    for block in blocks:
        file.write(block.astype("<f4").tobytes())


def _safetensors(file: IO[bytes], words: list[str], width: int, blocks: Blocks) -> None:
    """One tensor, `vectors`; the words are JSON in the metadata."""
    entry = {"dtype": "F32", "shape": [len(words), width], "data_offsets": [0, 4 * len(words) * width]}
    header = {"__metadata__": {"words": json.dumps(words, ensure_ascii=False)}, "vectors": entry}
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for block in blocks:
        file.write(block.astype("<f4").tobytes())
