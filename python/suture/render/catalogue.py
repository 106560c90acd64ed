"""Methods as text, from their specs."""

from __future__ import annotations

import textwrap
from typing import Any

import click

_WIDTH = 96


def list_all(specs: list[dict[str, Any]]) -> None:
    """Print a line for each method."""
    width = max(len(s["name"]) for s in specs)
    for spec in specs:
        click.echo(f"{click.style(spec['name'].ljust(width), bold=True)}  {spec['summary']}")


def describe(spec: dict[str, Any]) -> None:
    """Print everything a method says of itself, and an example config."""
    click.echo(f"{click.style(spec['name'], bold=True)}: {spec['summary']}\n")
    for title, key in (("formula", "formula"), ("paper", "paper"), ("departs from mergekit", "departs")):
        if spec[key]:
            click.echo(textwrap.fill(f"{title}: {spec[key]}", _WIDTH, subsequent_indent="  "))
    click.echo(f"inputs: {_inputs(spec)}")
    click.echo(f"cost: {_cost(spec)}\n")
    click.echo("parameters:")
    for p in spec["parameters"]:
        scope = "one per model" if p["per_input"] else "one for all"
        text = f"{p['name']} ({_kind(p['kind'])}; {_default(p['default'])}; {scope}): {p['summary']}"
        click.echo(textwrap.fill(text, _WIDTH, initial_indent="  ", subsequent_indent="    "))
    click.echo("\nexample:\n" + textwrap.indent(example(spec), "  "))


def example(spec: dict[str, Any]) -> str:
    """A config that uses the method."""
    own = [p for p in spec["parameters"] if p["per_input"] and p["name"] in ("weight", "density")]
    count = min(max(spec["inputs"][0], 2), spec["inputs"][1]) - (spec["base"] == "first")
    lines = [f"merge_method: {spec['name']}"]
    if spec["base"] != "none":
        lines.append("base_model: path/to/base")
    lines.append("models:")
    for i in range(count):
        lines.append(f"  - model: path/to/expert-{i + 1}")
        if own:
            values = {"weight": 0.5, "density": 0.4}
            lines.append("    parameters: {" + ", ".join(f"{p['name']}: {values[p['name']]}" for p in own) + "}")
    required = [p for p in spec["parameters"] if not p["per_input"] and p["default"] is None]
    if required:
        lines.append("parameters: {" + ", ".join(f"{p['name']}: 0.5" for p in required) + "}")
    return "\n".join([*lines, "dtype: bfloat16"])


def _inputs(spec: dict[str, Any]) -> str:
    least, most = spec["inputs"]
    if spec["base"] == "first":
        return f"the base and {least - 1} other model" + ("" if least == 2 else "s")
    many = f"{least}" if most == least else f"{least} or more"
    return f"{many} models" + (" and a base" if spec["base"] == "required" else "")


def _cost(spec: dict[str, Any]) -> str:
    reads = spec["reads"]
    times = "once" if reads == 1 else f"at most {reads} times"
    return f"reads every input {times}; memory does not grow with the model"


def _kind(kind: dict[str, Any]) -> str:
    if kind["kind"] == "choice":
        return " | ".join(kind["words"])
    if kind["kind"] == "switch":
        return "true | false"
    bounded = kind["max"] < 1e300
    return f"number from {kind['min']:g} to {kind['max']:g}" if bounded else "number"


def _default(default: Any) -> str:
    if default is None:
        return "required"
    return f"default {str(default).lower() if isinstance(default, bool) else default}"
