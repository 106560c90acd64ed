"""The trunk of a model, all but what has a row for each token; and digests, by which two trunks are one."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from suture import _core
from suture.errors import SutureError
from suture.surgery.vocab_model import VocabModel

#: Elements that are read at a time.
_BLOCK = 2**22


def tables_of(model: VocabModel) -> list[str]:
    """The tensors that have a row for each token: those that a row plan changes."""
    return model.checkpoint.of_tokens()


def trunk_of(model: VocabModel, threads: int) -> dict[str, list[Any]]:
    """The trunk of a model: dtype, shape and SHA-256 of the bytes of each tensor, by its name.

    Raises:
        SutureError: if it cannot be read.
    """
    tables = set(tables_of(model))
    names = [name for name in model.checkpoint.names() if name not in tables]

    def told(name: str) -> list[Any]:
        info = _info(model.checkpoint, name)
        found = hashlib.sha256()
        for block in _blocks(model.checkpoint, name):
            found.update(block)
        return [info["dtype"], info["shape"], found.hexdigest()]

    with ThreadPoolExecutor(max(1, threads)) as pool:
        return dict(zip(names, pool.map(told, names), strict=True))


def digest_of(trunk: dict[str, list[Any]]) -> str:
    """The digest of a whole trunk (SHA-256)."""
    return hashlib.sha256(json.dumps(trunk, sort_keys=True).encode()).hexdigest()


def differing(one: dict[str, list[Any]], other: dict[str, list[Any]]) -> list[str]:
    """The tensors that two trunks do not have alike."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def described(model: VocabModel) -> dict[str, list[Any]]:
    """Dtype and shape of all that has a row for each token, by name."""
    found = {name: _info(model.checkpoint, name) for name in tables_of(model)}
    return {name: [info["dtype"], info["shape"]] for name, info in found.items()}


def write_tables(model: VocabModel, path: Path) -> None:
    """Write what has a row for each token, as it is, into a new file of safetensors.

    Raises:
        SutureError: if it cannot be read or written.
    """
    infos = {name: _info(model.checkpoint, name) for name in tables_of(model)}
    at, header = 0, {}
    for name, info in infos.items():
        header[name] = {"dtype": info["dtype"], "shape": info["shape"], "data_offsets": [at, at + info["nbytes"]]}
        at += info["nbytes"]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    try:
        with path.open("xb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for name in infos:
                for block in _blocks(model.checkpoint, name):
                    file.write(block)
    except OSError as e:
        raise SutureError(f"{path}: cannot be written: {e.strerror}", path) from None


def unlike(one: dict[str, list[Any]], other: dict[str, list[Any]]) -> str | None:
    """What keeps one model's tables from standing in another's place: names, dtypes, widths; None if nothing does."""
    if lost := sorted(one.keys() ^ other.keys()):
        return f"only one of both has `{lost[0]}`"
    for name, (dtype, shape) in one.items():
        theirs = other[name]
        if dtype != theirs[0] or len(shape) != len(theirs[1]) or _width(shape) != _width(theirs[1]):
            return f"`{name}` is {dtype} {shape} in one and {theirs[0]} {theirs[1]} in the other"
    return None


def _width(shape: Sequence[int]) -> int:
    return shape[1] if len(shape) == 2 and shape[0] != 1 else 1


def _blocks(model: _core.Checkpoint, name: str) -> Iterator[bytes]:
    info = _info(model, name)
    count = 1
    for length in info["shape"]:
        count *= length
    for first in range(0, count, _BLOCK):
        yield model.read(name, first, min(first + _BLOCK, count))


def _info(model: _core.Checkpoint, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(model.info_json(name))
    return found
