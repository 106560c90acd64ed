"""A checkpoint's description as text."""

from __future__ import annotations

from typing import Any

from suture.render.layout import room
from suture.render.table import Column, names, words
from suture.render.table import show as show_table
from suture.render.terminal import say
from suture.render.units import figure, plural, size
from suture.results import Inspection
from suture.results.reading import Tensor


def show(found: Inspection, tensors: bool) -> None:
    """Print the description; every tensor too if `tensors`."""
    count = sum(d["elements"] for d in found["dtypes"].values())
    counted = f"{plural(len(found['tensors']), 'tensor')}, {count:,} elements"
    files = plural(len(found["files"]), "file")
    say(f"{counted}, {size(found['bytes'])} in {files}", head=found["path"])
    if found["config"]:
        say("  config  " + ", ".join(f"{k} {_value(v)}" for k, v in found["config"].items()), hang=10)
    for stack in found["stacks"]:
        # The name that options and tables call it by, and what it is.
        called = f", called {stack['name']}{' (main)' if stack['main'] else ''}" if len(found["stacks"]) > 1 else ""
        say(f"  layers  {stack['layers']} of {stack['prefix']}{called}", hang=10)
    for sentence in found["verdict"]:
        say(f"  found   {sentence}", hang=10)
    for name, d in found["dtypes"].items():
        say(f"  {name:<7} {plural(d['tensors'], 'tensor')}, {d['elements']:,} elements, {size(d['bytes'])}")
    if tensors:
        _table(found["tensors"])


def _value(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, list) else str(value)


#: The figures of --stats: key, title, and how soon a narrow terminal does without.
_STATS = (("min", "min", 3), ("max", "max", 3), ("mean_abs", "mean |x|", 2), ("l2", "l2", 5), ("zeros", "zeros", 6))
_COUNTS = ("zeros", "nonfinite")


def _table(tensors: list[Tensor]) -> None:
    columns = [
        names("tensor", [t["name"] for t in tensors]),
        words("dtype", [t["dtype"] for t in tensors], rank=1),
        words("shape", ["x".join(map(str, t["shape"])) or "scalar" for t in tensors], rank=2),
        Column("size", [size(t["nbytes"]) for t in tensors], 4),
    ]
    if tensors and "stats" in tensors[0]:
        stats = [t["stats"] or {} for t in tensors]
        columns += [
            Column(title, [_figure(key, s.get(key)) for s in stats], rank)
            for key, title, rank in (*_STATS, ("nonfinite", "nan/inf", 1))
        ]
    show_table(columns, room(), more="--json has all")


def _figure(key: str, value: float | str | None) -> str:
    if value is None:
        return ""
    return str(value) if key in _COUNTS else figure(value)
