"""What a merge config asks of the tokenizer: `tokenizer_source`, `tokenizer`, `chat_template`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from suture.errors import UsageError
from suture.reference import Reference

#: Keys of a config that concern files beside the tensors.
BESIDE = ("tokenizer", "tokenizer_source", "chat_template")
#: What a source can be besides a model.
WORDS = ("base", "union")
_KEYS = ("source", "tokens", "pad_to_multiple_of")
_ROW_KEYS = ("source", "force")
_KINDS = {"zero": ("kind",), "model_token": ("kind", "model", "token", "token_id")}
#: Rows are padded to a multiple of this at most.
_WIDEST = 2**20


@dataclass(frozen=True)
class Row:
    """Where a model has the row of a token from if it lacks the token.

    Attributes:
        model: the path of the model whose row it is; None for zeros, or if the config does not say.
        token: the token there, by its text or number; None for the same one.
        zero: whether the row is zeros.
        force: whether a model that has the token gets this row all the same.
        at: the key that says so.
    """

    at: str
    model: str | None = None
    token: str | int | None = None
    zero: bool = False
    force: bool = False


@dataclass(frozen=True)
class Tokenizer:
    """Whose tokenizer an output has.

    Attributes:
        source: ``base``, ``union``, or the path of a model.
        at: the key that says so.
        tokens: what the config says of single tokens, by their text.
        pad_to_multiple_of: what the number of rows is a multiple of, if anything.
    """

    source: str
    at: str
    tokens: Mapping[str, Row] = field(default_factory=dict)
    pad_to_multiple_of: int | None = None


def tokenizer_of(recipe: Mapping[str, Any]) -> Tokenizer | None:
    """What a config says of the tokenizer; None if nothing.

    Raises:
        UsageError: if it says two things, or what makes no sense.
    """
    plain, whole = recipe.get("tokenizer_source"), recipe.get("tokenizer")
    if plain is not None and whole is not None:
        message = "stands beside `tokenizer`, whose `source` it is; give one"
        raise UsageError(f"tokenizer_source: {message}", at="tokenizer_source")
    if plain is not None:
        return Tokenizer(_source(plain, "tokenizer_source"), "tokenizer_source")
    if whole is None:
        return None
    if not isinstance(whole, Mapping):
        raise UsageError(f"tokenizer: expected a mapping with `source`, found `{whole}`", at="tokenizer")
    _known(whole, _KEYS, "tokenizer", _idle(recipe))
    source = whole.get("source")
    named = "union" if source is None else _source(source, "tokenizer.source")
    return Tokenizer(named, "tokenizer", _rows(whole.get("tokens"), _idle(recipe)), _multiple(whole))


def template_of(recipe: Mapping[str, Any]) -> str | None:
    """The chat template a config asks for: a name, ``auto``, or Jinja.

    Raises:
        UsageError: if it is no text.
    """
    found = recipe.get("chat_template")
    return None if found is None else _text(found, "chat_template")


def _rows(tokens: Any, idle: bool) -> dict[str, Row]:
    at = "tokenizer.tokens"
    if tokens is None:
        return {}
    if not isinstance(tokens, Mapping):
        raise UsageError(f"{at}: expected a mapping from token to its `source`, found `{tokens}`", at=at)
    rows = {}
    for token, value in tokens.items():
        here = f"{at}.{token}"
        if not isinstance(token, str) or not token:
            raise UsageError(f"{here}: expected a token, found `{token}`; write it in quotes", at=here)
        if not isinstance(value, Mapping):
            raise UsageError(f"{here}: expected a mapping with `source`, found `{value}`", at=here)
        _known(value, _ROW_KEYS, here, idle)
        force = value.get("force", False)
        if not isinstance(force, bool):
            raise UsageError(f"{here}.force: expected true or false, found `{force}`", at=f"{here}.force")
        row = _row(value.get("source"), here, force, idle)
        if force and row.model is None and not row.zero:
            raise UsageError(f"{here}: `force` needs a `source`", at=here)
        rows[token] = row
    return rows


def _row(source: Any, at: str, force: bool, idle: bool) -> Row:
    """What one token's `source` says."""
    here = f"{at}.source"
    if source is None:
        return Row(at, force=force)
    if isinstance(source, str | Reference):
        return Row(at, _source(source, here), force=force)
    kind = source.get("kind") if isinstance(source, Mapping) else None
    if not isinstance(source, Mapping) or not isinstance(kind, str) or kind not in _KINDS:
        names = ", ".join(f"`kind: {name}`" for name in _KINDS)
        raise UsageError(f"{here}: expected a model or a mapping with {names}, found `{source}`", at=here)
    _known(source, _KINDS[kind], here, idle)
    if kind == "zero":
        return Row(at, zero=True, force=force)
    token, number = source.get("token"), source.get("token_id")
    if (token is None) == (number is None):
        raise UsageError(f"{here}: expected one of `token` and `token_id`", at=here)
    if token is not None:
        return Row(at, _source(source.get("model"), f"{here}.model"), _token(token, f"{here}.token"), force=force)
    if type(number) is not int or number < 0:
        raise UsageError(f"{here}.token_id: expected a token's number, found `{number}`", at=f"{here}.token_id")
    return Row(at, _source(source.get("model"), f"{here}.model"), number, force=force)


def _multiple(whole: Mapping[str, Any]) -> int | None:
    value, at = whole.get("pad_to_multiple_of"), "tokenizer.pad_to_multiple_of"
    if value is None or (type(value) is int and value == 0):
        return None
    if type(value) is not int or not 0 < value <= _WIDEST:
        raise UsageError(f"{at}: expected a number from 1 to {_WIDEST:,}, found `{value}`", at=at)
    return value


def _token(value: Any, at: str) -> str:
    if not isinstance(value, str) or not value:
        raise UsageError(f"{at}: expected a token, found `{value}`; write it in quotes", at=at)
    return value


def _known(found: Mapping[str, Any], keys: tuple[str, ...], at: str, idle: bool) -> None:
    if unknown := next((key for key in found if key not in keys and not idle), None):
        message = f"unknown key; expected one of {', '.join(keys)}"
        raise UsageError(f"{at}.{unknown}: {message}", at=f"{at}.{unknown}")


def _idle(recipe: Mapping[str, Any]) -> bool:
    return bool(recipe.get("ignore_unknown"))


def _source(value: Any, at: str) -> str:
    """The word, or the path of the model."""
    return value.path if isinstance(value, Reference) else _text(value, at)


def _text(value: Any, at: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{at}: expected text, found `{value}`", at=at)
    return value
