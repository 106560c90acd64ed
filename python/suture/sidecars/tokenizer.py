"""What a model calls its tokens, and the files that say so."""

from __future__ import annotations

import json
from pathlib import Path

#: The files of a tokenizer, which belong together.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "source.spm",
    "target.spm", "tekken.json", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
#: Those that say which token a number is.
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")


def other_tokens(folder: Path, other: Path) -> int:
    """How many ids, of those both vocabularies have, are other tokens in `other`; 0 where either cannot be read."""
    if all(same_file(folder / name, other / name) for name in VOCABULARIES):
        return 0
    own, theirs = token_names(folder), token_names(other)
    return sum(theirs[i] != token for i, token in own.items() if i in theirs)


def same_file(one: Path, other: Path) -> bool:
    """Whether two files hold the same, or neither is there."""
    return _bytes(one) == _bytes(other)


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes() if path.is_file() else None
    except OSError:
        return None


def token_names(folder: Path) -> dict[int, str]:
    """The tokens of a model's vocabulary by their number, from tokenizer.json, vocab.json or vocab.txt; else none."""
    try:
        if (folder / "tokenizer.json").is_file():
            data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
            vocabulary = data["model"]["vocab"]
            listed = isinstance(vocabulary, list)
            pairs = [(i, t[0]) for i, t in enumerate(vocabulary)] if listed else [(i, t) for t, i in vocabulary.items()]
            named = dict(pairs) | {t["id"]: t["content"] for t in data.get("added_tokens") or []}
            return {i: t for i, t in named.items() if isinstance(t, str)}
        if (folder / "vocab.json").is_file():
            return {i: t for t, i in json.loads((folder / "vocab.json").read_text(encoding="utf-8")).items()}
        if (folder / "vocab.txt").is_file():
            return dict(enumerate((folder / "vocab.txt").read_text(encoding="utf-8").splitlines()))
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        # A tokenizer of another make; the figures do not need it.
        return {}
    return {}
