"""How a config tells one thing about each of its layers, and how it can be told again after layers moved.

A rule reads, for every layer, one plain value of one aspect (attention, rope, mlp, ...), and writes the keys that
tell given values, if its keys can. Nothing here knows a model family; `kind_tables` puts the rules together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from suture.errors import SutureError

Section = Mapping[str, Any]
#: What is changed in a section: new values by key; None as a value removes the key.
Changes = dict[str, Any]
Schedule = Callable[[Section, int], list[str]]


def whole(section: Section, key: str, default: int | None, least: int = 0) -> int | None:
    """A whole number of a section, its default where it is absent or null.

    Raises:
        SutureError: if it is none, or less than makes sense.
    """
    value = section.get(key)
    if value is None:
        return default
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or value < least:
        raise SutureError(f"config.json: expected a whole number of at least {least} for `{key}`, found {value!r}")
    return value


def number(section: Section, key: str, default: int, least: int = 0) -> int:
    """The same where absent never means none."""
    found = whole(section, key, default, least)
    assert found is not None
    return found


def numbers(section: Section, key: str) -> list[int] | None:
    """A list of layer numbers; None where it is absent or null."""
    value = section.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or any(type(v) is not int for v in value):
        raise SutureError(f"config.json: expected a list of layer numbers for `{key}`, found {value!r}")
    return list(value)


def plain(value: Any) -> str:
    """A JSON value as text that is equal where the values are."""
    return json.dumps(value, sort_keys=True)


@dataclass(frozen=True)
class Rule:
    """One aspect of every layer, as some keys tell it."""

    aspect: str
    keys: tuple[str, ...] = ()

    def present(self, section: Section) -> bool:
        """Whether the section has any of the keys."""
        return any(section.get(k) is not None for k in self.keys)

    def lists(self) -> tuple[str, ...]:
        """The keys with one entry a layer, which move with the layers."""
        return ()

    def read(self, section: Section, layers: int) -> list[str]:
        """The value of every layer."""
        raise NotImplementedError

    def write(self, section: Section, wanted: Sequence[str]) -> Changes | None:
        """The keys that tell these values; None if they cannot."""
        del section, wanted
        return None

    def settle(self, section: Section, wanted: Sequence[str]) -> Changes | None:
        """What to change so that the section tells these values; None if its keys cannot."""
        return {} if self.says(section, wanted) else self.write(section, wanted)

    def says(self, section: Section, wanted: Sequence[str]) -> bool:
        """Whether the section tells these values; a list that is not as long as there are layers now does not."""
        try:
            return self.read(section, len(wanted)) == list(wanted)
        except SutureError:
            return False


@dataclass(frozen=True)
class Listed(Rule):
    """A list with one entry a layer, under the first of the keys that is there."""

    #: What an entry means; an entry that is not here stands for itself.
    names: Mapping[Any, str] = field(default_factory=dict)
    #: How a meaning is written; the first name with that meaning where it is not here.
    spelled: Mapping[str, Any] = field(default_factory=dict)
    #: An empty list is read as none.
    empty_is_none: bool = False
    #: A longer list is cut off, rather than a mistake.
    cut: bool = False

    def _key(self, section: Section) -> str | None:
        void: list[Any] = [None, []] if self.empty_is_none else [None]
        return next((k for k in self.keys if section.get(k) not in void), None)

    def present(self, section: Section) -> bool:
        """Whether there is such a list."""
        return self._key(section) is not None

    def lists(self) -> tuple[str, ...]:
        """The keys with one entry a layer."""
        return self.keys

    def read(self, section: Section, layers: int) -> list[str]:
        """The meaning of each entry."""
        key = self._key(section)
        entries = section.get(key) if key else None
        if not isinstance(entries, list):
            raise SutureError(f"config.json: expected a list for `{key or self.keys[0]}`, found {entries!r}")
        if (len(entries) != layers and not (self.cut or len(entries) - layers == extra(section))) or len(
            entries
        ) < layers:
            raise SutureError(
                f"config.json: expected one entry for each of the {layers} layers in `{key}`, found {len(entries)}"
            )
        return [self.meaning(entry) for entry in entries[:layers]]

    def meaning(self, entry: Any) -> str:
        """What an entry says."""
        if isinstance(entry, str | int | float) and entry in self.names:
            return self.names[entry]
        return entry if isinstance(entry, str) else plain(entry)

    def write(self, section: Section, wanted: Sequence[str]) -> Changes | None:
        """The list, spelled out."""
        back: dict[str, Any] = {}
        for name, meaning in self.names.items():
            back.setdefault(meaning, name)
        back |= self.spelled
        entries = [back[w] if w in back else _from_plain(w) for w in wanted]
        return {self._key(section) or self.keys[0]: entries}


def _from_plain(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def extra(section: Section) -> int:
    """How many layers for predicting further tokens follow those counted, and may have entries of their own."""
    for key in ("num_nextn_predict_layers", "num_mtp_layers"):
        if type(section.get(key)) is int:
            return max(0, int(section[key]))
    return 0


@dataclass(frozen=True)
class Fixed(Rule):
    """Values that follow from the number of a layer and of all layers, and that no key of these can change."""

    schedule: Schedule = lambda _, n: [""] * n

    def read(self, section: Section, layers: int) -> list[str]:
        """The values by the schedule."""
        values = self.schedule(section, layers)
        if len(values) != layers:
            told = next((k for k in self.keys if section.get(k) is not None), "model_type")
            raise SutureError(
                f"config.json: expected a kind for each of the {layers} layers by `{told}`, found {len(values)}"
            )
        return values


@dataclass(frozen=True)
class Every(Rule):
    """One layer in every few is different; the first of the keys is the period."""

    period: int = 1
    hit: str = "full"
    miss: str = "sliding"
    #: Added to a layer's number before it is divided: 1 makes the last of each few different, 0 the first.
    phase: int = 1
    #: A period of 0 means that there is none, and that every layer is as `zero` says.
    zero: str | None = None

    def _period(self, section: Section) -> int:
        least = 1 if self.zero is None else 0
        return number(section, self.keys[0], self.period, least) if self.keys else self.period

    def read(self, section: Section, layers: int) -> list[str]:
        """What the period says of every layer."""
        return self._at(self._period(section), layers)

    def _at(self, period: int, layers: int) -> list[str]:
        if period == 0:
            return [str(self.zero)] * layers
        return [self.hit if (i + self.phase) % period == 0 else self.miss for i in range(layers)]

    def write(self, section: Section, wanted: Sequence[str]) -> Changes | None:
        """Another period, if one fits."""
        del section
        periods = range(1, len(wanted) + 2) if self.keys else ()
        return next(({self.keys[0]: p} for p in periods if self._at(p, len(wanted)) == list(wanted)), None)


@dataclass(frozen=True)
class Offset(Rule):
    """One layer in every few is different, from an offset on; the keys are the period and the offset."""

    period: int = 1
    offset: int = 0
    hit: str = "full"
    miss: str = "linear"

    def read(self, section: Section, layers: int) -> list[str]:
        """What the two say of every layer."""
        period = number(section, self.keys[0], self.period, 1)
        return self._at(period, number(section, self.keys[1], self.offset), layers)

    def _at(self, period: int, offset: int, layers: int) -> list[str]:
        return [self.hit if i % period == offset else self.miss for i in range(layers)]

    def write(self, section: Section, wanted: Sequence[str]) -> Changes | None:
        """Another period and offset, if some fit."""
        del section
        most = len(wanted) + 1
        for period in range(1, most + 1):
            for offset in range(period):
                if self._at(period, offset, len(wanted)) == list(wanted):
                    return {self.keys[0]: period, self.keys[1]: offset}
        return None


@dataclass(frozen=True)
class First(Rule):
    """The first few layers are different; the key counts them."""

    default: int = 0
    before: str = "dense"
    after: str = "experts"

    def read(self, section: Section, layers: int) -> list[str]:
        """What the count says of every layer."""
        count = number(section, self.keys[0], self.default)
        return [self.before if i < count else self.after for i in range(layers)]

    def write(self, section: Section, wanted: Sequence[str]) -> Changes | None:
        """Another count, if one fits."""
        del section
        count = next((i for i, w in enumerate(wanted) if w != self.before), len(wanted))
        fits = all(w == self.after for w in wanted[count:])
        return {self.keys[0]: count} if fits else None


@dataclass(frozen=True)
class Last(Rule):
    """The last few layers are different, unless they are all; the key counts them."""

    default: int = 0
    before: str = ""
    after: str = "shared"
    #: Whether the count may be that of all layers; if not, such a count means none.
    even_all: bool = False

    def read(self, section: Section, layers: int) -> list[str]:
        """What the count says of every layer."""
        first = layers - number(section, self.keys[0], self.default)
        some = first > 0 or (first == 0 and self.even_all)
        return [self.after if some and i >= first else self.before for i in range(layers)]

    def write(self, section: Section, wanted: Sequence[str]) -> Changes | None:
        """Another count, if one fits."""
        count = next((i for i, w in enumerate(reversed(wanted)) if w != self.after), len(wanted))
        fits = all(w == self.before for w in wanted[: len(wanted) - count])
        return {self.keys[0]: count} if fits and (count < len(wanted) or self.even_all) else None


@dataclass(frozen=True)
class Members(Rule):
    """A list of the numbers of the layers that are different."""

    hit: str = "full"
    miss: str = "linear"
    default: tuple[int, ...] | None = ()
    #: The number of the first layer, as the list counts.
    base: int = 0

    def read(self, section: Section, layers: int) -> list[str]:
        """What the list says of every layer; without list and default all layers are in it."""
        listed = numbers(section, self.keys[0])
        among = listed if listed is not None else self.default
        return [self.hit if among is None or i + self.base in among else self.miss for i in range(layers)]

    def write(self, section: Section, wanted: Sequence[str]) -> Changes | None:
        """The list of those that are wanted so."""
        del section
        if set(wanted) - {self.hit, self.miss}:
            return None
        return {self.keys[0]: [i + self.base for i, w in enumerate(wanted) if w == self.hit]}


@dataclass(frozen=True)
class Cycle(Rule):
    """A list of kinds that is repeated over the layers."""

    default: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)

    def read(self, section: Section, layers: int) -> list[str]:
        """The list, over and over."""
        cycle = section.get(self.keys[0]) or list(self.default)
        if not isinstance(cycle, list | tuple):
            raise SutureError(f"config.json: expected a list for `{self.keys[0]}`, found {cycle!r}")
        return [self.names.get(str(cycle[i % len(cycle)]), str(cycle[i % len(cycle)])) for i in range(layers)]

    def write(self, section: Section, wanted: Sequence[str]) -> Changes | None:
        """The list, as long as there are layers."""
        back = {v: k for k, v in self.names.items()}
        written = [back.get(w, w) for w in wanted]
        # Under a private name some versions of transformers wrote the same once more.
        return {k: list(written) for k in self.keys if k == self.keys[0] or k in section}


@dataclass(frozen=True)
class Letters(Rule):
    """A text with one letter a layer."""

    letters: Mapping[str, str] = field(default_factory=dict)

    def read(self, section: Section, layers: int) -> list[str]:
        """The meaning of each letter."""
        text = section.get(self.keys[0])
        if not isinstance(text, str) or len(text) != layers:
            raise SutureError(
                f"config.json: expected one letter for each of the {layers} layers in `{self.keys[0]}`, found {text!r}"
            )
        return [self.letters.get(c, c) for c in text]

    def write(self, section: Section, wanted: Sequence[str]) -> Changes | None:
        """The text."""
        del section
        back = {v: k for k, v in self.letters.items()}
        return (
            {self.keys[0]: "".join(back.get(w, w) for w in wanted)}
            if all(len(back.get(w, w)) == 1 for w in wanted)
            else None
        )


@dataclass(frozen=True)
class FirstOf(Rule):
    """Ways to tell the same, of which the first that is there counts; the last holds where none is."""

    ways: tuple[Rule, ...] = ()

    def _told_by(self, section: Section) -> int:
        return next((i for i, way in enumerate(self.ways) if way.present(section)), len(self.ways) - 1)

    def lists(self) -> tuple[str, ...]:
        """The keys with one entry a layer."""
        return tuple(k for way in self.ways for k in way.lists())

    def read(self, section: Section, layers: int) -> list[str]:
        """What the first way says."""
        return self.ways[self._told_by(section)].read(section, layers)

    def settle(self, section: Section, wanted: Sequence[str]) -> Changes | None:
        """Tells it in the way it was told, else in a stronger one; what then says otherwise is written too, or goes.

        Where a list told it before, a period beside the list is history that nobody reads, and stays.
        """
        at = self._told_by(section)
        for i in range(at, -1, -1):
            way = self.ways[i]
            changes = way.settle(section, wanted) if i == at else way.write(section, wanted)
            if changes is not None:
                return changes | self._weaker(section, wanted, self.ways[i + 1 :], listed=at == 0)
        return None

    @staticmethod
    def _weaker(section: Section, wanted: Sequence[str], ways: Sequence[Rule], *, listed: bool) -> Changes:
        changes: Changes = {}
        for way in ways:
            if not way.present(section) or (listed and isinstance(way, Every | Fixed)):
                continue
            made = way.settle(section, wanted)
            if made is not None:
                changes |= made
            elif not listed and not isinstance(way, Listed | Members):
                changes |= dict.fromkeys(k for k in way.keys if k in section)
        return changes
