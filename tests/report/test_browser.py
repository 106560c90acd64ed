"""The HTML report in a real browser that has no network: it draws, complains of nothing, and works by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from suture.render.report import write_html

from .browser import CHROMIUM, Browser
from .fake import comparison, proposal
from .test_page import HOSTILE

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome is installed")

SCREENS = [(1400, False), (1400, True), (400, False), (400, True)]
LIGHT, DARK = "rgb(255, 255, 255)", "rgb(18, 22, 28)"
PAPER = "getComputedStyle(document.body).backgroundColor"
INK = "getComputedStyle(document.querySelector('.chart svg text')).fill"
SHOWN = "[...document.querySelectorAll('.figure')].filter((f) => !f.hidden)"
ENTER = ("Enter", 13)


def hostile() -> dict[str, Any]:
    found = comparison((HOSTILE, "__proto__"), 2)
    for row in found["models"][0]["cells"] + found["models"][0]["heads"] + found["models"][0]["modules"]:
        known = {"self_attn.q_proj": HOSTILE, "self_attn.o_proj": "__proto__", "mlp.up_proj": "constructor"}
        row["module"] = known.get(row["module"], row["module"])
    return found


def odd() -> dict[str, Any]:
    """Figures that are no numbers, and a metric that is zero everywhere."""
    found = comparison(("math",), 2)
    for i, value in enumerate(("inf", "nan")):
        found["models"][0]["cells"][i]["relative_l2"] = value
        found["models"][0]["layers"][i]["relative_l2"] = value
    return found


PAGES: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "two": (comparison(), proposal()),
    "one": (comparison(("math",), slices=False, spread=False), None),
    "three": (comparison(("math", "swahili", "telugu"), 5), proposal(5, by="module")),
    "no layers": (comparison(layers=0, slices=False), None),
    "hostile": (hostile(), None),
    "odd": (odd(), None),
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    files = {name: folder / f"{name}.html" for name in PAGES}
    for name, (found, proposed) in PAGES.items():
        write_html(found, files[name], proposal=proposed)
    return files


def clean(browser: Browser, page: Path) -> None:
    assert browser.complaints == []
    assert browser.asked == [page.resolve().as_uri()]


@pytest.mark.parametrize(("width", "dark"), SCREENS)
def test_page_fits_every_screen(browser: Browser, pages: dict[str, Path], width: int, dark: bool) -> None:
    browser.open(pages["two"], width=width, dark=dark)
    clean(browser, pages["two"])
    assert browser.run("document.documentElement.scrollWidth") == width
    assert browser.run(PAPER) == (DARK if dark else LIGHT)
    # Two maps, what is outside them, their difference, heads twice, neurons, the pair, the proposal.
    assert browser.run(f"{SHOWN}.length") == 2 * 2 + 1 + 3 + 1 + 1
    assert browser.run(f"{SHOWN}.every((f) => f.querySelectorAll('svg path').length > 3)")


@pytest.mark.parametrize("name", PAGES)
def test_every_page_draws_any_metric(browser: Browser, pages: dict[str, Path], name: str) -> None:
    browser.open(pages[name])
    metrics = {m["name"] for m in PAGES[name][0]["metrics"]}
    for metric in sorted({"mean", "cosine", "q99", "nonfinite"} & metrics):
        choose(browser, "Metric", metric)
    choose(browser, "Colour scale", "log")
    for metric in ("relative_l2", "mean"):
        choose(browser, "Metric", metric)
    clean(browser, pages[name])


def choose(browser: Browser, label: str, value: str) -> None:
    """Choose in the first select under this label, as a user does."""
    browser.run(
        f"(() => {{ const label = [...document.querySelectorAll('label')].find((l) => l.textContent === {label!r});"
        f"const menu = document.getElementById(label.htmlFor); menu.value = {value!r};"
        "menu.dispatchEvent(new Event('change')); })()"
    )
    browser.settle()


def test_theme_can_be_chosen(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["one"], dark=False)
    for choice, paper in (("dark", DARK), ("light", LIGHT), ("auto", LIGHT)):
        choose(browser, "Theme", choice)
        assert browser.run(PAPER) == paper
    clean(browser, pages["one"])


def test_paper_is_white_whatever_the_theme(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["one"], dark=True, media="print")
    assert browser.run(PAPER) == "rgb(255, 255, 255)"
    assert browser.run(INK) == "rgb(28, 33, 40)"


def test_every_control_has_a_name_and_can_be_reached(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["three"])
    names = "(c) => c.labels?.[0]?.textContent || c.textContent || c.getAttribute('aria-label')"
    assert browser.run(f"[...document.querySelectorAll('select, input, button')].every({names})")
    assert browser.run("[...document.querySelectorAll('.scroll')].every((s) => s.tabIndex === 0 && s.ariaLabel)")
    browser.press("Tab", 9)
    assert browser.run("document.activeElement.className") == "skip"
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_tables_sort_and_filter_by_keyboard(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["two"])
    column = "[...document.querySelectorAll('#tensors thead th')].find((h) => h.textContent === 'l2')"
    figures = (
        f"(() => {{ const at = {column}.cellIndex;"
        "return [...document.querySelectorAll('#tensors tbody tr')].map((r) => Number(r.cells[at].textContent)); })()"
    )
    for state in ("descending", "ascending"):
        browser.run(f"{column}.querySelector('button').focus()")
        browser.press(*ENTER)
        assert browser.run(f"{column}.getAttribute('aria-sort')") == state
        shown = browser.run(figures)
        assert shown == sorted(shown, reverse=state == "descending")
        assert len(shown) == 50
    browser.run("document.querySelector('#tensors input').focus()")
    browser.write("layers.3. q_proj")
    names = browser.run("[...document.querySelectorAll('#tensors tbody th')].map((h) => h.textContent)")
    assert names == ["model.layers.3.self_attn.q_proj.weight"] * 2
    assert browser.run("document.querySelector('#tensors .state').textContent") == "2 of 222 rows"


def test_a_map_can_be_read_as_a_table(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["two"])
    browser.run("document.querySelector('#maps .as-table summary').focus()")
    browser.press(*ENTER)
    browser.settle()
    rows = browser.run(
        "[...document.querySelectorAll('#maps .as-table')][0].open &&"
        "[...document.querySelectorAll('#maps .as-table')[0].querySelectorAll('tbody tr')].map((r) => r.cells.length)"
    )
    assert rows == [10] * 12


def test_a_cell_leads_inside_its_layer(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["two"])
    browser.run(
        "(() => { const cell = document.querySelectorAll('#maps .column')[1]"
        ".querySelector('[aria-label^=\"7, mlp.up_proj\"]');"
        "const { x, y, width, height } = cell.getBoundingClientRect();"
        "const at = { bubbles: true, clientX: x + width / 2, clientY: y + height / 2 };"
        "for (const kind of ['mousedown', 'mouseup', 'click']) cell.dispatchEvent(new MouseEvent(kind, at)); })()"
    )
    browser.settle()
    assert browser.run("document.activeElement.id") == "inside-title"
    menus = browser.run("[...document.querySelectorAll('#inside select')].map((m) => m.selectedOptions[0].textContent)")
    assert menus == ["swahili", "7", "mlp.up_proj"]
    clean(browser, pages["two"])


def test_hostile_names_stay_text(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["hostile"])
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert browser.run("document.querySelectorAll('script').length") == 4
    assert browser.run("document.querySelector('h1').textContent.includes('</script><img src=x')")


def test_nothing_can_be_fetched(browser: Browser, pages: dict[str, Path]) -> None:
    """What a page would ask for, its own policy refuses before the network is asked."""
    browser.open(pages["one"])
    assert browser.run("fetch('https://example.org/').then(() => 'fetched', () => 'refused')") == "refused"
    assert any("Content Security Policy" in c for c in browser.complaints)
