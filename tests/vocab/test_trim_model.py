"""Law: a trimmed checkpoint has the bytes of the rows that stay, other tensors as they were, and its own numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from suture.errors import UsageError
from suture.vocab.tokens import read

from ..support.checkpoints import read_checkpoint, write_checkpoint
from ..support.vocabularies import bpe, whole, write

tokenizers = pytest.importorskip("tokenizers")

WIDTH = 4


def model(folder: Path) -> dict[str, Any]:
    """A model of four rows more than tokens, its head apart, with a bias."""
    merges = [("a", "b"), ("ab", "c"), ("b", "c"), ("d", "e"), ("Ġ", "a")]
    write(folder, whole("bytes", bpe([*"abcdeĠ"], merges), ["<s>", "</s>"]), {"bos": "<s>", "eos": "</s>"})
    size = read(folder).size
    rng = np.random.default_rng(1)
    tensors = {
        "model.embed_tokens.weight": rng.standard_normal((size + 4, WIDTH)).astype("<f4"),
        "model.layers.0.mlp.up_proj.weight": rng.standard_normal((WIDTH, WIDTH)).astype("<f4"),
        "lm_head.weight": rng.standard_normal((size + 4, WIDTH)).astype("<f4"),
        "lm_head.bias": rng.standard_normal(size + 4).astype("<f4"),
    }
    write_checkpoint(folder, tensors)
    config = {"model_type": "llama", "vocab_size": size + 4, "bos_token_id": size - 2, "eos_token_id": [size - 1]}
    (folder / "config.json").write_text(json.dumps(config))
    return tensors


def test_rows_are_bytes_and_numbers_follow(tmp_path: Path) -> None:
    """By the command: tables, head and bias alike; config.json names the same tokens; the report says what was."""
    from suture.cli.vocab.trim import trim

    tensors = model(tmp_path / "m")
    (tmp_path / "text").write_text("abc ab\nabc a\n")
    arguments = ["m", "out", "--languages", "x=text", "--pad-to", "8", "--plan", "plan.json", "--json", "-q"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        done = CliRunner().invoke(trim, arguments, catch_exceptions=False)
    report = json.loads(done.stdout)
    old, new = read(tmp_path / "m"), read(tmp_path / "out")
    assert set(new.ids) == {*"abcdeĠ", "ab", "abc", "Ġa", "<s>", "</s>"}
    rows = [old.ids[new.names[i]] for i in range(new.size)]
    made = {
        name: np.frombuffer(raw.data, "<f4").reshape(raw.shape)
        for name, raw in read_checkpoint(tmp_path / "out").items()
    }
    assert set(made) == set(tensors)
    for name, before in tensors.items():
        if "layers" in name:
            assert made[name].tobytes() == before.tobytes()
        else:
            assert len(made[name]) == 16
            assert made[name][: new.size].tobytes() == before[rows].tobytes()
            mean = before[rows].astype(np.float64).mean(axis=0)
            behind = made[name][new.size :]
            np.testing.assert_allclose(behind, np.broadcast_to(mean, behind.shape), 1e-5)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["vocab_size"] == 16
    assert new.names[config["bos_token_id"]] == "<s>"
    assert [new.names[i] for i in config["eos_token_id"]] == ["</s>"]
    assert report["vocabulary"]["counts"] == {"kept": 11, "padding": 5}
    assert report["vocabulary"]["figures"]["rows"] == 17
    assert (tmp_path / "plan.json").is_file()


def test_options_of_the_command_are_checked(tmp_path: Path) -> None:
    """A language without a file is refused, and nothing is written."""
    from suture.cli.vocab.trim import trim

    model(tmp_path / "m")
    out = tmp_path / "out"
    wrong = "--languages: expected NAME=FILE, found `x`"
    for given, message in ((["--languages", "x"], wrong), ([], "at least one file")):
        with pytest.raises(UsageError, match=message):
            CliRunner().invoke(trim, [str(tmp_path / "m"), str(out), *given], catch_exceptions=False)
    assert not out.exists()
