"""Text cut into tokens, by the library that the tokenizer.json is for; and lines of text to cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from suture.errors import SutureError, UsageError

#: Lines that are cut at a time.
BATCH = 1024


def segmenter(folder: Path) -> Any:
    """The tokenizer of a model, a `tokenizers.Tokenizer` that neither cuts text off nor pads it.

    Raises:
        UsageError: if the package `tokenizers` is not installed, or the model has no tokenizer.json.
        SutureError: if the file is not sound.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise UsageError("text is segmented by the package tokenizers: pip install tokenizers") from None
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UsageError(
            f"{folder}: has no tokenizer.json, by which text is segmented; load its tokenizer with transformers once "
            "and save it, which writes that file"
        )
    try:
        found = Tokenizer.from_file(str(path))
    except Exception as e:  # It raises no narrower one.
        raise SutureError(f"{path}: the package tokenizers cannot read it: {e}", path) from None
    found.no_padding()
    found.no_truncation()
    return found


def lines_of(files: Iterable[str | PathLike[str]]) -> Iterator[str]:
    """The lines of texts, one after another, without what ends them.

    Raises:
        UsageError: if there is no such file.
        SutureError: if a line is not UTF-8.
    """
    for file in files:
        path = Path(file)
        if not path.is_file():
            raise UsageError(f"`{fspath(file)}`: no such file; expected a text in UTF-8")
        with path.open("rb") as opened:
            for number, raw in enumerate(opened, 1):
                try:
                    text = raw.decode("utf-8")
                except UnicodeDecodeError as e:
                    message = f"line {number} is not UTF-8 (byte {e.start + 1} of it); convert it"
                    raise SutureError(f"{path}: {message}", path) from None
                text = text.removesuffix("\n").removesuffix("\r")
                yield text.removeprefix("\ufeff") if number == 1 else text


def batches(lines: Iterable[str], size: int = BATCH) -> Iterator[Sequence[str]]:
    """Lines, so many at a time."""
    rest = iter(lines)
    while batch := list(islice(rest, size)):
        yield batch
