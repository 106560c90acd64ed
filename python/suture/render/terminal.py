"""What goes to a terminal goes through here: text from elsewhere cannot move the cursor, colour or hide anything."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

import click

from suture.escape import json_text, printable, printable_json
from suture.render.layout import fold, room


def say(
    text: object = "", *, err: bool = False, bold: bool = False, hang: int | None = None, head: object = None
) -> None:
    """Print a line, on stdout or on stderr; what a terminal has no room for goes on behind `hang` blanks.

    A word that is longer than the terminal is wide, such as a path, stays whole. `head` stands in front, in bold.
    """
    start = "" if head is None else printable(f"{head}: ")
    shown = start + printable(text)
    indent = len(shown) - len(shown.lstrip(" ")) + 2 if hang is None else hang
    for line in fold(shown, room(err=err), hang=indent, whole=True):
        if start and line.startswith(start.rstrip()):
            line, start = click.style(line[: len(start) - 2], bold=True) + line[len(start) - 2 :], ""
        click.echo(click.style(line, bold=True) if bold else line, err=err)


def dark(asked: str | None) -> bool:
    """True if the terminal is dark: as `asked`, as it says itself in COLORFGBG, or since most are."""
    if asked is not None:
        return asked == "dark"
    # "15;0" or "0;default;15": the last is the background, one of the 16 colours, of which these are light.
    said = re.fullmatch(r"(?:.*;)?(\d{1,2})", os.environ.get("COLORFGBG", ""))
    return said is None or int(said[1]) not in (7, 9, 10, 11, 12, 13, 14, 15)


def warn(*texts: object) -> None:
    """Print warnings on stderr, each once."""
    for text in dict.fromkeys(texts):
        first, *more = fold(f"warning: {printable(text)}", room(err=True), hang=2, whole=True)
        click.echo(click.style("warning", fg="yellow", bold=True) + first.removeprefix("warning"), err=True)
        for line in more:
            click.echo(line, err=True)


def emit_json(data: Any) -> None:
    """Print data as JSON on stdout."""
    # Indented for people only: it takes 5 times as long, and a plan may list tens of thousands of tensors.
    sys.stdout.write(json_text(data, indent=2 if sys.stdout.isatty() else None) + "\n")


def emit_json_text(text: str) -> None:
    """Print what is JSON text already, as :func:`emit_json` would its data."""
    if sys.stdout.isatty():
        import json

        emit_json(json.loads(text))
    else:
        # To read a plan of 50,000 tensors and write it again took 1.2 s.
        sys.stdout.write(printable_json(text) + "\n")
