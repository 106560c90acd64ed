"""`suture demo`: the models that come with the wheel, their test, and what is shown of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import suture
from suture.cli.demo import demo
from suture.demo import LANGUAGES, MODELS, NAMES, Experiment
from suture.demo.llama import Llama
from suture.demo.packed import pack, unpack

from ..support.checkpoints import read_checkpoint

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, float]:
    """What the demo says as JSON, where it wrote, and the seconds it took."""
    folder = tmp_path_factory.mktemp("demo")
    begin = time.monotonic()
    command = [sys.executable, "-m", "suture", "demo", str(folder / "out"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), folder / "out", time.monotonic() - begin


def test_the_models_are_one_family(shown: tuple[dict[str, Any], Path, float]) -> None:
    """Three bf16 Llamas of the same tensors, tuned from the first; all three fit into a wheel of 6 MB."""
    family = [read_checkpoint(shown[1] / name) for name in NAMES]
    assert family[0].keys() == family[1].keys() == family[2].keys()
    assert {raw.dtype for model in family for raw in model.values()} == {"BF16"}
    assert sum(p.stat().st_size for p in MODELS.rglob("*") if p.is_file()) < 1_600_000
    found = suture.diff(*(shown[1] / name for name in NAMES))
    assert [m["ancestry"]["verdict"] for m in found["models"]] == ["related", "related"]


def test_what_is_packed_comes_out_as_it_was(tmp_path: Path) -> None:
    """Every bit pattern of bf16, both zeros and NaN among them, as a base's and as an expert's far from it."""
    every = np.arange(2**16, dtype=np.uint16)
    mixed = np.random.default_rng(1).permutation(every)
    header = {"w": {"dtype": "BF16", "shape": [2**16], "data_offsets": [0, 2**17]}}
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    pack(header, every, [mixed, every[::-1]], tmp_path)
    unpack(("a", "b", "c"), tmp_path, tmp_path)
    for name, bits in (("a", every), ("b", mixed), ("c", every[::-1])):
        assert read_checkpoint(tmp_path / name)["w"].data == bits.tobytes()


def test_every_model_is_tested(shown: tuple[dict[str, Any], Path, float]) -> None:
    """The three models and every merge have a score in each language, and the merges are checkpoints that verify."""
    said, out, _ = shown
    assert len(said["outcomes"]) >= 9
    for outcome in said["outcomes"]:
        assert set(outcome["scores"]) == set(LANGUAGES)
        assert all(0 <= score <= 1 for score in outcome["scores"].values())
    merged = [p for p in out.iterdir() if p.is_dir()]
    assert len(merged) == len(said["outcomes"])
    for folder in merged:
        assert suture.verify(folder)["differing"] == []


def test_only_the_task_expert_was_taught_the_task(shown: tuple[dict[str, Any], Path, float]) -> None:
    """What the study says of these models: the operation is the task expert's own, and only in its language."""
    scores = {o["name"]: o["scores"] for o in shown[0]["outcomes"]}
    a, b = LANGUAGES
    assert scores["task expert"][a] > 0.95
    assert scores["base"][a] < 0.3
    assert scores["language expert"][a] < 0.3
    assert scores["task expert"][b] < scores["task expert"][a]


def test_the_scores_are_those_of_the_study(shown: tuple[dict[str, Any], Path, float]) -> None:
    """Every number is traceable: the kept run's models of this seed answer as these, but for rounding to bf16."""
    chosen = json.loads((MODELS / "chosen.json").read_text())
    run = json.loads((REPOSITORY / chosen["run"]).read_text())
    (record,) = [r for r in run["records"] if (r["pair"], r["seed"]) == (chosen["pair"], chosen["seed"])]
    kept = {m["name"]: m["test"] for m in record["conditions"][chosen["condition"]]["models"]}
    scores = {o["name"]: o["scores"] for o in shown[0]["outcomes"]}
    for name, of in (("task expert", "task"), ("language expert", "language"), ("base", "base")):
        assert scores[name][LANGUAGES[1]] == pytest.approx(kept[of]["task_b"], abs=0.02)


def test_it_is_fast(shown: tuple[dict[str, Any], Path, float]) -> None:
    """Under 20 s on two free cores; three times that here, where other tests may run beside."""
    assert shown[2] < 60


def test_the_page_is_written(shown: tuple[dict[str, Any], Path, float]) -> None:
    """With the extra installed the report is there."""
    pytest.importorskip("altair")
    assert (shown[1] / "report.html").stat().st_size > 100_000


def test_the_table_is_printed(tmp_path: Path) -> None:
    """On a terminal: the heat maps, the proposal, and one row for each model."""
    command = [sys.executable, "-m", "suture", "demo", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    for said in ("task expert", "average", "--auto by layer", f"task in {LANGUAGES[1]}", "margin", "o_proj"):
        assert said in done.stdout


def test_scores_do_not_depend_on_the_padding(tmp_path: Path) -> None:
    """The forward pass is causal: what stands after a position changes nothing before it."""
    unpack(NAMES, MODELS, tmp_path)
    model = Llama.load(tmp_path / "base")
    ids = np.array([[18, 19, 10, 5, 1, 26]])
    longer = np.concatenate([ids, np.zeros((1, 3), dtype=np.int64)], axis=1)
    np.testing.assert_allclose(model.scores(ids), model.scores(longer)[:, :6], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name", [*NAMES[1:], "average", "ties", "swap", "auto", "edges", "reset", "reverse", "report.html"]
)
def test_what_is_there_is_kept(name: str, tmp_path: Path) -> None:
    """Law 6: whatever is called as what the demo makes is refused before anything is made, if it is another's."""
    place = tmp_path / "out" / name
    if name == "report.html":
        place.parent.mkdir()
        place.write_text("<p>mine</p>")
    else:
        place.parent.mkdir()
        unpack(NAMES, MODELS, tmp_path)
        shutil.copytree(tmp_path / "base", place)
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    done = CliRunner().invoke(demo, [str(tmp_path / "out")])
    assert isinstance(done.exception, suture.SutureError)
    assert str(place) in str(done.exception)
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()} == before


def test_a_second_demo_takes_the_place_of_the_first(shown: tuple[dict[str, Any], Path, float], tmp_path: Path) -> None:
    """What an earlier demo made is made again, also one of a version whose reports named models by their paths."""
    out = shutil.copytree(shown[1], tmp_path / "out")
    report = json.loads((out / "ties" / "suture.json").read_text())
    report["recipe"]["base_model"] = f"/somewhere/else/{report['recipe']['base_model']}"
    (out / "ties" / "suture.json").write_text(json.dumps(report))
    Experiment(out).check()
    report["recipe"]["parameters"] = {"lambda": 0.5}
    (out / "ties" / "suture.json").write_text(json.dumps(report))
    with pytest.raises(suture.SutureError, match="ties"):
        Experiment(out).check()
