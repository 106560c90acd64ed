"""Where models stand in a recipe, whatever its form."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from suture import _core
from suture.recipe.vocabulary import WORDS
from suture.reference import Reference, called, changed, written

#: Keys whose value is a model: those of merge configs, and of a swap.
KEYS = frozenset({"model", "base_model", "routers_from", "into", "from", "base"})


@dataclass(frozen=True)
class Made:
    """A model that another document of the same config makes, until its place is known."""

    name: str


@cache
def parameters() -> frozenset[str]:
    """Parameters of methods whose value is a checkpoint, too."""
    kinds = ((p["name"], p["kind"]["kind"]) for spec in json.loads(_core.methods_json()) for p in spec["parameters"])
    return frozenset(name for name, kind in kinds if kind in ("checkpoint", "gram"))


def verb_of(recipe: Mapping[str, Any]) -> str | None:
    """The verb that a recipe is of, if it is no merge."""
    return next((verb for verb in ("swap", "copy", "assemble") if verb in recipe), None)


def with_models(node: Any, change: Callable[[Any, str], Any], at: str = "") -> Any:
    """A recipe with every model in it changed; `change` is given the model and its key path."""
    if isinstance(node, list):
        return [with_models(item, change, f"{at}[{i}]") for i, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    made = {}
    for key, value in node.items():
        path = f"{at}.{key}" if at else key
        if key == "tokenizer_source" or path == "tokenizer.source":
            made[key] = value if value is None or value in WORDS else change(value, path)
        elif path == "tokenizer.tokens" and isinstance(value, dict):
            # The keys are tokens, whatever else they are called.
            made[key] = {token: _row(row, change, f"{path}.{token}") for token, row in value.items()}
        elif key in KEYS:
            made[key] = change(value, path)
        elif key in parameters():
            made[key] = _values(value, change, path)
        else:
            made[key] = with_models(value, change, path)
    return made


def _values(value: Any, change: Callable[[Any, str], Any], at: str) -> Any:
    """The models of a parameter: one, a list over the layers, rules with a filter, or one for each layer."""
    if isinstance(value, list):
        return [_values(item, change, f"{at}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, dict) and "model" not in value:
        inner = {k: _values(v, change, f"{at}.{k}") for k, v in value.items() if k in ("value", "default")}
        if isinstance(value.get("layers"), dict):
            inner["layers"] = {k: _values(v, change, f"{at}.layers.{k}") for k, v in value["layers"].items()}
        return value | inner
    return change(value, at)


def _row(value: Any, change: Callable[[Any, str], Any], at: str) -> Any:
    """The model that a token's row is from: a model, or a mapping with one."""
    source = value.get("source") if isinstance(value, dict) else None
    if source is None:
        return value
    if not isinstance(source, dict):
        return value | {"source": change(source, f"{at}.source")}
    if "model" not in source:
        return value
    return value | {"source": source | {"model": change(source["model"], f"{at}.source.model")}}


def made_names(recipe: Any) -> set[str]:
    """Names of the documents a recipe uses as models."""
    found: set[str] = set()

    def note(value: Any, _: str) -> Any:
        if isinstance(value, Made):
            found.add(value.name)
        return value

    with_models(recipe, note)
    return found


def with_made(recipe: Any, places: Mapping[str, Path]) -> Any:
    """A recipe with the folders of the documents it uses."""
    return with_models(recipe, lambda v, _: str(places[v.name]) if isinstance(v, Made) else v)


def adapters_of(recipe: Any) -> list[str]:
    """Where the adapters lie that models are named with, each once."""
    found: dict[str, None] = {}

    def note(model: Any, _: str) -> Any:
        given = model.data() if isinstance(model, Reference) else model
        if isinstance(given, dict):
            found.update(dict.fromkeys(a["path"] for a in given.get("adapters") or ()))
        return model

    with_models(recipe, note)
    return list(found)


def with_names(recipe: Any) -> Any:
    """A recipe with its models by the names of their folders: where they lie is nobody else's business."""
    return with_models(recipe, lambda v, _: written(changed(v, called)))


def with_places(recipe: Any) -> Any:
    """A recipe with its models by their absolute paths."""
    return with_models(recipe, lambda v, _: changed(v, lambda path: str(Path(path).resolve())))


def as_json(recipe: Any) -> str:
    """A recipe as the core reads it.

    JSON is text, and a path need not be: one that is not UTF-8 goes as ``{"bytes": HEX}``.
    """
    return json.dumps(_encoded(recipe))


def _encoded(node: Any) -> Any:
    if isinstance(node, Reference):
        return _encoded(node.data())
    if isinstance(node, dict):
        return {k: _encoded(v) for k, v in node.items()}
    if isinstance(node, list):
        return [_encoded(v) for v in node]
    if isinstance(node, str) and any("\ud800" <= c <= "\udfff" for c in node):
        return {"bytes": os.fsencode(node).hex()}
    return node
