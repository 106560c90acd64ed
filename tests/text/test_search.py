"""Law: a search takes the loss on text as its evaluator, and finds the better model."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

import suture

from ..support.texts import SENTENCES, laid, tiny
from .test_commands import run

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("cmaes")


@pytest.mark.heavy
def test_the_loss_judges_a_search(tmp_path: Path) -> None:
    """Three mixtures of two models: the best has the least loss of those tried, which is no larger than the start's."""
    tiny(tmp_path / "a")
    tiny(tmp_path / "b", seed=1)
    text = laid(tmp_path / "texts", {"en": SENTENCES["en"][:3]})
    (tmp_path / "c.yml").write_text(
        "merge_method: linear\nmodels:\n  - model: a\n    parameters: {weight: {search: [0, 1], start: 0.5}}\n"
        "  - model: b\n    parameters: {weight: 1}\ndtype: float32\n"
    )
    judge = f"{shlex.quote(sys.executable)} -m suture text loss {{model}} --text {shlex.quote(str(text))} --json"
    done = run("search", tmp_path / "c.yml", tmp_path / "found", "--evaluate", judge, "--metric", "mean", "--minimise",
               "--budget", 3, "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    suture.merge(tmp_path / "found" / "best.yml", tmp_path / "best")
    best = suture.text.loss(tmp_path / "best", text=text)["mean"]
    found = json.loads(done.stdout)
    (winner,) = (c for c in found["candidates"] if c["number"] == found["best"])
    assert winner["score"] == pytest.approx(best, rel=1e-6)
