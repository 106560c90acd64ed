"""What a merge config asks of the tokenizer: `tokenizer_source`, `tokenizer`, `chat_template`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from suture.errors import UsageError
from suture.reference import Reference

#: Keys of a config that concern files beside the tensors.
BESIDE = ("tokenizer", "tokenizer_source", "chat_template")
#: What a source can be besides a model.
WORDS = ("base", "union")
_KEYS = ("source", "tokens", "pad_to_multiple_of")


@dataclass(frozen=True)
class Tokenizer:
    """Whose tokenizer an output has.

    Attributes:
        source: ``base``, ``union``, or the path of a model.
        at: the key that says so.
    """

    source: str
    at: str


def tokenizer_of(recipe: Mapping[str, Any]) -> Tokenizer | None:
    """What a config says of the tokenizer; None if nothing.

    Raises:
        UsageError: if it says two things, or what is not built yet.
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
    if unknown := next((key for key in whole if key not in _KEYS and not _idle(recipe)), None):
        message = f"unknown key; expected one of {', '.join(_KEYS)}"
        raise UsageError(f"tokenizer.{unknown}: {message}", at=f"tokenizer.{unknown}")
    for key in ("tokens", "pad_to_multiple_of"):
        if whole.get(key):
            raise UsageError(f"tokenizer.{key}: is not supported yet; remove it", at=f"tokenizer.{key}")
    source = whole.get("source")
    return Tokenizer("union" if source is None else _source(source, "tokenizer.source"), "tokenizer")


def template_of(recipe: Mapping[str, Any]) -> str | None:
    """The chat template a config asks for: a name, ``auto``, or Jinja.

    Raises:
        UsageError: if it is no text.
    """
    found = recipe.get("chat_template")
    return None if found is None else _text(found, "chat_template")


def _idle(recipe: Mapping[str, Any]) -> bool:
    return bool(recipe.get("ignore_unknown"))


def _source(value: Any, at: str) -> str:
    """The word, or the path of the model."""
    return value.path if isinstance(value, Reference) else _text(value, at)


def _text(value: Any, at: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{at}: expected text, found `{value}`", at=at)
    return value
