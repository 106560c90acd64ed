"""Whether two tokenizers with the same tokens cut text alike."""

from __future__ import annotations

from typing import Any

from suture.vocab.tokens import Vocabulary

#: What of a tokenizer.json decides how text is cut, apart from the tokens.
_PARTS = ("normalizer", "pre_tokenizer", "post_processor")
_OTHER = ("vocab", "type", "unk_id")


def differing(a: Vocabulary, b: Vocabulary) -> list[str]:
    """The parts of two tokenizer.json that differ, apart from the tokens; empty where one has none."""
    if a.whole is None or b.whole is None:
        return []
    found = [name for name in _PARTS if a.whole.get(name) != b.whole.get(name)]
    one, other = a.whole["model"], b.whole["model"]
    keys = dict.fromkeys(key for key in (*one, *other) if key not in _OTHER)
    found += [f"model.{key}" for key in keys if _plain(one.get(key)) != _plain(other.get(key))]
    if a.form == b.form == "Unigram" and dict(map(tuple, one["vocab"])) != dict(map(tuple, other["vocab"])):
        found.append("model.vocab (scores)")
    return found


def _plain(value: Any) -> Any:
    """A part of a model: what is not set is not there, and a merge is a pair, however it is written."""
    if isinstance(value, list):
        return [tuple(v.split(" ")) if isinstance(v, str) else tuple(v) if isinstance(v, list) else v for v in value]
    return value or None
