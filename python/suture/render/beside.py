"""What stands beside outputs.json, as tables: how outputs lie to their experts, and where languages go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from suture.escape import printable
from suture.render.layout import room
from suture.render.table import Column, names, show
from suture.render.terminal import say
from suture.render.units import figure, plural
from suture.results.tables import AllOf, Count, Routed, Routing


def show_beside(beside: Mapping[str, Any]) -> None:
    """Print the tables that a report has beside its outputs."""
    for data in beside.values():
        if "routes" in data:
            _show_routing(data)
        elif "counts" in data:
            _show_rows(data)
        else:
            _show_all_of(data)


def _show_rows(data: Mapping[str, Any]) -> None:
    """What became of the rows of a vocabulary: how long the new ones are beside the old."""
    audit = data.get("audit")
    if audit is None or not audit["new"]["rows"]:
        return
    say(f"new rows of {audit['table']}", bold=True)
    sides = [(name, audit[name]) for name in ("old", "new") if audit[name]["rows"]]
    quantiles = {"0": ("shortest", 1), "0.01": ("1 % below", 2), "0.5": ("median", 0), "0.99": ("1 % above", 2),
                 "1": ("longest", 1)}  # fmt: skip
    show([
        names("rows", [name for name, _ in sides]),
        Column("looked at", [f"{own['rows']:,}" for _, own in sides]),
        *(Column(title, [figure(own[q]) for _, own in sides], rank) for q, (title, rank) in quantiles.items()),
    ], room())  # fmt: skip
    odd = {"loud": "much longer than old ones", "zero": "zeros", "duplicates": "equal to another new one"}
    if told := ", ".join(f"{audit[key]:,} {what}" for key, what in odd.items() if audit[key]):
        say(f"  {told}")


def _show_all_of(data: AllOf) -> None:
    outputs = data["outputs"]
    say("how the outputs lie to their experts", bold=True)
    columns = [names("output", [o["output"] for o in outputs])]
    if data["base"] is not None:
        columns.append(Column("change of base", [figure(o["l2"]) for o in outputs], 1))
        columns.append(Column("relative", [figure(o["relative_l2"]) for o in outputs]))
    for i, expert in enumerate(data["experts"]):
        label, towards = printable(expert), [o["towards"][i] for o in outputs]
        columns.append(Column(f"distance to {label}", [figure(t["distance"]) for t in towards]))
        if data["base"] is not None:
            relative = [figure(t["relative_distance"]) for t in towards]
            columns.append(Column(f"relative to its change, {label}", relative, 3))
            shown = ["-" if t["cosine"] is None else f"{float(t['cosine']):.4f}" for t in towards]
            columns.append(Column(f"cosine of changes, {label}", shown, 2))
    show(columns, room(), more="all_of.json and --json have all")


def _show_routing(data: Routing) -> None:
    say("where languages go", bold=True)
    listed = [(group, language) for group, languages in data["groups"].items() for language in languages]
    columns = [names("language", [one for _, one in listed]), names("group", [group for group, _ in listed])]
    for direction, routes in data["routes"].items():
        columns.append(names(printable(direction), [_where(routes[language]) for _, language in listed]))
    show(columns, room(), more="routing.json and --json have all")
    sizes = data["sizes"]
    say(f"experts: {_count(sizes['experts'])}; served: {_count(sizes['served'])}, what is the base's counted once")


def _where(route: Routed) -> str:
    """The output that a language goes to, or its expert as people write it."""
    if route["output"] is not None:
        return route["output"]
    place = route["model"]
    told = place.get("name") or _path(place["path"])
    return "+".join([told, *(_path(one["path"]) for one in place.get("adapters", []))])


def _path(told: Any) -> str:
    return bytes.fromhex(told["bytes"]).decode(errors="backslashreplace") if isinstance(told, dict) else str(told)


def _count(count: Count) -> str:
    return f"{plural(count['models'], 'model')}, {plural(count['parameters'], 'parameter')}"
