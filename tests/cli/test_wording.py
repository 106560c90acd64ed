"""One word for one thing: options, cosines, and what became of the inputs' tensors."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ..support.checkpoints import llama_family, write_json

ROOT = Path(__file__).parents[2]


def run(*arguments: str | Path) -> str:
    """All that a call says."""
    command = [sys.executable, "-m", "suture", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and two fine-tunes."""
    return llama_family(
        tmp_path_factory.mktemp("models"), layers=4, n=2, hidden=8, heads=2, kv_heads=1, ff=12, vocab=10
    )


def test_what_a_swap_replaced_is_told_by_model(models: list[Path], tmp_path: Path) -> None:
    """Of the recipient, what another model gave; of the donor, what was not taken."""
    _, into, donor = models
    call: list[str | Path] = ["swap", "--into", into, "--from", donor, tmp_path / "out", "--bottom", "1"]
    for more, where in ((["--dry-run"], "with --verbose"), ([], "in suture.json")):
        told = run(*call, *more)
        found = re.search(
            r"^  (\d+) input tensors of tuned-1 replaced, (\d+) of tuned-2 not taken \(listed (.*)\)$", told, re.M
        )
        assert found
        # A layer of nine; three layers and what is outside of them.
        assert (found[1], found[2], found[3]) == ("9", "30", where)


def test_what_a_revert_replaced(models: list[Path], tmp_path: Path) -> None:
    """The fine-tune's layers, by those of the base."""
    base, tuned, _ = models
    told = run("revert", base, tuned, tmp_path / "out", "--layers", "0,1")
    assert "  18 input tensors of tuned-1 replaced, 21 of base not taken (listed in suture.json)" in told


def test_what_a_merge_leaves_out(models: list[Path], tmp_path: Path) -> None:
    """A merge has no recipient: what is in no output is left out, and whose it is is said."""
    config = {
        "merge_method": "passthrough",
        "slices": [{"sources": [{"model": str(models[1]), "layer_range": [0, 3]}]}],
    }
    told = run("merge", write_json(tmp_path / "c.yml", config), tmp_path / "out")
    assert "  9 input tensors of tuned-1 left out (listed in suture.json)" in told


def test_two_cosines_have_two_names(models: list[Path]) -> None:
    """What is of the weights and the base's is never called what is of two changes, in tables and in the docs."""
    told = run("diff", *models) + run("diff", *models, "--by", "layer")
    assert "cosine with base" in told
    assert "cosine of changes" in told
    assert not re.search(r"cosine(?! with base| of changes)", told)
    docs = (ROOT / "docs" / "analysis.md").read_text(encoding="utf-8")
    assert "*cosine with base*" in docs
    assert "*cosine of changes*" in docs


def test_the_option_has_one_name() -> None:
    """`--non-layer`: in the help, the docs and the README, and nothing else for the same."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    text = run("swap", "--help") + "".join(page.read_text(encoding="utf-8") for page in pages)
    assert "--non-layer" in text
    assert not re.search(r"--(?:non-layers|nonlayer|non_layer|outside-from|rest)\b", text)
