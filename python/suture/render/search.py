"""A search: a line for each candidate that is better, the table at the end, and the page."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from html import escape
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from suture._core import __version__
from suture.errors import SutureError
from suture.escape import printable
from suture.render.terminal import say
from suture.results.search import Found
from suture.settings import size


class Trajectory:
    """Says each candidate that is the best so far, and on a terminal how far the search is."""

    def __init__(self, hidden: bool) -> None:
        self._hidden = hidden
        self._live = sys.stderr.isatty() and not hidden

    def __enter__(self) -> Trajectory:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave no half line behind."""
        if self._live:
            sys.stderr.write("\r\x1b[K")

    def __call__(self, one: Any, best: Any) -> None:
        """A candidate was judged."""
        if self._hidden:
            return
        if self._live:
            sys.stderr.write("\r\x1b[K")
        if one is best:
            say(f"candidate {one.number}: {one.score:.6g}, the best so far", err=True)
        elif one.failure:
            say(f"candidate {one.number}: {one.failure}", err=True)
        if self._live:
            sys.stderr.write(f"candidate {one.number}, best {'none' if best is None else f'{best.score:.6g}'}")
            sys.stderr.flush()


def show(found: Found, *, dry: bool, page: Path) -> None:
    """Say what was found: the genes, the score, and what to do with it; or what would be searched."""
    data, best = found.data, found.best
    if dry:
        for gene in data["genes"]:
            say(f"{gene['name']}: from {gene['start']:g}, {_range(gene)}")
        each = f"candidates of {size(data['candidate_bytes'])} each"
        say(f"{len(data['genes'])} numbers; {data['budget']} {each} at most; nothing was judged")
        return
    assert best is not None
    scored = [c for c in data["candidates"] if c["score"] is not None]
    for name, value in zip((g["name"] for g in data["genes"]), best["genes"], strict=True):
        say(f"{name}: {value:.6g}")
    first = next((c for c in scored if c["number"] == 0), None)
    began = "" if first is None else f"; the start had {first['score']:.6g}"
    failed = len(data["candidates"]) - len(scored)
    say(f"candidate {best['number']} of {len(data['candidates'])} is the best: {best['score']:.6g}{began}", bold=True)
    made, judged = (sum(c[k] for c in data["candidates"]) for k in ("made", "judged"))
    kept = f" ({size(data['kept_bytes'])} stood already)" if data["kept_bytes"] else ""
    say(f"{made:.1f} s to make candidates{kept}, {judged:.1f} s to judge them{f', {failed} failed' if failed else ''}")
    say(f"{data['ended']}; `suture merge {found.config} MERGED` makes it; {page} shows the search")


def _range(gene: Mapping[str, Any]) -> str:
    low, high = gene["low"], gene["high"]
    if low is None and high is None:
        return "without bounds"
    return (
        f"at least {low:g}" if high is None else f"at most {high:g}" if low is None else f"between {low:g} and {high:g}"
    )


_STYLE = """
:root{color-scheme:light}
body{font:15px/1.45 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{padding:.15rem .5rem;text-align:right}
th:first-child,td:first-child{text-align:left}.map td{min-width:2.6rem;color:#000}
svg{width:100%;height:auto;border:1px solid #8888}.scroll{overflow-x:auto}
"""


def write_html(found: Found, path: str | PathLike[str]) -> None:
    """Write a search as one page that loads nothing and runs nothing: trajectory, layer map, genes, candidates.

    Raises:
        SutureError: if the file cannot be written.
    """
    try:
        Path(path).write_text(_page(found), encoding="utf-8")
    except OSError as e:
        raise SutureError(f"{fspath(path)}: cannot write: {e.strerror}", path) from None


