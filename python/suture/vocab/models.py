"""The model in a tokenizer.json: what segments text into tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from suture.errors import SutureError
from suture.vocab.numbers import MOST, number_of

FORMS = ("BPE", "Unigram", "WordPiece", "WordLevel")


def tokens_of(whole: Mapping[str, Any], path: Path) -> tuple[str, dict[str, int]]:
    """The form of a tokenizer.json, and its tokens by their text, without those added.

    Raises:
        SutureError: if the model in it is not sound.
    """
    model = whole.get("model")
    if not isinstance(model, dict):
        raise SutureError(f"{path}: expected a mapping `model`, found {_kind(model)}", path)
    form = form_of(model, path)
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "unk_token"):
        if not isinstance(model.get(key), str | None):
            raise SutureError(f"{path}: model.{key}: expected text, found {_kind(model[key])}", path)
    vocab = model.get("vocab")
    if form == "Unigram":
        return form, _pieces(model, vocab, path)
    if not isinstance(vocab, dict):
        raise SutureError(f"{path}: model.vocab: expected a mapping from token to number, found {_kind(vocab)}", path)
    ids = checked(vocab, path, "model.vocab")
    if form == "BPE":
        check_merges(model, ids, path)
    return form, ids


def form_of(model: Mapping[str, Any], path: Path) -> str:
    """What a model is; files of older libraries do not say it.

    Raises:
        SutureError: if it is none of the four.
    """
    form = model.get("type")
    if form is None:
        if isinstance(model.get("vocab"), list):
            return "Unigram"
        if "merges" in model:
            return "BPE"
        return "WordPiece" if "continuing_subword_prefix" in model else "WordLevel"
    if form not in FORMS:
        raise SutureError(f"{path}: model.type: expected one of {', '.join(FORMS)}, found {form!r:.40}", path)
    return str(form)


def checked(vocab: Mapping[str, Any], path: Path, what: str) -> dict[str, int]:
    """Numbers by token, copied.

    Raises:
        SutureError: if a number is none.
    """
    values = vocab.values()
    if not set(map(type, values)) <= {int} or (vocab and not (min(values) >= 0 and max(values) < MOST)):
        for text, number in vocab.items():
            number_of(number, path, f"{what}: `{text:.40}`")
    return dict(vocab)


def _pieces(model: Mapping[str, Any], vocab: Any, path: Path) -> dict[str, int]:
    if not isinstance(vocab, list):
        raise SutureError(f"{path}: model.vocab: expected a list of tokens and scores, found {_kind(vocab)}", path)
    ids: dict[str, int] = {}
    for i, pair in enumerate(vocab):
        match pair:
            case [str() as text, int() | float() as score] if math.isfinite(score):
                if (other := ids.setdefault(text, i)) != i:
                    raise SutureError(f"{path}: model.vocab: `{text:.40}` is token {other} and token {i}", path)
            case _:
                message = f"model.vocab[{i}]: expected a token and a score, found {pair!r:.40}"
                raise SutureError(f"{path}: {message}", path)
    unknown = model.get("unk_id")
    if unknown is not None and number_of(unknown, path, "model.unk_id") >= len(vocab):
        raise SutureError(f"{path}: model.unk_id: there are {len(vocab):,} tokens, found {unknown}", path)
    return ids


def check_merges(model: Mapping[str, Any], ids: Mapping[str, int], path: Path) -> None:
    """Look at what is merged: two tokens, whose text together is one.

    Raises:
        SutureError: if it is anything else.
    """
    merges = model.get("merges", [])
    prefix = model.get("continuing_subword_prefix") or ""
    if not isinstance(merges, list):
        raise SutureError(f"{path}: model.merges: expected a list, found {_kind(merges)}", path)
    for i, merge in enumerate(merges):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        # Not `match`, which takes four times as long; there are half a million.
        if type(pair) is not list or len(pair) != 2 or type(pair[0]) is not str or type(pair[1]) is not str:
            raise SutureError(f"{path}: model.merges[{i}]: expected two tokens, found {merge!r:.40}", path)
        left, right = pair
        made = left + (right.removeprefix(prefix) if prefix else right)
        if left not in ids or right not in ids or made not in ids:
            missing = next(text for text in (left, right, made) if text not in ids)
            message = f"`{left:.40}` and `{right:.40}` are merged, but `{missing:.80}` is no token"
            raise SutureError(f"{path}: model.merges[{i}]: {message}", path)


def _kind(value: Any) -> str:
    return "none" if value is None else type(value).__name__
