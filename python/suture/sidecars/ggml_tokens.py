"""A tokenizer.json as a GGUF file has it: byte-level BPE, and SentencePiece's BPE."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from suture.errors import SutureError
from suture.sidecars.gguf.bpe import SPLITS, WHOLE
from suture.sidecars.gguf.said import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER

_BYTES = re.compile(r"<0x[0-9A-F]{2}>")
#: More tokens than any model has.
_MOST = 1 << 24
#: What a config calls the tokens that mean something, and what GGUF calls them.
_SPECIAL = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}


@dataclass
class Vocabulary:
    """A tokenizer as a GGUF file has it.

    Attributes:
        model: ``gpt2`` for byte-level BPE, ``llama`` for SentencePiece's.
        pre: what splits text into words.
        tokens: the text of each, by its number.
        types: the kind of each.
        scores: of ``llama``, which of two pairs is joined first: that of the higher.
        merges: of ``gpt2``, the pairs in the order in which they are joined.
        named: the numbers of tokens that tokenizer_config.json names.
        flags: further keys.
        left: how many tokens are left out, since the model has no row for them.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    named: dict[str, int] = field(default_factory=dict)
    flags: dict[str, bool] = field(default_factory=dict)
    left: int = 0

    def special(self, config: Mapping[str, Any]) -> dict[str, int]:
        """The tokens that mean something, as GGUF calls them; config.json comes first, but for the first of a text."""
        found = {}
        for ours, theirs in _SPECIAL.items():
            own = config.get(f"{ours}_token_id")
            own = own[0] if isinstance(own, list) and own else own
            first = ours == "bos" and ours in self.named
            number = own if isinstance(own, int) and not first else self.named.get(ours)
            if number is not None and 0 <= number < len(self.tokens):
                found[theirs] = number
        return found


def vocabulary(whole: Mapping[str, Any], beside: Mapping[str, Any], rows: int) -> Vocabulary:
    """The vocabulary of a tokenizer.json.

    Args:
        whole: the file.
        beside: tokenizer_config.json.
        rows: how many rows the tables of tokens have: numbers that no token has are filled.

    Raises:
        SutureError: if it is of a kind that GGUF has no word for.
    """
    model = whole.get("model") or {}
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not isinstance(merges, list) or model.get("type", "BPE") != "BPE":
        raise SutureError(
            "tokenizer.json: only BPE is written as GGUF; leave the tokenizer out of the folder, or use llama.cpp"
        )
    pieces = bool(model.get("byte_fallback"))
    added = [t for t in whole.get("added_tokens") or [] if isinstance(t, dict)]
    numbers = {int(n): str(t) for t, n in vocab.items()}
    known = {*numbers, *(int(t["id"]) for t in added)}
    count = rows or 1 + max(known, default=-1)
    if min(known, default=0) < 0 or count > _MOST:
        raise SutureError(f"tokenizer.json: expected numbers of tokens from 0 to {_MOST:,}, found others")
    tokens, types = [f"[PAD{i}]" for i in range(count)], [UNUSED] * count
    for number, text in numbers.items():
        if number < count:
            tokens[number], types[number] = text, BYTE if pieces and _BYTES.fullmatch(text) else NORMAL
    for token in added:
        if (number := int(token["id"])) < count:
            tokens[number] = str(token["content"])
            types[number] = CONTROL if token.get("special") else USER
    _refuse_normalizers(whole, pieces)
    pairs = [m if isinstance(m, str) else " ".join(map(str, m)) for m in merges]
    ids = {t: i for i, t in enumerate(tokens)}
    ends = _ends(whole)
    called = {key: _named(beside, key) or ends.get(key) for key in _SPECIAL}
    named = {key: ids[name] for key, name in called.items() if name in ids}
    flags, left = _around(ends, beside, called), sum(number >= count for number in known)
    if not pieces:
        return Vocabulary("gpt2", _pre(whole), tokens, types, merges=pairs, named=named, flags=flags, left=left)
    unknown = model.get("unk_token")
    if unknown in ids:
        types[ids[unknown]] = UNKNOWN
    # A token is as good as the first pair that makes it.
    scores = [0.0] * count
    for rank, pair in reversed(list(enumerate(pairs))):
        if (made := ids.get(pair.replace(" ", "", 1))) is not None:
            scores[made] = -1.0 - rank
    flags["add_space_prefix"] = _prefixed(whole)
    return Vocabulary("llama", "default", tokens, types, scores, named=named, flags=flags, left=left)


