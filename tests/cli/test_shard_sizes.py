"""Law: a size means what whoever wrote it says: mergekit's K, M and B under its own flag, bytes under ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

import suture
from suture.cli.merge import merge as verb
from suture.cli.mergekit import aliases, settle

from ..support.checkpoints import write_checkpoint

MERGEKIT = {"K": 10**3, "M": 10**6, "B": 10**9}
OURS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def settled(value: str, **more: Any) -> tuple[int | None, str]:
    """The shard size that `--out-shard-size VALUE` comes to, and what is said on stderr."""
    found: list[int | None] = []

    @click.command()
    @aliases
    def command(**options: Any) -> None:
        options |= {"model_card": False, "device": "cpu"} | more
        settle(options, "out")
        found.append(suture.Settings(shard_size=options.get("shard_size")).shard_bytes)

    done = CliRunner().invoke(command, ["--out-shard-size", value], catch_exceptions=False)
    return found[0], done.stderr


@pytest.mark.parametrize("unit", MERGEKIT)
@pytest.mark.parametrize("number", ["1", "5", "1.5", "100", "0.25"])
@pytest.mark.parametrize("lower", [False, True])
def test_units_of_mergekit(unit: str, number: str, lower: bool) -> None:
    """K, M and B are thousands, millions, billions; below a million bytes a warning says what they are."""
    wanted = int(float(number) * MERGEKIT[unit])
    size, told = settled(number + (unit.lower() if lower else unit))
    assert size == wanted
    assert ("warning" in told) == (wanted < 10**6), told
    assert not told or all(word in told for word in ("--out-shard-size", "10^9", number))


@pytest.mark.parametrize("unit", [u for u in OURS if u not in MERGEKIT])
@pytest.mark.parametrize("suffix", ["", "B"])
def test_other_units_are_ours(unit: str, suffix: str) -> None:
    """What mergekit does not have means what it does everywhere else; `7B` alone is seven billion."""
    size, _ = settled(f"7{unit}{suffix}")
    assert size == (7 * 10**9 if unit + suffix == "B" else 7 * OURS[unit])


@pytest.mark.parametrize("unit", OURS)
def test_our_own_option_keeps_its_meaning(unit: str) -> None:
    """Under `--shard-size` B is a byte, and wins where both are given."""
    assert suture.Settings(shard_size=f"5{unit}B").shard_bytes == 5 * OURS[unit]
    assert settled("5B", shard_size=f"5{unit}B") == (5 * OURS[unit], "")


@pytest.mark.parametrize(
    "text", ["", "B", "-5B", "0B", "0.0000000001B", "5X", "five", "5 5B", "1e3B", "999999999999999999B", "nanB"]
)
def test_what_is_no_size_is_refused_under_its_name(text: str) -> None:
    """Law 8: the flag that was given is named."""
    with pytest.raises(suture.UsageError, match="--out-shard-size"):
        settled(text)


def test_a_file_a_tensor_is_not_what_5b_asks_for(tmp_path: Path) -> None:
    """`--out-shard-size 5B` writes one file; `5` writes a file a tensor, and says so."""
    model = write_checkpoint(tmp_path / "m", {f"t{i}": np.ones(8, np.float32) for i in range(3)})
    config = {"merge_method": "linear", "models": [{"model": str(model), "parameters": {"weight": 1}}]}
    (tmp_path / "c.yml").write_text(json.dumps(config))
    for size, files, warned in (("5B", 1, False), ("5", 3, True)):
        done = CliRunner().invoke(verb, [str(tmp_path / "c.yml"), str(tmp_path / size), "--out-shard-size", size])
        assert done.exit_code == 0, done.output
        assert len(list((tmp_path / size).glob("*.safetensors"))) == files
        assert ("warning: --out-shard-size `5`: shards of 5 B" in done.stderr) == warned
