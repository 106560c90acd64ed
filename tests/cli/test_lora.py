"""``suture lora split`` and ``convert`` on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from suture.cli import cli
from suture.errors import UsageError

from ..support.checkpoints import write_file
from ..support.lora import factors, random, read_lora, write_lora


def run(*args: object) -> str:
    """The standard output of a command."""
    result = CliRunner().invoke(cli, ["lora", *map(str, args)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An adapter of two layers."""
    rng = np.random.default_rng(0)
    names = [f"model.layers.{i}.{m}" for i in range(2) for m in ("self_attn.q_proj", "mlp.up_proj")]
    return write_lora(tmp_path / "lora", {k: raw for n in names for k, raw in factors(rng, n, (8, 8)).items()})


def test_split(adapter: Path, tmp_path: Path) -> None:
    """Law: pieces by names and patterns; the plan says which tensors are in which; JSON has a report for each."""
    call: list[Any] = ["split", adapter, tmp_path / "out", "--by", "module", "--module", "attention=self_attn"]
    told = run(*call, "--module", "mlp=mlp", "--dry-run")
    assert "attention" in told
    assert not (tmp_path / "out").exists()
    found = json.loads(run(*call, "--module", "mlp=mlp", "--json", "--memory", "64MiB"))
    assert found["attention"]["tensors"].keys() == {n for n in found["attention"]["tensors"] if "q_proj" in n}
    assert found["mlp"]["title"] == "lora split"
    for piece in ("attention", "mlp"):
        assert len(read_lora(tmp_path / "out" / piece)) == 4


def test_convert(adapter: Path, tmp_path: Path) -> None:
    """Law: there and back by the options that the help names."""
    run("convert", adapter, tmp_path / "l.safetensors", "--to", "loralib")
    run("convert", tmp_path / "l.safetensors", tmp_path / "back", "--to", "peft", "--alpha", "8", "--from", "loralib")
    assert read_lora(tmp_path / "back") == read_lora(adapter)
    rng = np.random.default_rng(1)
    write_file(tmp_path / "m.safetensors", {"a.qkv.lora_A": random(rng, 4, 8), "a.qkv.lora_B": random(rng, 16, 2)})
    more = ["--alpha", "4", "--enable-lora", "1,0,1", "--parts", "q,k,v"]
    run("convert", tmp_path / "m.safetensors", tmp_path / "apart", "--to", "peft", *more)
    assert {n.split(".")[1] for n in read_lora(tmp_path / "apart")} == {"q", "v"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("split", "--by", "module", "--module", "x"), "--module: expected a name and a pattern"),
        (("split", "--by", "module", "--module", "x=a", "--module", "x=b"), "two pieces have one name"),
        (("convert", "--to", "peft", "--enable-lora", "1,2"), "--enable-lora: expected 1 or 0"),
        (("convert", "--to", "pft"), "did you mean `peft`"),
    ],
    ids=["pattern", "twice", "flags", "form"],
)
def test_mistakes(call: tuple[str, ...], message: str, adapter: Path, tmp_path: Path) -> None:
    """Law 8: wrong use is told, and nothing written."""
    verb, *options = call
    with pytest.raises(UsageError, match=message):
        run(verb, adapter, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()