def _ends(whole: Mapping[str, Any]) -> dict[str, str | None]:
    """The tokens that are put before every text and behind it."""
    steps = _steps(whole, "post_processor", "processors")
    single = next((s.get("single") for s in steps if s.get("type") == "TemplateProcessing"), None) or [{}]
    return {key: (single[at].get("SpecialToken") or {}).get("id") for key, at in (("bos", 0), ("eos", -1))}


def _around(
    ends: Mapping[str, str | None], beside: Mapping[str, Any], called: Mapping[str, str | None]
) -> dict[str, bool]:
    """Whether the first token is put before every text and the last behind it: readers of a kind of tokenizer differ
    in what they do where that is not said."""
    flags = {}
    for key, end in ends.items():
        if end not in (None, called[key]):
            message = f"it puts `{end}` around every text, and tokenizer_config.json calls `{called[key]}` the {key}"
            raise SutureError(f"tokenizer.json: {message}; GGUF has no word for that")
        said = beside.get(f"add_{key}_token")
        flags[f"add_{key}_token"] = said if isinstance(said, bool) else end is not None
    return flags


def _refuse_normalizers(whole: Mapping[str, Any], pieces: bool) -> None:
    """Refuse a tokenizer that changes text in a way that GGUF has no word for."""
    usual = {"Prepend", "Replace"} if pieces else {"NFC"}
    for step in _steps(whole, "normalizer", "normalizers"):
        kind = step.get("type")
        spaces = kind != "Replace" or step.get("pattern") == {"String": " "}
        if kind not in usual or not spaces:
            raise SutureError(f"tokenizer.json: it changes text by `{kind}`, for which GGUF has no word")


def _named(beside: Mapping[str, Any], key: str) -> str | None:
    found = beside.get(f"{key}_token")
    return found.get("content") if isinstance(found, Mapping) else found


def _steps(whole: Mapping[str, Any], key: str, inner: str) -> list[Mapping[str, Any]]:
    """The steps of a part of the tokenizer, in order."""
    part = whole.get(key)
    if not isinstance(part, Mapping):
        return []
    steps = part.get(inner) if part.get("type") == "Sequence" else [part]
    return [s for s in steps or [] if isinstance(s, Mapping)]


def _prefixed(whole: Mapping[str, Any]) -> bool:
    """Whether a space is put before every text."""
    first = any(s.get("type") == "Prepend" for s in _steps(whole, "normalizer", "normalizers"))
    scheme = [s.get("prepend_scheme") for s in _steps(whole, "pre_tokenizer", "pretokenizers")]
    return first or "always" in scheme or "first" in scheme


def _pre(whole: Mapping[str, Any]) -> str:
    """What GGUF calls the way that text is split into words."""
    steps = _steps(whole, "pre_tokenizer", "pretokenizers")
    kinds = [s.get("type") for s in steps]
    split = next((s.get("pattern") for s in steps if s.get("type") == "Split"), None)
    pattern = split.get("Regex") if isinstance(split, Mapping) else None
    usual = not (steps and (steps[-1].get("add_prefix_space") or steps[0].get("invert")))
    isolated = steps and steps[0].get("behavior") == "Isolated"
    whole_words = bool((whole.get("model") or {}).get("ignore_merges"))
    names = [name for name, split in SPLITS.items() if split == pattern and (name in WHOLE) == whole_words]
    if usual and kinds == ["Split", "ByteLevel"] and pattern and isolated and names:
        return names[0]
    if usual and kinds == ["ByteLevel"] and steps[0].get("use_regex", True) and not whole_words:
        return "gpt-2"
    if usual and kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and not whole_words:
        return "smollm"
    raise SutureError("tokenizer.json: the way that it splits text into words is none that GGUF has a name for here")
