"""Merges by every method there is, generated from the registry: what the tests of laws have in common."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import suture

from .checkpoints import Raw, encode, read_checkpoint, write_checkpoint

Spec = dict[str, Any]
Config = dict[str, Any]

SPECS: dict[str, Spec] = {spec["name"]: dict(spec) for spec in suture.methods()}
#: Elements that the engine takes at a time.
SPAN = 2**22
#: Larger than a span of the engine (twice), of a tile, of a block, or smaller than each, and no multiple of any.
LARGE = 2 * SPAN + 1003
WEIGHTS = (0.55, 0.35, 0.6)
SHARES = (0.37, 0.81, 0.62)
#: Where neither a weight nor a place inside the range will do; one value for each model, or the middle one for all.
SENSIBLE: dict[str, tuple[float, float, float]] = {
    "gamma": (0.02, 0.11, 0.05),
    "tall_lambda": (0.4, 0.7, 0.2),
    "block": (100, 100, 100),
    "clip": (0.01, 0.01, 0.01),
    "tol": (1e-5, 1e-5, 1e-5),
    "floor": (1e-4, 1e-4, 1e-4),
    # A modifier: it has variants of its own.
    "svc": (0.0, 0.0, 0.0),
    "time": (300.0, 300.0, 300.0),
}
#: `epsilon` is two things: how far probabilities spread around densities (SHARES here), or a change that is none.
SPREADS = (0.11, 0.17, 0.08)
NOTHING = 1e-4
#: Presets of the sparse pipeline whose stages are set, each to every word; the others are the same with other defaults.
STAGED = ("ties", "dare_linear")
#: Parameters that only do something together, and ends of ranges.
TOGETHER: dict[str, list[dict[str, Any]]] = {
    "karcher": [{"tol": 0}],
    "pcb": [{"clip": 0, "ratio": 1}],
    "ram": [{"epsilon": 0}],
    "ramplus_tl": [{"epsilon": 0}],
    "magmax": [{"larv": "tiered"}],
    "metagpt": [{"larv": "continuous"}],
    "sce": [{"svc": 0.1}, {"select_topk": 1}],
    "tsvm": [{"svc": 1.0}, {"larv": "continuous"}],
    "iso_c": [{"svc": 0.1}, {"svc": 0.1, "larv": "continuous"}],
    "knots": [{"inner": "ties", "density": 0.5}],
    "nuslerp": [{"nuslerp_flatten": False, "nuslerp_row_wise": True}],
    "ties": [
        {"sparsify": "breadcrumbs", "scope": "row", "rescale": "l2"},
        {"sparsify": "breadcrumbs", "scope": "model", "rescale": "l1"},
        {"scope": "model", "rescale": "l2", "reduce": "sum"},
        {"svc": 0.1},
        {"larv": "continuous"},
        {"scope": "model", "larv": "continuous"},
        {"sparsify": "cabs", "rescale": "l1", "reduce": "mean"},
        {"sparsify": "della", "rescale": "l2"},
    ],
}


@dataclass(frozen=True, eq=False)
class Case:
    """A method and how it is to work."""

    name: str
    variant: str = "default"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    #: Whether a base is given; only a choice where it is optional.
    based: bool = True

    @property
    def spec(self) -> Spec:
        """What the method says of itself."""
        return SPECS[self.name]

    @property
    def names(self) -> set[str]:
        """The names of its parameters."""
        return {p["name"] for p in self.spec["parameters"]}

    @property
    def experts(self) -> int:
        """How many models besides the base a merge has here: three where the method takes them."""
        least, most = map(int, self.spec["inputs"])
        listed = max(least, min(most, 3))
        return listed - 1 if self.spec["base"] == "first" else listed

    @property
    def changes(self) -> bool:
        """Whether it merges changes of a base."""
        return self.spec["base"] == "required" or (self.spec["base"] == "optional" and self.based)

    @property
    def drawn(self) -> bool:
        """Whether it leaves out changes at random, itself or by the method inside it."""
        inner = str(self.set("inner"))
        return self.set("sparsify") in ("random", "della") or inner.startswith(("dare", "della"))

    def set(self, name: str) -> Any:
        """What a parameter is set to, or its default; None if there is none of that name."""
        defaults = {p["name"]: p["default"] for p in self.spec["parameters"]}
        return self.parameters.get(name, defaults.get(name))

    def __str__(self) -> str:
        return f"{self.name}-{self.variant}"


def variants(spec: Spec) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every switch the other way, every word of every choice, the least of every whole number."""
    for parameter in spec["parameters"]:
        kind, name = parameter["kind"], parameter["name"]
        if spec["name"] == "emr" and name == "masks":
            continue  # What it writes is no model; test_emr_masks_give_the_model_back.
        if name == "larv":
            continue  # A modifier: TOGETHER has it on some methods of each kind, test_larv.py on all.
        if kind["kind"] == "switch":
            yield f"{name}={not parameter['default']}", {name: not parameter["default"]}
        elif kind["kind"] == "choice":
            # Methods inside another: one of each way they work.
            words = ("ties", "dare_linear", "emr") if name == "inner" else kind["words"]
            yield from ((f"{name}={w}", {name: w}) for w in words if w != parameter["default"])
        elif kind["kind"] == "integer":
            yield f"{name}={kind['min']}", {name: kind["min"]}
    for both in TOGETHER.get(spec["name"], []):
        yield ",".join(f"{name}={word}" for name, word in both.items()), both


