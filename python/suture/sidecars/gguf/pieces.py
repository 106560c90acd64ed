"""SentencePiece's tokenizers, as GGUF describes them: BPE by scores (Llama, Gemma) and unigram (T5)."""

from __future__ import annotations

import base64
from typing import Any

from suture.errors import SutureError
from suture.sidecars.gguf.said import UNUSED, Metadata, closing

#: What stands for a space.
_SPACE = "\u2581"


def _texts(found: Metadata) -> list[str]:
    """The tokens, runs of spaces as the model has them."""
    return [text.replace(" ", _SPACE) if text and not text.strip(" ") else text for text in found.tokens]


def _numbers(found: Metadata, texts: list[str]) -> dict[str, int]:
    vocab: dict[str, int] = {}
    for i, text in enumerate(texts):
        if found.types[i] != UNUSED and (other := vocab.setdefault(text, i)) != i:
            raise SutureError(f"`tokenizer.ggml.tokens`: `{text:.40}` is token {other} and token {i}")
    return vocab


def sentencepiece(found: Metadata) -> dict[str, Any]:
    """The tokenizer.json of BPE by scores.

    Raises:
        SutureError: if the metadata is not sound.
    """
    texts = _texts(found)
    vocab = _numbers(found, texts)
    scores = found.listed("scores", float)
    # Gemma puts no space before a text, and its merges are in the order of its tokens.
    prefix = found.flag("add_space_prefix", True)
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    begin = [{"type": "Prepend", "prepend": _SPACE}] if prefix else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    back = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    unknown = found.number("unknown_token_id")
    added = [{**token, "content": texts[token["id"]]} for token in found.added()]
    return {
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [*begin, replace]},
        "pre_tokenizer": None
        if prefix
        else {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
        "post_processor": closing(found, begins=True, ends=False),
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None if unknown is None else texts[unknown],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": _merges(found, vocab, scores if prefix else None),
        },
    }


def _merges(found: Metadata, vocab: dict[str, int], scores: list[float] | None) -> list[list[str]]:
    """The merges: those that are stored, else all ways to put a token together of two others, the best token first.

    By descending score, then lengths of the two; without scores by the number of the token.
    """
    stored = found.get("merges")
    if isinstance(stored, list):
        pairs = [str(merge).split(" ") for merge in stored]
        if any(len(pair) != 2 for pair in pairs):
            raise SutureError("`tokenizer.ggml.merges`: expected two tokens and a space")
        return pairs
    merges: list[tuple[float, int, int, str, str]] = []
    for text, number in vocab.items():
        ways = [(text[:i], text[i:]) for i in range(1, len(text)) if text[:i] in vocab and text[i:] in vocab]
        ways.sort(key=lambda way: (vocab[way[0]], vocab[way[1]]))
        rank = -float(number) if scores is None else float(scores[number])
        merges += [(rank, len(a) if scores else 0, len(b) if scores else 0, a, b) for a, b in ways]
    merges.sort(key=lambda merge: merge[:3], reverse=True)
    return [[a, b] for *_, a, b in merges]


def unigram(found: Metadata) -> dict[str, Any]:
    """The tokenizer.json of a unigram model.

    Raises:
        SutureError: if the metadata is not sound.
    """
    scores = found.listed("scores", float)
    if scores is None:
        raise SutureError("`tokenizer.ggml.scores` is missing; a unigram model is made of them")
    charsmap = found.get("precompiled_charsmap")
    normal = None
    if isinstance(charsmap, list) and charsmap:
        if not all(isinstance(b, int) and -128 <= b < 256 for b in charsmap):
            raise SutureError("`tokenizer.ggml.precompiled_charsmap`: expected bytes")
        text = base64.b64encode(bytes(b & 255 for b in charsmap)).decode()
        normal = {"type": "Precompiled", "precompiled_charsmap": text}
    spaces = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": "always", "split": True}
    if not found.flag("add_space_prefix", True):
        spaces["prepend_scheme"] = "never"
    return {
        "added_tokens": found.added(),
        "normalizer": normal,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, spaces]}
        if found.flag("remove_extra_whitespaces", True)
        else spaces,
        "post_processor": closing(found, begins=False, ends=True),
        "decoder": spaces,
        "model": {
            "type": "Unigram",
            "unk_id": found.number("unknown_token_id"),
            "vocab": [[text, float(score)] for text, score in zip(found.tokens, scores, strict=True)],
            "byte_fallback": False,
        },
    }
