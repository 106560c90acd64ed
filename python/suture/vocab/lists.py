"""Lists and tables of tokens that users give as files."""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path

from suture.errors import SutureError, UsageError

#: What is a file by its name and not a token.
_PATH = re.compile(r"^[.~]{0,2}/|\.(txt|tsv|json)$")


def lines_in(path: Path) -> list[str]:
    """The lines of a file of UTF-8, without their ends; an empty last line is none.

    Raises:
        UsageError: if there is no such file.
        SutureError: if it is not UTF-8.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    try:
        data = path.read_bytes()
    except OSError as e:
        raise SutureError(f"{path}: cannot be read: {e.strerror}", path) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise SutureError(f"{path}: line {line}: is not UTF-8 (byte 0x{data[e.start]:02x})", path) from None
    # Not `splitlines`, which ends lines at characters that are tokens.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def tokens_in(path: Path) -> list[str]:
    """The tokens of a file, one a line, each once; empty lines are none.

    Raises:
        UsageError: if there is no such file, or it has no tokens.
        SutureError: if it is not UTF-8.
    """
    found = list(dict.fromkeys(line for line in lines_in(path) if line))
    if not found:
        raise UsageError(f"{path}: has no tokens; expected one a line")
    return found


def pairs_in(path: Path) -> list[tuple[str, str, int]]:
    """What a file of two columns with a tab between them holds, and the line of each; empty lines are none.

    Raises:
        UsageError: if there is no such file.
        SutureError: if it is not UTF-8, or a line has not two columns.
    """
    pairs = []
    for number, line in enumerate(lines_in(path), 1):
        if not line:
            continue
        parts = line.split("\t")
        if len(parts) != 2 or not all(parts):
            raise SutureError(f"{path}: line {number}: expected two columns with a tab between them", path)
        pairs.append((parts[0], parts[1], number))
    return pairs


def asked_in(text: str | PathLike[str], how: str) -> dict[str, str]:
    """Tokens in a file, one a line, behind a tab what is asked for if not `how`; or in a text, with commas between.

    Raises:
        UsageError: if one is there twice.
        SutureError: if the file is not UTF-8.
    """
    if isinstance(text, PathLike) or _is_file(text):
        lines = [line.partition("\t") for line in lines_in(Path(text)) if line]
        pairs = [(token, own or how) for token, _, own in lines]
    else:
        if _PATH.search(text):
            raise UsageError(f"tokens: `{text:.80}` looks like a file, and there is none of that name", at="tokens")
        pairs = [(token, how) for token in (part.strip() for part in text.split(",")) if token]
    found: dict[str, str] = {}
    for token, own in pairs:
        if token in found:
            raise UsageError(f"tokens: `{token:.40}` is listed twice", at="tokens")
        found[token] = own
    return found


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False
