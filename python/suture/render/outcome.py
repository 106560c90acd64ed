"""What a verb that writes has to say, before (dry run) or after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import click

from suture.cli.options import emit_json
from suture.recipe import Config
from suture.render.units import plural, size
from suture.surgery import Report


def present(report: Report, *, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Print a report: data on stdout (with `as_json`, or of a dry run), everything else on stderr."""
    if quiet and not (as_json or report.dry):
        return
    if report.parts:
        if as_json:
            emit_json({name: part.data for name, part in report.parts.items()} | _main(report))
            return
        for name, part in report.parts.items():
            if report.dry:
                click.echo(f"{name}:")
            present(part, as_json=False, quiet=quiet, verbose=verbose)
        if not _main(report):
            return
    if not quiet:
        for warning in report.warnings:
            click.echo(f"{click.style('warning', fg='yellow', bold=True)}: {warning}", err=True)
    if as_json:
        emit_json(report.data)
    elif report.dry:
        for line in _plan(report, verbose):
            click.echo(line)
    elif not quiet:
        for line in _done(report, verbose):
            click.echo(line, err=True)


def _notes(data: dict[str, Any]) -> list[str]:
    width = max((len(k) for k, _ in data["notes"]), default=0)
    return [f"  {k:<{width}}  {v}" for k, v in data["notes"]]


def _main(report: Report) -> dict[str, Any]:
    """The report of the merge that has no name, if there is one."""
    return {"": report.data} if "title" in report.data else {}


def _plan(report: Report, verbose: bool) -> list[str]:
    data = report.data
    actions = Counter(t.get("method", "copy") for t in data["tensors"])
    lines = [f"{data['title']}: {plural(len(data['tensors']), 'tensor')}", *_notes(data)]
    if report.proposal:
        lines += proposal_lines(report.proposal)
    lines += [f"  {_action(name)}: {plural(n, 'tensor')}" for name, n in sorted(actions.items())]
    if verbose:
        lines += [_tensor(t, report.config) for t in data["tensors"]]
        lines += [f"  left out: {u['model']}:{u['tensor']} ({u['reason']})" for u in data["unused"]]
    elif data["unused"]:
        lines.append(f"  {plural(len(data['unused']), 'input tensor')} in no output (listed with --verbose)")
    lines += [
        f"read at most {size(data['read_bytes'])}, write {size(data['write_bytes'])} in "
        f"{plural(len(data['shards']), 'shard')}",
        f"peak memory {size(data['budget']['peak_bytes'])} at most",
        f"plan {data['hash']}",
    ]
    return lines


def proposal_lines(proposal: Mapping[str, Any]) -> list[str]:
    """Scores, margins and choices, for the user to judge."""
    head = f"  {'layer':>5}  {'block':<9}  {'recipient':>9}  {'donor':>9}  {'difference':>10}  {'margin':>9}  choice"
    lines = [f"  shares of each model's own change, tau {proposal['tau']}, alpha {proposal['alpha']}:", head]
    for s in proposal["scores"]:
        figures = f"{s['into']:9.4f}  {s['donor']:9.4f}  {s['difference']:+10.4f}  {s['margin']:9.4f}"
        lines.append(f"  {s['layer']:>5}  {s['block'] or 'all':<9}  {figures}  {_CHOICES[s['choice']]}")
    e = proposal["edges"]
    transitions = f"transitions {e['transition_bottom']} and {e['transition_top']}"
    return [*lines, f"  as edges: bottom {e['bottom']}, top {e['top']}, {transitions} (gain {e['gain']:.4f})"]


_CHOICES = {"donor": "donor", "into": "recipient", "blend": "blend"}


def _action(name: str) -> str:
    return "copied bit for bit" if name == "copy" else f"computed by {name}"


def _tensor(t: dict[str, Any], config: Config | None) -> str:
    shape = "x".join(map(str, t["shape"])) or "scalar"
    inputs = ", ".join(f"{model}:{name}" if name != t["name"] else model for model, name in t["inputs"])
    text = f"  {t['name']}  {t['dtype']} {shape}  {t.get('method', 'copy')} of {inputs}"
    if t.get("base"):
        text += f" on {t['base'][0]}"
    params = t.get("params", {})
    values = {**params.get("shared", {}), **params.get("per_input", {})}
    return text + "".join(f" {k}={v}{_lines(t.get('from', {}).get(k), config)}" for k, v in values.items())


def _lines(places: list[str | None] | None, config: Config | None) -> str:
    """Where in the config a parameter's values stand."""
    if not places:
        return ""
    lines = [config.line(at) if config else None for at in places]
    shown = [str(n or at) if at else "default" for n, at in zip(lines, places, strict=True)]
    same = len(set(shown)) == 1
    return f" (line {shown[0]})" if same and shown[0].isdigit() else f" ({', '.join(shown[:1] if same else shown)})"


def _done(report: Report, verbose: bool) -> list[str]:
    data = report.data
    actions = Counter(t["action"] for t in data["tensors"].values())
    copied = actions.pop("copy", 0)
    parts = [f"{copied:,} copied bit for bit"] if copied else []
    parts += [f"{n:,} computed by {name}" for name, n in sorted(actions.items())]
    if data["run"]["tensors_resumed"]:
        parts.append(f"{data['run']['tensors_resumed']:,} of them by an earlier run, checked")
    lines = [f"{data['title']} -> {report.out}", *_notes(data)]
    if report.proposal:
        lines += proposal_lines(report.proposal)
    lines.append(f"  {plural(len(data['tensors']), 'tensor')}: {', '.join(parts) or 'none'}")
    if data["unused"]:
        lines.append(f"  {plural(len(data['unused']), 'input tensor')} in no output (listed in suture.json)")
    if verbose:
        lines += [f"  {name}  {t['action']}  {t['digest']}" for name, t in data["tensors"].items()]
    return lines
