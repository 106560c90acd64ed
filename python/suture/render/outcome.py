"""What a verb that writes has to say, before (dry run) or after."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from suture.cli.options import emit_json
from suture.render.units import plural, size
from suture.surgery import Report


def present(report: Report, *, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Print a report: data on stdout (with `as_json`, or of a dry run), everything else on stderr."""
    if quiet and not (as_json or report.dry):
        return
    if not quiet:
        for warning in report.warnings:
            click.echo(f"{click.style('warning', fg='yellow', bold=True)}: {warning}", err=True)
    if as_json:
        emit_json(report.data)
    elif report.dry:
        for line in _plan(report.data, verbose):
            click.echo(line)
    elif not quiet:
        for line in _done(report, verbose):
            click.echo(line, err=True)


def _notes(data: dict[str, Any]) -> list[str]:
    width = max((len(k) for k, _ in data["notes"]), default=0)
    return [f"  {k:<{width}}  {v}" for k, v in data["notes"]]


def _plan(data: dict[str, Any], verbose: bool) -> list[str]:
    actions = Counter(t.get("method", "copy") for t in data["tensors"])
    lines = [f"{data['title']}: {plural(len(data['tensors']), 'tensor')}", *_notes(data)]
    lines += [f"  {_action(name)}: {plural(n, 'tensor')}" for name, n in sorted(actions.items())]
    if verbose:
        lines += [_tensor(t) for t in data["tensors"]]
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


def _action(name: str) -> str:
    return "copied bit for bit" if name == "copy" else f"computed by {name}"


def _tensor(t: dict[str, Any]) -> str:
    shape = "x".join(map(str, t["shape"])) or "scalar"
    inputs = ", ".join(f"{model}:{name}" if name != t["name"] else model for model, name in t["inputs"])
    text = f"  {t['name']}  {t['dtype']} {shape}  {t.get('method', 'copy')} of {inputs}"
    if t.get("base"):
        text += f" on {t['base'][0]}"
    params = t.get("params", {})
    values = {**params.get("shared", {}), **params.get("per_input", {})}
    return text + "".join(f" {k}={v}" for k, v in values.items())


def _done(report: Report, verbose: bool) -> list[str]:
    data = report.data
    actions = Counter(t["action"] for t in data["tensors"].values())
    copied = actions.pop("copy", 0)
    parts = [f"{copied:,} copied bit for bit"] if copied else []
    parts += [f"{n:,} computed by {name}" for name, n in sorted(actions.items())]
    if data["run"]["tensors_resumed"]:
        parts.append(f"{data['run']['tensors_resumed']:,} of them by an earlier run, checked")
    lines = [f"{data['title']} -> {report.out}", *_notes(data)]
    lines.append(f"  {plural(len(data['tensors']), 'tensor')}: {', '.join(parts) or 'none'}")
    if data["unused"]:
        lines.append(f"  {plural(len(data['unused']), 'input tensor')} in no output (listed in suture.json)")
    if verbose:
        lines += [f"  {name}  {t['action']}  {t['digest']}" for name, t in data["tensors"].items()]
    return lines
