"""Configs of mixtures of experts, in the grammar of mergekit-moe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from suture.errors import UsageError, near
from suture.recipe import documents
from suture.reference import Model
from suture.surgery.moe_gates import MODES, Prompts

_KEYS = (
    "base_model", "gate_mode", "dtype", "experts_per_token", "experts", "shared_experts", "architecture",
    "merge_method", "parameters",
)  # fmt: skip
_EXPERT = ("source_model", "positive_prompts", "negative_prompts", "noise_scale", "residual_scale")
_DTYPES = {"bfloat16", "float16", "float32", "float64"}


@dataclass(frozen=True)
class Expert:
    """An expert that is asked for.

    Attributes:
        model: whose dense layers it is.
        prompts: what it is for.
        scale: what its last matrix is multiplied by.
    """

    model: Model
    prompts: Prompts
    scale: float


@dataclass(frozen=True)
class Mixture:
    """What a config asks for.

    Attributes:
        base: the model that gives everything but the experts.
        mode: how routers are made.
        dtype: of the output; None for the models'.
        chosen: experts that a token goes to.
        experts: the experts.
        shared: what all tokens go through.
        architecture: of the output, by its beginning; None for the base's.
        told: what of the config decides nothing.
    """

    base: Model
    mode: str
    dtype: str | None
    chosen: int
    experts: tuple[Expert, ...]
    shared: tuple[Expert, ...]
    architecture: str | None
    told: tuple[str, ...]


def mixture(config: Mapping[str, Any] | str | PathLike[str], *, alike: bool = False) -> Mixture:
    """Read a config.

    Args:
        config: a YAML file, or what one holds.
        alike: whether experts may all be one model without anything to tell them apart.

    Raises:
        UsageError: if it is none, with the key.
    """
    found = documents(config)
    if len(found) != 1:
        raise UsageError(f"expected one document, found {len(found)}; write each mixture to a file of its own")
    data = dict(found[0].recipe)
    folder = None if isinstance(config, Mapping) else Path(config).parent
    if unknown := next((k for k in data if k not in _KEYS), None):
        raise UsageError(f"{unknown}: unknown key{near(unknown, _KEYS)}", at=unknown)
    told = [f"{k}: decides nothing in a mixture of experts" for k in ("parameters",) if k in data]
    method = data.get("merge_method", "moe")
    if method != "moe":
        raise UsageError(
            f"merge_method: expected moe, found `{method}`; merges are made by `suture merge`", at="merge_method"
        )
    base = data.get("base_model")
    if not isinstance(base, str):
        raise UsageError("base_model: is missing; it gives the attention, norms and embeddings", at="base_model")
    mode = data.get("gate_mode", "hidden")
    if mode not in MODES:
        raise UsageError(f"gate_mode: expected one of {', '.join(MODES)}, found `{mode}`", at="gate_mode")
    dtype = data.get("dtype")
    if dtype is not None and str(dtype) not in _DTYPES:
        raise UsageError(f"dtype: expected one of {', '.join(sorted(_DTYPES))}, found `{dtype}`", at="dtype")
    experts = tuple(_experts(data.get("experts"), "experts", mode, folder))
    shared = tuple(_experts(data.get("shared_experts") or [], "shared_experts", mode, folder))
    if len(experts) < 2:
        raise UsageError(f"experts: {len(experts)} given; a mixture has two or more", at="experts")
    if len(shared) > 1:
        raise UsageError(f"shared_experts: {len(shared)} given; there is one at most", at="shared_experts")
    chosen = data.get("experts_per_token", 2)
    if not isinstance(chosen, int) or isinstance(chosen, bool) or not 1 <= chosen <= len(experts):
        message = f"experts_per_token: expected 1 to {len(experts)}, as many as there are experts, found `{chosen}`"
        raise UsageError(message, at="experts_per_token")
    if "random" not in mode and not alike:
        _distinct(experts)
    architecture = data.get("architecture")
    if architecture is not None and not isinstance(architecture, str):
        raise UsageError(f"architecture: expected a name, found `{architecture}`", at="architecture")
    return Mixture(_model(base, folder), mode, dtype, chosen, experts, shared, architecture, tuple(told))


def _model(name: str, folder: Path | None) -> Model:
    """A model as a config names it: beside the config, if it is there."""
    beside = None if folder is None else folder / name
    return str(beside) if beside is not None and not Path(name).exists() and beside.exists() else name


def _experts(given: Any, at: str, mode: str, folder: Path | None) -> list[Expert]:
    if not isinstance(given, list):
        raise UsageError(f"{at}: expected a list of experts", at=at)
    out = []
    for i, one in enumerate(given):
        place = f"{at}[{i}]"
        if not isinstance(one, dict):
            raise UsageError(f"{place}: expected a mapping with `source_model`", at=place)
        if unknown := next((k for k in one if k not in _EXPERT), None):
            raise UsageError(f"{place}.{unknown}: unknown key{near(unknown, _EXPERT)}", at=f"{place}.{unknown}")
        source = one.get("source_model")
        if not isinstance(source, str):
            raise UsageError(f"{place}.source_model: is missing; it is the model whose layers the expert is", at=place)
        if one.get("noise_scale"):
            message = f"{place}.noise_scale: noise is not added to experts here; leave it out, and train them apart"
            raise UsageError(message, at=f"{place}.noise_scale")
        scale = one.get("residual_scale")
        scale = 1.0 if scale is None else scale
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not abs(scale) < float("inf"):
            raise UsageError(
                f"{place}.residual_scale: expected a number, found `{scale}`", at=f"{place}.residual_scale"
            )
        positive, negative = (_texts(one.get(k), f"{place}.{k}") for k in ("positive_prompts", "negative_prompts"))
        if not positive and "random" not in mode:
            message = (
                f"{place}.positive_prompts: is empty; gate_mode {mode} makes the router of them (random needs none)"
            )
            raise UsageError(message, at=place)
        out.append(Expert(_model(source, folder), Prompts(positive, negative), float(scale)))
    return out


def _texts(given: Any, at: str) -> tuple[str, ...]:
    if given is None:
        return ()
    if not isinstance(given, list) or not all(isinstance(t, str) for t in given):
        raise UsageError(f"{at}: expected a list of texts", at=at)
    if half := next((t for t in given if any("\ud800" <= c <= "\udfff" for c in t)), None):
        raise UsageError(f"{at}: expected characters, found half of one in {half!r}", at=at)
    return tuple(given)


def _distinct(experts: tuple[Expert, ...]) -> None:
    """Refuse experts that nothing tells apart.

    Raises:
        UsageError: if two have the same prompts, and so one row of the router each that is the same.
    """
    seen: dict[Prompts, int] = {}
    for i, expert in enumerate(experts):
        if (first := seen.setdefault(expert.prompts, i)) != i:
            message = f"experts[{i}]: has the prompts of experts[{first}]; the router cannot tell them apart"
            raise UsageError(f"{message}: give other prompts, or go on with --allow-alike", at=f"experts[{i}]")
