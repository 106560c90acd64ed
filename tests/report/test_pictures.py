"""The README's pictures are small, load nothing, and are made of what suture shows."""

from __future__ import annotations

import re
import struct
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from suture.demo import Experiment

from . import pictures
from .browser import CHROMIUM

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "pictures"


def test_the_readme_shows_them_and_they_are_small() -> None:
    """Both are in the README and nothing else is in their folder; together they have less than 150 kB."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = set(re.findall(r'src="docs/pictures/([^"]+)"', readme))
    assert shown == {path.name for path in FOLDER.iterdir()} == {pictures.HEAT_MAP, pictures.PAGE}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 150_000


def test_the_heat_map_loads_nothing() -> None:
    """It is plain SVG: no script, no link, no font of another place."""
    text = (FOLDER / pictures.HEAT_MAP).read_text(encoding="utf-8")
    assert {e.tag.rpartition("}")[2] for e in ET.fromstring(text).iter()} == {"svg", "title", "rect", "text"}
    assert set(re.findall(r"https?://[^\"]+", text)) == {"http://www.w3.org/2000/svg"}


def test_the_heat_map_is_what_a_terminal_shows(tmp_path: Path) -> None:
    """Words and cells of the picture are those that `suture diff` shows now: else run `make pictures`."""
    call = "suture diff base task"
    Experiment(tmp_path).prepare()
    made = pictures.svg(call, pictures.terminal(tmp_path, *call.split()[1:]))
    assert (FOLDER / pictures.HEAT_MAP).read_text(encoding="utf-8") == made
    words = [e.text for e in ET.fromstring(made).iter() if e.tag.endswith("text")]
    assert {"100", "lm_head", "task against base"} <= {(word or "").strip() for word in words}


def test_the_page_is_a_picture(tmp_path: Path) -> None:
    """A PNG as wide as the window, and again one when it is made anew."""
    if CHROMIUM is None:
        pytest.skip("no chromium or google-chrome is installed")
    pictures.main(tmp_path)
    for folder in (FOLDER, tmp_path):
        data = (folder / pictures.PAGE).read_bytes()
        assert data.startswith(b"\x89PNG\r\n")
        assert struct.unpack(">II", data[16:24]) == (pictures.PAGE_WIDTH, pictures.PAGE_HEIGHT)
