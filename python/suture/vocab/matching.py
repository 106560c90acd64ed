"""Which token of one vocabulary stands for a token of another: by role, by bytes and word start, or nearly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from suture.sidecars.files import INNER, read_config
from suture.vocab.keys import Key
from suture.vocab.rowplan import CLASSES
from suture.vocab.tokens import Vocabulary

KIND = {name: at for at, name in enumerate(CLASSES)}
#: Where one token has several roles it is matched by the first of these: an answer must end.
ROLES = ("eos", "bos", "cls", "sep", "unk", "mask", "pad")
#: Notes a match of a new number: with an old one, or none, and of which class; says whether it is one.
Put: TypeAlias = Callable[[int, "int | None", str], bool]
#: What stands for a role that the other vocabulary does not have: beginnings, ends.
STANDS_FOR = {"bos": "cls", "cls": "bos", "eos": "sep", "sep": "eos"}


@dataclass(frozen=True)
class Matches:
    """The tokens of an old vocabulary that stand for those of a new one.

    Attributes:
        old: int64 [numbers]: for each number of the new vocabulary the old number; -1 without one.
        kind: int8 [numbers]: how they match, the place in `CLASSES`; -1 without a match.
    """

    old: NDArray[np.int64]
    kind: NDArray[np.int8]

    @property
    def matched(self) -> NDArray[np.bool_]:
        """bool [numbers]: whether there is a match."""
        return self.old >= 0

    def of(self, *kinds: str) -> NDArray[np.int64]:
        """The new numbers whose match is of one of these classes."""
        return np.flatnonzero(np.isin(self.kind, [KIND[name] for name in kinds]) & self.matched)

    def moved(self) -> dict[int, int]:
        """The new number of each old token that is still there: of several the one that matches best, then the first.

        A token that differs in case or word start is another one.
        """
        same = self.of("kept", "special", "exact", "byte")
        order = same[np.lexsort((same, _RANK[self.kind[same]]))]
        moved: dict[int, int] = {}
        for new, old in zip(order.tolist(), self.old[order].tolist(), strict=True):
            moved.setdefault(old, new)
        return dict(sorted(moved.items()))


#: By how well a match is one.
_ORDER = ("special", "kept", "exact", "byte")
_RANK = np.array([_ORDER.index(name) if name in _ORDER else len(_ORDER) for name in CLASSES])


def roles_of(vocabulary: Vocabulary) -> dict[str, int]:
    """The number of the token of each role: what the tokenizer's files say, else config.json of the model."""
    found = {role: vocabulary.ids[text] for role, text in vocabulary.roles.items()}
    config = read_config(vocabulary.folder) or {}
    parts = [config, *(config[key] for key in INNER if isinstance(config.get(key), dict))]
    for part in parts:
        for key, value in part.items():
            role = key.removesuffix("_token_id")
            number = value[0] if isinstance(value, list) and value else value
            if role != key and type(number) is int and number in vocabulary.names:
                found.setdefault(role, number)
    return found


def matches_of(new: Vocabulary, old: Vocabulary, *, rows: int | None = None, fuzzy: bool = False) -> Matches:
    """For each token of `new` the token of `old` that stands for it.

    Special tokens go by their role, or by their text where they have none. Then tokens go by their bytes and whether
    a word begins with them; then single bytes, however they are written; then, with `fuzzy`, by their letters whatever
    their case and whether a word begins there.

    Args:
        new: the vocabulary whose tokens are looked for.
        old: where they are looked for.
        rows: how many rows the old tables have; tokens with numbers beyond are passed over. None for all.
        fuzzy: whether the last step is done.
    """
    found = Matches(np.full(new.size, -1, dtype=np.int64), np.full(new.size, -1, dtype=np.int8))

    def put(number: int, at: int | None, kind: str) -> bool:
        if at is None or (rows is not None and at >= rows):
            return False
        found.old[number], found.kind[number] = at, KIND[kind]
        return True

    same_marks = new.marks == old.marks
    old_keys = {number: old.key(number) for number in old.names}
    known = _Known.of(old, old_keys)
    by_role = _by_role(new, old)
    for number, text in new.names.items():
        key = new.key(number)
        if number in by_role:
            put(number, by_role[number], "special")
        elif key.role:
            # In both found in text as it is written, or in the other a plain token of the same text.
            other = old.ids.get(text)
            special = number in new.added and not new.added[number].special
            if not put(number, other, "exact" if special else "special") and special:
                put(number, known.exact.get(_plain(text)), "exact")
        else:
            same = old.ids.get(text) if same_marks else None
            if same is not None and old_keys[same] == key and put(number, same, "kept"):
                continue
            _by_bytes(number, key, known, put)
    if fuzzy:
        _fuzzy(new, found, known, put)
    return found


