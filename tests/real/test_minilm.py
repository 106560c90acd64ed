"""A published sentence encoder, with an I64 buffer among its floats, goes through and comes out the same."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import suture

from ..support.checkpoints import read_checkpoint
from ..support.diffing import by_name, only

BUFFER = "embeddings.position_ids"
CARRIED = (
    "1_Pooling/config.json",
    "modules.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)
SENTENCES = ("A man is eating food.", "Someone has a meal.", "The stock market fell sharply today.")


def run(*arguments: str | Path) -> str:
    """The command line, as a user starts it."""
    command = [sys.executable, "-m", "suture", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def passthrough(model: Path, out: Path) -> None:
    suture.merge({"merge_method": "passthrough", "models": [{"model": str(model)}]}, out)


def passthrough_in_shards(model: Path, out: Path) -> None:
    config = out.with_name("config.yaml")
    config.write_text(json.dumps({"merge_method": "passthrough", "models": [{"model": str(model)}]}))
    run("merge", config, out, "--shard-size", "20MB")
    assert len(list(out.glob("*.safetensors"))) > 1


def swap_with_itself(model: Path, out: Path) -> None:
    suture.swap(model, model, out, bottom=2, top=1)


REWRITES = [passthrough, passthrough_in_shards, swap_with_itself]


def test_inspect_tells_what_is_there(minilm: Path) -> None:
    """Law 5: the integer buffer is a tensor like any other; names, dtypes and shapes are the file's."""
    checkpoint, expected = suture.open(minilm), read_checkpoint(minilm)
    assert len(expected) == 104
    assert set(checkpoint.names) == set(expected)
    for name, raw in expected.items():
        info = checkpoint.info(name)
        assert (str(info.dtype), tuple(info.shape), info.nbytes) == (raw.dtype, raw.shape, len(raw.data)), name
    assert (expected[BUFFER].dtype, expected[BUFFER].shape) == ("I64", (1, 512))
    assert checkpoint.numpy(BUFFER).tolist() == [list(range(512))]
    assert json.loads(run("inspect", minilm, "--tensors", "--stats", "--json"))
    assert BUFFER in run("inspect", minilm, "--tensors")


def test_diff_against_itself_finds_nothing(minilm: Path) -> None:
    """Every tensor is listed, and none has changed."""
    model = only(json.loads(run("diff", minilm, minilm, "--json")))
    rows = by_name(model)
    assert set(rows) == set(read_checkpoint(minilm))
    assert model["only_base"] == model["only_tuned"] == model["reshaped"] == []
    assert {name: row for name, row in rows.items() if row["changed"] or not row["equal"]} == {}
    assert (model["total"]["l2"], model["total"]["cosine"]) == (0, 1)
    assert model["ancestry"] == {"cosine": 1, "relative_l2": 0, "verdict": "related"}


@pytest.mark.parametrize("rewrite", REWRITES)
def test_a_rewrite_is_the_same_model(
    rewrite: Callable[[Path, Path], None], minilm: Path, transformers: Any, torch: Any, tmp_path: Path
) -> None:
    """Law 2: what is only moved is moved as bytes; and transformers loads it and computes the same."""
    out = tmp_path / "out"
    rewrite(minilm, out)
    assert read_checkpoint(out) == read_checkpoint(minilm)
    for name in CARRIED:
        assert (out / name).read_bytes() == (minilm / name).read_bytes(), name
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (minilm, out))
    assert {key: after.get(key) for key in before} == before
    assert run("verify", out) is not None

    original, rewritten = (embeddings(torch, transformers, folder) for folder in (minilm, out))
    assert torch.equal(original, rewritten)
    like = original @ original.T
    assert like[0, 1] > 0.5 > 0.2 > like[0, 2]


def embeddings(torch: Any, transformers: Any, folder: Path) -> Any:
    """A unit vector for each sentence, with the tokenizer and the weights of `folder`."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval()
    inputs = tokenizer(list(SENTENCES), padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1)
    return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1))
