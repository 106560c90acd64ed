"""Merge configs as text that people go on editing: every parameter there is, with what it means beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from suture.escape import printable

#: Words that YAML takes for something else than text.
_TAKEN = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}
#: Comments are folded at this width.
_WIDTH = 110


@dataclass
class Line:
    """A key with its value; commented out if it only says what holds anyway."""

    key: str
    value: Any
    summary: str = ""
    live: bool = True


@dataclass
class Draft:
    """A config to be written.

    Attributes:
        method: the merge method, and what it does.
        models: path of each model, with its own parameters.
        base: path of the base, if there is one.
        parameters: those of the whole merge.
        dtype: the output's dtype; commented out with the reason if there is a reason.
        stack: the stack that layers are numbered in, if not the main one.
        include: what is merged, if not all.
        exclude: what is not.
        remarks: comments at the top.
    """

    method: tuple[str, str]
    models: list[tuple[str, list[Line]]]
    base: str | None = None
    parameters: list[Line] = field(default_factory=list)
    dtype: tuple[str, str] | None = None
    stack: str | None = None
    include: list[str] = field(default_factory=list)
    exclude: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The YAML."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        for remark in self.remarks:
            yield from comment(remark)
        name, summary = self.method
        yield f"merge_method: {scalar(name)}  # {summary}"
        if self.base is not None:
            yield f"base_model: {scalar(self.base)}"
        if self.stack is not None:
            yield f"stack: {scalar(self.stack)}"
        yield "models:"
        for path, own in self.models:
            yield f"  - model: {scalar(path)}"
            if own:
                yield "    parameters:"
                yield from _settings(own, "      ")
        if self.parameters:
            yield "parameters:"
            yield from _settings(self.parameters, "  ")
        for key, filters in (("include", self.include), ("exclude", self.exclude)):
            if filters:
                yield f"{key}: [{', '.join(map(scalar, filters))}]"
        if self.dtype is not None:
            dtype, why_not = self.dtype
            yield f"# dtype: {dtype}  # {why_not}" if why_not else f"dtype: {dtype}"


def _settings(lines: Sequence[Line], indent: str) -> Iterator[str]:
    for line in lines:
        if line.summary:
            yield from (indent + c for c in comment(line.summary))
        yield f"{indent}{'' if line.live else '# '}{line.key}: {scalar(line.value)}"


def comment(text: str) -> Iterator[str]:
    """A comment, whatever is in its text: a name with a line's end cannot end it."""
    line = "#"
    for word in printable(text).split(" "):
        if len(line) > 1 and len(line) + len(word) >= _WIDTH:
            yield line
            line = "#  "
        line += f" {word}"
    yield line


def scalar(value: Any) -> str:
    """A value on a line, as YAML reads it back."""
    if isinstance(value, str):
        plain = re.fullmatch(r"[A-Za-z_/][\w./+-]*", value) and value.isascii() and value.lower() not in _TAKEN
        # JSON's text is YAML's, with every character that is none of ASCII written out.
        return value if plain else json.dumps(value)
    if isinstance(value, Mapping):
        return (
            "{"
            + ", ".join(f"{k if isinstance(k, int) else scalar(str(k))}: {scalar(v)}" for k, v in value.items())
            + "}"
        )
    if isinstance(value, list):
        return f"[{', '.join(map(scalar, value))}]"
    if isinstance(value, float):
        # YAML 1.1 takes `1e-05` for text.
        text = repr(int(value)) + ".0" if value.is_integer() and abs(value) < 1e15 else repr(value)
        return text if "e" not in text or "." in text else text.replace("e", ".0e")
    return json.dumps(value)
