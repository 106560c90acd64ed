"""Law: the command shown for a proposal writes what the proposal does, byte for byte, or it is said that none does."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

import suture
from suture.cli.options import kept
from suture.cli.swap import swap as verb
from suture.render.command import NoCommandError, command_lines, command_of
from suture.render.units import ranges

from ..support.planted import in_layers, planted

#: Layers that the recipient's and the donor's training changed.
FAMILIES: dict[str, tuple[dict[int, float], dict[int, float]]] = {
    "edges": ({3: 0.02, 4: 0.02}, {0: 0.02, 1: 0.02, 7: 0.02}),
    "decided": ({2: 0.02, 3: 0.02, 4: 0.02, 5: 0.02}, {0: 0.02, 1: 0.02, 6: 0.02, 7: 0.02}),
    "scattered": ({0: 0.02, 3: 0.02}, {1: 0.02, 5: 0.02}),
    "one": ({4: 0.02}, {7: 0.02}),
}


def command(line: str) -> None:
    """A command as a shell reads it."""
    words = shlex.split(line)
    assert words[:2] == ["suture", "swap"]
    verb.main([*words[2:], "--quiet"], standalone_mode=False)


def files(folder: Path) -> dict[str, bytes]:
    """All files but the report, which has the recipe."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "suture.json"}


def said(models: dict[str, Path], out: Path, **options: Any) -> str | None:
    """Swaps with `auto`; the command that does the same, if options can say it."""
    report = suture.swap(models["into"], models["donor"], out, base=models["base"], **options)
    assert report.proposal
    swap = report.data["recipe"]["swap"]
    try:
        return command_of(report.proposal, models["into"], models["donor"], out.with_name("again"), swap=swap)
    except NoCommandError:
        return None


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("auto", ["layer", "module", "edges"])
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_the_command_writes_the_same(family: str, auto: str, alpha: float, tmp_path: Path) -> None:
    """Whatever was proposed: the models are alike where nothing was trained, so that nothing is blended but that."""
    own, other = FAMILIES[family]
    models = planted(tmp_path, in_layers(own), in_layers(other))
    line = said(models, tmp_path / "out", auto=auto, alpha=alpha)
    assert line is not None
    assert "--auto" not in line
    command(line)
    assert files(tmp_path / "again") == files(tmp_path / "out")


@pytest.mark.parametrize("alpha", [0.3, 0.5])
@pytest.mark.parametrize("ends", [(1, 1), (2, 0), (0, 3)])
def test_blends_beside_the_ends_are_transitions(alpha: float, ends: tuple[int, int], tmp_path: Path) -> None:
    """What is undecided next to the bottom and top layers of the donor is blended by the command too."""
    bottom, top = ends
    taken = {*range(bottom), *range(8 - top, 8)}
    blended = {*range(bottom, bottom + 2 * bool(bottom)), *range(8 - top - bool(top), 8 - top)}
    own = {i: 0.02 for i in range(8) if i not in taken}
    other = {i: 0.06 if i in taken else 0.02 for i in taken | blended}
    models = planted(tmp_path, in_layers(own), in_layers(other))
    # So wide that only what the donor alone changed is decided for it.
    proposal = suture.propose(models["base"], models["into"], models["donor"], alpha=alpha)
    differences = sorted(abs(s["difference"]) for s in proposal["scores"] if s["layer"] in blended)
    line = said(models, tmp_path / "out", auto="layer", alpha=alpha, tau=differences[-1] + 1e-9, non_layer="into")
    assert line is not None
    assert "--transition-" in line
    command(line)
    assert files(tmp_path / "again") == files(tmp_path / "out")


def test_transitions_by_hand() -> None:
    """Layers of bottom and top with what is blended beside them, at a share of its own."""
    spans = {"layers": [0, 1, 7], "blended": {"2": 0.3, "6": 0.3}}
    assert options_of(spans) == "--bottom 2 --top 1 --transition-bottom 1 --transition-top 1 --blend 0.3"
    assert options_of({"layers": [0], "blended": {"1": 0.5, "2": 0.5}}) == "--bottom 1 --transition-bottom 2"
    assert options_of({"layers": [0, 4, 5], "blended": {}}) == "--layers 0,4-5"
    assert options_of({"layers": [0, 7], "blended": {str(i): 0.5 for i in range(1, 7)}}) == (
        "--bottom 1 --top 1 --transition-bottom 6"
    )
    # Shares of all and of nothing are none.
    assert options_of({"layers": [0], "blended": {"1": 1.0, "2": 0.0}}) == "--layers 0-1"
    assert options_of({"bottom": 2, "top": 0, "transition_bottom": 1, "transition_top": 0, "blend": "ramp"}) == (
        "--bottom 2 --transition-bottom 1 --blend ramp"
    )


