"""Law: pages hang together: links lead somewhere, paragraphs are whole, and every kept run is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ..support.arrows import ROOT

PAGES = sorted(
    p for top in ("docs", "benches", "examples") for p in (ROOT / top).rglob("*.md") if "suture-" not in str(p)
) + [ROOT / f"{name}.md" for name in ("README", "ARCHITECTURE", "CONTRIBUTING", "CHANGELOG")]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def anchors(page: Path) -> set[str]:
    """What a heading is linked by, as GitHub makes it of its words."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.strip().lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    """Files that are linked are there, and so are the headings."""
    page = ROOT / name
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text):
        path, _, anchor = "".join(link).partition("#")
        if path.startswith("http"):
            continue
        to = page.parent / path if path else page
        assert to.exists(), path
        assert not anchor or anchor in anchors(to), f"{path}#{anchor}"


@pytest.mark.parametrize("name", NAMES)
def test_paragraphs_are_whole(name: str) -> None:
    """Words between backticks end: what two hands wrote into one paragraph was put together, not cut in the middle."""
    text = re.sub(r"```.*?```", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL)
    for paragraph in re.split(r"\n\s*\n", text):
        assert paragraph.startswith("    ") or paragraph.count("`") % 2 == 0, paragraph


def test_every_kept_run_is_named() -> None:
    """A raw result that no page speaks of tells nobody anything."""
    said = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert not [run.name for run in (ROOT / "benches" / "runs").iterdir() if run.name not in said]
