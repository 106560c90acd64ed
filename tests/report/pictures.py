"""The README's pictures, from the models of `suture demo`: the heat map as SVG, the top of the page as PNG.

Run by `make pictures`: ``python -m tests.report.pictures FOLDER``.
"""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import tempfile
from html import escape
from itertools import pairwise
from pathlib import Path

from rich.style import Style
from rich.text import Text

import suture
from suture.demo import NAMES, Experiment
from suture.render.report import write_html

from .browser import Browser

HEAT_MAP, PAGE = "heat-map.svg", "page.png"
_COLUMNS, _WIDTH, _HEIGHT, _SIZE = 80, 8.4, 18, 14
PAGE_WIDTH, PAGE_HEIGHT = 1060, 985
_PAPER, _INK = "#12161c", "#f0f3f6"


def terminal(models: Path, *arguments: str) -> Text:
    """What a dark terminal of 80 columns shows of a call, in the folder of the models."""
    ours, theirs = pty.openpty()
    clean = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLORFGBG")}
    env = {**clean, "TERM": "xterm-256color", "COLORTERM": "truecolor", "COLUMNS": str(_COLUMNS)}
    command = [sys.executable, "-m", "suture", *arguments]
    # stderr is left out: a progress bar makes no picture.
    child = subprocess.Popen(command, stdout=theirs, stderr=subprocess.DEVNULL, cwd=models, env=env)
    os.close(theirs)
    shown = bytearray()
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert child.wait(timeout=60) == 0
    return Text.from_ansi(shown.decode().replace("\r\n", "\n"))


def svg(call: str, shown: Text) -> str:
    """A terminal's content as a picture that needs no font but the reader's."""
    lines = [Text.assemble(("$ ", "bold"), (call, "bold")), *shown.split("\n")]
    while lines and not lines[-1].plain.strip():
        lines.pop()
    width, height = _COLUMNS * _WIDTH + 24, len(lines) * _HEIGHT + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height}" width="{width:g}" height="{height}" '
        f'role="img" font-family="ui-monospace, \'Liberation Mono\', Menlo, Consolas, monospace" font-size="{_SIZE}">',
        f"<title>{escape(call)}</title>",
        f'<rect width="100%" height="100%" rx="8" fill="{_PAPER}"/>',
    ]
    for row, line in enumerate(lines):
        top = 12 + row * _HEIGHT
        edges = sorted({0, len(line.plain), *(edge for span in line.spans for edge in (span.start, span.end))})
        for first, last in pairwise(edges):
            parts.extend(_run(line, first, last, top))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _run(line: Text, first: int, last: int, top: int) -> list[str]:
    text = line.plain[first:last]
    # The styles of a run are joined as a terminal would.
    spans = [s.style for s in line.spans if s.start <= first and s.end >= last]
    style = Style.combine([Style(), *(s if isinstance(s, Style) else Style.parse(s) for s in spans)])
    x, length = 12 + first * _WIDTH, len(text) * _WIDTH
    ink = style.color.get_truecolor().hex if style.color and not style.color.is_default else _INK
    found = []
    if style.bgcolor and not style.bgcolor.is_default:
        paper = style.bgcolor.get_truecolor().hex
        found.append(f'<rect x="{x:g}" y="{top}" width="{length:g}" height="{_HEIGHT}" fill="{paper}"/>')
    if text.strip():
        bold = ' font-weight="bold"' if style.bold else ""
        start = len(text) - len(text.lstrip())
        shown = text.strip()
        found.append(
            f'<text x="{x + start * _WIDTH:g}" y="{top + 13}" textLength="{len(shown) * _WIDTH:g}" fill="{ink}"{bold} '
            f'xml:space="preserve">{escape(shown)}</text>'
        )
    return found


def page(models: Path, folder: Path) -> None:
    """The top of the page of both experts."""
    found = suture.diff(*(models / name for name in NAMES), heads=True, spread=True)
    # The folders of this machine are nobody's business.
    found["base"] = "base"
    for model in found["models"]:
        model["tuned"] = model["label"]
    proposal = suture.propose(*(models / name for name in NAMES))
    with tempfile.TemporaryDirectory() as place, Browser() as browser:
        path = Path(place) / "report.html"
        write_html(found, path, proposal={**proposal, "base": "base", "into": "task", "donor": "language"})
        browser.open(path, width=PAGE_WIDTH)
        browser.screenshot(folder / PAGE, height=PAGE_HEIGHT)


def main(folder: Path) -> None:
    """Make both into `folder`."""
    call = "suture diff base task"
    with tempfile.TemporaryDirectory() as place:
        models = Path(place)
        Experiment(models).prepare()
        (folder / HEAT_MAP).write_text(svg(call, terminal(models, *call.split()[1:])), encoding="utf-8")
        page(models, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