PROPOSAL: Any = {"base": "b", "into": "i", "donor": "d", "stack": "model", "by": "layer", "alpha": 0.5, "silent": [],
                 "scores": [{"layer": i, "block": None, "choice": "donor"} for i in range(8)]}  # fmt: skip


def options_of(*entries: dict[str, Any], **more: Any) -> str:
    line = command_of(PROPOSAL, "i", "d", "o", swap={"donors": list(entries), **more})
    assert line.startswith("suture swap --into i --from d o ")
    return line.removeprefix("suture swap --into i --from d o ").removesuffix(" --non-layer into")


CANNOT: dict[str, tuple[list[dict[str, Any]], Any, str]] = {
    "blends alone": ([{"layers": [], "blended": {"3": 0.5}}], "into", "blends layer 3"),
    "blends apart": ([{"layers": [0], "blended": {"3": 0.5, "4": 0.5}}], "into", "blends layers 3-4"),
    "blocks": ([{"layers": [0], "modules": "a"}, {"layers": [1], "modules": "b"}], "into", "each block"),
    "outside": ([{"layers": [0]}], 0.3, "by 0.3"),
    "tokenizer": ([{"layers": [0]}], 1.0, "tokenizer"),
}


@pytest.mark.parametrize("name", CANNOT)
def test_what_no_option_says(name: str) -> None:
    """It is refused, with the reason."""
    entries, share, why = CANNOT[name]
    with pytest.raises(NoCommandError, match=why):
        command_of(PROPOSAL, "i", "d", "o", swap={"donors": entries, "non_layer": share})


def test_a_proposal_alone_is_a_command(tmp_path: Path) -> None:
    """What `propose` returns is carried out as the published rule has it, with its stack named."""
    models = planted(tmp_path, in_layers(FAMILIES["edges"][0]), in_layers(FAMILIES["edges"][1]))
    proposal = suture.propose(models["base"], models["into"], models["donor"])
    proposal["scores"] = [s for s in proposal["scores"] if s["choice"] != "blend"]
    line = suture.command_of(proposal, models["into"], models["donor"], tmp_path / "again")
    assert "--stack model --non-layer mean" in line
    command(line)
    suture.swap(models["into"], models["donor"], tmp_path / "out", auto="layer", base=models["base"])
    assert files(tmp_path / "again") == files(tmp_path / "out")


def test_paths_are_quoted() -> None:
    """Blanks, quotes and dashes in names stay part of them."""
    swap = {"donors": [{"layers": [0]}], "non_layer": "base", "ignore": ["a b", "!c"], "stack": "s", "dtype": "float16"}
    line = command_of(
        PROPOSAL | {"base": "-b"}, "my model", "it's", "-out", swap=swap, options=["--shard-size", "1 GB"]
    )
    assert shlex.split(line) == [
        "suture", "swap", "--into", "my model", "--from", "it's", "./-out", "--layers", "0", "--stack", "s", "--ignore",
        "a b,!c", "--non-layer", "base", "--base", "./-b", "--dtype", "float16", "--shard-size", "1 GB",
    ]  # fmt: skip
    with pytest.raises(NoCommandError, match="cannot be shown"):
        command_of(PROPOSAL, "a\nb", "d", "o", swap=swap)


def test_a_folded_command_is_the_same_to_a_shell() -> None:
    """Lines fit, and a shell reads them as one."""
    line = command_of(PROPOSAL, "my model", "d", "o", swap={"donors": [{"layers": [0, 2, 4]}]})
    for width in (20, 40, 80):
        found = command_lines(line, width)
        assert all(len(part) <= width or len(shlex.split(part.rstrip("\\"))) == 1 for part in found)
        # What a shell does with a backslash at a line's end, and shlex does not.
        assert shlex.split("\n".join(found).replace("\\\n", "")) == shlex.split(line)
    assert command_lines(line, None) == [line]


def test_numbers_are_listed_as_options_have_them() -> None:
    assert ranges([31, 0, 1, 2, 4]) == "0-2,4,31"
    assert ranges([]) == ""


def test_settings_that_decide_what_is_written_are_kept() -> None:
    """Those that no recipe holds; how the work is done is nobody's business."""
    how = suture.Settings(shard_size="5GB", nan="allow", allow_mixed=True, model_card=True, threads=2, memory="1GB")
    assert kept(how) == ["--shard-size", "5GB", "--nan", "allow", "--allow-mixed", "--model-card"]
    assert kept(suture.Settings()) == []
