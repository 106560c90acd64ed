"""Evaluators that fail, hang or print words, disks that are full, and configs that search nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

import suture
from suture.errors import SutureError, UsageError
from suture.searching.judge import Command, JudgingError

from ..support.checkpoints import read_checkpoint
from .common import DIGEST, command, config, searched, tensors, trajectory, written

pytest.importorskip("cmaes")


@pytest.mark.parametrize(
    ("printed", "score"),
    [
        ("accuracy 0.5", 0.5),
        ("step 1\\nloss: 2.5e-3\\n", 2.5e-3),
        ("v1.2.3 of model-7: -4", -4.0),
        ("scores .25, 75%", 75.0),
        ("acc=0.75", 0.75),
        ("0.5 of /candidates/000012", 0.5),
        ("000012/model 0.25 out/7/", 0.25),
        ("0.5, 0.25", 0.25),
    ],
)
def test_the_last_number_counts(printed: str, score: float, tmp_path: Path) -> None:
    """Numbers within words, names and versions are none."""
    assert Command(command(f"print('{printed}')"))(tmp_path) == score


@pytest.mark.parametrize("printed", ["score 1,000", "0.5 of 1,000", "12,345.6"])
def test_numbers_with_commas(printed: str, tmp_path: Path) -> None:
    """A thousand is not taken for 0, nor what stands before it for the score."""
    with pytest.raises(JudgingError, match="without commas"):
        Command(command(f"print('{printed}')"))(tmp_path)


def test_no_score_is_the_name_of_a_candidate(tmp_path: Path) -> None:
    """What a command says of the folder that it was given, behind its score, is never taken for the score."""
    for words in ("sys.argv[1]", "pathlib.Path(sys.argv[1]).name"):
        line = command(f"import pathlib, sys; print(0.5, {words})")
        found = suture.search(searched(tmp_path), tmp_path / words[:3], evaluate=line, budget=3)
        assert [c["score"] for c in found.data["candidates"]] == [0.5] * 3


@pytest.mark.parametrize(
    ("printed", "metric", "score"),
    [
        ('{"acc": 0.5, "n": 3}', "acc", 0.5),
        ('log 9\\n{"results": {"boolq": {"acc,none": 0.25}}}', "results.boolq.acc,none", 0.25),
        ('{"pass@1": {"a.b": 2}}', "pass@1.a.b", 2.0),
    ],
)
def test_a_key_of_json(printed: str, metric: str, score: float, tmp_path: Path) -> None:
    """A key, or keys within keys, of the last object that is printed."""
    script = tmp_path / "print.py"
    script.write_text(f"print('{printed}')")
    assert Command(f"{sys.executable} {script} {{model}}", metric)(tmp_path) == score


@pytest.mark.parametrize(
    ("code", "metric", "said"),
    [
        ("print('all words')", None, "printed no number: all words"),
        ("pass", None, "printed no number, and printed nothing"),
        ("import sys; print('no GPU', file=sys.stderr); sys.exit(7)", None, "exited with 7: no GPU"),
        ("import os; os.kill(os.getpid(), 9)", None, "ended by signal 9"),
        ("print(float('nan'))", None, "no finite number"),
        ("print(0.5)", "acc", "printed no JSON object"),
        ("print({chr(97): 1}.__repr__().replace(chr(39), chr(34)))", "acc", "its keys are `a`"),
        ("import time; time.sleep(60)", None, "took more than 0.5 s"),
    ],
)
def test_evaluators_that_fail(code: str, metric: str | None, said: str, tmp_path: Path) -> None:
    """Each is told with what it printed, the state is kept and the candidate gone; --failures lets it pass."""
    given = searched(tmp_path)
    began = time.monotonic()
    more: dict[str, Any] = {"evaluate": command(code), "metric": metric, "timeout": 0.5 if "sleep" in code else None}
    with pytest.raises(SutureError, match="candidate 0: ") as raised:
        suture.search(given, tmp_path / "out", **more)
    assert said in str(raised.value)
    assert "--failures" in str(raised.value)
    assert time.monotonic() - began < 30
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["search.sqlite"]
    with pytest.raises(SutureError, match="no candidate has a score"):
        suture.search(given, tmp_path / "out", **more, budget=2, failures=2)
    assert [(n, s) for n, _, s in trajectory(tmp_path / "out" / "search.sqlite")] == [(0, None), (1, None)]


def test_what_an_evaluator_starts_ends_with_it(tmp_path: Path) -> None:
    """A command that hangs is ended with all that it started."""
    mark = tmp_path / "mark"
    code = f"import subprocess, time; subprocess.Popen(['sh', '-c', 'sleep 2; touch {mark}']); time.sleep(60)"
    with pytest.raises(JudgingError, match="took more"):
        Command(command(code), None, 0.5)(tmp_path)
    time.sleep(2.5)
    assert not mark.exists()


def test_some_failures_pass(tmp_path: Path) -> None:
    """Those that failed are behind all others; the search goes on and the best is one that has a score."""
    calls: list[Path] = []

    def judge(place: Path) -> float:
        calls.append(place)
        assert tensors(place)
        return float("nan") if len(calls) % 3 == 0 else 1 / len(calls)

    found = suture.search(searched(tmp_path), tmp_path / "out", evaluate=judge, budget=22, failures=22)
    assert sum(c["score"] is None for c in found.data["candidates"]) == 7
    assert found.score == 1
    assert not any(p.exists() for p in calls)


def test_a_callable_that_raises_stops_the_search(tmp_path: Path) -> None:
    """A fault of the caller's own is his to see; what was judged before is kept."""
    calls: list[Path] = []

    def judge(place: Path) -> float:
        calls.append(place)
        if len(calls) == 3:
            raise ZeroDivisionError
        return 1.0

    with pytest.raises(ZeroDivisionError):
        suture.search(searched(tmp_path), tmp_path / "out", evaluate=judge)
    assert len(trajectory(tmp_path / "out" / "search.sqlite")) == 2


