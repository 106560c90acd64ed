"""The merged models, each made by suture itself from the folders of base, task expert and language expert."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import suture

#: Half-width of the band in which the automatic swap blends (arXiv 2601.22620).
TAU = 0.001
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
Options = dict[str, Any]
SETTINGS = suture.Settings(threads=1, overwrite=True)


@dataclass(frozen=True)
class Trio:
    """The folders of the three models."""

    base: Path
    task: Path
    language: Path

    @property
    def layers(self) -> int:
        """How many layers they have."""
        return int(suture.inspect(self.base)["config"]["num_hidden_layers"])


@dataclass(frozen=True)
class Made:
    """A merged model.

    Attributes:
        name: unique among all.
        family: what it is compared as.
        settings: how it was made.
        folder: where it is.
    """

    name: str
    family: str
    settings: dict[str, Any]
    folder: Path


def merged(trio: Trio, place: Path, full: bool) -> Iterator[Made]:
    """Baselines, the automatic swap, the grid of swaps and two controls, one at a time.

    The grid is up to three layers from either end; with `full` also averaged outside the layers, and with a blended
    layer at each border. The controls are without these, and smaller.
    """
    yield from _merges(trio, place)
    yield automatic(trio, place)
    sizes = range(4)
    for bottom, top in ((b, t) for b in sizes for t in sizes if b + t <= trio.layers):
        for non_layer in ("into", "from", "mean") if full else ("into", "from"):
            yield swapped(trio, place, bottom, top, 0, non_layer)
        if full and bottom + top and bottom + top + (bottom > 0) + (top > 0) <= trio.layers:
            yield swapped(trio, place, bottom, top, 1, "from")
        if bottom < 2:
            for non_layer in ("into", "from"):
                yield swapped(trio, place, bottom, top, 0, non_layer, "reset")
        if max(bottom, top) < 3:
            for non_layer in ("into", "from") if full else ("into",):
                yield swapped(trio, place, bottom, top, 0, non_layer, "reversed_swap")


def _merges(trio: Trio, place: Path) -> Iterator[Made]:
    def made(name: str, method: str, weights: tuple[float, float], model: Options, whole: Options) -> Made:
        models = [
            {"model": str(path), "parameters": {"weight": weight, **model}}
            for path, weight in zip((trio.task, trio.language), weights, strict=True)
        ]
        config: Options = {"merge_method": method, "models": models, "parameters": whole, "dtype": "float32"}
        if method != "linear":
            config["base_model"] = str(trio.base)
        suture.merge(config, place / name, settings=SETTINGS)
        return Made(name, name, {"method": method, "weights": weights, **model, **whole}, place / name)

    yield made("average", "linear", (0.5, 0.5), {}, {"normalize": False})
    for task, language in itertools.product((0.5, 0.7, 1.0), (0.7, 1.0, 1.5)):
        name = "task_arithmetic_" + (f"{task:g}" if task == language else f"{task:g}_{language:g}")
        yield made(name, "task_arithmetic", (task, language), {}, {"normalize": False, "lambda": 1.0})
    for density in (0.5, 0.2):
        yield made(f"ties_{density:g}", "ties", (1.0, 1.0), {"density": density}, {"normalize": True, "lambda": 1.0})


def swapped(
    trio: Trio, place: Path, bottom: int, top: int, transition: int, non_layer: str, family: str = "swap"
) -> Made:
    """The language expert's outer layers in the task expert.

    As control `reversed_swap`: the task expert's in the language expert; and `reset`: the base's in the task expert.
    """
    into, donor = {
        "swap": (trio.task, trio.language),
        "reversed_swap": (trio.language, trio.task),
        "reset": (trio.task, trio.base),
    }[family]
    name = f"{family}_b{bottom}_t{top}_x{transition}_{non_layer}"
    settings = {"bottom": bottom, "top": top, "transition": transition, "non_layer": non_layer}
    out = place / name
    if bottom == top == 0 and non_layer == "into":
        return Made(name, family, settings, into)
    suture.swap(into, donor, out, bottom=bottom, top=top, transition=transition, non_layer=non_layer, settings=SETTINGS)
    return Made(name, family, settings, out)


def relative_changes(trio: Trio) -> list[list[float]]:
    """Each expert's score by layer: the sum over its projections of the change's norm relative to the base's norm."""
    found = []
    for model in suture.diff(trio.base, trio.task, trio.language, settings=SETTINGS)["models"]:
        scores: dict[int, float] = {}
        for tensor in model["tensors"]:
            parts = tensor["name"].split(".")
            if len(parts) > 4 and parts[1] == "layers" and parts[4] in MODULES:
                scores[int(parts[2])] = scores.get(int(parts[2]), 0.0) + tensor["relative_l2"]
        found.append([scores[layer] for layer in sorted(scores)])
    return found


def decide(changes: list[list[float]], tau: float = TAU) -> list[str]:
    """For each layer whose to take, by its share of all change: `task`, `language` or `blend`."""
    shares = [[s / (math.fsum(scores) + 1e-8) for s in scores] for scores in changes]
    lead = [t - g for t, g in zip(*shares, strict=True)]
    return ["task" if d > tau else "language" if d < -tau else "blend" for d in lead]


def automatic(trio: Trio, place: Path) -> Made:
    """Each layer from the expert that changed it more; everything outside the layers is the mean."""
    choice = decide(relative_changes(trio))
    taken, blended = ([layer for layer, whose in enumerate(choice) if whose == w] for w in ("language", "blend"))
    out = place / "automatic"
    suture.swap(trio.task, trio.language, out, layers=taken or None, non_layer="mean", settings=SETTINGS)
    if blended:
        mean, unblended = place / "mean", place / "unblended"
        average = [{"model": str(path), "parameters": {"weight": 0.5}} for path in (trio.task, trio.language)]
        suture.merge({"merge_method": "linear", "models": average, "dtype": "float32"}, mean, settings=SETTINGS)
        out.rename(unblended)
        suture.swap(unblended, mean, out, layers=blended, settings=SETTINGS)
        for folder in (mean, unblended):
            shutil.rmtree(folder)
    return Made("automatic", "automatic", {"choice": choice}, out)
