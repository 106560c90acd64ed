"""The numbers of tokens, looked at before they are trusted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from suture.errors import SutureError

#: More tokens than any vocabulary has: 64 times that of the largest.
MOST = 2**24
#: So many numbers may be without a token, whatever the vocabulary.
_FREE = 1024


def number_of(value: Any, path: Path, what: str) -> int:
    """A token's number.

    Raises:
        SutureError: if it is none.
    """
    if type(value) is not int or not 0 <= value < MOST:
        raise SutureError(f"{path}: {what}: expected a number from 0 to {MOST - 1:,}, found {value!r:.40}", path)
    return value


def check_ids(ids: Mapping[str, int], path: Path) -> None:
    """Look at the numbers of all tokens.

    Raises:
        SutureError: if there are none, two tokens have one, or more are without a token than with one.
    """
    if not ids:
        raise SutureError(f"{path}: has no tokens", path)
    if len(set(ids.values())) != len(ids):
        found: dict[int, str] = {}
        for text, number in ids.items():
            if (other := found.setdefault(number, text)) != text:
                message = f"token {number} is `{other:.40}` and `{text:.40}`; two tokens cannot have one number"
                raise SutureError(f"{path}: {message}", path)
    last = max(ids.values())
    if last >= 2 * len(ids) + _FREE:
        message = f"{len(ids):,} tokens have numbers up to {last:,}; most numbers are without a token"
        raise SutureError(f"{path}: {message}", path)
