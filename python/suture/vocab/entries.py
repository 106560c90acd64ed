"""Tokens that are added to a vocabulary, and the roles tokens have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suture.errors import SutureError
from suture.sidecars.files import read_config
from suture.vocab.models import checked
from suture.vocab.numbers import number_of

#: How an added token is looked for in text.
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
CONFIG, MAP, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"


@dataclass(frozen=True)
class Added:
    """A token that is found in text before the rest is segmented.

    Attributes:
        text: the token.
        flags: those of `FLAGS` that are set.
    """

    text: str
    flags: frozenset[str] = frozenset()

    @property
    def special(self) -> bool:
        """Whether it stands for something and not for its text."""
        return "special" in self.flags

    def entry(self) -> dict[str, Any]:
        """It as files have it, without its number."""
        return {"content": self.text, **{flag: flag in self.flags for flag in FLAGS}}


def added_of(whole: Mapping[str, Any], path: Path) -> dict[int, Added]:
    """The added tokens of a tokenizer.json, by their number.

    Raises:
        SutureError: if they are not sound.
    """
    listed = whole.get("added_tokens")
    if listed is None:
        return {}
    if not isinstance(listed, list):
        raise SutureError(f"{path}: added_tokens: expected a list", path)
    found: dict[int, Added] = {}
    for i, entry in enumerate(listed):
        at = f"added_tokens[{i}]"
        if not isinstance(entry, dict):
            raise SutureError(f"{path}: {at}: expected a mapping, found {entry!r:.40}", path)
        _put(found, number_of(entry.get("id"), path, f"{at}.id"), _added(entry, path, at), path)
    return found


def decoder_of(folder: Path, found: dict[int, Added]) -> dict[int, Added]:
    """Added tokens together with those that only tokenizer_config.json or added_tokens.json have.

    Raises:
        SutureError: if the files are not sound or do not agree.
    """
    found = dict(found)
    path = folder / CONFIG
    listed = (read_config(folder, CONFIG) or {}).get("added_tokens_decoder")
    if listed is not None:
        if not isinstance(listed, dict):
            raise SutureError(f"{path}: added_tokens_decoder: expected a mapping", path)
        for key, entry in listed.items():
            at = f"added_tokens_decoder.{key:.40}"
            number = number_of(int(key) if key.isdecimal() and len(key) < 20 else key, path, at)
            if not isinstance(entry, dict):
                raise SutureError(f"{path}: {at}: expected a mapping, found {entry!r:.40}", path)
            _put(found, number, _added(entry, path, at), path)
    path = folder / ADDED
    for text, number in checked(read_config(folder, ADDED) or {}, path, ADDED).items():
        _put(found, number, Added(text), path)
    return found


def roles_of(folder: Path) -> dict[str, str]:
    """The text of the token of each role (``bos``, ``eos``, ``pad``, ...): what tokenizer_config.json says goes first.

    Raises:
        SutureError: if a file is no JSON.
    """
    roles: dict[str, str] = {}
    for name in (MAP, CONFIG):
        for key, value in (read_config(folder, name) or {}).items():
            text = value.get("content") if isinstance(value, dict) else value
            if key.endswith("_token") and isinstance(text, str):
                roles[key.removesuffix("_token")] = text
    return roles


def _added(entry: Mapping[str, Any], path: Path, at: str) -> Added:
    text = entry.get("content")
    if not isinstance(text, str) or not text:
        raise SutureError(f"{path}: {at}.content: expected text, found {text!r:.40}", path)
    flags = {flag: entry.get(flag, False) for flag in FLAGS}
    if wrong := next((flag for flag, value in flags.items() if not isinstance(value, bool)), None):
        raise SutureError(f"{path}: {at}.{wrong}: expected true or false, found {flags[wrong]!r:.40}", path)
    return Added(text, frozenset(flag for flag, value in flags.items() if value))


def _put(found: dict[int, Added], number: int, token: Added, path: Path) -> None:
    own = found.setdefault(number, token)
    if own.text != token.text:
        raise SutureError(f"{path}: token {number} is `{own.text:.40}` and `{token.text:.40}`", path)
