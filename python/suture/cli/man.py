"""The manual page suture(1), made of what the verbs say of themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from suture._core import __version__

_EXITS = {"0": "done", "1": "failed", "2": "wrong usage or config", "130": "interrupted; the same command resumes"}
_ENVIRONMENT = {
    "NO_COLOR": "If set, nothing is coloured.",
    "COLUMNS": "The width that tables and help are laid out for, instead of the terminal's own.",
    "SUTURE_BACKGROUND": "dark or light: what the heat map is coloured for, as --background says for one command.",
    "COLORFGBG": "Where neither is given: what the terminal says of its colours.",
}


def page(root: click.Context) -> str:
    """The page as roff, for man(1); it has no date, so that the same version always makes the same page."""
    return "\n".join(_lines(root)) + "\n"


def _lines(root: click.Context) -> Iterator[str]:
    group = root.command
    assert isinstance(group, click.Group)
    yield f'.TH SUTURE 1 "" "suture {__version__}" "User Commands"'
    yield ".SH NAME"
    yield r"suture \- tensor surgery for model checkpoints, out of core"
    yield ".SH SYNOPSIS"
    for name in group.list_commands(root):
        yield from (_call(root, name), ".br")
    yield ".SH DESCRIPTION"
    # The exit codes have a section of their own.
    yield from _text((group.help or "").partition("Exit codes")[0])
    yield from _options(group, root)
    yield ".SH VERBS"
    for name in group.list_commands(root):
        command = group.get_command(root, name)
        assert command
        yield f".SS suture {_escaped(name)}"
        yield _call(root, name)
        yield ".PP"
        yield from _text(command.help or "")
        yield from _options(command, click.Context(command, info_name=name, parent=root))
    yield from _section("EXIT STATUS", _EXITS)
    yield from _section("ENVIRONMENT", _ENVIRONMENT)


def _call(root: click.Context, name: str) -> str:
    """How a verb is called: what is typed in bold, what is put in slanted."""
    assert isinstance(root.command, click.Group)
    command = root.command.get_command(root, name)
    assert command
    pieces = command.collect_usage_pieces(click.Context(command, info_name=name, parent=root))
    slanted = " ".join(rf"\fI{_escaped(piece)}\fR" for piece in pieces)
    return rf"\fBsuture {_escaped(name)}\fR {slanted}"


def _options(command: click.Command, ctx: click.Context) -> Iterator[str]:
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx)
        # Arguments are said in the text above, and --help is every verb's.
        if record and record[1] and not ("--help" in param.opts and ctx.parent):
            yield from (".TP", rf"\fB{_escaped(record[0])}\fR", _escaped(record[1]))


def _text(text: str) -> Iterator[str]:
    """Paragraphs; those that click is told not to fold are kept as they stand."""
    for i, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        if i:
            yield ".PP"
        first, *rest = paragraph.strip("\n").split("\n")
        if first.strip() == "\b":
            yield from (".nf", *map(_escaped, rest), ".fi")
        else:
            yield from (_escaped(line.strip()) for line in (first, *rest))


def _section(title: str, said: dict[str, str]) -> Iterator[str]:
    yield f".SH {title}"
    for name, text in said.items():
        yield from (".TP", rf"\fB{_escaped(name)}\fR", _escaped(text))


def _escaped(text: str) -> str:
    """Text that roff prints as it is: hyphens that can be copied, no escapes, no requests."""
    text = (
        text.replace("\\", r"\e").replace("-", r"\-").replace("`", r"\(ga").replace("'", r"\(aq").replace("^", r"\(ha")
    )
    text = text.replace("~", r"\(ti")
    return rf"\&{text}" if text.startswith(".") else text
