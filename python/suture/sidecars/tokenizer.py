"""What a model calls its tokens."""

from __future__ import annotations

import json
from pathlib import Path


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
