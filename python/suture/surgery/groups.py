"""A plan of groups: what it makes, where it sends each language, and how large all of it is."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suture.checkpoint import opened
from suture.escape import shown
from suture.recipe import Config
from suture.recipe.groups import ROUTING, Plan, Route, read_plan
from suture.reference import Reference
from suture.results.report import Report
from suture.results.surgery import places
from suture.results.tables import Count, Place, Routed, Routing, Sizes
from suture.settings import Progress, Settings
from suture.surgery.documents import Beside, merge_documents


def merge_groups(document: Config, out: Path, settings: Settings, dry_run: bool, progress: Progress | None) -> Report:
    """Carry out a plan of groups: an output for each group and merged direction, and the table of routes.

    Raises:
        UsageError: if the plan is wrong or has a gap; the message gives its line.
        SutureError: if an input is not sound or an output cannot be written.
    """
    plan = read_plan(document, lenient=settings.ignore_unknown)

    def table(looks: Mapping[str, Report], _: Mapping[str, Report] | None) -> dict[str, Any]:
        return dict(_routing(plan, out, looks))

    beside = Beside(ROUTING, "routes", table, [])
    return merge_documents(plan.configs, out, settings, dry_run, progress, beside)


def _routing(plan: Plan, out: Path, looks: Mapping[str, Report]) -> Routing:
    """routing.json."""
    routes: dict[str, dict[str, Routed]] = {}
    for route in plan.routes:
        place: Place = {"path": route.output} if route.output is not None else _place(route.expert, out)
        told: Routed = {"group": route.group, "output": route.output, "model": place}
        routes.setdefault(route.direction, {})[route.language] = told
    return {"schema": 1, "groups": plan.groups, "routes": routes, "sizes": _sizes(plan, looks)}


def _place(model: str | Reference, out: Path) -> Place:
    """Where a model lies, from `out`."""
    own = model if isinstance(model, Reference) else Reference(model)
    place: Place = {"path": _path(own.path, out)}
    if own.adapters:
        place["adapters"] = [{"path": _path(path, out), "weight": weight} for path, weight in own.adapters]
    if own.name is not None:
        place["name"] = own.name
    return place


def _path(path: str, out: Path) -> Any:
    """A path from `out`, as a file of JSON has it; of a model in a store its URL."""
    if (url := shown(path)) != path:
        return url
    found = os.path.relpath(os.path.abspath(path), os.path.realpath(out))
    try:
        found.encode()
    except UnicodeEncodeError:
        return {"bytes": os.fsencode(found).hex()}
    return found


@dataclass(frozen=True)
class _Size:
    """How large a model is.

    Attributes:
        parameters: its parameters, with what it shares.
        own: those that it shares with none.
        whose: the model that it takes others of as they are.
        shared: the names of these there.
    """

    parameters: int
    own: int
    whose: str | None = None
    shared: frozenset[str] = frozenset()


class _Headers:
    """The parameters of models, by their tensors' names; each is opened once."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, int]] = {}

    def of(self, path: str) -> dict[str, int]:
        """The tensors of a model without adapters, or of an adapter."""
        key = os.path.realpath(path)
        if key not in self._found:
            self._found[key] = _tensors(path)
        return self._found[key]


def _tensors(path: str) -> dict[str, int]:
    listed = json.loads(opened(Reference(path)).to_json())["tensors"]
    return {tensor["name"]: math.prod(tensor["shape"]) for tensor in listed}


def _sizes(plan: Plan, looks: Mapping[str, Report]) -> Sizes:
    """How large the experts are, and what is served in their place."""
    headers = _Headers()
    base = None if plan.base is None else _underlying(plan.base)
    experts = [_expert(route.expert, base, headers) for route in _distinct(plan.routes)]
    served = [(name, _output(look, base)) for name, look in looks.items()]
    kept = _distinct(route for route in plan.routes if route.output is None)
    served += [(f"{r.direction}.{r.language}", _expert(r.expert, base, headers)) for r in kept]
    return {
        "base": None if base is None else sum(headers.of(base).values()),
        "experts": _count(experts, headers),
        "served": _count([size for _, size in served], headers),
        "models": [{"name": name, "parameters": s.parameters, "own": s.own} for name, s in served],
    }


def _underlying(model: str | Reference) -> str:
    return model.path if isinstance(model, Reference) else model


def _distinct(routes: Iterable[Route]) -> list[Route]:
    """The first route of every expert: several languages may share one."""
    found: dict[Any, Route] = {}
    for route in routes:
        expert = route.expert if isinstance(route.expert, Reference) else Reference(route.expert)
        found.setdefault(expert.at(os.path.realpath), route)
    return list(found.values())


def _expert(model: str | Reference, base: str | None, headers: _Headers) -> _Size:
    """An expert: with adapters all of what is below them is shared, and they are its own; so is the base itself."""
    tensors = headers.of(_underlying(model))
    whole, path = sum(tensors.values()), _underlying(model)
    adapters = model.adapters if isinstance(model, Reference) else ()
    if adapters or (base is not None and os.path.realpath(path) == os.path.realpath(base)):
        own = sum(sum(headers.of(adapter).values()) for adapter, _ in adapters)
        return _Size(whole + own, own, path, frozenset(tensors))
    return _Size(whole, whole)


def _output(look: Report, base: str | None) -> _Size:
    """An output, by its plan: what is moved from the base bit for bit is shared with it."""
    labels = {m["label"] for m in look.data["models"] if base is not None and _is(m, base)}
    whole, shared = 0, {}
    for tensor in look.data["tensors"]:
        count = math.prod(tensor["shape"])
        whole += count
        taken = places(tensor["inputs"])
        if tensor["action"] in ("copy", "move") and len(taken) == 1 and taken[0][0] in labels:
            shared[taken[0][1]] = count
    return _Size(whole, whole - sum(shared.values()), base, frozenset(shared))


def _is(model: Mapping[str, Any], path: str) -> bool:
    """Whether a model of a plan is the one at `path`, without adapters."""
    told = model["path"]
    found = os.fsdecode(bytes.fromhex(told["bytes"])) if isinstance(told, dict) else told
    return not model.get("adapters") and os.path.realpath(found) == os.path.realpath(path)


def _count(listed: Sequence[_Size], headers: _Headers) -> Count:
    """The parameters of several models, what they share counted once."""
    shared: dict[str, set[str]] = {}
    for size in listed:
        if size.whose is not None and size.shared:
            shared.setdefault(os.path.realpath(size.whose), set()).update(size.shared)
    common = sum(headers.of(path)[name] for path, names in shared.items() for name in names)
    return {"models": len(listed), "parameters": sum(size.own for size in listed) + common}
