"""What suture reads of damaged headers is what the safetensors library reads, but for what is named here (law 7)."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors

import suture

from ..support.headers import File, mutant

MUTANTS = 10_000
#: An object as its pairs, once it is read: unlike a list it is a tuple.
Pairs = tuple[tuple[str, Any], ...]


def by_library(file: File) -> dict[str, tuple[str, list[int], bytes]] | None:
    """Name, dtype, shape and bytes of every tensor as the library reads them; None where it refuses."""
    deserialize: Any = safetensors.deserialize
    try:
        found = deserialize(file.content())
    except safetensors.SafetensorError:
        return None
    return {name: (t["dtype"], t["shape"], bytes(t["data"])) for name, t in found}


def by_suture(file: File, path: Path) -> dict[str, tuple[str, list[int], bytes]] | None:
    """The same by suture."""
    path.write_bytes(file.content())
    try:
        opened = suture.open(path)
    except suture.SutureError:
        return None
    return {
        name: (opened.info(name).dtype, list(opened.info(name).shape), opened._core.read(name)) for name in opened.names
    }


def tensors(header: bytes) -> Pairs:
    """The tensors of a header that at least one side reads, by Python's own JSON."""
    pairs = json.loads(header.decode("utf-8"), object_pairs_hook=tuple)
    return tuple(pair for pair in pairs if pair[0] != "__metadata__")


def entries(header: bytes) -> list[dict[str, Any]]:
    """The entries that are objects, without the keys nobody reads."""
    return [dict(entry) for _, entry in tensors(header) if isinstance(entry, tuple)]


def strays(header: bytes) -> list[str]:
    """What stands under keys nobody reads, as JSON."""
    return [
        json.dumps(value)
        for _, entry in tensors(header)
        if isinstance(entry, tuple)
        for key, value in entry
        if key not in ("dtype", "shape", "data_offsets")
    ]


def unreadable(text: str) -> bool:
    """Whether a value is one that the library cannot keep: too deep, out of range, half a character."""
    return text.count("[") > 120 or re.search(r"Infinity|\d{309}|\\ud[89abcdef]", text) is not None


#: What suture refuses and the library reads. Why: the bytes of a tensor would be a matter of which reader one asks.
STRICTER: dict[str, Callable[[bytes], bool]] = {
    # The library keeps the last and forgets the others; other readers keep the first.
    "a name that is there twice": lambda h: len(dict(tensors(h))) < len(tensors(h)),
    # No framework has such tensors; a shape without bound is a way to take memory.
    "more than 64 dimensions": lambda h: any(len(e["shape"]) > 64 for e in entries(h)),
    # Not of the format: its description has an object here. It is read by accident of how the library is generated.
    "an entry that is a list": lambda h: any(isinstance(entry, list) for _, entry in tensors(h)),
    # The same: {"F32": null} for "F32".
    "a dtype that is no text": lambda h: any(not isinstance(e["dtype"], str) for e in entries(h)),
}
#: What suture reads and the library refuses. Why: it is not looked at, and says nothing about a tensor.
LAXER: dict[str, Callable[[bytes], bool]] = {
    "an odd value under a key nobody reads": lambda h: any(unreadable(value) for value in strays(h)),
}


def test_every_difference_is_named(tmp_path: Path) -> None:
    """Law 7, against the owner of the format: same files read, same tensors found, but for the kinds above."""
    seen: Counter[str] = Counter()
    for number in range(MUTANTS):
        file = mutant(number)
        ours, theirs = by_suture(file, tmp_path / "model.safetensors"), by_library(file)
        if (ours is None) == (theirs is None):
            assert ours == theirs, (number, file)
            seen["refused" if ours is None else "read"] += 1
            continue
        table = LAXER if theirs is None else STRICTER
        kinds = [kind for kind, holds in table.items() if holds(file.header)]
        assert kinds, f"mutant {number}: {'the library' if theirs is None else 'suture'} alone refuses {file}"
        seen.update(kinds)
    # The test is not empty, and no kind is named in vain.
    assert min(seen["refused"], seen["read"]) > MUTANTS // 10, seen
    assert not {*STRICTER, *LAXER} - {*seen}, seen


def test_mutants_are_reproducible() -> None:
    """A number that a failure names gives the same file again."""
    assert [mutant(n) for n in range(50)] == [mutant(n) for n in range(50)]
    assert len({mutant(n).header for n in range(200)}) > 150