def _page(found: Found) -> str:
    data, best = found.data, found.best
    told = (
        "no candidate has a score" if best is None else f"best: candidate {best['number']}, score {best['score']:.6g}"
    )
    parts = [f"<p>{_text(told)}; {len(data['candidates'])} judged; {_text(data['ended'])}.</p>"]
    parts += [f"<h2>Trajectory</h2>{_curve(data)}", f"<h2>Layer map</h2>{_layer_map(data['knobs'])}"]
    shown = data["genes"], [g["start"] for g in data["genes"]] if best is None else best["genes"]
    rows = [[g["name"], f"{g['start']:g}", f"{x:.6g}", _range(g)] for g, x in zip(*shown, strict=True)]
    parts.append("<h2>Numbers</h2>" + _table(["number", "start", "best", "range"], rows))
    ranked = sorted(
        (c for c in data["candidates"] if c["score"] is not None),
        key=lambda c: ((c["score"] or 0.0) * (1 if data["minimise"] else -1), c["number"]),
    )
    rows = [[str(c["number"]), str(c["generation"]), f"{c['score']:.6g}", f"{c['judged']:.2f}"] for c in ranked[:20]]
    parts.append("<h2>Best candidates</h2>" + _table(["candidate", "generation", "score", "seconds"], rows))
    failed = [[str(c["number"]), str(c["failure"])] for c in data["candidates"] if c["failure"]]
    if failed:
        parts.append("<h2>Failed</h2>" + _table(["candidate", "why"], failed[:50]))
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="generator" content="suture {__version__}">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><title>Search</title><style>{_STYLE}</style>'
        f"<h1>Search of {_text(found.out.name)}</h1>{''.join(parts)}</html>\n"
    )


def _text(value: object) -> str:
    return escape(printable(str(value)))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{"".join(f"<th>{h}</th>" for h in head)}</tr>{lines}</table></div>'


def _curve(data: Mapping[str, Any]) -> str:
    """Every score as a dot, and the best so far as a line."""
    scored = [(c["number"], float(c["score"])) for c in data["candidates"] if c["score"] is not None]
    if not scored:
        return "<p>nothing to draw</p>"
    low, high = min(s for _, s in scored), max(s for _, s in scored)
    last, span = max(n for n, _ in scored) or 1, (high - low) or 1.0

    def at(n: int, s: float) -> str:
        return f"{60 + 880 * n / last:.1f},{20 + 260 * (high - s) / span:.1f}"

    better = min if data["minimise"] else max
    line, best = [], scored[0][1]
    for n, s in scored:
        line += [at(n, best), at(n, best := better(best, s))]
    dots = "".join('<circle cx="{}" cy="{}" r="2"/>'.format(*at(n, s).split(",")) for n, s in scored)
    marks = "".join(
        f'<text x="{x}" y="{y}" font-size="12" text-anchor="{a}" fill="currentColor">{t}</text>'
        for x, y, a, t in (
            (55, 25, "end", f"{high:.3g}"),
            (55, 285, "end", f"{low:.3g}"),
            (60, 305, "start", "candidate 0"),
            (940, 305, "end", str(last)),
        )
    )
    return (
        f'<svg viewBox="0 0 960 312" role="img" aria-label="scores of all candidates and the best so far">{marks}'
        f'<g fill="#4c78a8" opacity=".55">{dots}</g>'
        f'<polyline points="{" ".join(line)}" fill="none" stroke="#e45756" stroke-width="2"/></svg>'
    )


def _layer_map(knobs: Sequence[Mapping[str, Any]]) -> str:
    """Each searched value by layer; darker is further from 0."""
    each = [
        (k["name"], k["value"] if isinstance(k["value"], dict) else {"layers": {}, "default": k["value"]})
        for k in knobs
    ]
    layers = list(dict.fromkeys(layer for _, v in each for layer in v["layers"]))
    most = max((abs(x) for _, v in each for x in (*v["layers"].values(), v["default"])), default=0) or 1
    head = "".join(f"<th>{_text(h)}</th>" for h in ("value", "elsewhere", *layers))

    def cell(x: float) -> str:
        colour = "76,120,168" if x >= 0 else "228,87,86"
        return f'<td style="background:rgba({colour},{0.08 + 0.82 * abs(x) / most:.2f})">{x:.3g}</td>'

    rows = "".join(
        f"<tr><td style='color:inherit'>{_text(name)}</td>{cell(v['default'])}"
        + "".join(cell(v["layers"].get(layer, v["default"])) for layer in layers)
        + "</tr>"
        for name, v in each
    )
    return f'<div class="scroll"><table class="map"><tr>{head}</tr>{rows}</table></div>'
