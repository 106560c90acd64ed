"""Law: docs/papers.md has every paper once, names only verbs that there are, and links lead both ways."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from suture.cli import VERBS, cli

from ..support.arrows import ROOT

PAGE = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")


def papers() -> list[str]:
    return re.findall(r"^\*\*(.+?)\*\*", PAGE, re.MULTILINE | re.DOTALL)


def asked() -> Iterator[list[str]]:
    for words in re.findall(r"`suture ([^`]+)`", PAGE):
        yield words.split()


def test_there_are_38_papers() -> None:
    """Each once, in a paragraph of its own."""
    assert len(papers()) == len(set(papers())) == 38


def test_nothing_stands_between_papers() -> None:
    """Below a heading every paragraph is a paper's: none is left over from another text."""
    parts = PAGE.split("\n## ", 1)[1].split("\n\n")
    assert not [p for p in parts if p.strip() and not p.lstrip("\n").startswith(("**", "## ")) and p != parts[0]]


def test_every_verb_and_option_is_there() -> None:
    """What a paragraph sends its reader to, the command line has."""
    with click.Context(cli) as context:
        for words in asked():
            if words == ["help", "VERB"]:
                continue
            command: click.Command | None = cli
            for word in words:
                if isinstance(command, click.Group) and word == "--from-dense":
                    # An option in the place of a verb, which the group takes for one.
                    command = command.get_command(context, "from_dense")
                elif word.startswith("--"):
                    assert command is not None
                    assert any(word in p.opts for p in command.params), words
                elif isinstance(command, click.Group):
                    command = command.get_command(context, word)
                assert command is not None, words
            assert words[0] in VERBS


def test_links_lead_both_ways() -> None:
    """Every page that is linked is there, and links back, but for the one that is made of the registry."""
    pages = set(re.findall(r"\]\(([\w-]+\.md)", PAGE)) - {"methods.md"}
    assert "cross-lingual.md" in pages
    for page in pages:
        assert "papers.md" in (ROOT / "docs" / page).read_text(encoding="utf-8"), page
    assert "docs/papers.md" in (ROOT / "README.md").read_text(encoding="utf-8")
