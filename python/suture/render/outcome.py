"""What a verb that writes has to say, before (dry run) or after."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from suture.recipe import Config
from suture.render.layout import room
from suture.render.table import Column, laid, left_out, words
from suture.render.terminal import emit_json, emit_json_text, say, warn
from suture.render.units import plural, ranges, size
from suture.results import PlannedTensor, Proposal, Surgery
from suture.results.report import Report, TensorReport
from suture.results.surgery import places


def present(report: Report, *, as_json: bool, quiet: bool, verbose: bool, options: Sequence[str] = ()) -> None:
    """Print a report: data on stdout (with `as_json`, or of a dry run), everything else on stderr.

    `options` are those that a command which writes the same would be given too.
    """
    if not quiet:
        warn(*_warnings(report))
    if as_json:
        parts = {name: part.data for name, part in report.parts.items()}
        if report.dry and not parts:
            emit_json_text(report.text)
        else:
            # No output has the name of a file that stands beside them.
            emit_json({**parts, **_main(report), **report.beside} if parts else {**report.data, **report.beside})
    elif report.dry:
        for line in _plans(report, verbose, options):
            say(line, hang=_hang(line))
    elif not quiet:
        for part in (report.parts or {"": report}).values():
            for line in _done(part, verbose, options):
                say(line, err=True, hang=_hang(line))
    if report.beside and not as_json and not quiet:
        from suture.render.beside import show_beside

        show_beside(report.beside)


def present_all(reports: Sequence[Report], *, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Print the reports of outputs that stand beside each other as one, by their names."""
    parts = {report.out.name: report for report in reports}
    together = Report('{"warnings": []}', reports[0].out.parent, dry=reports[0].dry, parts=parts)
    present(together, as_json=as_json, quiet=quiet, verbose=verbose)


def _hang(line: str) -> int:
    """Where a line goes on that a terminal has no room for: behind the title of a note, or two blanks further in."""
    title = re.match(r"  \w+ {2,}(?=\S)| *", line)
    return len(title[0]) if title and title[0].strip() else len(line) - len(line.lstrip(" ")) + 4


def _warnings(report: Report) -> Iterator[str]:
    """All there is to be said, of a part with its name in front."""
    for name, part in report.parts.items():
        yield from (f"{name}: {w}" for w in part.warnings)
    yield from report.warnings


def _main(report: Report) -> dict[str, Surgery]:
    """The report of the merge that has no name, if there is one."""
    return {"": report.data} if "title" in report.data else {}


def _plans(report: Report, verbose: bool, options: Sequence[str]) -> Iterator[str]:
    for name, part in report.parts.items():
        yield f"{name}:"
        yield from _plan(part, verbose, options)
    if _main(report):
        yield from _plan(report, verbose, options)


def _notes(data: Surgery) -> list[str]:
    width = max((len(k) for k, _ in data["notes"]), default=0)
    return [f"  {k:<{width}}  {v}" for k, v in data["notes"]]


def _plan(report: Report, verbose: bool, options: Sequence[str]) -> list[str]:
    data = report.data
    actions = Counter(report.actions.values())
    lines = [f"{data['title']}: {plural(len(report.actions), 'tensor')}", *_notes(data)]
    if report.proposal:
        lines += proposal_lines(report.proposal, room())
        lines += _command(report, report.proposal, options, room())
    lines += [f"  {_action(name)}: {plural(n, 'tensor')}" for name, n in sorted(actions.items())]
    if verbose:
        lines += [_tensor(t, report.config) for t in data["tensors"]]
        lines += [f"  left out: {u['model']}:{u['tensor']} ({u['reason']})" for u in data["unused"]]
    elif data["unused"]:
        lines.append(f"  {_unused(report)} (listed with --verbose)")
    # How much a delta takes is known when it is made.
    deltas = any(n.startswith("kept ") for n in actions)
    most, noun = ("at most ", "file") if deltas or "twin" in data else ("", "shard")
    lines += [
        f"read at most {size(data['read_bytes'])}, write {most}{size(data['write_bytes'])} in "
        f"{plural(len(data['shards']), noun)}",
        f"peak memory {size(data['budget']['peak_bytes'])} at most",
        *([f"plan {data['hash'] or 'is known when the models it uses are made'}"] if not deltas else []),
    ]
    return lines


