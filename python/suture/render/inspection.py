"""A checkpoint's description as text."""

from __future__ import annotations

from typing import Any

import click

from suture.escape import printable
from suture.render.terminal import bolded, say
from suture.render.units import figure, plural, size
from suture.results import Inspection
from suture.results.reading import Tensor


def show(found: Inspection, tensors: bool) -> None:
    """Print the description; every tensor too if `tensors`."""
    count = sum(d["elements"] for d in found["dtypes"].values())
    counted = f"{plural(len(found['tensors']), 'tensor')}, {count:,} elements"
    click.echo(f"{bolded(found['path'])}: {counted}, {size(found['bytes'])} in {plural(len(found['files']), 'file')}")
    if found["config"]:
        say("  config  " + ", ".join(f"{k} {_value(v)}" for k, v in found["config"].items()))
    if found["stack"]:
        say(f"  layers  {found['stack']['layers']} of {found['stack']['name']}")
    for name, d in found["dtypes"].items():
        say(f"  {name:<7} {plural(d['tensors'], 'tensor')}, {d['elements']:,} elements, {size(d['bytes'])}")
    if tensors:
        _table(found["tensors"])


def _value(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, list) else str(value)


def _table(tensors: list[Tensor]) -> None:
    rows = []
    for t in tensors:
        row = [printable(t["name"]), t["dtype"], "x".join(map(str, t["shape"])) or "scalar", size(t["nbytes"])]
        if "stats" in t:
            s = t["stats"]
            keys = ("min", "max", "mean_abs", "l2", "zeros", "nonfinite")
            row += [""] * len(keys) if s is None else [figure(s[k]) if k in keys[:4] else str(s[k]) for k in keys]
        rows.append(row)
    head = ["tensor", "dtype", "shape", "size"]
    if tensors and "stats" in tensors[0]:
        head += ["min", "max", "mean |x|", "l2", "zeros", "nan/inf"]
    widths = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]
    for n, row in enumerate([head, *rows]):
        cells = [c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        say("  ".join(cells), bold=n == 0)
