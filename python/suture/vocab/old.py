"""Vocabularies from the time before tokenizer.json: vocab.json and merges.txt, vocab.txt."""

from __future__ import annotations

from pathlib import Path

from suture.errors import SutureError
from suture.sidecars.files import read_config
from suture.vocab.models import check_merges, checked


def old_tokens(folder: Path) -> tuple[str, dict[str, int], str] | None:
    """The form of a vocabulary, its tokens by their text, and how these are written; None without such a file.

    Raises:
        SutureError: if a file is not sound.
    """
    path = folder / "vocab.json"
    if (vocab := read_config(folder, path.name)) is not None:
        ids = checked(vocab, path, "vocab.json")
        merges = lines_of(folder / "merges.txt")
        if merges is None:
            return "WordLevel", ids, "plain"
        check_merges({"merges": merges_of(merges)}, ids, folder / "merges.txt")
        return "BPE", ids, "bytes"
    path = folder / "vocab.txt"
    words = lines_of(path)
    if words is None:
        return None
    tokens: dict[str, int] = {}
    for i, text in enumerate(words):
        if (other := tokens.setdefault(text, i)) != i:
            raise SutureError(f"{path}: `{text:.40}` is in lines {other + 1} and {i + 1}", path)
    return "WordPiece", tokens, "words"


def merges_of(lines: list[str]) -> list[str]:
    """The merges in the lines of a merges.txt, which begins with its version and may end in empty lines."""
    return [line for i, line in enumerate(lines) if line and not (i == 0 and line.startswith("#version"))]


def lines_of(path: Path) -> list[str] | None:
    """The lines of a text; None without the file.

    Raises:
        SutureError: if it is no text.
    """
    if not path.is_file():
        return None
    try:
        # Not `splitlines`, which ends lines at characters that are tokens.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as e:
        raise SutureError(f"{path}: cannot be read as text: {e}", path) from None
    lines = [line.removesuffix("\r") for line in lines]
    return lines[:-1] if lines[-1] == "" else lines
