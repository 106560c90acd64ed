"""Figures by layer as one HTML page: curves of every language with their baselines, and maps of layers by languages."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from suture._core import __version__
from suture.errors import SutureError
from suture.escape import printable
from suture.render.report import themes
from suture.render.report.data import as_script
from suture.render.report.extra import need, vega_lite
from suture.render.report.page import _asset, _library, _policy

# Expressions are interpreted (`ast`): the page's policy allows no `eval`.
_DRAW = """"use strict";
const found = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
for (const [at, spec] of found.charts.entries())
  vegaEmbed("#chart-" + at, {...spec, config: found.themes[dark ? "dark" : "light"]},
            {mode: "vega-lite", ast: true, renderer: "svg", actions: false});
"""
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{title}</h1><p>{said}</p></header>
<main id="main">
{charts}
<section><h2>Figures</h2><table><thead><tr>{head}</tr></thead><tbody>
{rows}
</tbody></table></section>
</main>
<footer><p>Made by suture {version}. This page holds everything it shows and loads nothing.</p></footer>
<script type="application/json" id="data">{data}</script>
<script>{library}</script>
<script>{script}</script>
</body>
</html>
"""


def write_curves(found: Mapping[str, Any], path: str | PathLike[str], metric: str, metrics: Mapping[str, str]) -> None:
    """Write figures by layer as one self-contained page, which loads nothing.

    Args:
        found: what :func:`suture.text.similarity` returned.
        path: the file to write; one that exists is replaced.
        metric: the one that comes first.
        metrics: those that are drawn, and the baseline of each.

    Raises:
        SutureError: if the extra `report` is not installed or the file cannot be written.
    """
    need("altair", "--html")
    order = [metric, *(m for m in metrics if m != metric)]
    charts = [chart for m in order for chart in (_curve(found, m, metrics[m]), _map(found, m))]
    sections = "\n".join(
        f'<section><h2>{escape(m)}</h2><div id="chart-{2 * i}"></div><div id="chart-{2 * i + 1}"></div></section>'
        for i, m in enumerate(order)
    )
    keys = ["model", "language", "layer", *(k for m in order for k in (m, metrics[m]))]
    rows = "\n".join("<tr>" + "".join(f"<td>{_cell(row[k])}</td>" for k in keys) + "</tr>" for row in found["layers"])
    title = f"How near translations are to {printable(str(found['pivot']))}, by layer"
    library, models = _library(), ", ".join(printable(m["path"]) for m in found["models"])
    page = _PAGE.format(
        policy=_policy(library, _DRAW), title=escape(title), style=_asset("style.css"), charts=sections,
        said=escape(f"{models}; {found['sentences']:,} sentences. Dashed: wrong pairs, or chance."),
        head="".join(f"<th>{escape(k)}</th>" for k in keys), rows=rows, version=escape(__version__),
        data=as_script({"charts": charts, "themes": {t: themes.config(t) for t in ("light", "dark")}}),
        library=library, script=_DRAW,
    )  # fmt: skip
    try:
        Path(path).write_text(page, encoding="utf-8")
    except OSError as e:
        raise SutureError(f"{fspath(path)}: cannot write: {e.strerror}", path) from None


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else escape(printable(str(value)))


def _base(found: Mapping[str, Any], keys: list[str]) -> dict[str, Any]:
    rows = [{k: printable(row[k]) if isinstance(row[k], str) else row[k] for k in keys} for row in found["layers"]]
    return {"$schema": f"https://vega.github.io/schema/vega-lite/v{vega_lite()}.json", "data": {"values": rows}}


def _curve(found: Mapping[str, Any], metric: str, baseline: str) -> dict[str, Any]:
    x = {"field": "layer", "type": "quantitative", "axis": {"tickMinStep": 1}}
    colour = {"field": "language", "type": "nominal", "scale": {"scheme": "tableau10"}}

    def line(field: str, **mark: Any) -> dict[str, Any]:
        y = {"field": field, "type": "quantitative", "scale": {"zero": False}, "title": metric}
        tip = [{"field": f} for f in ("language", "layer", metric, baseline)]
        return {"mark": {"type": "line", **mark}, "encoding": {"x": x, "y": y, "color": colour, "tooltip": tip}}

    spec = {"layer": [line(metric, point=True), line(baseline, strokeDash=[4, 4], opacity=0.6)], "width": 420}
    return {**_base(found, ["model", "language", "layer", metric, baseline]), "spec": spec,
            "facet": {"field": "model", "type": "nominal", "sort": None, "title": None}, "columns": 2}  # fmt: skip


def _map(found: Mapping[str, Any], metric: str) -> dict[str, Any]:
    encoding = {
        "x": {"field": "layer", "type": "ordinal"}, "y": {"field": "language", "type": "nominal"},
        "color": {"field": metric, "type": "quantitative"},
        "tooltip": [{"field": f} for f in ("language", "layer", metric)],
    }  # fmt: skip
    return {**_base(found, ["model", "language", "layer", metric]), "spec": {"mark": "rect", "encoding": encoding},
            "facet": {"field": "model", "type": "nominal", "sort": None, "title": None}, "columns": 2}  # fmt: skip
