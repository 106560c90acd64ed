"""`suture merge --all-of` and plans of groups, as a user starts them: tables on stdout, JSON, exit codes, odd names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from suture.render.beside import show_beside

from ..support.checkpoints import llama_family, write_checkpoint, write_json
from .test_hostile_names import EVIL, STYLE


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line, as a user starts it."""
    command = [sys.executable, "-m", "suture", *map(str, arguments)]
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=env)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and four fine-tunes."""
    folder = tmp_path_factory.mktemp("models")
    return llama_family(folder, layers=2, n=4, hidden=8, heads=2, kv_heads=1, ff=12, vocab=10)


@pytest.fixture
def of_set(models: list[Path], tmp_path: Path) -> Path:
    """A set of three experts, for two methods."""
    listed = [{"model": str(m), "parameters": {"weight": 0.3}} for m in models[1:4]]
    content = {"base_model": str(models[0]), "models": listed, "methods": ["ties", "weight_average"]}
    return write_json(tmp_path / "set.yml", content)


@pytest.fixture
def plan(models: list[Path], tmp_path: Path) -> Path:
    """Four languages in two groups, one direction merged and one kept."""
    its = {language: str(m) for language, m in zip(("de", "nl", "fr", "it"), models[1:], strict=True)}
    content = {
        "groups": {"germanic": ["de", "nl"], "romance": ["fr", "it"]},
        "directions": {"xx-en": {"merge": {"merge_method": "linear", "parameters": {"weight": 1}}}, "en-xx": "keep"},
        "experts": {"xx-en": its, "en-xx": its},
    }
    return write_json(tmp_path / "plan.yml", content)


def test_the_table_of_a_set(of_set: Path, tmp_path: Path) -> None:
    """The table is data, on stdout; with --json it is in the JSON under its file's name; --quiet says nothing."""
    done = run("merge", "--all-of", of_set, tmp_path / "out")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    title, head, *rows = done.stdout.splitlines()
    assert title == "how the outputs lie to their experts"
    assert head.split()[0] == "output"
    assert [row.split()[0] for row in rows] == ["ties", "weight_average"]
    again = run("merge", "--all-of", of_set, tmp_path / "out", "--overwrite", "--json")
    found = json.loads(again.stdout)
    assert list(found) == ["ties", "weight_average", "all_of.json"]
    assert found["all_of.json"] == json.loads((tmp_path / "out" / "all_of.json").read_text())
    shown = dict(zip(("ties", "weight_average"), rows, strict=True))
    for row in found["all_of.json"]["outputs"]:
        assert f"{row['l2']:.3g}" in shown[row["output"]]
        assert f"{row['towards'][0]['cosine']:.4f}" in shown[row["output"]]
    quiet = run("merge", "--all-of", of_set, tmp_path / "quiet", "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    refused = run("merge", "--all-of", of_set, tmp_path / "out")
    assert (refused.returncode, refused.stdout, len(refused.stderr.splitlines())) == (1, "", 1)


def test_a_dry_run_of_a_set(of_set: Path, tmp_path: Path) -> None:
    """Plans of all, what is left out, no table; nothing is written. --explain says each in words."""
    done = run("merge", "--all-of", of_set, tmp_path / "out", "--dry-run", "--json")
    assert list(json.loads(done.stdout)) == ["ties", "weight_average"]
    told = run("merge", "--all-of", of_set, "--explain")
    assert told.returncode == 0
    assert told.stdout.count("merge ties writes") == 1
    assert told.stdout.count("merge linear writes") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set.yml"]


def test_the_table_of_a_plan(plan: Path, models: list[Path], tmp_path: Path) -> None:
    """Where each language goes, and the sizes; dry and done alike."""
    dry = run("merge", plan, tmp_path / "out", "--dry-run")
    done = run("merge", plan, tmp_path / "out")
    assert (done.returncode, dry.returncode) == (0, 0)
    title, head, *rows, sizes = done.stdout.splitlines()
    assert title == "where languages go"
    assert head.split() == ["language", "group", "xx-en", "en-xx"]
    assert [row.split()[:3] for row in rows] == [
        ["de", "germanic", "xx-en.germanic"],
        ["nl", "germanic", "xx-en.germanic"],
        ["fr", "romance", "xx-en.romance"],
        ["it", "romance", "xx-en.romance"],
    ]
    for row, model in zip(rows, models[1:], strict=True):
        assert (tmp_path / "out" / row.split()[3]).resolve() == model.resolve()
    assert sizes.startswith("experts: 4 models, ")
    assert "; served: 6 models, " in sizes
    assert dry.stdout.splitlines()[-len(rows) - 3 :] == done.stdout.splitlines()
    found = json.loads(run("merge", plan, tmp_path / "other", "--json").stdout)
    assert list(found) == ["xx-en.germanic", "xx-en.romance", "routing.json"]
    assert run("verify", tmp_path / "out").returncode == 0


def test_tables_on_a_narrow_terminal(
    of_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Columns that say least are left out and named, and where they are is said."""
    done = run("merge", "--all-of", of_set, tmp_path / "out")
    assert max(map(len, done.stdout.splitlines())) > 80
    monkeypatch.setattr("suture.render.beside.room", lambda: 60)
    show_beside({"all_of.json": json.loads((tmp_path / "out" / "all_of.json").read_text())})
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60
    told = " ".join(line.strip() for line in lines)
    assert "too narrow for" in told
    assert "all_of.json and --json have all" in told


def test_mistakes(of_set: Path, plan: Path, tmp_path: Path) -> None:
    """Exit code 2 and one line, with the file's line in front."""
    for path, flags, old, new, says in (
        (of_set, ["--all-of"], '"methods"', '"metods"', "metods: unknown key; did you mean `methods`?"),
        (of_set, [], "", "", "a set of models for several methods is run by `suture merge --all-of`"),
        (plan, [], '"directions"', '"diretions"', "diretions: unknown key; did you mean `directions`?"),
        (plan, [], '"keep"', '"kept"', "expected `merge`, `keep`, or a mapping"),
        (plan, [], '"nl"\n', '"de"\n', "`de` is twice in `germanic`"),
    ):
        text = json.dumps(json.loads(path.read_text()), indent=1)
        (tmp_path / "wrong.yml").write_text(text.replace(old, new, 1))
        done = run("merge", *flags, tmp_path / "wrong.yml", tmp_path / "out")
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"error: {tmp_path / 'wrong.yml'}:")
        assert says in line


def test_hostile_names(tmp_path: Path) -> None:
    """Law 7: what languages, directions and folders are called is shown, never obeyed."""
    rng = np.random.default_rng(0)
    folders = []
    for i in range(3):
        tensors = {"model.layers.0.w": rng.normal(size=(4, 4)).astype(np.float32)}
        folders.append(write_checkpoint(tmp_path / f"m{i}{EVIL}", tensors, config={"num_hidden_layers": 1}))
    its = {f"de{EVIL}": str(folders[1]), f"nl{EVIL}": str(folders[2])}
    a_plan: dict[str, Any] = {
        "base_model": str(folders[0]),
        "groups": {"g": list(its)},
        "directions": {"in": {"merge": {"merge_method": "ties", "parameters": {"weight": 1}}}, f"out{EVIL}": "keep"},
        "experts": {"in": its, f"out{EVIL}": its},
    }
    write_json(tmp_path / "plan.yml", a_plan)
    write_json(tmp_path / "twice.yml", a_plan | {"groups": {"g": [*its, f"de{EVIL}"]}})
    models = [{"model": str(f), "parameters": {"weight": 0.5}} for f in folders[1:]]
    write_json(tmp_path / "set.yml", {"base_model": str(folders[0]), "models": models, "methods": ["ties"]})
    calls: list[list[str | Path]] = [
        ["merge", tmp_path / "plan.yml", tmp_path / "a"],
        ["merge", tmp_path / "plan.yml", tmp_path / "b", "--json"],
        ["merge", tmp_path / "twice.yml", tmp_path / "c"],
        ["merge", "--all-of", tmp_path / "set.yml", tmp_path / "d"],
        ["merge", "--all-of", tmp_path / "set.yml", tmp_path / "e", "--json"],
    ]
    for call in calls:
        done = run(*call)
        assert done.returncode == (2 if "twice" in str(call) else 0), done.stderr
        for text in (done.stdout, done.stderr):
            assert all(c.isprintable() or c == "\n" for c in STYLE.sub("", text)), call
        assert "x1b[2J" in done.stdout + done.stderr or "u001b[2J" in done.stdout


def test_killed(models: list[Path], tmp_path: Path) -> None:
    """Law 6: SIGKILL at any instant; the same command ends in the same files, table included."""
    rng = np.random.default_rng(1)
    folders = []
    for i in range(3):
        tensors = {f"t{n:02}": rng.standard_normal(2**19).astype(np.float32) for n in range(6)}
        folders.append(write_checkpoint(tmp_path / f"m{i}", tensors))
    listed = [{"model": str(f), "parameters": {"weight": 0.5}} for f in folders[1:]]
    content = {"base_model": str(folders[0]), "models": listed, "parameters": {"density": 0.3}}
    config = write_json(tmp_path / "set.yml", content)
    call = [sys.executable, "-m", "suture", "merge", "--all-of", str(config)]
    options = ["--quiet", "--threads", "2", "--chunk", "64KiB"]
    began = time.monotonic()
    subprocess.run([*call, str(tmp_path / "whole"), *options], check=True, timeout=120)
    seconds = time.monotonic() - began
    killed = 0
    for share in (0.35, 0.6, 0.8, 0.95):
        out = tmp_path / f"out-{share}"
        process = subprocess.Popen([*call, str(out), *options])
        time.sleep(seconds * share)
        process.kill()
        killed += process.wait() != 0
        done = subprocess.run([*call, str(out), *options], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0 or "exists already" in done.stderr, done.stderr
        found, want = ({p.relative_to(o): p for o_ in [o] for p in o_.rglob("*")} for o in (out, tmp_path / "whole"))
        assert found.keys() == want.keys()
        for name, path in want.items():
            if path.is_file() and path.name != "suture.json":
                assert found[name].read_bytes() == path.read_bytes(), name
    assert killed
