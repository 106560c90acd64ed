"""Every form of work there is, on one set of small models: what laws of plans are tried on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import suture

from .adapters import write_adapter
from .catalogue import DEFAULTS, Case, configure
from .checkpoints import Raw, encode, llama_family, read_checkpoint, write_checkpoint, write_json
from .quantised import FAMILIES, quantised, write_quantised

LAYERS = 4
SHAPE: dict[str, Any] = {"layers": LAYERS, "hidden": 16, "heads": 4, "kv_heads": 2, "ff": 24, "vocab": 12}
ATTENTION = ("self_attn.q_proj", "self_attn.v_proj")


@dataclass(frozen=True)
class World:
    """The models that forms work on."""

    folder: Path
    base: Path
    one: Path
    two: Path
    three: Path

    @property
    def models(self) -> list[Path]:
        """The base and the fine-tunes."""
        return [self.base, self.one, self.two, self.three]

    def path(self, name: str) -> Path:
        """A model, adapter or file by its name."""
        return self.folder / name


def write_world(folder: Path) -> World:
    """A family in bf16; one of another dtype, a tied model, quantised models, adapters, masks, coefficients."""
    family = llama_family(folder, n=3, dtype="bf16", shards=(2, 1, 3, 1), spread=0.01, **SHAPE)
    names = ("base", "one", "two", "three")
    paths = [path.rename(folder / name) for path, name in zip(family, names, strict=True)]
    tensors = read_checkpoint(paths[1])
    wide = {n: encode(raw.values(), "F32") for n, raw in tensors.items()}
    write_checkpoint(folder / "wide", wide)
    shutil.copy(paths[1] / "config.json", folder / "wide")
    (tied,) = llama_family(folder / "small", n=0, seed=5, tied=True, **SHAPE)
    tied.rename(folder / "tied")
    for number, name in enumerate(("q-one", "q-two")):
        write_quantised(folder / name, FAMILIES["block fp8"], quantised(FAMILIES["block fp8"], number)[0])
    base = read_checkpoint(paths[0])
    for number, name in enumerate(("a-one", "a-two")):
        write_adapter(folder / name, base, ATTENTION, range(LAYERS), seed=number)
    rng = np.random.default_rng(1)
    masks = {n: encode(rng.random(raw.shape) < 0.5, "BOOL") for n, raw in base.items()}
    write_checkpoint(folder / "masks", masks)
    write_json(folder / "weights.json", {str(layer): 0.1 * (1 + layer) for layer in range(LAYERS)})
    buffers = {"model.rotary.inv_freq": encode(np.ones(4), "F32"), "model.ids": Raw("I64", (2,), bytes(16))}
    write_checkpoint(folder / "buffered", tensors | buffers)
    write_checkpoint(folder / "buffered-twin", read_checkpoint(paths[3]) | buffers)
    write_checkpoint(folder / "bare", read_checkpoint(paths[2]) | {"model.ids": buffers["model.ids"]})
    return World(folder, *paths)


Form = Callable[[World, Path, suture.Settings], suture.Report]


def swap(donor: str | Mapping[str, str] = "two", into: str = "one", **options: Any) -> Form:
    """A swap."""

    def call(world: World, out: Path, settings: suture.Settings) -> suture.Report:
        how: dict[str, Any] = {k: world.path(v) if k in ("base", "donor_base") else v for k, v in options.items()}
        given: Any = world.path(donor) if isinstance(donor, str) else {world.path(k): v for k, v in donor.items()}
        return suture.swap(world.path(into), given, out, settings=settings, **how)

    return call


def revert(**options: Any) -> Form:
    """A reset to the base."""
    return lambda world, out, settings: suture.revert(world.base, world.one, out, settings=settings, **options)


def convert(model: str) -> Form:
    """A model as it is."""
    return lambda world, out, settings: suture.convert(world.path(model), out, settings=settings)


def merge(config: Callable[[World], dict[str, Any]]) -> Form:
    """A merge."""
    return lambda world, out, settings: suture.merge(config(world), out, settings=settings)


def entry(world: World, name: str, weight: Any = 0.5, **more: Any) -> dict[str, Any]:
    """A model with its weight."""
    return {"model": str(world.path(name)), "parameters": {"weight": weight}, **more}


def linear(*names: str, **more: Any) -> Form:
    """A mean of models."""
    return merge(lambda w: {"merge_method": "linear", "models": [entry(w, n) for n in names], **more})


def ties(world: World, **more: Any) -> dict[str, Any]:
    """A merge of changes."""
    models = [entry(world, n, 0.1 + 0.2 * i) for i, n in enumerate(("one", "two"))]
    return {"merge_method": "ties", "base_model": str(world.base), "models": models, **more}


def by_slices(world: World, *cuts: tuple[int, int], method: str = "linear") -> dict[str, Any]:
    """Slices of the same two models."""
    of_base = [] if method == "linear" else [{"model": str(world.base)}]
    slices = [
        {
            "sources": [
                *({**b, "layer_range": [i, j]} for b in of_base),
                *(entry(world, n, layer_range=[i, j]) for n in ("one", "two")),
            ]
        }
        for i, j in cuts
    ]
    more = {"base_model": str(world.base)} if of_base else {}
    return {"merge_method": method, "slices": slices, **more}


def stack(world: World) -> dict[str, Any]:
    """Layers on top of each other, some twice."""
    runs = [("one", 0, 3), ("two", 1, 4), ("one", 3, 4)]
    slices = [{"sources": [{"model": str(world.path(n)), "layer_range": [a, b]}]} for n, a, b in runs]
    return {"merge_method": "passthrough", "slices": slices}


def rules(world: World) -> dict[str, Any]:
    """Gradients, filters and a file of coefficients."""
    config = ties(world)
    config["models"][0]["parameters"]["weight"] = [{"filter": "mlp", "value": [0.1, 0.7]}, {"value": 0.3}]
    config["models"][1]["parameters"]["weight"] = {"layers": {"0": 0.123456789012345, "2": 1e-7}, "default": 1 / 3}
    config["parameters"] = {"density": [0.1, 0.9], "lambda": 0.7}
    return config


def by_modules(world: World) -> dict[str, Any]:
    """Two modules, one sliced."""
    whole = [entry(world, n) for n in ("one", "two")]
    return {
        "merge_method": "linear",
        "modules": {"lm_head": {"models": whole}, "default": {"slices": by_slices(world, (0, 2), (2, 4))["slices"]}},
    }


def beside(world: World, method: str) -> dict[str, Any]:
    """A method that reads a checkpoint beside each model."""
    own = {"fisher": {"fisher": str(world.three)}, "mask": {"masks": str(world.path("masks"))}}[method]
    models = [{"model": str(world.path(n)), "parameters": own} for n in ("one", "two")]
    return {"merge_method": method, "models": models} | ({"base_model": str(world.base)} if method == "mask" else {})


def by_registry(case: Case) -> Form:
    """A method with its numbers set."""
    return merge(lambda w: configure(case, w.models))


FORMS: dict[str, Form] = {
    **{str(case): by_registry(case) for case in DEFAULTS},
    "models of two dtypes": linear("one", "wide"),
    "filters": linear("one", "two", exclude=["norm", "lm_head"]),
    "include": linear("one", "two", include=["glob:*.mlp.*"]),
    "dtype": linear("one", "two", dtype="float32"),
    "out_dtype": linear("one", "two", dtype="float32", out_dtype="float16"),
    "tied and untied": linear("one", "tied"),
    "tied alone": merge(lambda w: {"merge_method": "passthrough", "models": [{"model": str(w.path("tied"))}]}),
    "quantised": merge(lambda w: {"merge_method": "passthrough", "models": [{"model": str(w.path("q-one"))}]}),
    "buffers": linear("buffered", "buffered-twin"),
    "exclude a buffer": linear("buffered", "bare", exclude=["inv_freq"]),
    "exclude a buffer that the first lacks": linear("bare", "buffered", exclude=["inv_freq"]),
    "slices": merge(lambda w: by_slices(w, (0, 2), (2, 4))),
    "a slice": merge(lambda w: by_slices(w, (1, 3))),
    "slices on a base": merge(lambda w: by_slices(w, (0, 1), (1, 4), method="task_arithmetic")),
    "slices, statistics of the model": merge(
        lambda w: {**by_slices(w, (0, 1), (1, 4), method="ties"), "parameters": {"scope": "model", "density": 0.4}}
    ),
    "stack": merge(stack),
    "rules": merge(rules),
    "modules": merge(by_modules),
    "fisher": merge(lambda w: beside(w, "fisher")),
    "mask": merge(lambda w: beside(w, "mask")),
    "whole model": merge(lambda w: ties(w, parameters={"scope": "model", "density": 0.3})),
    "random": merge(lambda w: {**ties(w), "merge_method": "dare_ties", "parameters": {"density": 0.4}}),
    "swap": swap(layers=[1]),
    "swap: bottom and top": swap(bottom=1, top=1),
    "swap: transition": swap(bottom=1, top=1, transition=1, blend=0.3),
    "swap: ramp": swap(bottom=1, transition=2, blend="ramp"),
    "swap: modules": swap(layers="0-2", modules="self_attn.*,mlp.up_proj"),
    "swap: heads": swap(layers=[0, 3], heads="2-3"),
    "swap: heads of a module": swap(layers=[0], heads="1", modules="self_attn.q_proj"),
    "swap: donors": swap({"two": "0,1", "three": "3"}),
    "swap: donors, mean": swap({"two": "0", "three": "3"}, non_layer="mean"),
    "swap: delta": swap(layers=[1, 2], base="base", donor_base="three"),
    "swap: delta, blended": swap(bottom=1, transition=1, base="base", donor_base="three"),
    "swap: non-layer from": swap(layers=[1], non_layer="from"),
    "swap: non-layer base": swap(layers=[1], non_layer="base", base="base"),
    "swap: non-layer mean": swap(layers=[1], non_layer="mean"),
    "swap: auto": swap(auto="layer", base="base"),
    "swap: auto by module": swap(auto="module", base="base"),
    "swap: auto by edges": swap(auto="edges", base="base"),
    "swap: cast": swap("wide", layers=[1]),
    "swap: onto a tied model": swap("one", "tied", layers=[2], non_layer="from"),
    "swap: quantised": swap("q-two", "q-one", layers=[1]),
    "swap: quantised module": swap("q-two", "q-one", layers=[1], modules="self_attn.q_proj"),
    "swap: adapters": swap("a-two", "a-one", layers=[1, 2]),
    "swap: adapters, modules": swap("a-two", "a-one", layers=[1], modules="self_attn.v_proj"),
    "revert": revert(layers="0,2"),
    "revert: modules": revert(layers=[1], modules="mlp.*"),
    "revert: outside": revert(layers=[1], outside=True),
    "convert": convert("one"),
    "convert: quantised": convert("q-one"),
    "convert: an adapter": convert("a-one"),
}
