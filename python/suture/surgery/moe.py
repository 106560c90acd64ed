"""Mixtures of experts, made of dense models."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from suture.checkpoint import Checkpoint
from suture.errors import SutureError, UsageError
from suture.reference import Model
from suture.results.report import Report
from suture.settings import Progress, Settings
from suture.sidecars.relied import BREAKS, differing
from suture.surgery.assembly import Assembly, assemble, config_beside, opened
from suture.surgery.moe_config import Expert, Mixture, mixture
from suture.surgery.moe_gates import CONDITION, Array, Prompts, condition, gates
from suture.surgery.moe_parts import average, dense, drop, join, keep, split, swap
from suture.surgery.moe_targets import DENSE, Target, config_of, target_of

__all__ = ["average", "dense", "drop", "from_dense", "join", "keep", "make", "split", "swap"]

#: Standard deviation of random routers of what is to be trained.
_SPREAD = 0.02
#: Width of what all tokens go through, where the architecture wants such a thing and nothing was asked for.
_TINY = 64
#: What experts have of the base, and cannot have of their own.
_ACTIVATION = {"activation": BREAKS["activation"]}


def make(
    config: Mapping[str, Any] | str | PathLike[str],
    out: str | PathLike[str],
    *,
    allow_alike: bool = False,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Make a mixture of dense models, by a config in mergekit-moe's grammar: Mixtral, Qwen 2 and 3 MoE, DeepSeek.

    The experts' matrices are copied as bytes, those with a `residual_scale` multiplied; attention, norms and
    embeddings are the base's. Routers are made of prompts, or drawn by the seed; see :mod:`suture.surgery.moe_gates`.

    Args:
        config: a YAML file, or what one holds.
        out: the output folder.
        allow_alike: whether experts may have the same prompts.
        settings: how to do the work.
        dry_run: return the plan instead of running it.
        progress: called with the bytes done and the bytes in all, a few times a second.

    Raises:
        UsageError: if the config is wrong, with the key.
        SutureError: if models do not fit each other, or the output cannot be written.
        KeyboardInterrupt: on Ctrl-C; the same call then resumes.
    """
    settings = settings or Settings()
    asked = mixture(config, alike=allow_alike)
    base = opened(asked.base)
    told = list(asked.told)
    own = _config(base)
    shared = list(asked.shared)
    target = target_of(own, asked.architecture, bool(shared), str(base.path))
    if target.shared_gate is not None and not shared:
        message = f"shared_experts: {target.name} has one that all tokens go through; say which model it is of"
        raise UsageError(message, at="shared_experts")
    layers = _layers(base, own)
    every = [*asked.experts, *shared]
    rows = gates(asked.mode, base, [e.prompts for e in every], layers, _width(base), settings.seed, asked.base,
                 settings.memory_bytes)  # fmt: skip
    made = _mixture(base, target, asked, layers, {i: r[: len(asked.experts)] for i, r in rows.items()})
    if target.shared_gate is not None:
        for i in layers:
            made.given(_layer(i) + target.shared_gate, rows[i][len(asked.experts) :], _dtype(base, asked.dtype))
    worst = max(layers, key=lambda i: condition(made.arrays[_layer(i) + target.router]))
    number = condition(made.arrays[_layer(worst) + target.router])
    if number > CONDITION:
        told.append(
            f"the router of layer {worst} hardly tells its experts apart: its condition number is {number:.3g}, and "
            f"{CONDITION:g} at most would do; prompts that differ more help"
        )
    made.told = told
    made.config = lambda c: config_of(
        target, c, len(asked.experts), asked.chosen, [], int(bool(shared)) * int(c["intermediate_size"])
    )
    made.asked = {"gate_mode": asked.mode, "experts": len(asked.experts), "experts_per_token": asked.chosen}
    how = settings if asked.dtype is None or settings.dtype else replace(settings, dtype=asked.dtype)
    return assemble(made, out, settings=how, dry_run=dry_run, progress=progress)


