"""A comparison as a heat map of layers by modules, on a terminal or in a pipe."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.style import Style
from rich.text import Text

from suture.escape import printable
from suture.render.comparison import left_out
from suture.render.layout import cells, fold, justified, room
from suture.render.metrics import LABELS, READINGS, reading
from suture.render.names import heads
from suture.render.table import NAME
from suture.render.terminal import dark, say
from suture.render.units import figure, plural
from suture.results import Comparison, Row, Tuned

#: A sequential scale from pale to dark (ColorBrewer's YlGnBu), readable by colour-blind people. Text and background
#: are both set; what changed most is furthest from the terminal's background: darkest on a light one, else brightest.
_SCALE = [
    ("black", "#ffffd9"), ("black", "#edf8b1"), ("black", "#c7e9b4"), ("black", "#7fcdbb"), ("black", "#41b6c4"),
    ("bright_white", "#1d91c0"), ("bright_white", "#225ea8"), ("bright_white", "#253494"), ("bright_white", "#081d58"),
]  # fmt: skip
_SHADES = " .:-=+*#@"
#: What stands before the first column: two blanks, the layer, a blank; a layer of another stack takes more.
_MARGIN = 8
#: Columns are as wide as their names, within these; what has no room in so many lines is named below.
_LEAST, _MOST, _LINES = 6, 20, 3
Values = Mapping[tuple[str, str], float]


class _Ink:
    """How a value is drawn: coloured, or as a number with a character for a shade."""

    def __init__(self, top: float, background: str | None) -> None:
        self.console = Console(highlight=False)
        # With 16 colours the scale would have steps that look alike, and others that jump.
        self.coloured = self.console.color_system in ("256", "truecolor") and not os.environ.get("NO_COLOR")
        self.scale = _SCALE[::-1] if dark(background) else _SCALE
        self.top = top

    def cell(self, value: float | None, width: int) -> Text:
        if value is None:
            return Text(" " * width)
        percent = round(self._share(value) * 100)
        label = f"{-percent if value < 0 else percent}" if math.isfinite(value) else str(value)
        if not self.coloured:
            return Text(f"{label} {_SHADES[_step(percent, len(_SHADES))]}".rjust(width))
        ink, paper = self.scale[_step(percent, len(self.scale))]
        return Text(label.rjust(width - 1) + " ", style=Style(color=ink, bgcolor=paper))

    def _share(self, value: float) -> float:
        if math.isnan(value) or (self.top == 0 and math.isfinite(value)):
            return 0.0
        return min(abs(value) / self.top, 1.0) if self.top else 1.0

    def say(self, text: Text) -> None:
        self.console.print(text, no_wrap=True, crop=False, overflow="ignore")


def _step(percent: int, steps: int) -> int:
    """The step of a scale that a number falls on, by the number as it is shown; all steps are equally wide."""
    return min(percent * steps // 100, steps - 1)


def show_heat_map(found: Comparison, model: Tuned, metric: str, background: str | None = None) -> None:
    """Print layers by modules, each cell its metric in percent of the largest, and coloured by it.

    Args:
        found: what diff found.
        model: the fine-tune to show.
        metric: what to show of it.
        background: ``dark`` or ``light`` for a terminal that does not say so itself.
    """
    if _is_equal(model):
        say(f"{model['tuned']} against {found['base']}", bold=True)
        say(f"equal: {plural(len(model['tensors']), 'tensor')}, none of them changed")
        for note in left_out(model):
            say(note, hang=2)
        return
    values = {(c["layer"], c["module"]): reading(c, metric) for c in model["cells"]}
    ink = _Ink(max((abs(v) for v in values.values() if math.isfinite(v)), default=0.0), background)
    _headline(found, model, metric, ink.top)
    width = room()
    # Stacks have modules of their own: side by side most cells would be empty.
    for stack in dict.fromkeys(layer.rpartition(":")[0] for layer, _ in values if layer != "-"):
        own = {place: v for place, v in values.items() if place[0] != "-" and place[0].rpartition(":")[0] == stack}
        for text in _blocks(own, heads(list(dict.fromkeys(m for _, m in own))), ink, width):
            ink.say(text)
    for layer, module in values:
        if layer == "-":
            name, *more = fold(printable(module), width and max(width - _MARGIN - 2, _LEAST), behind=NAME)
            ink.say(Text.assemble(ink.cell(values[layer, module], 9), f" {name}"))
            for line in more:
                ink.say(Text(" " * (_MARGIN + 2) + line))
    if values and not ink.coloured:
        say(f"  shades: {_legend()}", hang=10)
    for note in left_out(model):
        say(note, hang=2)


def _is_equal(model: Tuned) -> bool:
    """Whether no tensor that both have changed."""
    return bool(model["tensors"]) and all(t["equal"] for t in model["tensors"])


def _legend() -> str:
    """From which share of the largest value on each character stands."""
    said = [f"{shade} from {math.ceil(i * 100 / len(_SHADES))}" for i, shade in enumerate(_SHADES) if shade != " "]
    return f"{', '.join(said)} percent of the largest"


def _blocks(values: Values, names: Mapping[str, str], ink: _Ink, width: int | None) -> Iterator[Text]:
    """The map; where its columns do not fit side by side, in several blocks, one below the other."""
    if not names:
        return
    modules = list(names)
    layers = {layer: printable(layer) for layer, _ in values if layer != "-"}
    margin = max(_MARGIN, 3 + max(map(cells, layers.values())))
    wide, many = _columns([cells(name) for name in names.values()], width and width - margin)
    marks: dict[str, str] = {}
    for first in range(0, len(modules), many):
        block = modules[first : first + many]
        heads = [_head(names[m], wide, marks) for m in block]
        depth = max(map(len, heads))
        for i in range(depth):
            # From the top, where names differ: their ends are often the same.
            words = [h[i] if i < len(h) else "" for h in heads]
            title = justified("layer " if i == 0 else "", margin, right=True)
            yield Text(title + " ".join(justified(w, wide, right=True) for w in words))
        for layer, said in layers.items():
            row = Text(justified(f"{said} ", margin, right=True))
            row.append_text(Text(" ").join(ink.cell(values.get((layer, module)), wide) for module in block))
            yield row
    for name, mark in marks.items():
        for n, line in enumerate(fold(name, width and width - _MARGIN, behind=NAME)):
            yield Text((f"  {mark:>5} " if n == 0 else " " * _MARGIN) + line)


def _columns(names: list[int], width: int | None) -> tuple[int, int]:
    """How wide every column is, and how many go side by side."""
    natural = min(max([_LEAST, *names]), _MOST)
    if width is None or (natural + 1) * len(names) <= width:
        return natural, len(names)
    fitting = width // len(names) - 1
    if fitting >= _LEAST:
        return fitting, len(names)
    wide = min(natural, 9)
    return wide, max(width // (wide + 1), 1)


def _head(name: str, width: int, marks: dict[str, str]) -> list[str]:
    """A column's name in lines, or a mark for one that is too long; `marks` has what each stands for."""
    lines = fold(name, width, behind=NAME)
    if len(lines) <= _LINES:
        return lines
    return [marks.setdefault(name, f"({len(marks) + 1})")]


def _cosine(total: Row) -> str:
    return figure(None) if total["cosine"] is None else f"{float(total['cosine']):.6f}"


def _headline(found: Comparison, model: Tuned, metric: str, top: float) -> None:
    total = model["total"]
    equal = sum(t["equal"] for t in model["tensors"])
    summary = next(m["summary"] for m in found["metrics"] if m["name"] == metric)
    say(f"{model['tuned']} against {found['base']}", bold=True)
    say(
        f"{plural(len(model['tensors']), 'tensor')}, {equal} equal; relative change {figure(total['relative_l2'])}, "
        f"{LABELS['cosine']} {_cosine(total)}, {float(total['changed']):.1%} of elements changed"
    )
    say(f"{metric}: {READINGS.get(metric, summary)}; 100 is {figure(top)}")
