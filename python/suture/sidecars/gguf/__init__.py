"""The small files of a GGUF model: a config.json and a tokenizer, made of what the file says of itself."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from suture import _core, temporary
from suture.errors import SutureError, UsageError
from suture.sidecars.files import as_bytes, read_config
from suture.sidecars.tokenizer import TOKENIZER_FILES

#: Weights of which one has a folder read as something else.
_OTHERS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
#: What says how text becomes tokens; with one of these a folder has a tokenizer of its own.
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")


@dataclass(frozen=True)
class Given:
    """Files that stand for what a GGUF model lacks.

    Attributes:
        config: a config.json.
        tokenizer: a tokenizer.json, or a folder with the files of a tokenizer.
    """

    config: str | None = None
    tokenizer: str | None = None


@dataclass
class _Made:
    folder: Path
    #: What is missing, of which file, and what to do.
    lacks: list[str] = field(default_factory=list)


_made: dict[tuple[Any, ...], _Made] = {}


def is_gguf(path: Path) -> bool:
    """Whether the model at a path is GGUF: such a file, or a folder that has such files and no others of weights."""
    try:
        if path.is_dir():
            names = os.listdir(path)
            return any(n.endswith(".gguf") for n in names) and not any(n.endswith(_OTHERS) for n in names)
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False


def folder_of(path: str | PathLike[str], given: Given = Given()) -> Path:
    """Where the small files of a model are: a GGUF model's in a private folder, made of its metadata; any other's own.

    The folder has links to the weights, and is deleted when the process ends. Files that lie beside the model in a
    folder come before what is made. What cannot be made is not there; see :func:`lacking`.

    Raises:
        UsageError: if a given file is not there.
        SutureError: if a file cannot be read or is not sound.
    """
    place = Path(path)
    if not is_gguf(place):
        return place
    return _at(place, given).folder


def lacking(path: str | PathLike[str], given: Given = Given()) -> list[str]:
    """What cannot be made of a GGUF model's small files, and what to do; nothing of any other model.

    Raises:
        UsageError: as :func:`folder_of`.
        SutureError: as :func:`folder_of`.
    """
    place = Path(path)
    return _at(place, given).lacks if is_gguf(place) else []


def _at(place: Path, given: Given) -> _Made:
    stat = place.stat()
    key = (place.resolve(), stat.st_mtime_ns, stat.st_size, given)
    if key not in _made:
        _made[key] = _make(place, given)
    return _made[key]


def _make(place: Path, given: Given) -> _Made:
    core = _core.Checkpoint(str(place))
    said = json.loads(core.gguf_json() or "{}")
    root = temporary.made("gguf")
    made = _Made(root / (place.name or "model"))
    made.folder.mkdir()
    own = [p for p in sorted(place.iterdir()) if p.is_file()] if place.is_dir() else []
    weights = [Path(f["path"]) for f in json.loads(core.to_json())["files"]]
    for file in (*own, *weights):
        link = made.folder / file.name
        if not link.exists():
            link.symlink_to(file.resolve())
    made.lacks += _config(made.folder, said, place, given)
    made.lacks += _tokenizer(made.folder, said, place, given)
    return made


def _put(folder: Path, name: str, content: bytes) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_bytes(content)


def _config(folder: Path, said: dict[str, Any], place: Path, given: Given) -> Iterable[str]:
    """Put the config.json there; what of it is missing."""
    if given.config is not None:
        file = Path(given.config)
        if not file.is_file():
            raise UsageError(f"config: {file} is not a file; expected a config.json", at="config")
        found = read_config(file.parent, file.name) or {}
        _put(folder, "config.json", as_bytes(found))
        return []
    if (folder / "config.json").is_file():
        return []
    _put(folder, "config.json", as_bytes(said.get("config", {})))
    if not said.get("missing"):
        return []
    missing = "; ".join(said["missing"])
    return [f"{place}: config.json cannot be rebuilt: {missing}; give the model's own with --config FILE"]


def _tokenizer(folder: Path, said: dict[str, Any], place: Path, given: Given) -> Iterable[str]:
    """Put the files of the tokenizer there; why they cannot be."""
    from suture.sidecars.gguf.tokenizer import files_of

    metadata = said.get("metadata") or {}
    if given.tokenizer is not None:
        _given_tokenizer(folder, Path(given.tokenizer))
        present = {*TOKENIZER_FILES, "generation_config.json"}
    elif any((folder / name).is_file() for name in _TOKENIZERS):
        present = {*TOKENIZER_FILES, "generation_config.json"}
    else:
        present = set()
    try:
        made = files_of(metadata, said.get("config") or {})
    except SutureError as e:
        if present:
            return []
        return [f"{place}: tokenizer.json cannot be rebuilt: {e}; give the model's own with --tokenizer FILE"]
    # Of a tokenizer that is given, or lies beside the model, what it lacks.
    fills = {"tokenizer_config.json", "generation_config.json"} if present else set(made)
    for name, content in made.items():
        if name in fills and not (folder / name).exists():
            _put(folder, name, content)
    return []


def _given_tokenizer(folder: Path, place: Path) -> None:
    if place.is_dir():
        found = [place / name for name in TOKENIZER_FILES if (place / name).is_file()]
        if not found:
            raise UsageError(
                f"tokenizer: {place} has no file of a tokenizer; expected a tokenizer.json", at="tokenizer"
            )
    elif place.is_file():
        found = [place]
        if place.name not in TOKENIZER_FILES:
            read_config(place.parent, place.name)
    else:
        raise UsageError(
            f"tokenizer: {place} is not there; expected a tokenizer.json, or a folder with it", at="tokenizer"
        )
    for file in found:
        name = file.name if file.name in TOKENIZER_FILES else "tokenizer.json"
        _put(folder, name, file.read_bytes())
