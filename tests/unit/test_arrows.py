"""Law: arrows between rooms go one way, and ARCHITECTURE.md has all of them."""

from __future__ import annotations

import pytest

from ..support.arrows import ROOT, allowed, between_files, between_modules, between_rooms, circle

PACKAGE = ROOT / "python" / "suture"
TREE = "python/suture"
#: The package itself and the way to start it import whatever they hand out, by name and late.
OUTSIDE = {"__init__", "__main__"}


def test_every_arrow_of_the_package_is_allowed() -> None:
    """No room imports one that ARCHITECTURE.md does not let it, not even inside a function or for types."""
    found, map_ = between_rooms(between_modules(PACKAGE)), allowed(TREE)
    rooms = found.keys() - OUTSIDE
    assert not [f"{a} -> {b}" for a in sorted(rooms) for b in found[a] - map_.get(a, set())]


def test_the_map_shows_nothing_that_is_not_there() -> None:
    """Rooms and arrows of the map that the code does not have: the map is old."""
    found, map_ = between_rooms(between_modules(PACKAGE)), allowed(TREE)
    assert map_.keys() | OUTSIDE == found.keys() | {"_core"}
    assert not [f"{a} -> {b}" for a, others in map_.items() for b in others - found.get(a, set())]


def test_there_are_no_circles() -> None:
    """Neither between the rooms of the map nor between the modules of the package."""
    assert not circle(allowed(TREE))
    assert not circle(between_modules(PACKAGE))


def test_circles_and_wrong_lines_are_seen() -> None:
    """The test of the test."""
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c"]
    assert not circle({"a": {"b", "c"}, "b": {"c"}, "c": set()})
    assert allowed("x", "```arrows of x\na -> b c\nb ->\n```\n") == {"a": {"b", "c"}, "b": set()}
    for text in ("", "```arrows of x\na b\n```\n", "```arrows of x\na ->\na -> b\n```\n"):
        with pytest.raises(AssertionError):
            allowed("x", text)


CORE = ROOT / "rust" / "core" / "src"


def test_every_arrow_of_the_core_is_allowed() -> None:
    """The rooms of the core use what ARCHITECTURE.md lets them, and all that it says they do."""
    found, map_ = between_rooms(between_files(CORE)), allowed("rust/core/src")
    assert {room: others for room, others in found.items() if room != "lib"} == map_
    assert not circle(map_)


def test_there_are_no_circles_in_the_core() -> None:
    """Not between files either, within a room or across."""
    assert not circle(between_files(CORE))
    assert between_files(CORE)["crate.engine.worker"] >= {"crate.engine.tiles", "crate.kernels.cast"}


def test_no_file_of_the_core_is_long() -> None:
    """Small files: none above 450 lines."""
    assert not [p for p in CORE.rglob("*.rs") if p.read_text(encoding="utf-8").count("\n") > 450]
