"""Whose a folder is: what an interrupted run of a config with several merges left, and what it may take away."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

from suture.errors import SutureError
from suture.recipe import with_models, with_places
from suture.reference import Reference
from suture.results.report import Report
from suture.settings import Settings

#: In the folder that holds the outputs, while they are being made.
_NAME = ".suture-outputs.json"
_REPORT = "suture.json"


class Ledger:
    """What a config has begun to make in a folder; gone when all of it is done.

    An output is this config's own if the same recipe (with the same models at the same places, and the same seed) is
    noted under its name, and the folder's suture.json has a plan that is noted with it. Anything else is somebody's.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _NAME
        found = _read(self._path)
        self._made: dict[str, Any] = found if isinstance(found, dict) else {}

    @property
    def begun(self) -> bool:
        """Whether a run has begun here, and did not end."""
        return bool(self._made)

    @property
    def names(self) -> list[str]:
        """The outputs that were begun."""
        return list(self._made)

    def owns(self, name: str, place: Path, recipe: dict[str, Any], settings: Settings) -> bool:
        """Whether what is at `place` was made by this very merge, in a run that did not end."""
        single = place.suffix == ".safetensors"
        noted, report = self._made.get(name), _read(place.with_suffix(f".{_REPORT}") if single else place / _REPORT)
        if not isinstance(noted, dict) or not isinstance(report, dict):
            return False
        return noted.get("recipe") == _digest(recipe, settings) and report.get("plan") in noted.get("plans", ())

    def note(self, name: str, recipe: dict[str, Any], settings: Settings, plan: str) -> None:
        """Note that the merge is going to be made by this plan.

        Raises:
            SutureError: if the folder cannot be written to.
        """
        digest = _digest(recipe, settings)
        noted = self._made.get(name)
        # What an earlier plan made stays our own until it is replaced.
        plans = noted.get("plans", []) if isinstance(noted, dict) and noted.get("recipe") == digest else []
        self._made[name] = {"recipe": digest, "plans": [*(p for p in plans if p != plan), plan]}
        write_whole(self._path, json.dumps(self._made))

    def close(self) -> None:
        """Everything is made: forget it, and the folder if nothing is left in it."""
        _remove(self._path)
        _remove_empty(self._path.parent)


def write_whole(path: Path, text: str) -> None:
    """Write a small file in one step, and its folder if need be.

    Raises:
        SutureError: if it cannot be written.
    """
    new = path.with_name(f".{path.name.lstrip('.')}.suture-partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(text, encoding="utf-8")
        os.replace(new, path)
    except OSError as e:
        _remove(new)
        raise SutureError(f"{path}: cannot write: {e.strerror}", path) from None


def _called(model: Any) -> Any:
    """A model of a recipe by its name, with those of its adapters."""
    if not isinstance(model, dict):
        return PurePath(str(model)).name
    adapters = [{**a, "path": _called(a.get("path"))} for a in model.get("adapters", ()) if isinstance(a, dict)]
    return {**model, "path": _called(model.get("path")), "adapters": adapters}


def made_alike(place: Path, plan: Report) -> bool:
    """Whether the output at `place` was made by the recipe of `plan`, from models of the same headers."""
    report = _read(place / _REPORT)
    if not isinstance(report, dict):
        return False
    # A report calls models by names, one of an earlier version by paths.
    recipes = [with_models(r, lambda m, _: _called(m)) for r in (report.get("recipe"), plan.data["recipe"])]
    return recipes[0] == recipes[1] and _headers(report.get("models")) == _headers(plan.data["models"])


def _headers(models: Any) -> list[Any]:
    try:
        return [file["header"] for model in models for file in model["files"]]
    except (KeyError, TypeError):
        return []


def remove_output(place: Path) -> list[Path]:
    """Remove an output that was only needed for others; what it does not list itself is left, and returned."""
    report = _read(place / _REPORT)
    listed = report.get("files") if isinstance(report, dict) else None
    for name in [*(listed if isinstance(listed, list) else ()), _REPORT]:
        inside = place / str(name)
        if ".." not in inside.parts and inside.is_relative_to(place):
            _remove(inside)
    for folder, _, _ in os.walk(place, topdown=False):
        _remove_empty(Path(folder))
    return [place] if place.exists() else []


def stale(folder: Path, listed: str, made: Collection[str]) -> list[Path]:
    """Outputs that an earlier config has made in a folder, by its list of them, but for those `made` now.

    Only a folder that says itself that suture wrote it is one.
    """
    found = _read(folder / listed)
    names = found.get("outputs") if isinstance(found, dict) else None
    places = [folder / name for name in names if Path(name).name == name not in made] if isinstance(names, dict) else []
    return [p for p in places if not p.is_symlink() and isinstance(_read(p / _REPORT), dict)]


def remove_marked(path: Path, mark: str) -> None:
    """Remove a file of ours, known by a key that it has."""
    found = _read(path)
    if isinstance(found, dict) and mark in found:
        _remove(path)


def in_the_way(listed: Path, mark: str, overwrite: bool) -> list[SutureError]:
    """What is wrong with writing a file of ours, with the key `mark`: a config that is done, or somebody's file."""
    if not os.path.lexists(listed):
        return []
    if not overwrite:
        return [
            SutureError(f"{listed.parent}: exists already; choose another place, or pass --overwrite", listed.parent)
        ]
    try:
        ours = mark in json.loads(listed.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError):
        ours = False
    what = "is no list of outputs" if mark == "outputs" else "is none of suture's"
    return [] if ours else [SutureError(f"{listed}: {what}; --overwrite will not replace it", listed)]


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _remove_empty(folder: Path) -> None:
    """Remove a folder unless something is in it."""
    with suppress(OSError):
        folder.rmdir()


def _digest(recipe: dict[str, Any], settings: Settings) -> str:
    text = json.dumps([with_places(recipe), settings.seed], sort_keys=True, default=Reference.data)
    return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
