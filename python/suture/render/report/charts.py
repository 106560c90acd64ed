"""The charts, as Altair builds them, without their data.

Every chart reads the same few fields: `x`, `y`, `value` (drawn), `shown` (the value as text), `mark` (what stands in a
cell whose value is no number). So the page's script and `write_plot` fill all of them the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from suture.render.report.extra import need

#: A number for a fixed picture, or the name of a parameter that the page sets.
Limit = float | str
_MARGIN = 64
#: A number of an axis: d3's own short format writes 0.00002 in full.
_NUMBER = "format({0}, datum.value != 0 && abs({0}) < 0.001 ? '.1~e' : '.3~g')"
_LABEL = _NUMBER.format("datum.value")


def grid(
    x: str, y: str, value: str, *, limits: Mapping[str, Limit] | None = None, data: str = "cells", named: bool = True
) -> Any:
    """Cells of `x` by `y`, coloured by their value from `low` to `high`; in two colours where `limits` has a `mid`.

    Where `x` is `named`, its labels are slanted and need no title; else they are numbers.
    """
    alt = need("altair", "a chart")
    limits = limits or {"low": "low", "high": "high"}
    slant = {"labelAngle": -50, "labelAlign": "left", "labelLimit": 200, "title": None}
    axis = alt.Axis(orient="top", domain=False, **(slant if named else {"labelAngle": 0, "title": x}))
    place = {
        "x": alt.X("x:N", sort=None, axis=axis),
        "y": alt.Y("y:N", sort=None, axis=alt.Axis(title=y, domain=False, labelLimit=180)),
        "tooltip": [alt.Tooltip("y:N", title=y), alt.Tooltip("xname:N", title=x), alt.Tooltip("shown:N", title=value)],
    }
    legend = alt.Legend(
        orient="bottom", direction="horizontal", title=value, gradientLength=190, titleLimit=320, tickCount=4,
        labelExpr=f"power ? {_NUMBER.format('pow(10, datum.value)')} : {_LABEL}",
    )  # fmt: skip
    # Vega's own interpolation would pass through other hues on its way to a dark middle.
    scale = alt.Scale(
        domain=[_limit(v) for v in limits.values()],
        range="diverging" if "mid" in limits else "heatmap",
        interpolate="rgb",
        nice=False,
        clamp=True,
    )
    colour = alt.Color("value:Q", scale=scale, legend=legend)
    base = alt.Chart(alt.NamedData(name=data))
    # Without `invalid` the cells that are no number would be left out, and their rows and columns with them; their
    # colour is the themes' `scale.invalid`.
    said = alt.ExprRef("datum.y + ', ' + datum.xname + ': ' + datum.shown")
    cells = base.mark_rect(invalid="show", cursor="pointer", stroke="#8884", strokeWidth=0.5, description=said)
    cells = cells.encode(color=colour, **place)
    marks = base.mark_text(fontSize=12, fontWeight="bold").transform_filter("datum.mark != ''")
    return alt.layer(cells, marks.encode(text="mark:N", **place))


def margins(x: str, y: str, value: str, *, limits: Mapping[str, Limit] | None = None, prefix: str = "") -> Any:
    """A grid, with a bar for each of its rows at the right and for each of its columns below."""
    alt = need("altair", "a chart")
    short = alt.Axis(title=None, tickCount=2, labelExpr=_LABEL, labelFlush=True)
    rows = _bar(prefix + "rows").encode(
        x=alt.X("value:Q", axis=short), y=alt.Y("y:N", sort=None, axis=None), tooltip=_tips(y, "y", value)
    )
    columns = _bar(prefix + "columns").encode(
        x=alt.X("x:N", sort=None, axis=None), y=alt.Y("value:Q", axis=short), tooltip=_tips(x, "xname", value)
    )
    cells = grid(x, y, value, limits=limits, data=prefix + "cells")
    parts = [cells, rows.properties(width=_MARGIN), columns.properties(height=_MARGIN)]
    return alt.concat(*parts, columns=2, spacing=10, bounds="flush").resolve_scale(x="independent", y="independent")


def bars(name: str, value: str, *, data: str = "cells") -> Any:
    """One bar a row, named at the left."""
    alt = need("altair", "a chart")
    return _bar(data).encode(
        x=alt.X("value:Q", axis=alt.Axis(title=value, tickCount=4, labelExpr=_LABEL, titleLimit=240)),
        y=alt.Y("y:N", sort=None, axis=alt.Axis(title=None, labelLimit=180)),
        tooltip=_tips(name, "y", value),
    )


def choices() -> Any:
    """The proposal of a swap: by layer, how much larger the donor's score is than the recipient's."""
    alt = need("altair", "a chart")
    base = alt.Chart(alt.NamedData(name="cells"))
    place = {
        "x": alt.X("x:N", sort=None, axis=alt.Axis(title="layer", labelAngle=0)),
        "y": alt.Y("value:Q", axis=alt.Axis(title="donor - into", labelExpr=_LABEL, tickCount=5)),
    }
    names = ["into", "donor", "blend"]
    colour = alt.Color("choice:N", scale=alt.Scale(domain=names), legend=alt.Legend(orient="top", title="choice"))
    tips = [alt.Tooltip(f"{field}:N", title=field) for field in ("layer", "choice", "difference", "margin")]
    drawn = base.mark_bar().encode(color=colour, tooltip=tips, **place)
    # The letter says the choice again: a colour alone must not carry it.
    letters = base.mark_text(dy=alt.ExprRef("datum.value < 0 ? 9 : -8"), fontSize=11).encode(text="letter:N", **place)
    edges = [base.mark_rule(strokeDash=[4, 3]).encode(y=f"{edge}:Q") for edge in ("max(above)", "min(below)")]
    return alt.layer(drawn, letters, *edges).properties(height=150)


def page_charts() -> dict[str, dict[str, Any]]:
    """Every chart of the page as Vega-Lite; the script sets data, parameters and titles."""
    alt = need("altair", "a chart")
    two = {"low": "low", "mid": "mid", "high": "high"}
    charts = {
        "margins": margins("module", "layer", "VALUE"),
        "margins_signed": margins("module", "layer", "VALUE", limits=two),
        "grid": grid("X", "Y", "VALUE"),
        "grid_signed": grid("X", "Y", "VALUE", limits=two),
        "slices": grid("X", "Y", "VALUE", named=False),
        "slices_signed": grid("X", "Y", "VALUE", named=False, limits=two),
        "bars": bars("NAME", "VALUE"),
        "choices": choices(),
    }
    set_by_page = {"low": 0, "mid": 0, "high": 1, "power": False}
    found = {}
    for name, chart in charts.items():
        spec = chart.add_params(*(alt.param(name=k, value=v) for k, v in set_by_page.items())).to_dict()
        del spec["config"]
        found[name] = spec
    return found


def _limit(limit: Limit) -> Any:
    return need("altair", "a chart").ExprRef(limit) if isinstance(limit, str) else limit


def _bar(data: str) -> Any:
    alt = need("altair", "a chart")
    return alt.Chart(alt.NamedData(name=data)).mark_bar(
        cursor="pointer", description=alt.ExprRef("datum.xname + ': ' + datum.shown")
    )


def _tips(title: str, field: str, value: str) -> list[Any]:
    alt = need("altair", "a chart")
    return [alt.Tooltip(f"{field}:N", title=title), alt.Tooltip("shown:N", title=value)]
