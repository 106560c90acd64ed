"""What docs/search.md and the examples show."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from suture.demo import Experiment
from suture.searching import genome_of

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "search.md").read_text(encoding="utf-8")


def test_the_values_of_the_page_are_searched() -> None:
    """Every block of YAML on the page is a value that is searched."""
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("suture.searching.genome._layers", lambda _: list(range(8)))
        for block, count in zip(blocks, (2, 4), strict=True):
            models = [{"model": "m", "parameters": yaml.safe_load(block)}]
            assert len(genome_of({"merge_method": "linear", "models": models}).genes) == count


def test_the_example_runs(tmp_path: Path) -> None:
    """The commands of the page, with a small budget, find a merge that scores above 0 on problems it has not seen."""
    pytest.importorskip("cmaes")
    Experiment(tmp_path / "suture-demo").prepare()
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    run = next(line for line in PAGE.splitlines() if "suture search examples/search.yaml" in line).strip()
    assert "--evaluate 'python examples/score.py {model}' --budget 60" in run
    called = [sys.executable, "-m", "suture", "search", "examples/search.yaml", "found", "--budget", "3", "--evaluate"]
    subprocess.run([*called, f"{sys.executable} examples/score.py {{model}}", "-q"], cwd=tmp_path, check=True)
    subprocess.run(
        [sys.executable, "-m", "suture", "merge", "found/best.yml", "merged", "-q"], cwd=tmp_path, check=True
    )
    score = [sys.executable, "examples/score.py", "merged", "--held-out"]
    printed = subprocess.run(score, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert 0 < float(printed) <= 1
