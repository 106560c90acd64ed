"""Plots and Parquet files open again and hold the figures; what is missing or wrong is said."""

from __future__ import annotations

import importlib
import math
import re
import struct
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suture.errors import SutureError, UsageError
from suture.render.report import page, write_html, write_parquet, write_plot
from suture.render.units import figure

from .fake import MODULES, comparison

SVG = "{http://www.w3.org/2000/svg}"


def svg(path: Path) -> list[ET.Element]:
    return list(ET.parse(path).getroot().iter())


def said(path: Path) -> list[str]:
    """What a screen reader says of every cell and bar."""
    kinds = ("rect mark", "bar")
    return [e.get("aria-label") or "" for e in svg(path) if e.get("aria-roledescription") in kinds]


@pytest.mark.parametrize("labels", [("math",), ("math", "swahili"), ("math", "swahili", "telugu")])
def test_svg_holds_every_cell(tmp_path: Path, labels: tuple[str, ...]) -> None:
    found = comparison(labels, 3)
    write_plot(found, tmp_path / "plot.svg", metric="relative_l2")
    drawn = Counter(said(tmp_path / "plot.svg"))
    for model in found["models"]:
        for cell in model["cells"]:
            place = "" if cell["layer"] == "-" else f"{cell['layer']}, "
            row = next(m for m in model["modules"] if m["module"] == cell["module"]) if not place else cell
            assert drawn[f"{place}{cell['module']}: {figure(row['relative_l2'])}"]
        for row in model["layers"][:-1]:
            assert drawn[f"{row['layer']}: {figure(row['relative_l2'])}"]
        assert drawn[f"everything: {figure(model['total']['relative_l2'])}"]
    maps = len(labels) + (len(labels) > 1)
    assert sum(n for words, n in drawn.items() if "," in words) == maps * 3 * len(MODULES)
    words = [e.text for e in svg(tmp_path / "plot.svg") if e.tag == f"{SVG}text"]
    assert {"q_proj", "down_proj", "layer", "model.embed_tokens", "everything", *labels} <= set(words)


@pytest.mark.parametrize("metric", ["cosine", "mean", "q99", "nonfinite"])
def test_any_metric_can_be_drawn(tmp_path: Path, metric: str) -> None:
    write_plot(comparison(layers=2), tmp_path / "plot.svg", metric=metric)
    assert said(tmp_path / "plot.svg")


def test_without_layers_bars_remain(tmp_path: Path) -> None:
    write_plot(comparison(layers=0, slices=False), tmp_path / "plot.svg")
    assert len(said(tmp_path / "plot.svg")) == 2 * 4


def test_a_figure_that_is_no_number_is_marked(tmp_path: Path) -> None:
    found = comparison(("math",), 2)
    found["models"][0]["cells"][0]["l2"] = "inf"
    write_plot(found, tmp_path / "plot.svg", metric="l2")
    assert "∞" in [e.text for e in svg(tmp_path / "plot.svg") if e.tag == f"{SVG}text"]
    assert len([words for words in said(tmp_path / "plot.svg") if "," in words]) == 2 * len(MODULES)


def test_hostile_names_in_a_plot(tmp_path: Path) -> None:
    write_plot(comparison(("</text><script>alert(1)</script>\n",), 2), tmp_path / "plot.svg")
    elements = svg(tmp_path / "plot.svg")
    assert f"{SVG}script" not in [e.tag for e in elements]
    assert "</text><script>alert(1)</script>\\n" in [e.text for e in elements]


def test_names_that_javascript_knows(tmp_path: Path) -> None:
    found = comparison(("__proto__", "constructor"), 2)
    for model in found["models"]:
        for row in [*model["cells"], *model["modules"]]:
            known = {"self_attn.q_proj": "__proto__", "mlp.up_proj": "constructor", "lm_head": "toString"}
            row["module"] = known.get(row["module"], row["module"])
    write_plot(found, tmp_path / "plot.svg")
    words = [(e.text or "").strip() for e in svg(tmp_path / "plot.svg") if e.tag == f"{SVG}text"]
    assert {"__proto__", "constructor", "toString"} <= set(words)


