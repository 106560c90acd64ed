"""Configs of mergekit-evolve as configs whose values are searched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from suture.errors import UsageError, near

#: The methods that it searches, and what of them.
_METHODS = {
    "linear": ("weight",),
    "task_arithmetic": ("weight",),
    "ties": ("weight", "density"),
    "dare_ties": ("weight", "density"),
    "slerp": ("t",),
}
#: What its evaluations go by: here the evaluator is the user's own.
_TASKS = (
    "tasks",
    "limit",
    "num_fewshot",
    "shuffle",
    "apply_chat_template",
    "fewshot_as_multiturn",
    "confirm_run_unsafe_code",
)
#: Which decide nothing of the search either.
_NAMES = ("model_name",)
_GENOME = (
    "models",
    "merge_method",
    "base_model",
    "tokenizer_source",
    "layer_granularity",
    "normalize",
    "allow_negative_weights",
    "filters",
    "smooth",
    "dtype",
    "out_dtype",
)


def translated(recipe: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A config of mergekit-evolve as a merge config with `{search: ...}` where it searches, and what to tell.

    Raises:
        UsageError: if it is none, or asks for what is not searched so; it names the key.
    """
    told = []
    genome = recipe["genome"]
    if not isinstance(genome, dict):
        raise UsageError("genome: expected a mapping with `models` and `merge_method`", at="genome")
    for key in recipe:
        if key not in ("genome", "random_init", *_TASKS, *_NAMES):
            known = ("genome", "random_init", *_TASKS)
            raise UsageError(f"{key}: unknown key of a config of mergekit-evolve{near(key, known)}", at=key)
    for key in genome:
        if key not in _GENOME:
            raise UsageError(f"genome.{key}: unknown key{near(key, _GENOME)}", at=f"genome.{key}")
    passed = [key for key in _TASKS if key in recipe]
    if passed:
        told.append(
            f"{', '.join(passed)}: of lm-eval, which is not run here; the evaluator that is given stands for them"
        )
    method = genome.get("merge_method")
    if not isinstance(method, str) or method not in _METHODS:
        message = f"genome.merge_method: expected {', '.join(_METHODS)}, found `{method}`"
        raise UsageError(f"{message}; of others write a merge config with `search` in it", at="genome.merge_method")
    models = genome.get("models")
    if not isinstance(models, list) or not models:
        raise UsageError("genome.models: expected a list of models", at="genome.models")
    base = genome.get("base_model")
    if isinstance(base, dict) and "override_architecture" in base:
        told.append("genome.base_model.override_architecture: tensors go by their names and need none")
        base = base.get("model")
    if base is None and method not in ("linear", "slerp"):
        raise UsageError(f"genome.base_model: `{method}` needs the base", at="genome.base_model")
    if method == "slerp":
        base = models[0] if base is None else base
        if len(models) != 2 or base not in models:
            message = "genome.models: slerp is between two, of which the base is one"
            raise UsageError(f"{message}; found {len(models)}", at="genome.models")
    elif base is not None and base in models and method != "linear":
        models = [model for model in models if model != base]
        told.append("genome.models: the base is among them; its change is nothing, so it has no genes")
        if not models:
            raise UsageError("genome.models: there is none but the base", at="genome.models")
    return _config(recipe, genome, method, models, base), told


def _config(
    recipe: Mapping[str, Any], genome: Mapping[str, Any], method: str, models: list[Any], base: Any
) -> dict[str, Any]:
    granularity = genome.get("layer_granularity", 1)
    if isinstance(granularity, bool) or not isinstance(granularity, int):
        at = "genome.layer_granularity"
        raise UsageError(f"{at}: expected a number of layers, found `{granularity}`", at=at)
    shared = {"layer_granularity": max(granularity, 0)}
    shared |= {"smooth": True} if genome.get("smooth") else {}
    shared |= {"random_start": True} if recipe.get("random_init") else {}
    low = None if genome.get("allow_negative_weights") else 0.0
    searched = {
        "weight": {"search": [low, None], "start": 1 / len(models)},
        "density": {"search": [0.01, 1.0], "start": 1.0},
        "t": {"search": [0.0, 1.0], "start": 0.5},
    }
    filters = genome.get("filters") or []
    if not isinstance(filters, list) or not all(isinstance(f, str) for f in filters):
        raise UsageError("genome.filters: expected a list of parts of names", at="genome.filters")

    def values(name: str) -> Any:
        one = searched[name] | shared
        return [*({"filter": f, "value": one} for f in filters), {"value": one}] if filters else one

    found = {name: values(name) for name in _METHODS[method]}
    made: dict[str, Any] = {"merge_method": method}
    made |= {} if base is None else {"base_model": base}
    own = method != "slerp"
    made["models"] = [{"model": model} | ({"parameters": found} if own else {}) for model in models]
    shared_parameters: dict[str, Any] = {} if own else dict(found)
    if genome.get("normalize") is not None and own:
        shared_parameters["normalize"] = genome["normalize"]
    made |= {"parameters": shared_parameters} if shared_parameters else {}
    return made | {k: genome[k] for k in ("tokenizer_source", "dtype", "out_dtype") if genome.get(k) is not None}
