"""Methods as text, from their specs."""

from __future__ import annotations

import textwrap
from typing import Any

import click

from suture.render.layout import fold, room
from suture.render.terminal import say
from suture.results import Spec

#: Lines of text are not longer than this, so that they can be read.
_WIDTH = 96


def list_all(specs: list[Spec]) -> None:
    """Print a line for each method."""
    width, columns = max(len(s["name"]) for s in specs), room()
    for spec in specs:
        name = spec["name"].ljust(width)
        first, *more = fold(f"{name}  {spec['summary']}", columns, hang=width + 2)
        click.echo("\n".join([first.replace(name, click.style(name, bold=True), 1), *more]))


def describe(spec: Spec) -> None:
    """Print everything a method says of itself, and an example config."""
    width = min(room() or _WIDTH, _WIDTH)
    say(f"{spec['summary']}", head=spec["name"])
    click.echo()
    for title, text in (
        ("formula", spec["formula"]),
        ("paper", spec["paper"]),
        ("departs from mergekit", spec["departs"]),
    ):
        if text:
            click.echo(textwrap.fill(f"{title}: {text}", width, subsequent_indent="  "))
    say(f"inputs: {_inputs(spec)}")
    say(f"cost: {_cost(spec)}")
    click.echo()
    click.echo("parameters:")
    for p in spec["parameters"]:
        scope = "one per model" if p["per_input"] else "one for all"
        text = f"{p['name']} ({_kind(p['kind'])}; {_default(p['default'])}; {scope}): {p['summary']}"
        click.echo(textwrap.fill(text, width, initial_indent="  ", subsequent_indent="    "))
    click.echo("\nexample:\n" + textwrap.indent(example(spec), "  "))


def markdown(specs: list[Spec]) -> str:
    """All methods as a page of Markdown."""
    lines = [
        "# Merge methods",
        "",
        "Made by `suture methods --markdown`; do not edit. Notation: `x_i` the models, `d_i = x_i - base` their",
        "changes, `w_i` their weights, `m_i` masks; everything in f32 with sums in f64, rounded once.",
        "",
        "| method | what it does | class | reads |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| [{s['name']}](#{s['name']}) | {s['summary']} | {s['class']} | {s['reads']} |".replace("|d", "\\|d")
        for s in specs
    ]
    lines += ["", *(f"* **{name}**: {text}." for name, text in _CLASSES.items())]
    for spec in specs:
        lines += [
            "",
            f"## {spec['name']}",
            "",
            f"{spec['summary'][:1].upper()}{spec['summary'][1:]}.",
            "",
            "```text",
            spec["formula"],
            "```",
            "",
        ]
        facts = [("Paper", spec["paper"]), ("Departs from mergekit", spec["departs"]), ("Inputs", _inputs(spec))]
        lines += [f"* {title}: {text}" for title, text in [*facts, ("Cost", _cost(spec))] if text]
        if spec["parameters"]:
            lines += ["", "| parameter | values | default | per model | meaning |", "| --- | --- | --- | --- | --- |"]
        for p in spec["parameters"]:
            kind = _kind(p["kind"]).replace("|", "/")
            cells = [
                f"`{p['name']}`",
                kind,
                _default(p["default"]).removeprefix("default "),
                "yes" if p["per_input"] else "no",
            ]
            lines.append(f"| {' | '.join([*cells, p['summary']])} |")
        lines += ["", "```yaml", example(spec), "```"]
    return "\n".join(lines) + "\n"


_CLASSES = {
    "element": "an element of the result depends on that element of the models alone",
    "gram": "a linear combination whose coefficients come from dot products of the tensor's models",
    "order": "needs an order of a tensor's elements: a threshold or ranks",
    "model": "needs statistics of the whole model, or of a layer or module of it",
}


def example(spec: Spec) -> str:
    """A config that uses the method."""
    own = [p for p in spec["parameters"] if p["per_input"] and (p["default"] is None or p["name"] == "density")]
    if not _thins(spec):
        own = [p for p in own if p["name"] != "density"]
    count = min(max(spec["inputs"][0], 2), spec["inputs"][1]) - (spec["base"] == "first")
    lines = [f"merge_method: {spec['name']}"]
    if spec["base"] in ("required", "first"):
        lines.append("base_model: path/to/base")
    lines.append("models:")
    for i in range(count):
        lines.append(f"  - model: path/to/expert-{i + 1}")
        values = {"weight": 0.5, "density": 0.4, "fisher": f"path/to/squared-gradients-{i + 1}"}
        values["gram"] = f"path/to/gram-matrices-{i + 1}"
        values["masks"] = f"path/to/masks-{i + 1}"
        if own:
            lines.append("    parameters: {" + ", ".join(f"{p['name']}: {values[p['name']]}" for p in own) + "}")
    required = [p for p in spec["parameters"] if not p["per_input"] and p["default"] is None]
    if required:
        values = {p["name"]: 1 if p["kind"]["kind"] == "integer" else 0.5 for p in required}
        lines.append("parameters: {" + ", ".join(f"{k}: {v}" for k, v in values.items()) + "}")
    return "\n".join([*lines, "dtype: bfloat16"])


def _thins(spec: Spec) -> bool:
    """True if the method makes changes sparse without being told to."""
    return any(p["name"] == "sparsify" and p["default"] != "none" for p in spec["parameters"])


def _inputs(spec: Spec) -> str:
    least, most = spec["inputs"]
    if spec["base"] == "first":
        return f"the base and {least - 1} other model" + ("" if least == 2 else "s")
    many = f"{least}" if most == least else f"{least} or more"
    base = {"required": " and a base", "optional": ", with or without a base"}.get(spec["base"], "")
    return f"{many} model{'' if least == most == 1 else 's'}{base}"


def _cost(spec: Spec) -> str:
    reads = spec["reads"]
    times = "once" if reads == 1 else f"at most {reads} times"
    if spec["class"] == "matrix":
        return "class matrix; reads every input a few times; memory grows with the largest matrix, as the plan says"
    return f"class {spec['class']}; reads every input {times}; memory does not grow with the model"


def _kind(kind: dict[str, Any]) -> str:
    if kind["kind"] == "choice":
        return " | ".join(kind["words"])
    if kind["kind"] == "switch":
        return "true | false"
    if kind["kind"] in ("checkpoint", "gram"):
        return "path of a checkpoint"
    noun = "whole number" if kind["kind"] == "integer" else "number"
    low, high = abs(kind["min"]) < 1e300, abs(kind["max"]) < (2**20 if noun == "whole number" else 1e300)
    if low and high:
        return f"{noun} from {kind['min']:g} to {kind['max']:g}"
    return f"{noun} from {kind['min']:g}" if low else noun


def _default(default: Any) -> str:
    if default is None:
        return "required"
    if isinstance(default, float) and default.is_integer():
        default = int(default)
    return f"default {str(default).lower() if isinstance(default, bool) else default}"
