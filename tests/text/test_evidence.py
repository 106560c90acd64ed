"""Law: curves of similarity decide where the changes do not, and keep what languages share; so does the command."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

import suture

from ..support.planted import in_layers, planted
from .test_commands import run

LAYERS = 8


@pytest.fixture(scope="module")
def plants(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The donor changed layers 0, 1, 4 and 7, the recipient 3."""
    donor = in_layers({0: 0.02, 1: 0.02, 4: 0.02, 7: 0.02})
    return planted(tmp_path_factory.mktemp("plants"), in_layers({3: 0.02}), donor)


def curves(path: Path, above: list[float], model: str = "base", **more: Any) -> Path:
    """The part of the JSON that is read."""
    rows = [{"model": model, "language": "sw", "layer": i, "above": v} for i, v in enumerate(above)]
    path.write_text(json.dumps({"models": [{"path": model}], "pivot": "en", "layers": rows, **more}))
    return path


#: States are shared between layers 3 and 6.
MIDDLE = [0.0, 0.1, 0.2, 0.8, 0.9, 0.9, 0.8, 0.2, 0.1]


def test_layers_that_are_shared_stay(plants: dict[str, Path], tmp_path: Path) -> None:
    """Layer 4, which the donor claims, is the recipient's, as languages share it; where they part all is as before, but
    for what was undecided, which is the donor's.
    """
    file = curves(tmp_path / "e.json", MIDDLE)
    plain = suture.propose(plants["base"], plants["into"], plants["donor"])
    found = suture.propose(plants["base"], plants["into"], plants["donor"], evidence=file)
    assert plain["evidence"] is None
    assert plain["layers"][4] == "donor"
    evidence = found["evidence"]
    assert evidence is not None
    assert evidence["curve"] == pytest.approx([(a + b) / 2 for a, b in itertools.pairwise(MIDDLE)])
    assert evidence["shared"] == [False, False, True, True, True, True, True, False]
    assert found["layers"] == ["donor", "donor", *["into"] * 5, "donor"]
    assert (found["edges"]["bottom"], found["edges"]["top"]) == (2, 1)
    assert (found["edges"]["transition_bottom"], found["edges"]["transition_top"]) == (0, 0)


def test_a_flat_curve_says_nothing(plants: dict[str, Path], tmp_path: Path) -> None:
    """The proposal is the one without it, and tells so."""
    file = curves(tmp_path / "e.json", [0.5] * (LAYERS + 1))
    plain = suture.propose(plants["base"], plants["into"], plants["donor"])
    found = suture.propose(plants["base"], plants["into"], plants["donor"], evidence=file)
    assert found["evidence"] is not None
    assert "flat" in str(found["evidence"]["told"])
    assert {**found, "evidence": None} == plain


def test_the_command_swaps_by_it(plants: dict[str, Path], tmp_path: Path) -> None:
    """`--evidence` shows what it goes by, and the swap is the one of the layers it chose."""
    file = curves(tmp_path / "e.json", MIDDLE)
    common = ["swap", "--into", plants["into"], "--from", plants["donor"]]
    auto = ["--auto", plants["base"], "--evidence", file]
    shown = run(*common, tmp_path / "out", *auto, "--dry-run")
    assert "sw and en share layers 2-6" in " ".join(shown.stdout.split())
    assert run(*common, tmp_path / "out", *auto, "--non-layer", "into").returncode == 0
    assert run(*common, tmp_path / "by-hand", "--layers", "0,1,7").returncode == 0
    one, two = suture.open(tmp_path / "out"), suture.open(tmp_path / "by-hand")
    assert all((one[n] == two[n]).all() for n in two)


def test_what_is_no_evidence_is_told(plants: dict[str, Path], tmp_path: Path) -> None:
    """Of another number of layers, of other models, no JSON, or without --auto."""
    base = plants["base"]

    def refused(words: str, file: Path) -> None:
        with pytest.raises(suture.SutureError, match=words):
            suture.propose(base, plants["into"], plants["donor"], evidence=file)

    refused("of a model of 2 layers", curves(tmp_path / "a.json", [0, 1, 2]))
    refused("none of", curves(tmp_path / "b.json", MIDDLE, models=[{"path": "x"}, {"path": "y"}]))
    (tmp_path / "c.json").write_text("{}")
    refused("is not what", tmp_path / "c.json")
    refused("cannot read", tmp_path / "none.json")
    with pytest.raises(suture.UsageError, match="give auto too"):
        suture.swap(plants["into"], plants["donor"], tmp_path / "o", layers="0", evidence=tmp_path / "a.json")
