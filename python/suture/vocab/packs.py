"""Several vocabularies on one trunk (Hydra, Remy et al., arXiv 2408.04303): how they lie in a folder.

packs.json        which tensors the trunk has, their digests, and what the vocabulary that it came with is called
trunk/            a model, with that vocabulary
packs/NAME/       another: model.safetensors (all that has a row for each token), the tokenizer, config.json,
                  generation_config.json, pack.json
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suture.errors import SutureError, UsageError, near
from suture.sidecars.files import as_bytes, read_config
from suture.sidecars.tokenizer import TOKENIZER_FILES
from suture.vocab.ids import FILES

RECORD, PACK, TRUNK, PACKS, TABLES = "packs.json", "pack.json", "trunk", "packs", "model.safetensors"
#: What goes with the tables of a pack.
BESIDE = (*TOKENIZER_FILES, *FILES)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SCHEMA = 1


@dataclass(frozen=True)
class Packs:
    """A folder of packs.

    Attributes:
        folder: the folder.
        own: what the vocabulary of the trunk is called.
        trunk: dtype, shape and digest of each tensor of the trunk.
        digest: the digest of them all.
    """

    folder: Path
    own: str
    trunk: Mapping[str, Any]
    digest: str

    def place(self, name: str) -> Path:
        """Where a pack lies.

        Raises:
            UsageError: if there is none of that name.
        """
        if name == self.own:
            return self.folder / TRUNK
        if name not in (known := self.names()):
            message = f"{self.folder}: has no pack `{name}`"
            raise UsageError(message + (near(name, known) or f"; it has {', '.join(known)}"), at="name")
        return self.folder / PACKS / name

    def names(self) -> list[str]:
        """All packs, the trunk's own first."""
        folder = self.folder / PACKS
        there = [one.name for one in folder.iterdir() if (one / PACK).is_file()] if folder.is_dir() else []
        return [self.own, *sorted(name for name in there if not name.startswith("."))]


def read_packs(folder: Path) -> Packs:
    """A folder of packs.

    Raises:
        SutureError: if it is none, or damaged.
    """
    data = read_config(folder, RECORD)
    if data is None:
        raise SutureError(f"{folder}: is no folder of packs: it has no {RECORD}; `vocab pack add` makes one", folder)
    trunk, own, digest = data.get("trunk"), data.get("own"), data.get("digest")
    if data.get("schema") != _SCHEMA or not isinstance(trunk, dict) or not isinstance(own, str):
        raise SutureError(f"{folder / RECORD}: is damaged, or of another version", folder)
    return Packs(folder, own, trunk, str(digest))


def record_of(packs: Packs, version: str) -> bytes:
    """The record of a folder of packs."""
    told = {"schema": _SCHEMA, "suture": version, "own": packs.own, "digest": packs.digest, "trunk": dict(packs.trunk)}
    return json.dumps(told, indent=1).encode()


def read_pack(folder: Path) -> dict[str, Any]:
    """What a pack is: `digest` of the trunk that it belongs to, `rows`, `tables` with dtype and shape, `from`.

    Raises:
        SutureError: if it is none.
    """
    data = read_config(folder, PACK)
    if data is None or not (folder / TABLES).is_file():
        raise SutureError(f"{folder}: is no pack: it lacks {PACK} or {TABLES}", folder)
    if data.get("schema") != _SCHEMA or not isinstance(data.get("tables"), dict) or "digest" not in data:
        raise SutureError(f"{folder / PACK}: is damaged, or of another version", folder)
    return data


def pack_of(tables: Mapping[str, Any], rows: int, digest: str, source: str, version: str) -> bytes:
    """The record of a pack."""
    told = {
        "schema": _SCHEMA,
        "suture": version,
        "from": source,
        "digest": digest,
        "rows": rows,
        "tables": dict(tables),
    }
    return as_bytes(told)


def check_name(name: str) -> None:
    """Refuse what is no name of a folder.

    Raises:
        UsageError: if it is none.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"name: expected letters, digits, `.`, `_` and `-`, found `{name:.60}`", at="name")


def changes(own: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """What changes in a config for it to be another; None for what that does not have."""
    made: dict[str, Any] = {}
    for key in [*own, *(key for key in wanted if key not in own)]:
        before, after = own.get(key), wanted.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            if inner := changes(before, after):
                made[key] = inner
        elif before != after:
            made[key] = after
    return made
