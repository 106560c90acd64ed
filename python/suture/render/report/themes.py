"""Colours of the charts, for paper and for dark screens; all scales can be told apart by colour-blind people."""

from __future__ import annotations

from typing import Any

#: Viridis. On paper it runs from pale to dark, on a dark screen from dark to bright: what did not change recedes.
_VIRIDIS = [
    "#440154",
    "#482878",
    "#3e4a89",
    "#31688e",
    "#26828e",
    "#1f9e89",
    "#35b779",
    "#6dcd59",
    "#b4de2c",
    "#fde725",
]
#: ColorBrewer's PuOr, with a middle that recedes.
_PUOR = {
    "light": ["#2d004b", "#542788", "#8073ac", "#b2abd2", "#f3f3f3", "#fdb863", "#e08214", "#b35806", "#7f3b08"],
    "dark": ["#d8c8ff", "#ae98e0", "#8073ac", "#54468a", "#2b2f36", "#8a4f0a", "#c46f10", "#f09a3a", "#ffd59b"],
}
_INK = {"light": ("#1c2128", "#59636e", "#d1d9e0"), "dark": ("#f0f3f6", "#a8b3bf", "#3d444d")}
#: Okabe and Ito's colours for the choices of a swap.
CHOICES = {
    "light": {"into": "#0072b2", "donor": "#d55e00", "blend": "#767676"},
    "dark": {"into": "#56b4e9", "donor": "#e69f00", "blend": "#a8b3bf"},
}


def config(theme: str) -> dict[str, Any]:
    """Vega-Lite's `config` for `light` or `dark`."""
    ink, faint, line = _INK[theme]
    text = {"labelColor": ink, "titleColor": faint, "titleFontWeight": "normal", "labelFontSize": 11}
    return {
        "font": "system-ui, 'Liberation Sans', Arial, sans-serif",
        "background": "transparent",
        "view": {"stroke": None},
        "axis": {**text, "domainColor": line, "tickColor": line, "gridColor": line, "gridOpacity": 0.6},
        "legend": text,
        "header": text,
        "title": {"color": ink, "subtitleColor": faint, "fontSize": 14, "anchor": "start"},
        "bar": {"fill": "#31688e" if theme == "light" else "#35b779"},
        "text": {"fill": ink},
        "rule": {"stroke": faint},
        "scale": {"invalid": {"color": {"value": "#8888"}}},
        "range": {
            "heatmap": _VIRIDIS[::-1] if theme == "light" else _VIRIDIS,
            "ramp": _VIRIDIS[::-1] if theme == "light" else _VIRIDIS,
            "diverging": _PUOR[theme],
            "category": list(CHOICES[theme].values()),
        },
    }
