"""Plans for models that torch holds: the same recipes, checks and parameters as for checkpoints on a disk.

A model is described to the core by its headers: a folder with a file of its full size, of which no byte but the
header is ever written (the file system keeps none of the rest), and its config. The folder is gone as soon as the
plan is made.
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from suture import _core, temporary
from suture.errors import SutureError, UsageError
from suture.torch.forms import Params
from suture.torch.models import DTYPES, Resident

#: A model's label and a tensor's name.
Place = tuple[str, str]


@dataclass(frozen=True)
class Piece:
    """A run of elements of a tensor."""

    place: Place
    start: int
    length: int


#: A tensor of a model, or runs of several.
View = Place | tuple[Piece, ...]


@dataclass(frozen=True)
class Work:
    """What becomes of one tensor.

    Attributes:
        method: what computes it; None where it is moved as it is.
        sources: the inputs it is made from; of what is moved the first alone.
        group: the number of the group whose statistics it shares.
        drawn: the key of each input's random words, where its labels do not tell.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    sources: tuple[View, ...]
    method: str | None = None
    params: Params = field(default_factory=Params)
    base: View | None = None
    group: int | None = None
    drawn: tuple[int, ...] = ()

    @property
    def elements(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    @property
    def lead(self) -> Place:
        """The first tensor that it is made from."""
        return places(self.base or self.sources[0])[0]

    def keys(self) -> tuple[int, ...]:
        """The key of each input's random words."""
        if self.drawn:
            return self.drawn
        name = self.params.twin or self.name
        return tuple(_core.mask_key(self.params.seed, places(view)[0][0], name) for view in self.sources)


def places(view: View) -> list[Place]:
    """The tensors that a view is of."""
    pieces = [p.place for p in view if isinstance(p, Piece)]
    if pieces:
        return pieces
    label, name = view
    return [(str(label), str(name))]


@dataclass(frozen=True)
class Planned:
    """A plan.

    What becomes of every tensor, in the order of the output, and the members of each group in its own order.
    """

    works: tuple[Work, ...]
    groups: tuple[tuple[int, ...], ...]
    hash: str
    warnings: tuple[str, ...]


#: Plans that are kept: a merge of an 8B model takes 20 ms, its plan twice that.
KEPT = 8
_plans: dict[str, Planned] = {}
_lock = threading.Lock()


def plan(models: Sequence[Resident], recipe: Callable[[Mapping[str, str]], dict[str, Any]], seed: int) -> Planned:
    """The plan of a recipe; `recipe` is given the path by which each model, by its label, is to be named.

    Raises:
        UsageError: if the recipe is wrong, or asks for what is not done in memory.
        SutureError: if the models do not go together.
    """
    if not isinstance(seed, int) or not 0 <= seed < 1 << 64:
        raise UsageError(f"seed: expected a whole number from 0 to 2^64 - 1, found {seed!r}", at="seed")
    key = json.dumps(
        [recipe({m.label: m.label for m in models}), seed, [[m.label, m.config, _shapes(m)] for m in models]],
        default=str,
    )
    with _lock:
        found = _plans.pop(key, None)
    found = found or _made(models, recipe, seed)
    with _lock:
        _plans[key] = found
        while len(_plans) > KEPT:
            _plans.pop(next(iter(_plans)))
    return found


def _shapes(model: Resident) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(name, str(tensor.dtype), tuple(tensor.shape)) for name, tensor in model.tensors.items()]


def _made(models: Sequence[Resident], recipe: Callable[[Mapping[str, str]], dict[str, Any]], seed: int) -> Planned:
    with temporary.passing("torch") as folder:
        try:
            paths = {model.label: str(describe(model, Path(folder) / model.label)) for model in models}
        except OSError as e:
            raise SutureError(
                f"cannot describe the models: {e.strerror}; is there room for a few MB?", path=e.filename
            ) from e
        try:
            made = _core.Plan(json.dumps(recipe(paths)), None, seed)
        except SutureError as e:
            raise _without(e, folder) from None
        told = json.loads(made.to_json())
        warnings = tuple(_plain(w, folder) for w in made.warnings)
        works = _works(told)
        if scaled := next((work.name for work in works if work.params.scaled), None):
            message = f"larv: measures layers first (`{scaled}` is in one), of checkpoints, not of models that torch "
            raise UsageError(message + "holds; merge the files (`suture.merge`)", at="larv")
        return Planned(works, _groups(told, paths), made.hash, warnings)


