"""A search that is cut short goes on as if it had not been."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import suture
from suture.errors import SutureError, UsageError

from ..support.processes import start
from .common import DIGEST, command, searched, trajectory, written

pytest.importorskip("cmaes")

BUDGET = 14


def verb(*words: str | Path) -> list[str]:
    """The command line of a search."""
    return [sys.executable, "-m", "suture", "search", *map(str, words)]


def test_a_killed_search_has_the_same_trajectory(tmp_path: Path) -> None:
    """Law: killed in the middle and called again, with other workers, it asks for the very same candidates."""
    path = written(tmp_path, searched(tmp_path))
    rest = [
        "--evaluate",
        command(f"import time; time.sleep(0.2); {DIGEST}"),
        "--budget",
        str(BUDGET),
        "--seed",
        "3",
        "-q",
    ]
    subprocess.run(verb(path, tmp_path / "whole", *rest), check=True)
    expected = trajectory(tmp_path / "whole" / "search.sqlite")
    assert [n for n, _, _ in expected] == list(range(BUDGET))
    assert len({genes for _, genes, _ in expected}) == BUDGET

    cut = tmp_path / "cut"
    for ending in (signal.SIGKILL, signal.SIGINT):
        before = len(trajectory(cut / "search.sqlite")) if cut.exists() else 0
        process = start(verb(path, cut, *rest))
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if (cut / "best.yml").exists() and _count(cut / "search.sqlite") >= before + 3:
                break
            time.sleep(0.02)
        process.send_signal(ending)
        said = process.communicate(timeout=30)[1]
        if ending == signal.SIGINT:
            assert process.returncode == 130
            assert "run the same command again" in said
            assert not (cut / ".search.sqlite.candidates").exists()
        kept = trajectory(cut / "search.sqlite")
        assert before < len(kept) < BUDGET
        assert kept == expected[: len(kept)]
    subprocess.run(verb(path, cut, *rest, "--workers", "3"), check=True)
    assert trajectory(cut / "search.sqlite") == expected
    assert not (cut / ".search.sqlite.candidates").exists()
    text = [(tmp_path / name / "best.yml").read_text() for name in ("whole", "cut")]
    assert text[0] == text[1]
    assert "<svg" in (cut / "report.html").read_text()


def _count(state: Path) -> int:
    """Candidates in a file that another process holds: where lists of genes begin in its bytes."""
    return state.read_bytes().count(b"[0.") if state.exists() else 0


def test_a_larger_budget_goes_on(tmp_path: Path) -> None:
    """Law: 5 and then 12 candidates are the 12 of one call, though 5 end within a generation."""
    given = searched(tmp_path)
    for name, budgets in {"one": [12], "two": [5, 12]}.items():
        for budget in budgets:
            suture.search(given, tmp_path / name, objective="balance", budget=budget)
    one, two = (trajectory(tmp_path / name / "search.sqlite") for name in ("one", "two"))
    assert one == two
    assert len(one) == 12


def test_another_seed_is_another_trajectory(tmp_path: Path) -> None:
    """The test of the tests: the seed decides."""
    given = searched(tmp_path)
    genes = []
    for seed in (0, 1):
        suture.search(given, tmp_path / f"{seed}", objective="balance", budget=3, seed=seed)
        genes.append([g for _, g, _ in trajectory(tmp_path / f"{seed}" / "search.sqlite")])
    assert genes[0][0] == genes[1][0]
    assert genes[0][1:] != genes[1][1:]


def test_a_state_is_of_one_search(tmp_path: Path) -> None:
    """A state of another seed, objective, config or of other weights is refused, by what differs; nothing is judged."""
    given = searched(tmp_path)
    out = tmp_path / "out"
    suture.search(given, out, objective="balance", budget=2)
    kept = trajectory(out / "search.sqlite")
    cases: dict[str, dict[str, Any]] = {
        "seed": {"objective": "balance", "seed": 1},
        "objective": {"objective": "interference"},
        "sigma": {"objective": "balance", "sigma": 0.3},
    }
    for named, more in cases.items():
        with pytest.raises(UsageError, match=f"whose {named} was"):
            suture.search(given, out, budget=4, **more)
    with pytest.raises(UsageError, match="whose config was"):
        suture.search(searched(tmp_path, start=0.25), out, objective="balance", budget=4)
    os.utime(next((tmp_path / "tuned-1").glob("*.safetensors")), (1, 1))
    with pytest.raises(UsageError, match="whose inputs was"):
        suture.search(given, out, objective="balance", budget=4)
    assert trajectory(out / "search.sqlite") == kept


def test_what_is_not_a_state_stays(tmp_path: Path) -> None:
    """A file that is no state, and a folder that holds something, are refused and left alone."""
    given = searched(tmp_path)
    (tmp_path / "text").write_text("mine, and long enough to be no header of a database " * 20)
    with pytest.raises(UsageError, match="no state of a search"):
        suture.search(given, tmp_path / "out", objective="balance", state=tmp_path / "text")
    assert (tmp_path / "text").read_text().startswith("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "best.yml").write_text("mine")
    with pytest.raises(SutureError, match="no search"):
        suture.search(given, tmp_path / "full", objective="balance")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["best.yml"]


def test_another_target_is_another_search(tmp_path: Path) -> None:
    """Scores of distances to other weights are never mixed: a target that has changed is refused."""
    given, out = searched(tmp_path), tmp_path / "out"
    target = tmp_path / "target"
    shutil.copytree(tmp_path / "tuned-1", target)
    suture.search(given, out, objective=f"distance:{target}", budget=2)
    shutil.rmtree(target)
    shutil.copytree(tmp_path / "tuned-2", target)
    with pytest.raises(UsageError, match="whose inputs was"):
        suture.search(given, out, objective=f"distance:{target}", budget=3)


def test_a_database_of_somebody_stays(tmp_path: Path) -> None:
    """A database that is no search gets no tables of ours, to the byte."""
    place = tmp_path / "own.sqlite"
    with sqlite3.connect(place) as db:
        db.execute("create table mine (a)")
    before = place.read_bytes()
    with pytest.raises(UsageError, match="no state of a search"):
        suture.search(searched(tmp_path), tmp_path / "out", objective="balance", state=place)
    assert place.read_bytes() == before


@pytest.mark.parametrize(
    "harm",
    [
        "update candidates set genes = '['",
        "update candidates set genes = '[\"a\"]'",
        "update candidates set score = 'high'",
        "update search set value = '{'",
        "alter table candidates drop column failure",
        "drop table candidates; create table candidates (number integer primary key)",
        None,
    ],
)
def test_a_damaged_state_is_told(tmp_path: Path, harm: str | None) -> None:
    """Law 7: what a state holds is checked; damage is an error that says so, and the file stays."""
    given, out = searched(tmp_path), tmp_path / "out"
    suture.search(given, out, objective="balance", budget=2)
    place = out / "search.sqlite"
    if harm is None:
        place.write_bytes(place.read_bytes()[:-4096])
    else:
        db = sqlite3.connect(place)
        db.executescript(harm)
        db.close()
    before = place.read_bytes()
    with pytest.raises(SutureError, match="is damaged"):
        suture.search(given, out, objective="balance", budget=3)
    assert place.read_bytes() == before


def test_a_state_in_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL is refused before a folder of that name is made here."""
    given = searched(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UsageError, match="is a URL"):
        suture.search(given, tmp_path / "out", objective="balance", state="s3://bucket/search.sqlite")
    assert sorted(tmp_path.iterdir()) == before