def from_dense(
    model: Model,
    out: str | PathLike[str],
    *,
    experts: int,
    top_k: int = 2,
    last: int | None = None,
    router: str = "random",
    family: str | PathLike[str] | None = None,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Make a dense model one of experts that are all its own (Post-MoE, arXiv 2410.10626), to be trained on.

    Each expert is a copy of the dense matrices, so that with a router that renormalises the model computes what it did.

    Args:
        model: the dense model.
        out: the output folder.
        experts: how many experts there are.
        top_k: experts that a token goes to.
        last: how many of the last layers get experts; all if not given.
        router: ``random``, drawn from N(0, 0.02); or a file of centroids: a NumPy array [experts, width] or
            [layers, experts, width], each row then of length 1.
        family: a JSON or YAML file of groups of languages, as many as there are experts, kept beside the output.
        settings: how to do the work.
        dry_run: return the plan instead of running it.
        progress: called with the bytes done and the bytes in all, a few times a second.

    Raises:
        UsageError: if the numbers do not go together.
        SutureError: if the model is of no architecture that has experts, or not in its last layers alone.
        KeyboardInterrupt: on Ctrl-C; the same call then resumes.
    """
    settings = settings or Settings()
    found = opened(model)
    own = _config(found)
    target = target_of(own, None, False, str(found.path))
    layers = _layers(found, own)
    if experts < 2 or not 1 <= top_k <= experts:
        raise UsageError(
            f"experts: expected two or more, and a token to go to 1 to that many, found {experts} and {top_k}"
        )
    count = len(layers) if last is None else last
    if not 1 <= count <= len(layers):
        raise UsageError(f"last: expected 1 to {len(layers)} layers, found {count}", at="last")
    if count < len(layers) and not target.partly:
        message = f"{target.kind} has experts in all layers or in none, and {len(layers) - count} are to stay dense"
        raise SutureError(f"{found.path}: {message}; leave `last` out, or start from Qwen", found.path)
    groups = _groups(family, experts)
    routed = layers[-count:]
    rows = _routers(router, experts, routed, _width(found), settings.seed)
    asked = Mixture(
        model,
        router,
        settings.dtype,
        top_k,
        tuple(Expert(model, Prompts((), ()), 1.0) for _ in range(experts)),
        (),
        None,
        (),
    )
    made = _mixture(found, target, asked, routed, rows)
    shared = 0
    if target.shared_gate is not None and target.shared is not None:
        shared = min(_TINY, int(own["intermediate_size"]))
        _tiny(made, found, target, routed, shared)
    still = [i for i in layers if i not in routed]
    made.title = "moe from dense"
    made.config = lambda c: (
        config_of(target, c, experts, top_k, still, shared) | ({"expert_languages": groups} if groups else {})
    )
    made.asked = {"experts": experts, "top_k": top_k, "last": count, "router": Path(router).name}
    made.notes.append(
        ("experts", f"{experts} in each of the last {count} of {len(layers)} layers, {top_k} for each token")
    )
    made.notes.append(("function", "stays what it was: the router's weights of what a token goes to add up to 1"))
    return assemble(made, out, settings=settings, dry_run=dry_run, progress=progress)


def _mixture(
    base: Checkpoint, target: Target, asked: Mixture, layers: Sequence[int], rows: Mapping[int, Array]
) -> Assembly:
    """The tensors of a mixture: the base's, and in `layers` experts and routers for its dense matrices."""
    models: list[Model] = [asked.base]
    experts = [*asked.experts, *asked.shared]
    for expert in experts:
        if expert.model not in models:
            models.append(expert.model)
    places = [models.index(e.model) for e in experts]
    found = [base, *(opened(m) for m in models[1:])]
    own = _config(base)
    for other in found[1:]:
        if _count(other) != _count(base):
            message = f"has {_count(other)} layers, and {_count(base)} in {base.path}; experts are of all layers"
            raise SutureError(f"{other.path}: {message}", other.path)
        for *_, message in differing(own, config_beside(other) or {}, _ACTIVATION):
            raise SutureError(f"{other.path}: {message} as in {base.path}; experts compute with the base's", other.path)
    made = Assembly("moe", models)
    routed = set(layers)
    first = {_layer(i) + f"mlp.{DENSE[0]}.weight": i for i in routed}
    gone = {_layer(i) + f"mlp.{name}.weight" for i in routed for name in DENSE}
    for name in base.names:
        if name in first:
            layer = first[name]
            _experts(made, target, found, experts, places, layer, len(asked.experts))
            made.given(_layer(layer) + target.router, rows[layer], _dtype(base, asked.dtype))
        if name not in gone:
            made.whole(name, 0, name)
    return made


def _experts(
    made: Assembly,
    target: Target,
    found: Sequence[Checkpoint],
    experts: Sequence[Expert],
    places: Sequence[int],
    layer: int,
    routed: int,
) -> None:
    """Add the experts of a layer.

    Raises:
        SutureError: if one has other shapes than the base.
    """
    for number, (expert, place) in enumerate(zip(experts, places, strict=True)):
        if number < routed:
            names = target.matrices(number)
        else:
            names = [f"{target.shared}.{name}.weight" for name in target.names]
        for own, name in zip(DENSE, names, strict=True):
            tensor = f"{_layer(layer)}mlp.{own}.weight"
            want, have = found[0].info(tensor).shape, _info(found[place], tensor)
            if want != have:
                both = f"has shape {list(have)}, and {list(want)} in {found[0].path}"
                message = f"tensor `{tensor}`: {both}; experts are of one shape"
                raise SutureError(f"{found[place].path}: {message}", found[place].path, tensor)
            more = {"scale": expert.scale} if own == DENSE[2] and expert.scale != 1 else {}
            made.whole(_layer(layer) + name, place, tensor, **more)


def _tiny(made: Assembly, found: Checkpoint, target: Target, layers: Sequence[int], width: int) -> None:
    """Add what all tokens go through, where the architecture wants it: rows of the dense matrices, times 0."""
    hidden = found.info(f"{_layer(layers[0])}mlp.{DENSE[0]}.weight").shape[1]
    dtype = _dtype(found, None)
    for i in layers:
        for own in DENSE[:2]:
            made.rows(f"{_layer(i)}{target.shared}.{own}.weight", [(0, f"{_layer(i)}mlp.{own}.weight", 0, width)])
        made.given(f"{_layer(i)}{target.shared}.{DENSE[2]}.weight", np.zeros((hidden, width), np.float32), dtype)
        made.given(f"{_layer(i)}{target.shared_gate}", np.zeros((1, hidden), np.float32), dtype)


def _routers(router: str, experts: int, layers: Sequence[int], width: int, seed: int) -> dict[int, Array]:
    """Routers drawn by the seed, or read from a file of centroids.

    Raises:
        UsageError: if the file is none of them.
    """
    if router == "random":
        drawn = gates("random", None, [Prompts((), ())] * experts, layers, width, seed)
        return {i: rows * np.float32(_SPREAD) for i, rows in drawn.items()}
    try:
        given = np.load(router, allow_pickle=False)
    except (OSError, ValueError) as e:
        message = f"router: expected random or a NumPy array of centroids, found `{router}`, which cannot be read: {e}"
        raise UsageError(message, at="router") from None
    want = ([experts, width], [len(layers), experts, width])
    if list(given.shape) not in want:
        raise UsageError(
            f"router: `{router}` has shape {list(given.shape)}, expected {want[0]} or {want[1]}", at="router"
        )
    rows = np.broadcast_to(given.astype(np.float64), (len(layers), experts, width))
    lengths = np.linalg.norm(rows, axis=2, keepdims=True)
    if not np.isfinite(rows).all() or not (lengths > 0).all():
        raise UsageError(
            f"router: `{router}` has rows of zeros, or that are no numbers; ties send all tokens to one expert",
            at="router",
        )
    return {layer: (row / length).astype(np.float32) for layer, row, length in zip(layers, rows, lengths, strict=True)}


def _groups(path: str | PathLike[str] | None, experts: int) -> dict[str, list[str]]:
    """The groups of languages in a file, one for each expert.

    Raises:
        UsageError: if there are more or fewer, or a language stands in two.
    """
    if path is None:
        return {}
    from suture.recipe import documents

    found = documents(path)[0].recipe
    sound = all(isinstance(v, list) and all(isinstance(x, str) for x in v) for v in found.values())
    if not sound or len(found) != experts:
        raise UsageError(
            f"family: `{path}`: expected {experts} groups, a list of languages each, found {len(found)}", at="family"
        )
    seen: dict[str, str] = {}
    for group, languages in found.items():
        for language in languages:
            if (other := seen.setdefault(language, group)) != group:
                raise UsageError(f"family: `{path}`: `{language}` stands in `{other}` and in `{group}`", at="family")
    return dict(found)


def _layer(layer: int) -> str:
    return f"model.layers.{layer}."


def _config(model: Checkpoint) -> dict[str, Any]:
    config = config_beside(model)
    if config is None:
        raise SutureError(f"{model.path}: has no config.json, which says what architecture it is", model.path)
    return config


def _layers(model: Checkpoint, config: Mapping[str, Any]) -> list[int]:
    """The layers of a dense model, all of which have the three matrices.

    Raises:
        SutureError: if one has not.
    """
    names = set(model.names)
    count, there = _number(model, config, "num_hidden_layers"), _count(model)
    if count < there:
        message = f"config.json counts {count} layers (num_hidden_layers), and there are {there}"
        raise SutureError(f"{model.path}: {message}", model.path)
    layers = list(range(min(count, there + 1)))
    for i in layers:
        for own in DENSE:
            if (tensor := f"{_layer(i)}mlp.{own}.weight") not in names:
                raise SutureError(
                    f"{model.path}: tensor `{tensor}`: is missing; expected a dense model of Llama's kind",
                    model.path,
                    tensor,
                )
    inner, have = _number(model, config, "intermediate_size"), model.info(f"{_layer(0)}mlp.{DENSE[0]}.weight").shape
    if (inner,) != have[:1]:
        message = f"config.json says {inner} (intermediate_size), and `{DENSE[0]}` has shape {list(have)}"
        raise SutureError(f"{model.path}: {message}", model.path)
    return layers


def _number(model: Checkpoint, config: Mapping[str, Any], key: str) -> int:
    found = config.get(key)
    if not isinstance(found, int) or found < 1:
        message = f"config.json: `{key}`: expected a whole number above 0, found `{found}`"
        raise SutureError(f"{model.path}: {message}", model.path)
    return found


def _count(model: Checkpoint) -> int:
    """How many layers there are."""
    found = (re.match(r"model\.layers\.(\d{1,9})\.", name) for name in model.names)
    return max((int(m[1]) + 1 for m in found if m), default=0)


def _width(model: Checkpoint) -> int:
    return model.info(f"{_layer(0)}mlp.{DENSE[0]}.weight").shape[-1]


def _info(model: Checkpoint, tensor: str) -> tuple[int, ...]:
    if tensor not in model:
        raise SutureError(
            f"{model.path}: tensor `{tensor}`: is missing, and an expert is to have it", model.path, tensor
        )
    return model.info(tensor).shape


def _dtype(model: Checkpoint, asked: str | None) -> str:
    """The dtype of what is computed for a model."""
    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    own = model.info(f"{_layer(0)}mlp.{DENSE[0]}.weight").dtype
    return asked or names.get(own, "bfloat16")
