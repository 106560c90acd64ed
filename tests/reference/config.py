"""Oracle: a mergekit YAML config carried out in memory with the oracles of this folder.

Covers models, slices, base_model, parameters with gradients and filters, dtype and out_dtype for
Llama-named checkpoints, from the behaviour described for mergekit 0.1.5. DARE below density one needs keys
and is left to `dare` itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import dare, elementwise, gradient, gram, sparse
from .arcee import arcee_fusion
from .linear import linear
from .passthrough import passthrough
from .rounding import round_to
from .sce import sce
from .slerp import slerp
from .task_arithmetic import task_arithmetic
from .ties import ties

LAYER = re.compile(r"\.(?:layers|h|blocks|block|layer)\.(\d+)\.")
EMBEDDING = re.compile(r"embed|wte|wpe")
STORED = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}

Model = Mapping[str, NDArray[Any]]
Lookup = Callable[[str, Any], Any]
REQUIRED = object()
#: Methods to which a base is an input like others.
BASELESS = ("linear", "passthrough", "karcher")


@dataclass(frozen=True)
class Source:
    """One model's part in a slice."""

    model: str
    start: int
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Slice:
    """A run of output layers made of the same sources."""

    layers: int
    sources: Sequence[Source]
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Input:
    """One input of an output tensor."""

    model: str
    values: NDArray[Any]
    parameter: Lookup


def layer_of(name: str) -> int | None:
    """The layer number in a tensor name, by its last layer marker."""
    found = LAYER.findall(name)
    return int(found[-1]) if found else None


def with_layer(name: str, layer: int) -> str:
    """The same tensor in another layer."""
    last = list(LAYER.finditer(name))[-1]
    return f"{name[: last.start(1)]}{layer}{name[last.end(1) :]}"


def layer_count(model: Model) -> int:
    """How many layers a model's tensors name."""
    return 1 + max((layer for name in model if (layer := layer_of(name)) is not None), default=-1)


def slices_of(config: Mapping[str, Any], models: Mapping[str, Model]) -> list[Slice]:
    """The output as slices; `models:` is one slice of all layers, an unlisted base its last source."""
    if "slices" in config:
        found = []
        for entry in config["slices"]:
            sources = [Source(s["model"], s["layer_range"][0], s.get("parameters") or {}) for s in entry["sources"]]
            counts = {s["layer_range"][1] - s["layer_range"][0] for s in entry["sources"]}
            if len(counts) != 1:
                raise ValueError("sources of a slice differ in length")
            found.append(Slice(counts.pop(), sources, entry.get("parameters") or {}))
        return found
    sources = [Source(m["model"], 0, m.get("parameters") or {}) for m in config["models"]]
    base = config.get("base_model")
    if base is not None and base not in [source.model for source in sources]:
        sources.append(Source(base, 0, {}))
    return [Slice(layer_count(models[sources[0].model]), sources, {})]


def _lookup(levels: Sequence[Mapping[str, Any]], name: str, t: float) -> Lookup:
    def look(key: str, default: Any) -> Any:
        for level in levels:
            if key in level and (value := gradient.resolve(level[key], name, t)) is not None:
                return value
        if default is REQUIRED:
            raise ValueError(f"missing required parameter {key} for {name}")
        return default

    return look


