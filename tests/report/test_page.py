"""The HTML report as a file: it holds everything, loads nothing, and takes no name for markup."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import suture
from suture.errors import SutureError
from suture.render.report import write_html

from ..support.checkpoints import llama_family
from .fake import METRICS, SPREAD, comparison, proposal

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&$data${base}\N{RIGHT-TO-LEFT OVERRIDE}\udc80\x1b[31m"
MEGABYTE = 1_000_000


class Page(HTMLParser):
    """A page's elements, the links in them, and what its scripts and styles hold."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.held: list[tuple[dict[str, str | None], str]] = []
        self.ids: set[str] = set()
        self._open: dict[str, str | None] | None = None
        self.feed(self.text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        self.ids.add(attributes.get("id") or "")
        self._open = attributes if tag in ("script", "style") else None

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.held.append((self._open, data))

    def handle_endtag(self, tag: str) -> None:
        self._open = None

    def data(self) -> dict[str, Any]:
        """What the script draws."""
        found: dict[str, Any] = json.loads(
            "".join(text for attributes, text in self.held if attributes.get("id") == "data")
        )
        return found

    def scripts(self) -> list[str]:
        """The scripts that run."""
        parts: dict[int, str] = {}
        for attributes, text in self.held:
            if "type" not in attributes and attributes is not self.held[0][0]:
                parts[id(attributes)] = parts.get(id(attributes), "") + text
        return list(parts.values())


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_html(comparison(), path, proposal=proposal())
    return Page(path)


def test_page_holds_every_tensor_and_metric(page: Page) -> None:
    found, data = comparison(), page.data()
    for model, shown in zip(found["models"], data["models"], strict=True):
        columns = shown["tensors"]["columns"]
        assert set(METRICS) | set(SPREAD) <= set(columns)
        rows = [dict(zip(columns, row, strict=True)) for row in shown["tensors"]["rows"]]
        assert [r["name"] for r in rows] == [t["name"] for t in model["tensors"]]
        for row, tensor in zip(rows, model["tensors"], strict=True):
            assert row["shape"] == "64x64"
            assert all(math.isclose(row[m], tensor[m], rel_tol=1e-5) for m in (*METRICS, *SPREAD))
        assert len(shown["heads"]["rows"]) == len(model["heads"])
    assert len(data["pairs"][0]["cells"]["rows"]) == len(found["pairs"][0]["cells"])
    assert len(data["proposal"]["scores"]["rows"]) == 12


def test_page_loads_nothing(page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "img", "base", "form")
        assert "src" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        link = attributes.get("href")
        assert link is None or (link.startswith("#") and link[1:] in page.ids)
    style = next(text for attributes, text in page.held if not attributes)
    assert "url(" not in style
    assert "@import" not in style
    policy = next(a["content"] or "" for t, a in page.tags if t == "meta" and a.get("http-equiv"))
    assert policy.startswith("default-src 'none';")
    assert not re.search(r"https?:|unsafe-eval|script-src[^;]*unsafe-inline|connect-src|\*", policy)
    digests = {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in page.scripts()}
    assert set(re.findall(r"'sha256-([^']+)'", policy)) == digests
    own = page.text.replace(max(page.scripts(), key=len), "")
    assert {
        u.split("/")[2:5] == ["vega.github.io", "schema", "vega-lite"] for u in re.findall(r"https?://[^\"]+", own)
    } == {True}


def test_page_is_small(page: Page) -> None:
    assert len(page.text.encode()) < 2 * MEGABYTE


def test_page_can_be_read_aloud(page: Page) -> None:
    tags = [t for t, _ in page.tags]
    assert next(a for t, a in page.tags if t == "html")["lang"] == "en"
    assert {"title", "main", "header", "footer", "nav"} <= set(tags)
    assert any(a.get("name") == "viewport" for t, a in page.tags if t == "meta")
    levels = [int(t[1]) for t in tags if re.fullmatch(r"h[1-6]", t)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))


def test_hostile_names_are_only_text(tmp_path: Path) -> None:
    found = comparison(labels=(HOSTILE, "b"), layers=2)
    found["base"] = HOSTILE
    found["metrics"][0]["summary"] = HOSTILE
    for rows in (found["models"][0][key] for key in ("tensors", "modules", "cells", "heads", "neurons", "tokens")):
        for row in rows:
            row |= {key: HOSTILE for key in ("name", "module", "tensor", "token", "dtype") if key in row}
    for key in ("only_base", "only_tuned", "reshaped"):
        found["models"][0][key] = [HOSTILE]
    found["models"][0]["vocabularies"][0]["tensor"] = HOSTILE
    write_html(found, tmp_path / "page.html", proposal={**proposal(2), "into": HOSTILE})
    page = Page(tmp_path / "page.html")
    assert "img" not in [t for t, _ in page.tags]
    assert len(page.scripts()) == 2
    assert page.data()["models"][0]["label"].startswith("</script><img")
    assert not any(c in page.text for c in "\N{RIGHT-TO-LEFT OVERRIDE}\x1b")


def sections(page: Page) -> list[str]:
    return [a["id"] or "" for t, a in page.tags if t == "section"]


def test_one_fine_tune_has_nothing_to_compare_with(tmp_path: Path) -> None:
    write_html(comparison(("math",), slices=False, spread=False), tmp_path / "page.html")
    assert sections(Page(tmp_path / "page.html")) == ["overview", "maps", "inside", "tensors", "meaning"]


def test_without_layers_only_what_is_outside_is_shown(tmp_path: Path) -> None:
    write_html(comparison(layers=0, slices=False), tmp_path / "page.html")
    assert sections(Page(tmp_path / "page.html")) == ["overview", "maps", "pairs", "tensors", "meaning"]


@pytest.mark.parametrize("value", ["inf", "nan", math.inf, math.nan])
def test_figures_that_json_cannot_write(tmp_path: Path, value: Any) -> None:
    found = comparison(("math",), layers=2)
    found["models"][0]["cells"][3]["relative_l2"] = found["models"][0]["total"]["relative_l2"] = value
    write_html(found, tmp_path / "page.html")
    model = Page(tmp_path / "page.html").data()["models"][0]
    assert model["total"]["relative_l2"] == str(value)
    assert model["cells"]["rows"][3][model["cells"]["columns"].index("relative_l2")] == str(value)


def test_a_real_comparison(tmp_path: Path) -> None:
    found = suture.diff(*llama_family(tmp_path, n=2), spread=True)
    write_html(found, tmp_path / "page.html")
    names = [row[0] for row in Page(tmp_path / "page.html").data()["models"][0]["tensors"]["rows"]]
    assert names == [t["name"] for t in found["models"][0]["tensors"]]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SutureError, match=r"page\.html: cannot write: No such file"):
        write_html(comparison(("math",), 1), tmp_path / "none" / "page.html")