def proposal_lines(proposal: Proposal, width: int | None) -> list[str]:
    """Scores, margins and choices, for the user to judge."""
    scores = proposal["scores"]
    columns = [
        Column("layer", [str(s["layer"]) for s in scores]),
        words("block", [s["block"] or "all" for s in scores], rank=4 if proposal["by"] == "layer" else 0),
        Column("recipient", [f"{s['into']:.4f}" for s in scores], 3),
        Column("donor", [f"{s['donor']:.4f}" for s in scores], 3),
        Column("difference", [f"{s['difference']:+.4f}" for s in scores], 1),
        Column("margin", [f"{s['margin']:.4f}" for s in scores], 2),
        words("choice", [_CHOICES[s["choice"]] for s in scores]),
    ]
    rows, out = laid(columns, width and width - 2)
    e = proposal["edges"]
    transitions = f"transitions {e['transition_bottom']} and {e['transition_top']}"
    return [
        f"  shares of each model's own change, tau {proposal['tau']}, alpha {proposal['alpha']}:",
        *(f"  {line}" for row in rows for line in row),
        *(f"  {line}" for line in left_out(out, width and width - 2, "--json has all")),
        f"  as edges: bottom {e['bottom']}, top {e['top']}, {transitions} (gain {e['gain']:.4f})",
        *([f"  of the edges: {e['told']}"] if e["told"] else []),
        *_evidence_lines(proposal),
        *(
            [f"  without evidence, so the recipient's: layers {ranges(proposal['silent'], ', ')}"]
            if proposal["silent"]
            else []
        ),
    ]


def _evidence_lines(proposal: Proposal) -> list[str]:
    """Where languages share, and what follows."""
    evidence = proposal.get("evidence")
    if evidence is None:
        return []
    shared = ranges([i for i, own in enumerate(evidence["shared"]) if own], ", ")
    if evidence["told"]:
        return [f"  of the evidence: {evidence['told']}"]
    return [f"  {', '.join(evidence['languages'])} and {evidence['pivot']} share layers {shared}, so they stay the "
            "recipient's; elsewhere what is undecided is the donor's"]  # fmt: skip


def _command(report: Report, proposal: Proposal, options: Sequence[str], width: int | None) -> list[str]:
    """The command that carries a proposal out without asking for one again, or why there is none."""
    # Most outcomes have no proposal, and go without 15 ms of imports.
    from suture.render.command import NoCommandError, command_lines, command_of

    swap = report.data["recipe"]["swap"]
    try:
        command = command_of(proposal, proposal["into"], proposal["donor"], report.out, swap=swap, options=options)
    except NoCommandError as e:
        return [f"  no command without --auto says this: {e}"]
    return ["  the same without --auto:", *(f"    {line}" for line in command_lines(command, width and width - 4))]


def _unused(report: Report) -> str:
    """What of the inputs is not in the output: replaced, if of the recipient, not taken, or of no name in it."""
    data, made = report.data, report.actions
    # A swap and a revert have a recipient, the first of their models: what it had of a name, another model gives now.
    recipient = data["models"][0]["label"] if "swap" in data["recipe"] else None
    counts: dict[tuple[str, str], int] = Counter(
        ("left out" if u["tensor"] not in made else "replaced" if u["model"] == recipient else "not taken", u["model"])
        for u in data["unused"]
    )
    told = [
        f"{n:,} of {model} {what}" if i else f"{plural(n, 'input tensor')} of {model} {what}"
        for i, ((what, model), n) in enumerate(sorted(counts.items(), key=lambda c: _ORDER.index(c[0][0])))
    ]
    return ", ".join(told)


_ORDER = ("replaced", "not taken", "left out")
_CHOICES = {"donor": "donor", "into": "recipient", "blend": "blend"}
_MOVED = {"copy": "copied bit for bit", "move": "moved bit for bit"}


def _action(name: str) -> str:
    """What is done with a tensor: moved, computed, or of a delta how it keeps a change."""
    if name.startswith("kept "):
        from suture.render.delta import KEPT

        kept = KEPT[name.removeprefix("kept ")]
        return kept if kept.startswith(("kept", "not", "un", "removed")) else f"kept {kept}"
    return _MOVED.get(name, f"computed by {name}")