def describe(model: Resident, folder: Path) -> Path:
    """Write the headers of a model as a checkpoint of its size."""
    folder.mkdir()
    entries, at = {}, 0
    for name, tensor in model.tensors.items():
        size = tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, at + size]}
        at += size
    header = json.dumps(entries).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + at)
    if model.config is not None:
        (folder / "config.json").write_text(json.dumps(model.config, default=str), encoding="utf-8")
    return folder


def _plain(text: str, folder: str) -> str:
    """A message with what models are called in place of where they were described."""
    return re.sub(re.escape(folder + os.sep) + r"([^/:`]+)(/model\.safetensors)?", r"\1", text)


#: What the core says to those who call it by a command line or a config, and what it is here.
_HERE = (
    (r"; what is to be left out is named [^;]*$", ""),
    (r"^base_model: ", "base: "),
    (r"--([a-z][a-z-]*)", lambda found: f"`{found[1].replace('-', '_')}`"),
)


def _without(error: SutureError, folder: str) -> SutureError:
    """The error without the folder, in the words of arguments."""
    text = _plain(str(error), folder)
    for pattern, word in _HERE:
        text = re.sub(pattern, word, text)
    at = "base" if error.at == "base_model" else error.at
    return type(error)(text, tensor=error.tensor, at=at)


def _view(told: Any) -> View:
    if isinstance(told, list):
        model, tensor = told
        return model, tensor
    pieces = []
    for turn in range(told["times"]):
        for place, start, length in told["runs"]:
            pieces.append(Piece((place[0], place[1]), start + turn * told["stride"], length))
    return tuple(pieces)


def _works(told: Mapping[str, Any]) -> tuple[Work, ...]:
    works = []
    interned: dict[str, Params] = {}
    for t in told["tensors"]:
        computes = t["action"] == "merge"
        work = Work(t["name"], t["dtype"], tuple(t["shape"]), tuple(_view(v) for v in t["inputs"]))
        if computes:
            base = None if t["base"] is None else _view(t["base"])
            work = Work(
                work.name,
                work.dtype,
                work.shape,
                work.sources,
                t["method"],
                interned.setdefault(json.dumps(t["params"]), Params.of(t["params"])),
                base,
                t.get("group"),
            )
        works.append(work)
    return tuple(works)


def _groups(told: Mapping[str, Any], paths: Mapping[str, str]) -> tuple[tuple[int, ...], ...]:
    """The members of each group, in the order of what they are made from: so the core goes over them."""
    if not told["groups"]:
        return ()
    listed = (
        (model["label"], name) for model in told["models"] for name in _core.Checkpoint(paths[model["label"]]).names()
    )
    places = {place: i for i, place in enumerate(listed)}
    groups: list[list[tuple[int, int]]] = [[] for _ in told["groups"]]
    for i, t in enumerate(told["tensors"]):
        if t.get("group") is not None:
            groups[t["group"]].append((places[_first(t)], i))
    return tuple(tuple(i for _, i in sorted(members)) for members in groups)


def _first(tensor: Mapping[str, Any]) -> Place:
    found = tensor["base"] or tensor["inputs"][0]
    place = found if isinstance(found, list) else found["runs"][0][0]
    return place[0], place[1]


def recipe_of(
    labels: Mapping[str, str],
    inputs: Sequence[str],
    method: str,
    base: str | None,
    parameters: Mapping[str, Any],
    each: Sequence[Mapping[str, Any]],
    dtype: str | None,
) -> dict[str, Any]:
    """A merge as a recipe; models are given by their labels, `each` has the parameters of each input."""
    listed = [{"model": labels[label], "parameters": own} for label, own in zip(inputs, each, strict=True)]
    recipe: dict[str, Any] = {"merge_method": method, "models": listed, "parameters": dict(parameters)}
    if base is not None:
        recipe["base_model"] = labels[base]
    if dtype is not None:
        recipe["out_dtype"] = dtype
    return recipe
