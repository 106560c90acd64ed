"""The page's sections: their headings, what is said once in words, and the places that the script fills."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from suture.escape import printable
from suture.render.metrics import LABELS, label
from suture.render.units import figure, plural

_VERDICTS = {
    "related": "related: fine-tuned from this base",
    "doubtful": "doubtful: much further from the base than a fine-tune is",
    "strangers": "strangers: no fine-tune of this base; the figures say little",
    "unknown": "unknown: no matrices to compare",
}
_MARKS = {"related": "✓", "doubtful": "?", "strangers": "✗", "unknown": "-"}
_LISTS = {
    "only_base": "only in the base",
    "only_tuned": "only in the fine-tune",
    "reshaped": "of another shape, not compared",
}
#: Of what a mask freezes and trains.
_MASKED = {
    "changed": "that the mask freezes changed",
    "uncompared": "that the mask freezes could not be compared",
    "unmoved": "that the mask trains did not change",
}


@dataclass(frozen=True)
class Section:
    """A part of the page, under a heading of the second level."""

    key: str
    title: str
    body: str

    @property
    def html(self) -> str:
        """The section as markup."""
        return (
            f'<section id="{self.key}" aria-labelledby="{self.key}-title">'
            f'<h2 id="{self.key}-title" tabindex="-1">{escape(self.title)}</h2>\n{self.body}\n</section>'
        )


def sections(found: Mapping[str, Any], proposal: Mapping[str, Any] | None) -> list[Section]:
    """Those sections that this comparison has something for, in the page's order."""
    models = found["models"]
    parts = [
        Section("overview", "Overview", _overview(models)),
        Section("maps", "Where it changed", _slot("maps-body")),
    ]
    layered = any(c["layer"] != "-" for m in models for c in m["cells"])
    if len(models) > 1 and layered:
        parts.append(Section("difference", "How two fine-tunes differ", _DIFFERENCE + _slot("difference-body")))
    if layered:
        parts.append(Section("inside", "Inside a layer", _slot("inside-body")))
    if found.get("pairs"):
        parts.append(Section("pairs", "Do the fine-tunes pull together?", _slot("pairs-body")))
    if proposal:
        parts.append(Section("proposal", "The swap that is proposed", _proposal(proposal) + _slot("proposal-body")))
    if any(m.get("tokens") or m.get("vocabularies") for m in models):
        parts.append(Section("tokens", "Tokens that changed most", _vocabularies(models) + _slot("tokens-body")))
    parts.append(Section("tensors", "All tensors", _slot("tensors-body")))
    parts.append(Section("meaning", "What the metrics mean", _meaning(found["metrics"])))
    return parts


def contents(parts: Sequence[Section]) -> str:
    """Links to the sections."""
    return "".join(f'<li><a href="#{p.key}">{escape(p.title)}</a></li>' for p in parts)


_DIFFERENCE = (
    "<p>Each score is divided by the sum of all scores inside the layers of its fine-tune, so that fine-tunes of "
    "different strength can be compared. What is shown is the second fine-tune's share less the first's.</p>"
)


def _slot(name: str) -> str:
    return f'<div id="{name}"></div>'


def _text(value: Any) -> str:
    return escape(printable(str(value)))


def _overview(models: Sequence[Mapping[str, Any]]) -> str:
    head = ("fine-tune", "ancestry", LABELS["cosine"], "relative change", "elements changed", "tensors", "equal")
    rows = []
    for m in models:
        verdict, total = m["ancestry"]["verdict"], m["total"]
        cosine = total["cosine"]
        cells = (
            f"{_MARKS.get(verdict, '')} {_VERDICTS.get(verdict, verdict)}",
            "-" if cosine is None else f"{float(cosine):.6f}",
            figure(total["relative_l2"]),
            f"{float(total['changed']):.1%}",
            f"{len(m['tensors']):,}",
            f"{sum(t['equal'] for t in m['tensors']):,}",
        )
        path = f'<br><small class="path">{_text(m["tuned"])}</small>'
        row = "".join(f"<td{' class=n' if i else ''}>{_text(c)}</td>" for i, c in enumerate(cells))
        rows.append(f'<tr><th scope="row"><div class="first">{_text(m["label"])}{path}</div></th>{row}</tr>')
    columns = "".join(f'<th scope="col">{h}</th>' for h in head)
    table = f"<table><thead><tr>{columns}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    notes = "".join(_left_out(m) for m in models)
    return f'<div class="scroll" role="region" tabindex="0" aria-label="Overview">{table}</div>{notes}'


def _left_out(model: Mapping[str, Any]) -> str:
    found = ""
    lists = {**_LISTS, **_MASKED}
    for key, title in lists.items():
        if names := (model.get("mask") or {} if key in _MASKED else model).get(key):
            listed = "".join(f"<li><code>{_text(n)}</code></li>" for n in names)
            said = f"{_text(model['label'])}: {plural(len(names), 'tensor')} {title}"
            found += f"<details><summary>{said}</summary><ul>{listed}</ul></details>"
    return found


def _vocabularies(models: Sequence[Mapping[str, Any]]) -> str:
    said = [
        f"<li>{_text(m['label'])}, <code>{_text(v['tensor'])}</code>: {v['changed']:,} of {v['rows']:,} rows "
        "changed</li>"
        for m in models
        for v in m.get("vocabularies") or ()
    ]
    return f"<ul>{''.join(said)}</ul>" if said else ""


def _proposal(p: Mapping[str, Any]) -> str:
    """Both proposals in words; the scores follow as a chart and a table."""
    edges, moved = p["edges"], {c: [s for s in p["scores"] if s["choice"] == c] for c in ("donor", "blend", "into")}
    counts = ", ".join(f"{len(found)} {choice}" for choice, found in moved.items())
    widths = f"{edges['transition_bottom']} below and {edges['transition_top']} above"
    return (
        f"<p>Into <strong>{_text(p['into'])}</strong> from <strong>{_text(p['donor'])}</strong>, with the base "
        f"{_text(p['base'])}.</p><dl>"
        f"<dt>By {_text(p['by'])}: each one from whoever changed it more</dt><dd>{counts}. Where the scores differ by "
        f"at most tau = {figure(p['tau'])} the two are blended, with a share of alpha = {figure(p['alpha'])}.</dd>"
        f"<dt>By edges: the donor's outer layers</dt><dd>bottom {edges['bottom']}, top {edges['top']}; layers in "
        f"transition: {widths}; gain {figure(edges['gain'])}.</dd></dl>"
    )


def _meaning(metrics: Sequence[Mapping[str, str]]) -> str:
    said = "".join(f"<dt><code>{_text(label(m['name']))}</code></dt><dd>{_text(m['summary'])}</dd>" for m in metrics)
    return f"<dl>{said}</dl>"