def _merge(method: str, base: str | None, inputs: Sequence[Input], shared: Lookup) -> NDArray[Any]:
    start = next((i.values for i in inputs if i.model == base), None)
    others = [i for i in inputs if i.model != base or method in BASELESS]
    tuned = [i.values for i in others]

    def each(key: str, default: Any = REQUIRED) -> list[Any]:
        return [entry.parameter(key, default) for entry in others]

    if method == "linear":
        return linear(tuned, each("weight"), normalize=bool(shared("normalize", True)))
    if method == "passthrough":
        (only,) = others
        return passthrough(only.values, only.parameter("scale", None))
    if method == "karcher":
        return gram.karcher(tuned, max_iter=shared("max_iter", 10), tol=shared("tol", 1e-5))
    if method == "nuslerp":
        flatten, row_wise = shared("nuslerp_flatten", True), shared("nuslerp_row_wise", False)
        return gram.nuslerp(tuned, each("weight"), base=start, flatten=flatten, row_wise=row_wise)
    if method == "multislerp":
        return gram.multislerp(
            tuned, each("weight"), base=start, normalize_weights=bool(shared("normalize_weights", True))
        )
    if start is None:
        raise ValueError(f"{method} needs a base")
    if method == "slerp":
        return slerp(start, tuned[0], shared("t", REQUIRED))
    if method == "model_stock":
        return gram.model_stock(start, tuned, filter_wise=bool(shared("filter_wise", False)))
    if method == "nearswap":
        return elementwise.nearswap(start, tuned[0], shared("t", REQUIRED))
    if method == "ram":
        return elementwise.ram(start, tuned, epsilon=shared("epsilon", 1e-5))
    if method == "ramplus_tl":
        factors = {"r": shared("r", 0.1), "alpha": shared("alpha", 0.2)}
        return elementwise.ramplus_tl(start, tuned, epsilon=shared("epsilon", 1e-5), **factors)
    if method == "sce":
        return sce(start, tuned, topk=shared("select_topk", 1.0), mask=shared("mask", "deltas"))
    if method == "arcee_fusion":
        return arcee_fusion(start, tuned[0])
    weights, lam = each("weight"), shared("lambda", 1.0)
    normalize = bool(shared("normalize", method == "ties"))
    if method == "task_arithmetic":
        return task_arithmetic(start, tuned, weights, lam=lam, normalize=normalize)
    densities = each("density", 1.0)
    if method == "ties":
        rescale = shared("rescale", False)
        return ties(start, tuned, weights, densities, lam=lam, normalize=normalize, rescale=rescale)
    if method in ("dare_linear", "dare_ties") and min(densities) >= 1.0:
        run = dare.dare_linear if method == "dare_linear" else dare.dare_ties
        return run(start, tuned, weights, densities, [0] * len(tuned), lam=lam, normalize=normalize)
    if method in ("breadcrumbs", "breadcrumbs_ties"):
        stages = sparse.stages(method, rescale=shared("rescale", "none"), normalize=normalize)
        settings = zip(tuned, weights, densities, each("gamma", 0.01), strict=True)
        own = [sparse.Tuned({"": values}, *parameters) for values, *parameters in settings]
        return sparse.sparse(stages, {"": start}, own, sparse.Shared(lam=lam))[""]
    raise ValueError(f"no oracle for {method}")


def merge(config: Mapping[str, Any], models: Mapping[str, Model]) -> dict[str, NDArray[Any]]:
    """The output tensors of a config, as the values their stored dtype holds."""
    method, base = config["merge_method"], config.get("base_model")
    common = config.get("parameters") or {}
    working = STORED[config.get("dtype") or "float32"]
    stored = STORED[config.get("out_dtype") or config.get("dtype") or "float32"]
    slices = slices_of(config, models)

    def tensor(part: Slice, name: str, layer: int | None) -> NDArray[Any]:
        t = 0.0 if layer is None else gradient.position(layer, part.layers)
        inputs = []
        for source in part.sources:
            own = name if layer is None else with_layer(name, source.start + layer)
            parameters = next(s.parameters for s in part.sources if s.model == source.model)
            look = _lookup([parameters, part.parameters, common], own, t)
            inputs.append(Input(source.model, round_to(models[source.model][own], working), look))
        shared = _lookup([part.parameters, common], name, t)
        return round_to(_merge(method, base, inputs, shared), stored)

    output: dict[str, NDArray[Any]] = {}
    for name in models[slices[0].sources[0].model]:
        if layer_of(name) is None:
            part = slices[0] if EMBEDDING.search(name) else slices[-1]
            output[name] = tensor(part, name, None)
    done = 0
    for part in slices:
        first = part.sources[0]
        kinds = [name for name in models[first.model] if layer_of(name) == first.start]
        for layer in range(part.layers):
            output |= {n: tensor(part, n, layer) for n in (with_layer(k, done + layer) for k in kinds)}
        done += part.layers
    return {name: np.asarray(output[name]) for name in sorted(output)}


def rooted(config: Any, models: Mapping[str, str]) -> Any:
    """The same config with each model name replaced by where that model lies."""
    if isinstance(config, dict):
        return {
            key: models[value] if key in ("model", "base_model") else rooted(value, models)
            for key, value in config.items()
        }
    return [rooted(entry, models) for entry in config] if isinstance(config, list) else config
