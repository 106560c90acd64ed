"""Law: the tables of the pages are what the kept runs say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ..support.arrows import ROOT

BENCHES = ROOT / "benches"
RUNS = BENCHES / "runs"
SPEED = RUNS / "2026-11-22-123901-speed.json"


def tables(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """The script, run with these words."""
    command = [sys.executable, str(BENCHES / "tables.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_pages_say_what_their_runs_say() -> None:
    done = tables("--check")
    assert not done.returncode, done.stderr


def test_a_changed_figure_is_seen_and_mended(tmp_path: Path) -> None:
    """The test of the test."""
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n<!-- table: speed {SPEED} -->\n<!-- end -->\n\nafter\n")
    assert tables(page, "--check").returncode == 1
    assert not tables(page).returncode
    good = page.read_text()
    assert "| linear | 1.37 s" in good
    assert good.startswith("before\n")
    assert good.endswith("<!-- end -->\n\nafter\n")
    assert not tables(page, "--check").returncode
    page.write_text(good.replace("| linear | 1.37 s", "| linear | 1.27 s"))
    done = tables(page, "--check")
    assert done.returncode == 1
    assert "not what its runs say" in done.stderr
    assert "1.27" in page.read_text()
    assert not tables(page).returncode
    assert page.read_text() == good


@pytest.mark.parametrize(
    "mark",
    [
        f"<!-- table: odd {SPEED} -->\n<!-- end -->\n",
        f"<!-- table: speed {SPEED}.gone -->\n<!-- end -->\n",
        f"<!-- table: speed {SPEED} -->\n",
        "<!-- table: speed -->\n<!-- end -->\n",
        f"<!-- table: many {RUNS / '2026-11-27-052355-speed-cold.json'} -->\n<!-- end -->\n",
    ],
)
def test_marks_that_make_no_sense_are_refused(tmp_path: Path, mark: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(mark)
    done = tables(page, "--check")
    assert done.returncode == 2, done.stdout
    assert str(page) in done.stderr
