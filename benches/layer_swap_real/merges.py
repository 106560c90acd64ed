"""The models that are compared, each made by suture from the folders of a base and two experts."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import suture
from layer_swap_real.setups import Setup

SETTINGS = suture.Settings(overwrite=True)
#: What is outside the layers: the recipient's, or the donor's.
OUTSIDE = ("into", "from")


@dataclass(frozen=True)
class Trio:
    """The folders of the three models, and the file of the base's curves of similarity."""

    base: Path
    task: Path
    language: Path
    curves: Path


@dataclass(frozen=True)
class Model:
    """A model to test.

    Attributes:
        name: unique among all.
        family: what it is chosen among.
        settings: how it is made.
        make: writes it into a folder, and returns what is to be kept of that; None of one that is there.
        folder: where it is, if it is there.
    """

    name: str
    family: str
    settings: dict[str, Any]
    make: Callable[[Path], dict[str, Any]] | None = None
    folder: Path | None = None


def names(setup: Setup) -> dict[str, str]:
    """Each model's family, without making any."""
    nowhere = Path("nowhere")
    return {model.name: model.family for model in models(Trio(nowhere, nowhere, nowhere, nowhere), setup)}


def models(trio: Trio, setup: Setup) -> Iterator[Model]:
    """All models: three that are there, merges, swaps, and the controls of swaps."""
    for name in ("base", "task", "language"):
        yield Model(name, name, {}, folder=getattr(trio, name))
    yield from _merges(trio, setup)
    for objective in ("balance", "interference"):
        yield Model(
            f"search_{objective}", "search", {"objective": objective}, partial(_searched, trio, setup, objective)
        )
    guided: tuple[tuple[str, dict[str, Any]], ...] = (
        ("layer", {"auto": "layer"}),
        ("edges", {"auto": "edges"}),
        ("text", {"auto": "layer", "evidence": trio.curves}),
    )
    for name, more in guided:
        settings = {"auto": more["auto"], "evidence": "evidence" in more}
        yield Model(
            f"auto_{name}", "auto", settings, partial(_swapped, trio.task, trio.language, base=trio.base, **more)
        )
    pairs = {
        "swap": (trio.task, trio.language),
        "reset": (trio.task, trio.base),
        "reversed": (trio.language, trio.task),
    }
    shapes = dict.fromkeys([*itertools.product(setup.bottoms, setup.tops), setup.fixed])
    for family, (into, donor) in pairs.items():
        for (bottom, top), outside in itertools.product(shapes, OUTSIDE):
            if bottom == top == 0 and outside == "into":
                continue
            settings = {"bottom": bottom, "top": top, "non_layer": outside}
            yield Model(
                f"{family}_b{bottom}_t{top}_{outside}", family, settings, partial(_swapped, into, donor, **settings)
            )


def _merges(trio: Trio, setup: Setup) -> Iterator[Model]:
    def made(name: str, method: str, weights: tuple[float, float], density: float | None = None) -> Model:
        more: dict[str, Any] = {} if density is None else {"density": density}
        listed = [
            {"model": str(path), "parameters": {"weight": weight, **more}}
            for path, weight in zip((trio.task, trio.language), weights, strict=True)
        ]
        config: dict[str, Any] = {"merge_method": method, "models": listed, "dtype": "bfloat16"}
        config["parameters"] = {"normalize": method == "ties"}
        if method != "linear":
            config["base_model"] = str(trio.base)
        return Model(name, "merge", {"method": method, "weights": list(weights), **more}, partial(_merged, config))

    yield made("average", "linear", (0.5, 0.5))
    for task, language in itertools.product(setup.weights, repeat=2):
        yield made(f"arithmetic_{task:g}_{language:g}", "task_arithmetic", (task, language))
    for density in setup.densities:
        yield made(f"ties_{density:g}", "ties", (1.0, 1.0), density)


def _merged(config: dict[str, Any], out: Path) -> dict[str, Any]:
    suture.merge(config, out, settings=SETTINGS)
    return {}


def _swapped(into: Path, donor: Path, out: Path, **options: Any) -> dict[str, Any]:
    suture.swap(into, donor, out, settings=SETTINGS, **options)
    return {}


def _searched(trio: Trio, setup: Setup, objective: str, out: Path) -> dict[str, Any]:
    """Task arithmetic whose weights, by model and ten layers, are the best by a figure of the weights alone."""
    weight = {"search": [0, 1.5], "start": 0.5, "layer_granularity": 10}
    listed = [{"model": str(path), "parameters": {"weight": dict(weight)}} for path in (trio.task, trio.language)]
    config = {
        "merge_method": "task_arithmetic",
        "base_model": str(trio.base),
        "models": listed,
        "parameters": {"normalize": False},
        "dtype": "bfloat16",
    }
    place = out.with_name(f"{out.name}.search")
    # A search that was cut short goes on.
    found = suture.search(config, place, objective=objective, budget=setup.budget, settings=SETTINGS)
    suture.merge(found.config, out, settings=SETTINGS)
    best = found.best
    shutil.rmtree(place)
    return {"found": None if best is None else {"score": best["score"], "genes": best["genes"]}}