def _made(t: TensorReport) -> str:
    """A tensor that was made: what of, and its digest."""
    inputs = ", ".join(f"{model}:{name}" if name != t.name else model for model, name in t.inputs)
    return f"{t.name}  {t.action} of {inputs}  {t.digest}"


def _tensor(t: PlannedTensor, config: Config | None) -> str:
    shape = "x".join(map(str, t["shape"])) or "scalar"
    inputs = ", ".join(f"{model}:{name}" if name != t["name"] else model for model, name in places(t["inputs"]))
    text = f"  {t['name']}  {t['dtype']} {shape}  {t.get('method', t['action'])} of {inputs}"
    text += "".join(f" on {model}" for model, _ in places(t.get("base"))[:1])
    params: Mapping[str, Any] = t.get("params", {})
    values = {**params.get("shared", {}), **params.get("per_input", {})}
    return text + "".join(f" {k}={v}{_lines(t.get('from', {}).get(k), config)}" for k, v in values.items())


def _lines(found: list[str | None] | None, config: Config | None) -> str:
    """Where in the config a parameter's values stand."""
    if not found:
        return ""
    lines = [config.line(at) if config else None for at in found]
    shown = [str(n or at) if at else "default" for n, at in zip(lines, found, strict=True)]
    same = len(set(shown)) == 1
    return f" (line {shown[0]})" if same and shown[0].isdigit() else f" ({', '.join(shown[:1] if same else shown)})"


def _backends(data: Mapping[str, Any]) -> str:
    """How many tensors each device has computed; nothing if that was the CPU alone."""
    first = data.get("backend", "cpu")
    computed = [t for t in data["tensors"].values() if t["action"] not in _MOVED]
    many = Counter(t.get("backend", first) for t in computed)
    return "" if first == "cpu" else ", ".join(f"{name}: {n:,}" for name, n in many.items())


def _scales(data: Surgery) -> list[str]:
    """By how much each model's changes were scaled: the least layer and the most."""
    by_model: dict[str, dict[str, float]] = {}
    for layer, scales in data.get("scales", {}).items():
        for model, scale in scales.items():
            by_model.setdefault(model, {})[layer] = scale
    lines = []
    for model, by_layer in by_model.items():
        least, most = min(by_layer, key=by_layer.__getitem__), max(by_layer, key=by_layer.__getitem__)
        ends = f"from {by_layer[least]:.3f} ({least}) to {by_layer[most]:.3f} ({most})"
        lines.append(f"  changes of {model} scaled by layer: {ends}")
    return lines


def _rounded_back(data: Surgery) -> list[str]:
    """How much of what a merge changed of quantised weights was rounded away when these were encoded again."""
    found: list[Any] = [t.get("found", {}) for t in dict(data["tensors"]).values()] if "run" in data else []
    changed, back = (int(sum(f.get(key, 0) for f in found)) for key in ("changed", "rounded_back"))
    if not any("rounded_back" in f for f in found):
        return []
    share = f" ({back / changed:.1%})" if changed else ""
    return [f"  {plural(changed, 'element')} of quantised weights changed, {back:,} of them{share} rounded back"]


def _done(report: Report, verbose: bool, options: Sequence[str]) -> list[str]:
    data = report.data
    actions = Counter(report.actions.values())
    moved = [f"{n:,} {text}" for action, text in _MOVED.items() if (n := actions.pop(action, 0))]
    parts = [*moved, *(f"{n:,} {_action(name)}" for name, n in sorted(actions.items()))]
    if data["run"]["tensors_resumed"]:
        parts.append(f"{data['run']['tensors_resumed']:,} of them by an earlier run, checked")
    lines = [f"{data['title']} -> {report.out}", *_notes(data)]
    if report.proposal:
        lines += proposal_lines(report.proposal, room(err=True))
        lines += _command(report, report.proposal, options, room(err=True))
    lines.append(f"  {plural(len(report.actions), 'tensor')}: {', '.join(parts) or 'none'}")
    lines += _scales(data)
    lines += _rounded_back(data)
    if by := _backends(data):
        lines.append(f"  computed on {by}")
    if data["unused"]:
        record = next(reversed(data["files"]), "suture.json") if data.get("files") else "suture.json"
        lines.append(f"  {_unused(report)} (listed in {record})")
    if verbose:
        lines += [f"  {_made(t)}" for t in report.tensors]
    return lines
