"""Pages that are made from the program are those the program makes."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from suture.cli.methods import methods

ROOT = Path(__file__).parent.parent.parent


def test_the_page_of_methods_is_current() -> None:
    """docs/methods.md is what `suture methods --markdown` prints."""
    made = CliRunner().invoke(methods, ["--markdown"]).output
    assert (ROOT / "docs" / "methods.md").read_text() == made, "run: suture methods --markdown > docs/methods.md"
