"""A comparison as one HTML page that needs nothing from anywhere else."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from html import escape
from importlib.resources import files
from os import PathLike, fspath
from pathlib import Path
from string import Template
from typing import Any

from suture._core import __version__
from suture.errors import SutureError
from suture.escape import printable
from suture.render.report import charts, themes
from suture.render.report.data import as_script, page_data
from suture.render.report.extra import need, vega_lite
from suture.render.report.sections import contents, sections
from suture.render.report.summary import summary

_SCRIPTS = ("dom.js", "tables.js", "charts.js", "maps.js", "inside.js", "pairs.js", "page.js")


def write_html(
    found: Mapping[str, Any], path: str | PathLike[str], *, proposal: Mapping[str, Any] | None = None
) -> None:
    """Write the comparison as one self-contained page: charts, tables and all that draws them.

    The page loads nothing, and its content security policy makes a browser refuse to.

    Args:
        found: what `suture.diff` returned.
        path: the file to write; one that exists is replaced.
        proposal: what `suture.propose` returned, to be shown too.

    Raises:
        SutureError: if the extra `report` is not installed or the file cannot be written.
    """
    page = _page(found, proposal)
    try:
        Path(path).write_text(page, encoding="utf-8")
    except OSError as e:
        raise SutureError(f"{fspath(path)}: cannot write: {e.strerror}", path) from None


def _page(found: Mapping[str, Any], proposal: Mapping[str, Any] | None) -> str:
    need("altair", "--html")
    library = _library()
    script = '"use strict";(() => {\n' + "\n".join(_asset(name) for name in _SCRIPTS) + "\n})();"
    parts = sections(found, proposal)
    labels = ", ".join(printable(m["label"]) for m in found["models"])
    drawing = {"charts": charts.page_charts(), "themes": {t: themes.config(t) for t in ("light", "dark")}}
    return Template(_asset("template.html")).substitute(
        policy=_policy(library, script),
        title=escape(f"{labels} against {printable(str(found['base']))}"),
        labels=escape(labels),
        base=escape(printable(str(found["base"]))),
        version=escape(__version__),
        summary=summary(found, proposal),
        style=_asset("style.css"),
        contents=contents(parts),
        sections="\n".join(s.html for s in parts),
        data=as_script(page_data(found, proposal)),
        drawing=as_script(drawing),
        library=library,
        script=script,
    )


@cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, from vl-convert: nothing is downloaded."""
    # The default snippet makes `vegaEmbed` a global. Inside a script element, `</script` would end it early.
    bundle: str = need("vl_convert", "--html").javascript_bundle(vl_version=vega_lite())
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _policy(*scripts: str) -> str:
    """Only our own scripts, known by their digests, run; nothing is fetched, from anywhere."""
    digests = (b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts)
    allowed = " ".join(f"'sha256-{d}'" for d in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _asset(name: str) -> str:
    return files(__package__).joinpath("assets", name).read_text(encoding="utf-8")
