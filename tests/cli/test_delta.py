"""``suture delta`` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from suture.cli import cli
from suture.errors import UsageError

from ..delta.worlds import pair, same_tensors


def run(*args: object) -> str:
    """The standard output of a command."""
    result = CliRunner().invoke(cli, ["delta", *map(str, args)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_there_and_back(tmp_path: Path) -> None:
    """Law: extract, apply and revert give the models' bytes; info says what there is."""
    base, fine = pair(tmp_path)
    run("extract", base, fine, tmp_path / "d", "--form", "sparse", "--density", "0.1", "--exact", "--quiet")
    run("apply", base, tmp_path / "d", tmp_path / "again", "--quiet")
    run("revert", fine, tmp_path / "d", tmp_path / "back", "--quiet")
    assert same_tensors(tmp_path / "again", fine)
    assert same_tensors(tmp_path / "back", base)
    told = run("info", tmp_path / "d")
    assert "a delta of the form sparse, exact" in told
    assert "lm_head.weight" in run("info", tmp_path / "d", "--tensors")
    assert json.loads(run("info", tmp_path / "d", "--json"))["base"]["name"] == "base"


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    """Law: what would be kept how is told from headers."""
    base, fine = pair(tmp_path)
    told = run("extract", base, fine, tmp_path / "d", "--form", "lora", "--rank", "2", "--dry-run", "--verbose")
    assert "kept lowrank" in told
    assert not (tmp_path / "d").exists()
    assert "delta apply" in run("extract", base, fine, tmp_path / "x", "--form", "xor", "--quiet") + run(
        "apply", base, tmp_path / "x", tmp_path / "out", "--dry-run"
    )


def test_numbers_that_are_none(tmp_path: Path) -> None:
    """Law 8: wrong use is told."""
    base, fine = pair(tmp_path)
    with pytest.raises(UsageError, match="--weights: expected numbers"):
        run("apply", base, fine, tmp_path / "out", "--weights", "a")