def test_png_is_a_picture(tmp_path: Path) -> None:
    write_plot(comparison(("math",), 2), tmp_path / "plot.PNG")
    data = (tmp_path / "plot.PNG").read_bytes()
    assert data.startswith(b"\x89PNG\r\n")
    width, height = struct.unpack(">II", data[16:24])
    assert width > 300
    assert height > 300


def test_plots_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"written as \.svg or \.png"):
        write_plot(comparison(), tmp_path / "plot.jpg")
    with pytest.raises(UsageError, match="no metric `l3`; there are mean_abs"):
        write_plot(comparison(), tmp_path / "plot.svg", metric="l3")
    with pytest.raises(SutureError, match="cannot write: No such file"):
        write_plot(comparison(("math",), 1), tmp_path / "none" / "plot.svg")


def test_parquet_holds_the_rows(tmp_path: Path) -> None:
    rows = comparison()["models"][0]["tensors"]
    rows[2]["relative_l2"], rows[3]["relative_l2"], rows[4]["name"] = "inf", "nan", "inf"
    write_parquet(rows, tmp_path / "rows.parquet")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    table = parquet.read_table(tmp_path / "rows.parquet")
    assert table.column_names == list(rows[0])
    found = table.to_pylist()
    assert found[2]["relative_l2"] == math.inf
    assert math.isnan(found[3]["relative_l2"])
    assert found[:2] == rows[:2]
    assert found[4:] == rows[4:]
    types = {name: str(table.schema.field(name).type) for name in ("elements", "l2", "name", "equal")}
    assert types == {"elements": "int64", "l2": "double", "name": "string", "equal": "bool"}


@pytest.mark.parametrize("kind", ["modules", "layers", "cells", "heads", "neurons", "tokens"])
def test_parquet_of_other_rows(tmp_path: Path, kind: str) -> None:
    rows = comparison(layers=2)["models"][0][kind]
    write_parquet(rows, tmp_path / "rows.parquet")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    assert parquet.read_table(tmp_path / "rows.parquet").to_pylist() == rows


def test_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to write"):
        write_parquet([], tmp_path / "rows.parquet")
    with pytest.raises(SutureError, match=r"rows\.parquet: cannot write: "):
        write_parquet([{"name": "a"}], tmp_path / "none" / "rows.parquet")


EXTRAS: list[tuple[str, Callable[[Path], None]]] = [
    ("altair", lambda folder: write_html(comparison(("math",), 1), folder / "page.html")),
    ("vl_convert", lambda folder: write_html(comparison(("math",), 1), folder / "page.html")),
    ("altair", lambda folder: write_plot(comparison(("math",), 1), folder / "plot.svg")),
    ("vl_convert", lambda folder: write_plot(comparison(("math",), 1), folder / "plot.svg")),
    ("pyarrow", lambda folder: write_parquet([{"name": "a"}], folder / "rows.parquet")),
]


@pytest.mark.parametrize(("module", "write"), EXTRAS)
def test_a_missing_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, write: Callable[[Path], None]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    page._library.cache_clear()
    with pytest.raises(SutureError, match=rf"needs the extra `report` \(no module {module}\): pip install ") as error:
        write(tmp_path)
    # What pyproject.toml has in the extra, by name: it works wherever suture itself came from.
    extra = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.findall(r'"([\w-]+)>=', next(line for line in extra.splitlines() if line.startswith("report = ")))
    assert sorted(str(error.value).rpartition("pip install ")[2].split()) == sorted(listed)
    assert not list(tmp_path.iterdir())


def test_nothing_is_imported_before_it_is_used() -> None:
    code = (
        "import sys, suture.cli, suture.cli.diff, suture.render.report\n"
        "assert not {'altair', 'vl_convert', 'pyarrow', 'narwhals'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
