"""The heat maps of a comparison as one SVG or PNG, without a browser."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from suture.errors import SutureError, UsageError
from suture.escape import printable
from suture.render.metrics import READINGS, reading
from suture.render.report import charts, themes
from suture.render.report.extra import need, vega_lite
from suture.render.report.values import plain, shares, short_names, signed, span
from suture.render.units import figure

_MAPS_A_ROW = 3
_SHARE = "difference of the shares"


def write_plot(found: Mapping[str, Any], path: str | PathLike[str], *, metric: str = "relative_l2") -> None:
    """Draw `metric` of every fine-tune as heat maps of layers by modules into `path`, by its ending SVG or PNG.

    With two fine-tunes or more, the difference of the first two's normalised scores is drawn too. A metric that cells
    do not have (those of `spread`) is drawn as bars by layer and by module. The page is white.

    Args:
        found: what `suture.diff` returned.
        path: the file to write; one that exists is replaced.
        metric: the name of one of ``found["metrics"]``.

    Raises:
        UsageError: if the ending is neither ``.svg`` nor ``.png``, or there is no such metric.
        SutureError: if the extra `report` is not installed or the file cannot be written.
    """
    kind = Path(fspath(path)).suffix.lower()
    if kind not in (".svg", ".png"):
        raise UsageError(f"{fspath(path)}: a plot is written as .svg or .png; give the file one of these endings", path)
    if metric not in (names := [m["name"] for m in found["metrics"]]):
        raise UsageError(f"there is no metric `{metric}`; there are {', '.join(names)}")
    convert, spec = need("vl_convert", "--plot"), _picture(found, metric)
    # No address is allowed: whatever the names in a checkpoint say, nothing is fetched.
    options: dict[str, Any] = {"vl_version": vega_lite(), "allowed_base_urls": []}
    drawn: str | bytes
    if kind == ".svg":
        drawn = convert.vegalite_to_svg(spec, **options)
    else:
        drawn = convert.vegalite_to_png(spec, scale=2, **options)
    try:
        Path(path).write_bytes(drawn.encode() if isinstance(drawn, str) else drawn)
    except OSError as e:
        raise SutureError(f"{fspath(path)}: cannot write: {e.strerror}", path) from None


def _picture(found: Mapping[str, Any], metric: str) -> dict[str, Any]:
    alt = need("altair", "--plot")
    title = READINGS.get(metric) or metric
    data: dict[str, Any] = {}
    maps = [
        alt.vconcat(*_model(model, i, metric, title, found, data)).resolve_scale(color="independent")
        for i, model in enumerate(found["models"])
    ]
    if len(found["models"]) > 1 and (scores := _difference(found["models"][:2], metric)):
        data["shares"] = _drawn(scores, "layer", "module")
        low, high = span((v for v in scores.values()), True)
        chart = charts.grid("module", "layer", _SHARE, limits={"low": low, "mid": 0.0, "high": high}, data="shares")
        first, second = (printable(m["label"]) for m in found["models"][:2])
        maps.append(chart.properties(title=alt.Title(f"{second} - {first}", subtitle=f"share of {title}")))
    chart = alt.concat(*maps, columns=_MAPS_A_ROW, spacing=40).resolve_scale(
        x="independent", y="independent", color="independent"
    )
    base = printable(str(found["base"]))
    chart = chart.properties(title=alt.Title(f"{title}, against {base}", fontSize=16, offset=16), padding=16)
    spec: dict[str, Any] = chart.add_params(alt.param(name="power", value=False)).to_dict()
    spec["datasets"] = data
    steps = {"discreteWidth": {"step": 30}, "discreteHeight": {"step": 18}, "continuousWidth": 260}
    config = themes.config("light")
    spec["config"] = {**config, "background": "white", "view": {**config["view"], **steps}}
    return spec


def _model(
    model: Mapping[str, Any], i: int, metric: str, title: str, found: Mapping[str, Any], data: dict[str, Any]
) -> Iterable[Any]:
    """The charts of one fine-tune; their rows go to `data`."""
    alt = need("altair", "--plot")
    label = plain(printable(model["label"]))
    cells = [c for c in model["cells"] if c["layer"] != "-"]
    inside = {c["module"] for c in cells}
    rows = {r["layer"]: reading(r, metric) for r in model["layers"] if r["layer"] != "-"}
    columns = {r["module"]: reading(r, metric) for r in model["modules"] if r["module"] in inside}
    # Cells have fewer metrics than modules; a module that is only outside the layers is the same in both.
    modules = {r["module"]: r for r in model["modules"] if r["module"] not in inside}
    outside = [modules.get(c["module"], c) for c in model["cells"] if c["layer"] == "-"]
    data |= {f"m{i}_rows": _bars(rows), f"m{i}_columns": _bars(columns, short_names(columns))}
    if cells and metric in cells[0]:
        values = {(c["layer"], c["module"]): reading(c, metric) for c in cells}
        data[f"m{i}_cells"] = _drawn(values, "layer", "module")
        low, high = span(_all_values(found, metric), metric in signed())
        limits = {"low": low, **({"mid": 0.0} if metric in signed() else {}), "high": high}
        chart = charts.margins("module", "layer", title, limits=limits, prefix=f"m{i}_")
        yield chart.properties(title=alt.Title(label, subtitle="all fine-tunes share one scale of colours"))
    elif cells:
        yield charts.bars("layer", title, data=f"m{i}_rows").properties(title=f"{label}, by layer")
        yield charts.bars("module", title, data=f"m{i}_columns").properties(title=f"{label}, by module")
    if metric in model["total"]:
        data[f"m{i}_outside"] = _bars(
            {"everything": reading(model["total"], metric)}
            | {c["module"]: reading(c, metric) for c in outside if metric in c}
        )
        yield charts.bars("tensors", title, data=f"m{i}_outside").properties(title=f"{label}, outside the layers")


def _all_values(found: Mapping[str, Any], metric: str) -> list[float]:
    return [reading(c, metric) for m in found["models"] for c in m["cells"] if c["layer"] != "-" and metric in c]


def _difference(models: list[Mapping[str, Any]], metric: str) -> dict[tuple[str, str], float]:
    """Second less first, where both have the cell."""
    if any(metric not in c for m in models for c in m["cells"]):
        return {}
    first, second = (shares(m["cells"], metric) for m in models)
    return {key: second[key] - first[key] for key in first if key in second}


def _drawn(values: Mapping[tuple[str, str], float], y: str, x: str) -> list[dict[str, Any]]:
    short = short_names(module for _, module in values)
    return [
        {"y": printable(layer), "x": short[module], "xname": printable(module), **_value(value)}
        for (layer, module), value in values.items()
    ]


def _bars(values: Mapping[str, float], short: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    named = [(printable(name), (short or {}).get(name, plain(printable(name))), v) for name, v in values.items()]
    # What is no number has a bar of no length: without any number an axis would have no ends.
    drawn = [{"x": shown, "y": shown, "xname": name, **_value(v)} for name, shown, v in named]
    return [{**row, "value": row["value"] or 0} for row in drawn]


def _value(value: float) -> dict[str, Any]:
    if math.isfinite(value):
        return {"value": value, "shown": figure(value), "mark": ""}
    mark = "?" if math.isnan(value) else "\N{INFINITY}"
    return {"value": None, "shown": mark, "mark": mark}
