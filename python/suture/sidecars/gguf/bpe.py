"""Byte-level BPE, as GGUF describes it: tokens and merges are there, what splits text before them is named."""

from __future__ import annotations

from typing import Any

from suture.errors import SutureError
from suture.sidecars.gguf.said import CONTROL, UNUSED, USER, Metadata, closing

_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#: Expressions that split text into words, by what they are called; of None the byte level splits by its own.
SPLITS: dict[str, str | None] = {
    "gpt-2": None,
    "llama-bpe": rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}",
    "qwen2": rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}",
    "tekken": (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
        rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
    ),
    "gpt-4o": (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SHORT}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SHORT}?"
        rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
    ),
}
# The same without whole words.
SPLITS["smaug-bpe"] = SPLITS["llama-bpe"]
#: Other names for these.
_ALSO = {"llama3": "llama-bpe", "llama-v3": "llama-bpe", "gpt2": "gpt-2", "deepseek-r1-qwen": "qwen2"}
#: Those that take every digit for a word, then go by the byte level's own expression.
DIGITS = {"smollm", "starcoder", "refact", "command-r"}
#: Those where a word that is a token is that token, whatever the merges are.
WHOLE = {"llama-bpe", "tekken"}
#: Those that put the first token before every text, unless the file says otherwise.
_BEGIN = {"llama-bpe", "tekken"}


def bpe(found: Metadata) -> dict[str, Any]:
    """The tokenizer.json of byte-level BPE.

    Raises:
        SutureError: if it is not known how text is split, or merges are not sound.
    """
    asked = found.get("pre")
    if asked is None:
        raise SutureError("it does not say how text is split into words (`tokenizer.ggml.pre`)")
    pre = _ALSO.get(str(asked), str(asked))
    if pre not in SPLITS and pre not in DIGITS:
        raise SutureError(f"how `{asked}` splits text into words (`tokenizer.ggml.pre`) is not known")
    added = found.added()
    return {
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if pre == "qwen2" else None,
        "pre_tokenizer": _splitting(pre, found.flag("add_space_prefix", False)),
        "post_processor": closing(found, begins=pre in _BEGIN, ends=False) or _bytes(False, False),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre in WHOLE,
            "vocab": _vocabulary(found, {token["id"] for token in added}),
            "merges": _merges(found),
        },
    }


def _bytes(prefix: bool, splits: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": splits}


def _splitting(pre: str, prefix: bool) -> dict[str, Any]:
    """What splits text into words and those into bytes."""
    if pre in DIGITS:
        first: dict[str, Any] = {"type": "Digits", "individual_digits": True}
    elif (split := SPLITS[pre]) is not None:
        first = {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False}
    else:
        return _bytes(prefix, True)
    return {"type": "Sequence", "pretokenizers": [first, _bytes(prefix, pre in DIGITS)]}


def _vocabulary(found: Metadata, added: set[int]) -> dict[str, int]:
    """The tokens of the model; of those that are added only such as would else get another number.

    A library numbers added tokens on from the last of the model, in their order.
    """
    kept = [i for i, kind in enumerate(found.types) if kind != UNUSED]
    own = [i for i in kept if i not in added]
    end = own[-1] + 1 if own else 0
    inside = [i for i in kept if i in added and i < end]
    behind = [i for i in kept if i in added and i >= end]
    numbers = [*own, *inside]
    if behind != list(range(len(numbers), len(numbers) + len(behind))):
        numbers += behind
    vocab: dict[str, int] = {}
    for i in sorted(numbers):
        if (other := vocab.setdefault(found.tokens[i], i)) != i:
            if found.types[i] in (CONTROL, USER):
                continue
            raise SutureError(f"`tokenizer.ggml.tokens`: `{found.tokens[i]:.40}` is token {other} and token {i}")
    return vocab


def _merges(found: Metadata) -> list[str]:
    merges = found.get("merges")
    if not isinstance(merges, list):
        raise SutureError("it has no merges (`tokenizer.ggml.merges`)")
    for merge in merges:
        # A token may begin with a space where it is plain text; the one that parts the two is not the first letter.
        if not isinstance(merge, str) or merge.find(" ", 1) < 1 or merge.count(" ") != 1:
            raise SutureError(f"`tokenizer.ggml.merges`: expected two tokens and a space, found `{merge!s:.40}`")
    return merges