@dataclass(frozen=True)
class _Known:
    """A vocabulary's tokens by what they are looked up by."""

    exact: Mapping[tuple[bool, bytes], int]
    byte: Mapping[int, int]
    folded: Mapping[bytes, list[tuple[bool, bytes, int]]]

    @classmethod
    def of(cls, old: Vocabulary, keys: Mapping[int, Key]) -> _Known:
        exact: dict[tuple[bool, bytes], int] = {}
        later: dict[tuple[bool, bytes], int] = {}
        byte: dict[int, int] = {}
        single: dict[int, int] = {}
        folded: dict[bytes, list[tuple[bool, bytes, int]]] = {}
        for number, key in keys.items():
            if key.byte:
                byte.setdefault(key.content[0], number)
            elif not key.role:
                exact.setdefault((key.starts, key.content), number)
                folded.setdefault(_folded(key.content), []).append((key.starts, key.content, number))
                if (alone := _single(key)) is not None:
                    single.setdefault(alone, number)
            elif number in old.added and not old.added[number].special:
                later.setdefault(_plain(old.names[number]), number)
        # A token that is found in text before the rest stands for a plain one where there is no other.
        return cls({**later, **exact}, {**single, **byte}, folded)


def _by_bytes(number: int, key: Key, known: _Known, put: Put) -> None:
    if key.byte:
        put(number, known.byte.get(key.content[0]), "byte")
        return
    if put(number, known.exact.get((key.starts, key.content)), "exact"):
        return
    alone = _single(key)
    if alone is not None:
        put(number, known.byte.get(alone), "byte")


def _by_role(new: Vocabulary, old: Vocabulary) -> dict[int, int]:
    """The old token of each new one that has a role, where the old vocabulary has the role too, or one like it."""
    theirs, own = roles_of(old), roles_of(new)
    order = [*ROLES, *sorted(own.keys() - set(ROLES))]
    found: dict[int, int] = {}
    for like in (False, True):
        for role in order:
            other = STANDS_FOR.get(role, "") if like else role
            if role in own and other in theirs:
                found.setdefault(own[role], theirs[other])
    return found


def _fuzzy(new: Vocabulary, found: Matches, known: _Known, put: object) -> None:
    """Tokens without a match, by their letters."""
    assert callable(put)
    for number in np.flatnonzero(~found.matched).tolist():
        if number not in new.names or (key := new.key(number)).role or key.byte:
            continue
        near = known.folded.get(_folded(key.content), [])
        # What begins a word in both is nearer than what has the same letters; of equal ones the first.
        order = sorted(near, key=lambda one: (one[0] != key.starts, one[1] != key.content, one[2]))
        for _, _, other in order:
            if put(number, other, "fuzzy"):
                break


def _folded(content: bytes) -> bytes:
    """Bytes without case; what is no text stays."""
    try:
        return content.decode("utf-8").casefold().encode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return content


def _single(key: Key) -> int | None:
    """The byte that a token is, if it is one alone."""
    whole = (b" " if key.starts else b"") + key.content
    return whole[0] if len(whole) == 1 else None


def _plain(text: str) -> tuple[bool, bytes]:
    """A text as plain tokens are looked up."""
    content = text.encode("utf-8", "surrogatepass")
    return (True, content[1:]) if content.startswith(b" ") else (False, content)
