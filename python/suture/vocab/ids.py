"""Numbers of tokens in config.json and generation_config.json, after tokens got other numbers.

What changes in a file is a mapping like the file, of the keys that change alone: ``{"vocab_size": 10, "text_config":
{"vocab_size": 10}, "eos_token_id": [3, 7]}``. None stands for a token that the output does not have.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from suture.sidecars.files import INNER, read_config
from suture.vocab.align import Aligned
from suture.vocab.tokens import read

FILES = ("config.json", "generation_config.json")
KEY = re.compile(r"(\w+_)?token_(id|ids|index)|(begin_)?suppress_tokens|bad_words_ids|forced_decoder_ids")
_ROLE = re.compile(r"(\w+)_token_(id|index)")


def changes(aligned: Aligned, config: Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What changes in the files of numbers, by the file, and what to tell.

    A token keeps its text and gets the output's number. One that the output does not have becomes what the lead has
    under the same key, or as its role.

    Raises:
        SutureError: if a file is no JSON object.
    """
    places = {name: at for at, name in enumerate(aligned.names) if name is not None}
    own = aligned.vocabularies.get(config) or read(config)
    lead = aligned.vocabularies[aligned.lead]
    moved = {number: places[text] for number, text in own.names.items() if text in places}
    roles = {role: lead.ids[text] for role, text in lead.roles.items()}
    return moved_in(config, moved, aligned.rows, roles, lead=aligned.lead, known=lead.names)


def moved_in(
    config: Path,
    moved: Mapping[int, int],
    rows: int,
    roles: Mapping[str, int],
    *,
    lead: Path | None = None,
    known: Container[int] = (),
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What changes in the files of numbers of the model `config`, by the file, and what to tell.

    Args:
        config: the model.
        moved: the new number of each of its tokens that the output has.
        rows: how many rows the output has.
        roles: the numbers of tokens by their roles, for keys whose token the output does not have.
        lead: the model whose tokenizer the output has, if another; what it has under such a key goes first.
        known: the numbers of its tokens.

    Raises:
        SutureError: if a file is no JSON object.
    """
    moves = _Moves(config, moved, roles, lead or config, known)
    found = {}
    for name in FILES:
        data = read_config(config, name)
        if data is None:
            continue
        made = moves.of(data, (lead and read_config(lead, name)) or {})
        if name == FILES[0]:
            made = with_changes(made, sizes(data, rows))
        if made:
            found[name] = made
    return found, moves.told


def with_changes(data: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """A config after a change."""
    made = dict(data)
    for key, value in change.items():
        made[key] = with_changes(data.get(key) or {}, value) if isinstance(value, dict) else value
    return made


def sizes(data: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """The size of the vocabulary wherever a config has it."""
    made: dict[str, Any] = {"vocab_size": rows} if "vocab_size" in data else {}
    inner = (key for key in INNER if isinstance(data.get(key), dict) and "vocab_size" in data[key])
    return made | {key: {"vocab_size": rows} for key in inner}


@dataclass
class _Moves:
    """From the numbers of one vocabulary to those of the output."""

    config: Path
    moved_to: Mapping[int, int]
    roles: Mapping[str, int]
    lead: Path
    known: Container[int]
    told: list[str] = field(default_factory=list)

    def of(self, data: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
        """What changes in a config; `theirs` is the lead's."""
        made: dict[str, Any] = {}
        for key, value in data.items():
            if key in INNER and isinstance(value, dict):
                inner = theirs.get(key)
                new: Any = self.of(value, inner if isinstance(inner, dict) else {}) or value
            elif KEY.fullmatch(key):
                new = self.moved(key, value, theirs.get(key))
            else:
                continue
            if new != value:
                made[key] = new
        return made

    def moved(self, key: str, value: Any, theirs: Any) -> Any:
        """The output's number for one of a config's, or for those in a list."""
        if isinstance(value, list):
            return self._list(key, value, theirs)
        if (at := self._place(value)) is not None or value is None:
            return at
        new = theirs if self._known(theirs) else self._role(key)
        if new != value:
            what = "left out" if new is None else f"that of {self.lead}, {new}, is taken"
            self.told.append(f"{self.config}: {key} {value} is a token that the output does not have; {what}")
        return new

    def _list(self, key: str, value: list[Any], theirs: Any) -> Any:
        """A list without what names a token that the output lacks."""
        kept = []
        for one in value:
            # Of what is forced the first number is a place in the text.
            first = 1 if key == "forced_decoder_ids" and isinstance(one, list) else 0
            inner = one[first:] if isinstance(one, list) else [one]
            places = [self._place(n) for n in inner]
            if all(at is not None or n is None for at, n in zip(places, inner, strict=True)):
                kept.append([*one[:first], *places] if isinstance(one, list) else places[0])
        if len(kept) < len(value):
            lost = f"{len(value) - len(kept)} of {key} name tokens that the output does not have and are left out"
            self.told.append(f"{self.config}: {lost}")
        if kept or not value:
            return kept
        return theirs if self._known(theirs) else self._role(key)

    def _place(self, number: Any) -> Any:
        """The output's number for one of the config's; None if there is none. What is no token's number stays."""
        if type(number) is not int or number < 0:
            return number
        return self.moved_to.get(number)

    def _known(self, number: Any) -> bool:
        return type(number) is int and number in self.known

    def _role(self, key: str) -> int | None:
        match = _ROLE.fullmatch(key)
        return None if match is None else self.roles.get(match[1])
