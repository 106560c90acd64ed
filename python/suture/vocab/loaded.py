"""Tokenizers as the library `tokenizers` runs them: a model's when it is first asked, one that was made here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from suture.errors import SutureError
from suture.vocab.segmenter import segmenter


def numbers_by(folder: Path) -> Callable[[str], Sequence[int]]:
    """Text into the numbers of a model's tokens, without those put around it; the library is loaded when it is first
    asked.

    Raises:
        UsageError, SutureError: when it is asked, as :func:`segmenter`.
    """
    made: list[Any] = []

    def numbers(text: str) -> Sequence[int]:
        if not made:
            made.append(segmenter(folder))
        found: Sequence[int] = made[0].encode(text, add_special_tokens=False).ids
        return found

    return numbers


def tokenizer_of(data: bytes, path: Path) -> Any:
    """A `tokenizers.Tokenizer` of a tokenizer.json that was made here, which neither cuts text off nor pads it.

    Raises:
        SutureError: if the library does not take the file.
    """
    from tokenizers import Tokenizer

    try:
        found = Tokenizer.from_str(data.decode("utf-8", "surrogatepass"))
    except Exception as e:  # It raises no narrower one.
        raise SutureError(f"{path}: the package tokenizers cannot load what is made of it: {e}", path) from None
    found.no_padding()
    found.no_truncation()
    return found