def cases() -> Iterator[Case]:
    """Every method, and every variant of it; of the sparse presets only some, since they are one pipeline."""
    for name, spec in SPECS.items():
        yield Case(name)
        if spec["base"] == "optional":
            yield Case(name, "baseless", based=False)
        sparse = any(p["name"] == "sparsify" for p in spec["parameters"])
        for variant, parameters in variants(spec):
            if not sparse or name in STAGED or (name == "cabs" and "block" in parameters):
                yield Case(name, variant, parameters)


CASES = list(cases())
#: Those that models in memory are merged by too: layers are measured of files.
RESIDENT = [case for case in CASES if case.set("larv") in (None, "none")]
DEFAULTS = [case for case in CASES if not case.parameters]
HOMOGENEOUS = [case for case in CASES if case.spec["homogeneous"]]


def value(parameter: Spec, position: int) -> Any:
    """A value for a number that is neither its default nor an end of its range; None for anything else."""
    kind, name = parameter["kind"], parameter["name"]
    if name in SENSIBLE:
        return SENSIBLE[name][position % 3]
    if name == "epsilon":
        return SPREADS[position % 3] if parameter["per_input"] else NOTHING
    if kind["kind"] == "integer":
        return min(kind["min"] + 2, kind["max"])
    if kind["kind"] != "number":
        return None
    if max(abs(kind["min"]), abs(kind["max"])) < 1e6:
        return kind["min"] + (kind["max"] - kind["min"]) * SHARES[position % 3]
    return WEIGHTS[position % 3]


def configure(
    case: Case,
    models: Sequence[Path],
    *,
    only_required: bool = False,
    order: Sequence[int] | None = None,
    beside: Sequence[Path] | None = None,
) -> Config:
    """A merge by a method, all its numbers set; `models` are the base and the experts.

    `order` permutes the experts, parameters and all. `beside`: a checkpoint for each expert, for the methods that take
    one; by default the expert itself.
    """
    base, experts = models[0], list(models[1 : 1 + case.experts])
    beside = beside or experts
    order = order or range(len(experts))
    shared: dict[str, Any] = dict(case.parameters)
    listed: list[dict[str, Any]] = [{} for _ in experts]
    for p in case.spec["parameters"]:
        if p["name"] in case.parameters or (only_required and p["default"] is not None):
            continue
        if p["kind"]["kind"] == "checkpoint":
            for own, path in zip(listed, beside, strict=False):
                own[p["name"]] = str(path)
        elif p["kind"]["kind"] == "gram":
            for own, path in zip(listed, beside, strict=False):
                own[p["name"]] = str(grams(path))
        elif p["per_input"]:
            for i, own in enumerate(listed):
                own[p["name"]] = value(p, i)
        else:
            shared[p["name"]] = value(p, 1)
    shared = {name: found for name, found in shared.items() if found is not None}
    if shared.get("task"):
        # It numbers the models as they are listed.
        shared["task"] = list(order).index(min(shared["task"], len(experts)) - 1) + 1
    config: Config = {"merge_method": case.name, "parameters": shared}
    config["models"] = [{"model": str(experts[i]), "parameters": listed[i]} for i in order]
    if case.changes or case.spec["base"] == "first":
        config["base_model"] = str(base)
    if case.name == "passthrough":
        # Integers cannot be scaled.
        config["exclude"] = ["position_ids"]
    return config


#: Most inputs of a layer that gets a Gram matrix: these grow with the square.
INPUTS = 150


