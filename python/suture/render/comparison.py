"""A comparison as a heat map or a table."""

from __future__ import annotations

import os
import sys

from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from suture.escape import printable
from suture.render.metrics import READINGS, reading
from suture.render.terminal import warn
from suture.render.units import figure, plural
from suture.results import Comparison, Row, Tuned

#: A sequential scale from pale to dark (ColorBrewer's YlGnBu), readable by colour-blind people. Text and background
#: are both set, so a cell looks the same on a dark and on a light terminal.
_SCALE = [
    ("black", "#ffffd9"), ("black", "#edf8b1"), ("black", "#c7e9b4"), ("black", "#7fcdbb"), ("black", "#41b6c4"),
    ("white", "#1d91c0"), ("white", "#225ea8"), ("white", "#253494"), ("white", "#081d58"),
]  # fmt: skip
_SHADES = " .:-=+*#@"
_SHORT = {"input_layernorm": "in_norm", "post_attention_layernorm": "post_norm"}


def show_heat_map(found: Comparison, model: Tuned, metric: str) -> None:
    """Print layers by modules, each cell its metric in percent of the largest, and coloured by it."""
    console = Console(highlight=False)
    values = {(c["layer"], c["module"]): reading(c, metric) for c in model["cells"]}
    finite = [v for v in values.values() if v != float("inf")]
    top = max(finite, default=0.0)
    modules = list(dict.fromkeys(m for layer, m in values if layer != "-"))
    layers = list(dict.fromkeys(layer for layer, _ in values if layer != "-"))
    _say(console, _headline(found, model, metric, top))
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
            _say(console, _cell(values[layer, module], top, 9, console) + Text(f" {printable(module)}"))
    for note in _lists(model):
        console.print(note)


def _say(console: Console, text: Text) -> None:
    console.print(text, no_wrap=True, crop=False, overflow="ignore")


def show_table(found: Comparison, model: Tuned, keys: tuple[str, ...], rows: list[Row]) -> None:
    """Print one row of metrics for each layer, module, tensor or part, which `keys` name."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 1000)
    table = Table(box=None, pad_edge=False, header_style="bold")
    metrics = [m["name"] for m in found["metrics"] if not rows or m["name"] in rows[0]]
    if len(found["models"]) > 1:
        console.print(Text(printable(model["tuned"]), style="bold"))
    for key in keys:
        table.add_column("tensor" if key == "name" else key, no_wrap=True)
    for name in metrics:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text("" if row[k] is None else printable(row[k])) for k in keys), *_figures(row, metrics))
    table.add_row("all", *[""] * (len(keys) - 1), *_figures(model["total"], metrics), style="bold")
    console.print(table)
    for line in _lists(model):
        console.print(line)


def show_pairs(found: Comparison) -> None:
    """Print how the changes of every two fine-tunes relate."""
    if not found["pairs"]:
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 1000)
    table = Table(box=None, pad_edge=False, header_style="bold", title="how the changes relate", title_justify="left")
    table.add_column("fine-tunes", no_wrap=True)
    for name in ("cosine", "both changed", "same sign", "overlap of the top 1 %"):
        table.add_column(name, justify="right")
    for pair in found["pairs"]:
        total = pair["total"]
        overlap = f"{total['overlap']:.1%}" if "overlap" in total else "with --spread"
        shares = (f"{total['both']:.1%}", f"{total['agree']:.1%}", overlap)
        table.add_row(Text(printable(f"{pair['a']} and {pair['b']}")), f"{total['cosine']:.4f}", *shares)
    console.print(table)


def warn_of_strangers(found: Comparison) -> None:
    """Warn of models that do not look tuned from the base."""
    for model in found["models"]:
        ancestry = model["ancestry"]
        if ancestry["verdict"] in ("doubtful", "strangers"):
            told = "may not be" if ancestry["verdict"] == "doubtful" else "is hardly"
            warn(
                f"{model['tuned']} {told} tuned from {found['base']}: "
                f"cosine {ancestry['cosine']:.2f} over all matrices (tunings have one above 0.97)"
            )


def _figures(row: Row, metrics: list[str]) -> list[str]:
    return [f"{float(row[m]):.6f}" if m == "cosine" else figure(row[m]) for m in metrics]


def _head(module: str) -> str:
    name = printable(module.rsplit(".", 1)[-1])
    return _SHORT.get(name, name)


def _headline(found: Comparison, model: Tuned, metric: str, top: float) -> Text:
    total = model["total"]
    equal = sum(t["equal"] for t in model["tensors"])
    summary = next(m["summary"] for m in found["metrics"] if m["name"] == metric)
    shown = READINGS.get(metric, summary)
    text = Text(printable(f"{model['tuned']} against {found['base']}") + "\n", style="bold")
    text.append(
        f"{plural(len(model['tensors']), 'tensor')}, {equal} equal; relative change {figure(total['relative_l2'])}, "
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


def _lists(model: Tuned) -> list[Text]:
    lists = (
        ("only in the base", model["only_base"]),
        ("only in the tuned model", model["only_tuned"]),
        ("not comparable", model["reshaped"]),
    )
    return [Text(f"{title}: {', '.join(map(printable, names))}") for title, names in lists if names]
