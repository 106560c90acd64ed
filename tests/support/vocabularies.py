"""Small tokenizers of all forms, written without suture or the tokenizers package."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FORMS = ("bytes", "pieces", "Unigram", "WordPiece")
Json = dict[str, Any]

_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_SPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
_OUTER: dict[str, tuple[Json | None, Json]] = {
    "bytes": (_LEVEL, _LEVEL),
    "pieces": (_SPACE, {**_SPACE}),
    "Unigram": (_SPACE, {**_SPACE}),
    "WordPiece": ({"type": "BertPreTokenizer"}, {"type": "WordPiece", "prefix": "##", "cleanup": False}),
}


def added(number: int, text: str, *, special: bool = True) -> Json:
    """An entry of `added_tokens`."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": not special, "special": special}
    return {"id": number, "content": text, **flags}


def whole(form: str, model: Json, extra: Sequence[str] = (), *, plain: Sequence[str] = ()) -> Json:
    """A tokenizer.json with added tokens behind those of its model, special ones and others."""
    pre, decoder = _OUTER[form]
    taken = len(model["vocab"])
    listed = [*extra, *plain]
    entries = [added(taken + i, text, special=text in extra) for i, text in enumerate(listed)]
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor"))
    return {
        "version": "1.0", **empty, "added_tokens": entries, "pre_tokenizer": pre, "decoder": decoder, "model": model,
    }  # fmt: skip


def bpe(tokens: Sequence[str], merges: Sequence[tuple[str, str]], *, pairs: bool = True, **more: Any) -> Json:
    """A BPE model; what is merged is added to the tokens."""
    vocab = {text: i for i, text in enumerate(tokens)}
    for left, right in merges:
        vocab.setdefault(left + right, len(vocab))
    listed = [list(pair) if pairs else " ".join(pair) for pair in merges]
    empty = dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"))
    flags = {"fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    return {"type": "BPE", **empty, **flags, **more, "vocab": vocab, "merges": listed}


def unigram(pieces: Mapping[str, float], unknown: int = 0) -> Json:
    """A Unigram model."""
    return {"type": "Unigram", "unk_id": unknown, "vocab": [list(p) for p in pieces.items()], "byte_fallback": False}


def wordpiece(tokens: Sequence[str]) -> Json:
    """A WordPiece model."""
    vocab = {text: i for i, text in enumerate(tokens)}
    return {
        "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
        "vocab": vocab,
    }  # fmt: skip


def write(folder: Path, data: Json | None, roles: Mapping[str, str] | None = None, **files: Json) -> Path:
    """The files of a tokenizer in a folder; other files by their stem."""
    folder.mkdir(parents=True, exist_ok=True)
    if data is not None:
        (folder / "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    named = {f"{role}_token": text for role, text in (roles or {}).items()}
    for name, content in {"tokenizer_config": {"tokenizer_class": "PreTrainedTokenizerFast", **named}, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return folder


def letters(n: int = 26) -> list[str]:
    """The first small letters."""
    return [chr(97 + i) for i in range(n)]
