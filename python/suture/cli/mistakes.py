"""A user's mistakes in our words: lower case, no full stop, backticks round values, and what was probably meant."""

from __future__ import annotations

import re

import click


def sentence(e: click.ClickException) -> str:
    """An error of click's, and where to look."""
    ctx = getattr(e, "ctx", None)
    hint = f"; see `{ctx.command_path} --help`" if ctx else ""
    if isinstance(e, click.NoSuchOption):
        meant = f"; did you mean `{e.possibilities[0]}`?" if e.possibilities else hint
        return f"unknown option `{e.option_name}`{meant}"
    message = e.format_message().strip().rstrip(".")
    message = re.sub(r"^Got unexpected extra arguments? \((.*)\)$", r"unexpected argument `\1`", message, flags=re.S)
    return _quoted(message[:1].lower() + message[1:]) + hint


def _quoted(message: str) -> str:
    """Click puts values into apostrophes, or where they hold one, into quotes."""
    return re.sub(
        r"(?<!\w)(?:'([^'\n]*)'|\"([^\"\n]*)\")(?!\w)", lambda m: f"`{m[1] if m[2] is None else m[2]}`", message
    )
