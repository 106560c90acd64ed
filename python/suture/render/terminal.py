"""What goes to a terminal goes through here: text from elsewhere cannot move the cursor, colour or hide anything."""

from __future__ import annotations

import sys
from typing import Any

import click

from suture.escape import json_text, printable


def say(text: object = "", *, err: bool = False, bold: bool = False) -> None:
    """Print a line, on stdout or on stderr."""
    click.echo(bolded(text) if bold else printable(text), err=err)


def bolded(text: object) -> str:
    """Text in bold, for what `click.echo` is given."""
    return click.style(printable(text), bold=True)


def warn(*texts: object) -> None:
    """Print warnings on stderr, each once."""
    for text in dict.fromkeys(texts):
        click.echo(f"{click.style('warning', fg='yellow', bold=True)}: {printable(text)}", err=True)


def emit_json(data: Any) -> None:
    """Print data as JSON on stdout."""
    # Indented for people only: it takes 5 times as long, and a plan may list tens of thousands of tensors.
    sys.stdout.write(json_text(data, indent=2 if sys.stdout.isatty() else None) + "\n")
