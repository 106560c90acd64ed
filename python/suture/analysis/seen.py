"""Models as their headers and configs show them: what can be known of them at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from suture import _core
from suture.checkpoint import opened
from suture.errors import SutureError
from suture.reference import Reference, model_of
from suture.results.reading import Stack
from suture.sidecars.files import read_config
from suture.sidecars.gguf import folder_of

#: Dtype and shape of a tensor.
Header = tuple[str, tuple[int, ...]]
#: Dtypes that are computed on, as configs call them.
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
COMPUTES = frozenset(DTYPES)

#: Dtypes of counters and masks, which are no weights.
COUNTS = frozenset({"I64", "U64", "BOOL"})


@dataclass(frozen=True)
class Seen:
    """A model.

    Attributes:
        path: where it is, as it was named.
        label: a short name, which no other of those seen together has.
        folder: where its small files are; None of a lone file.
        opened: the checkpoint, which knows what stands for what.
        tensors: dtype and shape of every tensor.
        stacks: its stacks of layers.
        config: its config.json, if there is one.
        warnings: what was passed over.
    """

    path: str
    label: str
    folder: Path | None
    opened: _core.Checkpoint
    tensors: dict[str, Header]
    stacks: list[Stack]
    config: dict[str, Any] | None
    warnings: list[str]

    @property
    def main(self) -> Stack | None:
        """The main stack, if it can be told."""
        return next((s for s in self.stacks if s["main"]), None)

    @cached_property
    def decodes(self) -> bool:
        """Whether, with what is quantised decoded, all its tensors can be computed on."""
        try:
            plain = self.opened.plain()
        except SutureError:
            # Of a form that is not decoded.
            return False
        dtypes = {json.loads(plain.info_json(name))["dtype"] for name in plain.names()}
        return dtypes <= COMPUTES | COUNTS

    @property
    def table(self) -> int | None:
        """The rows of the first table of tokens."""
        shapes = (self.tensors[name][1] for name in self.opened.tables())
        return next((shape[0] for shape in shapes if len(shape) == 2), None)

    @property
    def adapter(self) -> bool:
        """Whether it holds factors of adapters."""
        return any(".lora_" in name for name in self.tensors)

    def counterpart(self, name: str) -> Header | None:
        """The tensor that stands for one of another model, if there is one: by another name, by a tie."""
        if name in self.tensors:
            return self.tensors[name]
        found = self.opened.counterpart(name)
        return None if found is None else self.tensors[found]

    def in_layers(self, name: str) -> bool:
        """Whether a tensor is in a layer of the main stack; where it is not known which that is, of any."""
        place = self.opened.place(name)
        return place is not None and (self.main is None or place[0] == self.main["prefix"])


def look(paths: Sequence[str | PathLike[str]]) -> list[Seen]:
    """Open models by their headers, and read their configs.

    Raises:
        SutureError: if a checkpoint or a config.json is not sound.
    """
    with ThreadPoolExecutor() as threads:
        found = list(threads.map(opened, paths))
    # One model with several adapters lies in one place.
    places = list(dict.fromkeys(Path(c.path) for c in found))
    named = dict(zip(places, labels_of(places), strict=True))
    labels = [named[Path(c.path)] for c in found]
    adapted = [model_of(p) for p in paths]
    labels = [a.label(name) if isinstance(a, Reference) else name for a, name in zip(adapted, labels, strict=True)]
    known: dict[str, dict[str, Header]] = {}
    return [_seen(fspath(p), c, label, known) for p, c, label in zip(paths, found, labels, strict=True)]


def _seen(path: str, opened: _core.Checkpoint, label: str, known: dict[str, dict[str, Header]]) -> Seen:
    # Name by name: half the time that the description of the whole takes.
    text = f"[{','.join(map(opened.info_json, opened.names()))}]"
    if text not in known:
        # Fine-tunes most often have the same headers, which then are read once.
        known[text] = {t["name"]: (t["dtype"], tuple(t["shape"])) for t in json.loads(text)}
    small = folder_of(opened.path)
    folder = small if small.is_dir() else None
    config = None if folder is None else read_config(folder)
    stacks: list[Stack] = json.loads(opened.stacks_json())
    return Seen(path, label, folder, opened, known[text], stacks, config, opened.warnings)


def labels_of(paths: Sequence[Path]) -> list[str]:
    """The names of folders or files; where they repeat, with as much of the path before them as tells them apart."""
    whole = [path.resolve() for path in paths]
    found = []
    for path in whole:
        parts = path.parts
        tails = (parts[-n:] for n in range(1, len(parts) + 1))
        same = (t for t in tails if sum(p.parts[-len(t) :] == t for p in whole) == 1)
        found.append("/".join(next(same, parts)))
    return found
