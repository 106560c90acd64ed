"""Whether models can be merged, or layers of them swapped, and what stands in the way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from suture import _core
from suture.analysis.compat_configs import architecture, config_rows
from suture.analysis.compat_tensors import tensor_rows
from suture.analysis.seen import Seen, look
from suture.errors import SutureError, UsageError
from suture.recipe import as_json
from suture.reference import model_of
from suture.results.compat import Answer, Compatibility, Finding
from suture.sidecars.adapter import adapter_config
from suture.sidecars.agreement import disagreements
from suture.sidecars.files import read_config

#: Models with more tensors than this are judged by the rows alone: to plan a merge of them takes seconds.
_TRIED = 20_000


def compat(*models: str | PathLike[str]) -> Compatibility:
    """Compare models by their headers and configs: can they be merged, can layers of the others go into the first?

    Returns:
        ``models`` and their ``labels``; ``rows``, what they were compared in, each with a ``status`` (``same``,
        ``differs``, ``blocks``), the ``values`` of each model, what it is about (``told``) and what to do about it
        (``remedy``); ``merge`` and ``swap``, each with an ``answer`` (``yes``, ``warnings`` or ``no``) and the reasons
        in ``because``. The answers are those of a dry run, with the models as they are.

    Raises:
        UsageError: if fewer than two models are given, or one twice.
        SutureError: if a checkpoint or a config.json is not sound.
    """
    if len(models) < 2:
        raise UsageError("compat compares models with the first; give two at least")
    seen = look(models)
    real = [Path(m).resolve() for m in models]
    if twice := [m for i, m in enumerate(models) if real[i] in real[:i]]:
        raise UsageError(f"`{fspath(twice[0])}` is given twice; expected different models")
    rows = [architecture(seen), *tensor_rows(seen), *config_rows(seen)]
    tried = sum(len(s.tensors) for s in seen) <= _TRIED
    return {
        "schema": 1,
        "models": [s.path for s in seen],
        "labels": [s.label for s in seen],
        "rows": rows,
        "merge": _answer("merge", rows, _merge_fails(seen) if tried else None),
        "swap": _answer("swap", rows, _swap_fails(seen) if tried else None),
        "warnings": [w for s in seen for w in s.warnings],
    }


def _merge_fails(seen: Sequence[Seen]) -> list[str]:
    """What a plan of the plainest merge says against it."""
    listed = [{"model": model_of(s.path), "parameters": {"weight": 1.0}} for s in seen]
    return _fails({"merge_method": "linear", "models": listed})


def _swap_fails(seen: Sequence[Seen]) -> list[str]:
    """What plans of swaps of all layers say against them, of each donor."""
    into, *donors = seen
    stacks = [into.main] if into.main else into.stacks
    found = []
    for donor in donors:
        failed: list[str] = []
        for stack in stacks:
            entry = {"from": model_of(donor.path), "layers": list(range(stack["layers"]))}
            swap = {"into": model_of(into.path), "donors": [entry], "stack": stack["name"]}
            failed = _fails({"swap": swap | ({"adapters": True} if into.adapter else {})})
            if not failed:
                # Any stack that could be named will do.
                break
        if not failed:
            try:
                adapter_config([Path(into.path), Path(donor.path)])
            except SutureError as e:
                failed = [str(e)]
        found += failed if stacks else [f"{into.path}: no tensor name holds a layer number"]
    return found


def _fails(recipe: dict[str, Any]) -> list[str]:
    try:
        plan = _core.Plan(as_json(recipe))
        configs = {i: read_config(p) for i, p in enumerate(plan.paths) if p.is_dir()}
        if configs.get(0) is not None:
            # Of every stack, not of the main one alone, which the rows are about.
            disagreements(plan.paths, configs, json.loads(plan.config_json()))
    except SutureError as e:
        return [str(e)]
    return []


#: Rows of which a plan knows more than names and shapes tell. Whether quantised weights that a merge must leave alone
#: are the same is known only when they are read.
_PLANNED = {"merge": ("tensors", "shapes", "layers"), "swap": ("tensors", "shapes", "dtypes", "quantisation", "layers")}


def _answer(operation: str, rows: list[Finding], failures: list[str] | None) -> Answer:
    """The verdict; where a plan was tried, what it says decides, for it knows more of names than the rows do."""
    for row in rows:
        if failures == [] and operation in row["blocks"] and row["what"] in _PLANNED[operation]:
            row["blocks"].remove(operation)
            row["status"] = "blocks" if row["blocks"] else "differs"
    against = [row for row in rows if operation in row["blocks"]]
    if against:
        return {"answer": "no", "because": [reason(row) for row in against]}
    if failures:
        return {"answer": "no", "because": list(dict.fromkeys(failures))}
    told = [reason(row) for row in rows if row["status"] != "same"]
    return {"answer": "warnings" if told else "yes", "because": told}


def reason(row: Finding) -> str:
    """What a row is about, in a clause; what to do about it stands in the row."""
    about = row["told"] or ", not ".join(dict.fromkeys(reversed(row["values"])))
    return f"{row['what']}: {about}"