def test_two_searches_with_one_state(tmp_path: Path) -> None:
    """The second is refused while the first runs, and takes nothing from it."""
    given = searched(tmp_path)

    def judge(place: Path) -> float:
        with pytest.raises(SutureError, match="another search is running"):
            suture.search(given, tmp_path / "out", objective="balance")
        return 1.0

    suture.search(given, tmp_path / "out", evaluate=judge, budget=1)


LIMIT = """
import resource, sys
sys.argv[0:1] = []
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(0)), resource.RLIM_INFINITY))
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sys.argv.insert(0, "suture")
from suture.cli import main
main()
"""


def test_no_room_in_the_middle(tmp_path: Path) -> None:
    """Law: where no more can be written the search says so, without a traceback; with room again it goes on."""
    path = written(tmp_path, searched(tmp_path))
    rest = ["--evaluate", command(DIGEST), "-q"]

    def run(limit: int, budget: int) -> subprocess.CompletedProcess[str]:
        words = [str(limit), "search", str(path), str(tmp_path / "out"), *rest, "--budget", str(budget)]
        return subprocess.run([sys.executable, "-c", LIMIT, *words], capture_output=True, text=True, check=False)

    assert run(1 << 30, 4).returncode == 0
    kept = trajectory(tmp_path / "out" / "search.sqlite")
    # Too little for a candidate; then enough for that, and too little for the state, which has 3 pages and more.
    for limit in (4096, (tmp_path / "out" / "search.sqlite").stat().st_size):
        failed = run(limit, 300)
        assert failed.returncode == 1, failed.stderr
        assert "Traceback" not in failed.stderr
        assert trajectory(tmp_path / "out" / "search.sqlite")[:4] == kept
        assert not (tmp_path / "out" / ".search.sqlite.candidates").exists()
    assert "cannot keep the search" in failed.stderr
    assert run(1 << 30, 40).returncode == 0
    assert len(trajectory(tmp_path / "out" / "search.sqlite")) >= 40


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.5, "nothing is searched"),
        ({"search": [1, 0]}, "the first must be the smaller"),
        ({"search": [0, 1], "start": 2}, "start: expected a number from 0 to 1"),
        ({"search": [0]}, "expected [low, high]"),
        ({"search": [0, 1], "granularity": 2}, "did you mean `layer_granularity`"),
        ({"search": [0, 1], "layer_granularity": -1}, "how many layers share"),
    ],
)
def test_configs_that_search_nothing(value: Any, said: str, tmp_path: Path) -> None:
    """Ranges that are none, starts outside them and unknown keys are named; nothing is written."""
    given = config(tmp_path, lambda _: value)
    with pytest.raises(UsageError) as raised:
        suture.search(given, tmp_path / "out", objective="balance")
    assert said in str(raised.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "an evaluator or an objective"),
        ({"evaluate": "score.py"}, "expected {model}"),
        ({"evaluate": "score.py '{model}"}, "cannot be split"),
        ({"objective": "balanse"}, "did you mean `balance`"),
        ({"objective": "balance", "metric": "acc"}, "goes with a command"),
        ({"objective": "balance", "sigma": 0}, "sigma: expected a number above 0"),
        ({"objective": "balance", "population": 1}, "population: expected a number from 2"),
        ({"objective": "balance", "budget": 0}, "budget: expected a number from 1"),
        ({"objective": "balance", "seed": 2**32}, "seed: expected"),
        ({"objective": "distance:nowhere"}, "nowhere"),
    ],
)
def test_arguments(more: dict[str, Any], said: str, tmp_path: Path) -> None:
    """What does not go together is refused before anything is written."""
    with pytest.raises(SutureError) as raised:
        suture.search(searched(tmp_path), tmp_path / "out", **more)
    assert said in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_the_verb(tmp_path: Path) -> None:
    """A dry run lists what is searched and writes nothing; JSON has every candidate; a failure has code 1."""
    path = written(tmp_path, searched(tmp_path))

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        called = [sys.executable, "-m", "suture", "search", str(path), str(tmp_path / "out"), *words]
        return subprocess.run(called, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "200"})

    dry = run("--objective", "balance", "--dry-run")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert "weight of tuned-2, layer 3: from 0.5, between 0 and 1\n8 numbers; 100 candidates of " in dry.stdout
    assert not (tmp_path / "out").exists()
    assert run("--evaluate", "nonsense-of-a-name {model}").returncode == 1
    assert run("--evaluate", "x").returncode == 2
    assert not list((tmp_path / "out").glob("best*"))
    done = run("--objective", "balance", "--budget", "3", "--state", str(tmp_path / "state.sqlite"))
    assert done.returncode == 1, "another search's folder"
    done = subprocess.run(
        [sys.executable, "-m", "suture", "search", str(path), str(tmp_path / "new"), "--objective", "balance",
         "--budget", "3", "--json"], capture_output=True, text=True, check=True,
    )  # fmt: skip
    for text in (done.stdout, run("--objective", "balance", "--budget", "7", "--dry-run", "--json").stdout):
        data = json.loads(text)
        Draft202012Validator(suture.schema("search")).validate(data)
        assert data.keys() == suture.schema("search")["properties"].keys()
    assert (data["budget"], data["candidates"], data["config"]) == (7, [], None)
    weights = sum(len(raw.data) for raw in read_checkpoint(tmp_path / "base").values())
    assert 0 < data["candidate_bytes"] - weights < 1 << 13
    page = (tmp_path / "new" / "report.html").read_text()
    assert "default-src 'none'" in page
    assert "weight of tuned-1" in page
