"""Configs of mergekit's other tools, which people take for merges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from suture.errors import UsageError

#: What each tool does, and the keys that only its configs have.
_TOOLS = {
    "mergekit-moe": (
        "makes one model with experts out of several models",
        ("experts", "gate_mode", "experts_per_token", "shared_experts"),
    ),
    "mergekit-evolve": ("searches the coefficients of a merge by evaluating models", ("genome",)),
}


def refuse_relatives(recipe: Mapping[str, Any], at: str = "", *, alone: bool = True) -> None:
    """Name a config, at key path `at`, that is of another tool; `alone` if nothing adds to it.

    Raises:
        UsageError: if it is one.
    """
    inside = f"{at}." if at else ""
    if plan := next((key for key in ("groups", "directions") if key in recipe), None):
        raise UsageError(f"{plan}: a plan of groups stands alone in its file, in one document", at=f"{inside}{plan}")
    if "methods" in recipe:
        message = "methods: unknown key; a set of models for several methods is run by `suture merge --all-of`"
        raise UsageError(message, at=f"{inside}methods")
    for key, verb in (("swap", "swap"), ("copy", "convert"), ("assemble", "assemble")):
        if key in recipe:
            message = f"{key}: unknown key; that is done by `suture {verb}`, not by a config"
            raise UsageError(message, at=f"{inside}{key}")
    for tool, (what, keys) in _TOOLS.items():
        # `experts: packed` is ours; those of other tools are lists.
        found = next((key for key in keys if key in recipe and not isinstance(recipe[key], str)), None)
        if found is None and (tool, recipe.get("merge_method")) == ("mergekit-moe", "moe"):
            found = "merge_method"
        if found is not None:
            verb = tool.removeprefix("mergekit-").replace("evolve", "search")
            message = f"`{found}`: this is a config of {tool}, which {what}; it is no merge: `suture {verb}` reads it"
            raise UsageError(message, at=f"{inside}{found}")
    if (
        alone
        and "merge_method" not in recipe
        and not {"models", "slices", "modules", "base_model", "outputs"} & recipe.keys()
    ):
        raise UsageError("this is no merge config; expected `merge_method` and one of `models`, `slices` and `modules`")


def refuse_searched(node: Any, at: str = "") -> None:
    """Name a value that is to be searched, in a config that is merged as it is.

    Raises:
        UsageError: if there is one; it names the verb that does that.
    """
    if isinstance(node, dict):
        if isinstance(node.get("search"), list) and "parameters" in at:
            raise UsageError(f"{at}: is to be searched, which `suture search` does; expected a value", at=at)
        for key, value in node.items():
            refuse_searched(value, f"{at}.{key}" if at else key)
    elif isinstance(node, list):
        for i, item in enumerate(node):
            refuse_searched(item, f"{at}[{i}]")
