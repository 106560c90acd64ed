"""The tokens of a model, as the files beside its weights say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from suture.errors import SutureError
from suture.sidecars.files import read_config
from suture.sidecars.tokenizer import TOKENIZER_FILES
from suture.vocab.entries import Added, added_of, decoder_of, roles_of
from suture.vocab.keys import Key, key_of, marks_of
from suture.vocab.models import tokens_of
from suture.vocab.numbers import check_ids
from suture.vocab.old import old_tokens

#: Which say what a number is, but need another library to be read.
_SLOW = tuple(name for name in TOKENIZER_FILES if name.endswith((".model", ".spm")) or name == "tekken.json")
#: Larger files are not tokenizers.
_LARGEST = 256 * 2**20


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a model.

    Attributes:
        folder: the model.
        form: ``BPE``, ``Unigram``, ``WordPiece`` or ``WordLevel``; ``slow`` where only files that need another library
            say which token a number is; ``none`` without any file.
        ids: the number of each token, by its text.
        added: the tokens that are found in text before anything else, by their number.
        roles: the text of the token that has a role (``bos``, ``pad``, ...), by the role.
        marks: how bytes and beginnings of words are written: ``bytes``, ``pieces``, ``words`` or ``plain``.
        whole: tokenizer.json; None where there is none.
    """

    folder: Path
    form: str
    ids: Mapping[str, int] = field(repr=False)
    added: Mapping[int, Added] = field(default_factory=dict, repr=False)
    roles: Mapping[str, str] = field(default_factory=dict)
    marks: str = "plain"
    whole: Mapping[str, Any] | None = field(default=None, repr=False)

    @cached_property
    def digest(self) -> str:
        """Of its tokens and their numbers, in the order of numbers (SHA-256)."""
        text = json.dumps(sorted((number, token) for token, number in self.ids.items()))
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def names(self) -> dict[int, str]:
        """The text of each token, by its number, in the order of numbers."""
        return dict(sorted(zip(self.ids.values(), self.ids, strict=True)))

    @property
    def size(self) -> int:
        """How many numbers tokens take: the largest and one."""
        return max(self.ids.values(), default=-1) + 1

    def kind(self, number: int) -> str:
        """What a token is: ``normal``, ``special``, ``byte`` or ``added``."""
        text = self.names[number]
        if text in self.roles.values() or (number in self.added and self.added[number].special):
            return "special"
        if number in self.added:
            return "added"
        return "byte" if self.marks == "pieces" and self.key(number).byte else "normal"

    def key(self, number: int) -> Key:
        """What a token is compared by with tokens of other vocabularies: its role, else its bytes."""
        text = self.names[number]
        special = number in self.added or text in self.roles.values()
        role = next((role for role, token in self.roles.items() if token == text), "")
        return key_of(text, self.marks, special=special, role=role)


def read(folder: Path) -> Vocabulary:
    """The vocabulary of a model, from any of the files tokenizers are stored in.

    Numbers without a token are left: tokenizers of some families have them.

    Raises:
        SutureError: if a file is not sound: other types than expected, two tokens of one number, numbers far beyond the
            tokens, merges of what is no token.
    """
    for name in TOKENIZER_FILES:
        path = folder / name
        if path.is_file() and path.stat().st_size > _LARGEST:
            raise SutureError(f"{path}: expected at most 256 MiB, found {path.stat().st_size:,} bytes", path)
    whole = read_config(folder, "tokenizer.json")
    if whole is not None:
        path = folder / "tokenizer.json"
        form, ids = tokens_of(whole, path)
        added = added_of(whole, path)
        marks = marks_of(form, whole)
    elif (old := old_tokens(folder)) is not None:
        form, ids, marks = old
        path, added = folder, {}
    else:
        slow = any((folder / name).is_file() for name in _SLOW)
        return Vocabulary(folder, "slow" if slow else "none", {})
    added = decoder_of(folder, added)
    ids = _with_added(ids, added, path)
    check_ids(ids, path)
    roles = {role: text for role, text in roles_of(folder).items() if text in ids}
    return Vocabulary(folder, form, ids, added, roles, marks, whole)


def _with_added(ids: dict[str, int], added: Mapping[int, Added], path: Path) -> dict[str, int]:
    """All tokens: those of the model and those added.

    Raises:
        SutureError: if a token has two numbers.
    """
    for number, token in added.items():
        own = ids.setdefault(token.text, number)
        if own != number:
            raise SutureError(f"{path}: `{token.text}` has two numbers, {own} and {number}", path)
    return ids
