"""A comparison as a heat map or a table."""

from __future__ import annotations

import os
import sys
from typing import Any

from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from suture.render.units import figure, plural

#: A sequential scale from pale to dark (ColorBrewer's YlGnBu), readable by colour-blind people. Text and background
#: are both set, so a cell looks the same on a dark and on a light terminal.
_SCALE = [
    ("black", "#ffffd9"), ("black", "#edf8b1"), ("black", "#c7e9b4"), ("black", "#7fcdbb"), ("black", "#41b6c4"),
    ("white", "#1d91c0"), ("white", "#225ea8"), ("white", "#253494"), ("white", "#081d58"),
]  # fmt: skip
_SHADES = " .:-=+*#@"
_SHORT = {"input_layernorm": "in_norm", "post_attention_layernorm": "post_norm"}


def show_heat_map(found: dict[str, Any], metric: str) -> None:
    """Print layers by modules, each cell its metric in percent of the largest, and coloured by it."""
    console = Console(highlight=False)
    values = {(c["layer"], c["module"]): _reading(c, metric) for c in found["cells"]}
    finite = [v for v in values.values() if v != float("inf")]
    top = max(finite, default=0.0)
    modules = list(dict.fromkeys(m for layer, m in values if layer != "-"))
    layers = list(dict.fromkeys(layer for layer, _ in values if layer != "-"))
    _say(console, _headline(found, metric, top))
    width = max(5, min(9, (console.width - 8) // max(len(modules), 1) - 1))
    if layers:
        _say(console, Text("  layer ") + Text(" ".join(_head(m)[:width].rjust(width) for m in modules)))
    for layer in layers:
        line = Text(f"  {layer:>5} ")
        for m in modules:
            line.append(_cell(values.get((layer, m)), top, width, console))
            line.append(" ")
        _say(console, line)
    for layer, module in values:
        if layer == "-":
            _say(console, _cell(values[layer, module], top, 9, console) + Text(f" {module}"))
    for note in _lists(found):
        console.print(note)


def _say(console: Console, text: Text) -> None:
    console.print(text, no_wrap=True, crop=False, overflow="ignore")


def show_table(found: dict[str, Any], by: str, rows: list[dict[str, Any]]) -> None:
    """Print one row of metrics for each layer, module or tensor."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    table = Table(box=None, pad_edge=False, header_style="bold")
    key = "name" if by == "tensor" else by
    metrics = [m["name"] for m in found["metrics"]]
    table.add_column(by, no_wrap=True)
    for name in metrics:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(row[key], *_figures(row, metrics))
    table.add_row("all", *_figures(found["total"], metrics), style="bold")
    console.print(table)
    for line in _lists(found):
        console.print(line)


def _reading(cell: dict[str, Any], metric: str) -> float:
    value = float(cell[metric])
    # A cosine near one is no change: what is shown is its distance from one.
    return max(1.0 - value, 0.0) if metric == "cosine" else value


def _figures(row: dict[str, Any], metrics: list[str]) -> list[str]:
    return [f"{float(row[m]):.6f}" if m == "cosine" else figure(row[m]) for m in metrics]


def _head(module: str) -> str:
    name = module.rsplit(".", 1)[-1]
    return _SHORT.get(name, name)


def _headline(found: dict[str, Any], metric: str, top: float) -> Text:
    total = found["total"]
    equal = sum(t["equal"] for t in found["tensors"])
    summary = next(m["summary"] for m in found["metrics"] if m["name"] == metric)
    shown = "1 - cosine of base and tuned" if metric == "cosine" else summary
    text = Text(f"{found['tuned']} against {found['base']}\n", style="bold")
    text.append(
        f"{plural(len(found['tensors']), 'tensor')}, {equal} equal; relative change {figure(total['relative_l2'])}, "
        f"cosine {float(total['cosine']):.6f}, {float(total['changed']):.1%} of elements changed\n"
        f"{metric}: {shown}; 100 is {figure(top)}",
        style="not bold",
    )
    return text


def _cell(value: float | None, top: float, width: int, console: Console) -> Text:
    if value is None:
        return Text(" " * width)
    share = 0.0 if top == 0 else min(value / top, 1.0)
    label = f"{share * 100:.0f}"
    if console.color_system is None or os.environ.get("NO_COLOR"):
        return Text((label + " " + _SHADES[round(share * (len(_SHADES) - 1))]).rjust(width))
    ink, paper = _SCALE[min(int(share * len(_SCALE)), len(_SCALE) - 1)]
    return Text(label.rjust(width - 1) + " ", style=Style(color=ink, bgcolor=paper))


def _lists(found: dict[str, Any]) -> list[str]:
    titles = (
        ("only_base", "only in the base"),
        ("only_tuned", "only in the tuned model"),
        ("reshaped", "not comparable"),
    )
    return [f"{title}: {', '.join(found[key])}" for key, title in titles if found[key]]