def grams(model: Path, beside: Path | None = None) -> Path:
    """Gram matrices for a model, in a folder beside it or another: one for each number of inputs, not for each name."""
    folder = (beside or model.parent) / f"gram-{model.name}"
    if not model.exists() or folder.exists():
        return folder
    tensors, found = read_checkpoint(model), {}
    if any("lora_" in name for name in tensors):
        # Adapters are refused before anything beside them is read.
        return model
    for name, raw in tensors.items():
        wide = not raw.shape or raw.shape[-1] > INPUTS or 0 in raw.shape
        if len(raw.shape) not in (2, 3) or wide or raw.dtype not in ("F64", "F32", "F16", "BF16"):
            continue
        n = raw.shape[-1]
        rng = np.random.default_rng(zlib.crc32(f"{model.name} {raw.shape[:-2]} {n}".encode()))
        x = rng.standard_normal((*raw.shape[:-2], n + 5, n)) + 0.3
        found[name] = (np.swapaxes(x, -1, -2) @ x).astype(np.float32)
    return write_checkpoint(folder, found)


def merge(config: Config, out: Path, **settings: Any) -> dict[str, Raw]:
    """The tensors a merge writes."""
    suture.merge(config, out, settings=suture.Settings(**settings))
    return read_checkpoint(out)


def one(config: Config, out: Path, **settings: Any) -> NDArray[Any]:
    """Tensor `a` of what a merge writes."""
    return merge(config, out, **settings)["a"].values()


def model(folder: Path, **tensors: NDArray[Any]) -> Path:
    """A checkpoint of a few tensors."""
    return write_checkpoint(folder, tensors)


def copies(source: Path, folder: Path, count: int) -> list[Path]:
    """The same checkpoint under several names, without the space."""
    made = []
    for number in range(count):
        target = folder / f"copy-{number}"
        target.mkdir(parents=True)
        for path in source.iterdir():
            os.link(path, target / path.name)
        made.append(target)
    return made


def near(base: NDArray[np.float32], rng: np.random.Generator, spread: float) -> NDArray[np.float32]:
    """A fine-tune whose elements stay within `spread` times those of the base."""
    return base * (1 + rng.uniform(-spread, spread, base.shape)).astype(np.float32)


def differing(found: Mapping[str, Raw], expected: Mapping[str, Raw]) -> list[str]:
    """The tensors that are not the same; what pytest has to say of megabytes would take minutes."""
    names = sorted({*found, *expected})
    return [name for name in names if found.get(name) != expected.get(name)]


Shapes = dict[str, tuple[str, tuple[int, ...]]]

LAYERS: Shapes = {
    "model.layers.0.mlp.up_proj.weight": ("F32", (1021, 37)),
    "model.layers.0.mlp.down_proj.weight": ("BF16", (37, 1021)),
    "model.layers.0.self_attn.q_proj.weight": ("BF16", (61, 37)),
    "model.layers.0.scale": ("F16", (1,)),
    "model.layers.1.mlp.up_proj.weight": ("BF16", (1021, 37)),
    "model.layers.1.mlp.down_proj.weight": ("F64", (37, 101)),
    "model.layers.1.self_attn.q_proj.weight": ("F32", (3, 5, 129)),
    "model.layers.1.scale": ("F32", (1023,)),
    "model.layers.2.mlp.up_proj.weight": ("F16", (1021, 97)),
    "model.layers.2.mlp.down_proj.weight": ("F32", (8, 1024)),
    "model.layers.2.self_attn.q_proj.weight": ("F16", (61, 1)),
    "model.layers.2.scale": ("F32", (1025,)),
}


def shapes(first: int) -> Shapes:
    """A model whose first tensor has so many elements; rows are shorter and longer than a tile and a small chunk."""
    return {
        "model.embed_tokens.weight": ("BF16", (first,)),
        "model.embed_positions.weight": ("BF16", (5, 9001)),
        **LAYERS,
        "model.norm.weight": ("F32", ()),
        "lm_head.weight": ("BF16", (0, 5)),
        "head.bias": ("F16", (4095,)),
    }


def write_family(folder: Path, shapes: Shapes) -> list[Path]:
    """A base and three fine-tunes: dtypes mixed in and across models, in 1, 7, 2 and 1 shards.

    Where all are bf16 many changes have the same magnitude, so that thresholds fall on equal elements.
    """
    rng = np.random.default_rng(11)
    base = {name: 0.02 * rng.standard_normal(shape, np.float32) for name, (_, shape) in shapes.items()}
    buffer = Raw("I64", (3,), bytes(range(24)))
    folders = []
    for number, (name, shards) in enumerate([("base", 1), ("one", 7), ("two", 2), ("three", 1)]):
        tensors = {"position_ids": buffer}
        for tensor, (dtype, shape) in shapes.items():
            change = np.float32(0.002) * rng.standard_normal(shape, np.float32) if number else np.float32(0)
            stored = "F32" if (name, dtype) == ("three", "F16") else dtype
            tensors[tensor] = encode(np.asarray(base[tensor] + change), stored)
        folders.append(write_checkpoint(folder / name, tensors, shards=min(shards, len(tensors))))
    return folders
