"""Configs of mergekit-evolve."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import suture
from suture.errors import UsageError
from suture.searching import genome_of, translated

from ..support.checkpoints import write_checkpoint

PUBLISHED = Path(os.environ.get("SUTURE_PUBLISHED_CONFIGS", "nowhere"))
#: Numbers that each of the published configs searches, of 32 layers: groups x models x filters x parameters.
GENES = {
    "133.yml": 8 * 2 * 2,  # the base is one of three
    "148.yml": 4 * 3,
    "191.yml": 8 * 2,
    "193.yml": 5 * 1 * 2,
    "199.yml": 4 * 1 * 3 * 2,
    "200.yml": 4 * 2 * 2,
    "206.yml": 8 * 2,
    "208.yml": 8 * 2,
    "227.yml": 3 * 2,
    "232.yml": 8 * 3,
    "233.yml": 4 * 2 * 3 * 2,
}


def model(folder: Path, seed: int, layers: int = 32) -> None:
    """A small model with a tokenizer of 16 words."""
    rng = np.random.default_rng(seed)
    shapes = {"model.embed_tokens.weight": (16, 4), "model.norm.weight": (4,), "lm_head.weight": (16, 4)}
    for i in range(layers):
        shapes |= {f"model.layers.{i}.{n}.weight": (4, 4) for n in ("self_attn.q_proj", "mlp.up_proj")}
        shapes[f"model.layers.{i}.input_layernorm.weight"] = (4,)
    base = {n: np.random.default_rng(9).standard_normal(s) for n, s in shapes.items()}
    tensors = {n: (b + 0.05 * rng.standard_normal(b.shape)).astype(np.float32) for n, b in base.items()}
    config = {"model_type": "llama", "num_hidden_layers": layers, "vocab_size": 16, "hidden_size": 4}
    words = {"model": {"type": "WordLevel", "vocab": {f"w{i}": i for i in range(16)}, "unk_token": "w0"}}
    words |= {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": None}  # type: ignore[dict-item]
    write_checkpoint(folder, tensors, config=config, files={"tokenizer.json": json.dumps(words)})


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published configs are not here")
def test_published_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every published config of mergekit-evolve searches as many numbers as its genome has, and makes candidates."""
    pytest.importorskip("cmaes")
    for i in range(1, 5):
        model(tmp_path / f"m{i}", i)
    monkeypatch.chdir(tmp_path)
    expected = json.loads((PUBLISHED / "expect.json").read_text(encoding="utf-8"))
    files = [name for name, known in expected.items() if known["kind"] == "evolve"]
    assert sorted(files) == sorted(GENES)
    for name in files:
        found = suture.search(PUBLISHED / name, f"out-{name}", evaluate=lambda _: 1.0, budget=3)
        assert len(found.data["genes"]) == GENES[name], name
        assert any("the evaluator that is given stands for them" in w for w in found.warnings), name
        suture.merge(found.config, "merged", dry_run=True)


def test_a_genome(tmp_path: Path) -> None:
    """What each key of a genome becomes: ranges, starts, filters, what stands beside them, and what is told."""
    for i in range(1, 4):
        model(tmp_path / f"m{i}", i, 6)
    text = """
    genome:
      models: [m1, m2, m3]
      merge_method: ties
      base_model: m1
      layer_granularity: 4
      normalize: false
      filters: [mlp]
      smooth: true
      dtype: float16
    random_init: true
    tasks: [{name: boolq, weight: 1.0}]
    limit: 5
    """
    given, told = translated(yaml.safe_load(text))
    assert (given["merge_method"], given["dtype"], given["parameters"]) == ("ties", "float16", {"normalize": False})
    assert [m["model"] for m in given["models"]] == ["m2", "m3"]
    assert len(told) == 2
    weight = given["models"][0]["parameters"]["weight"]
    assert [w.get("filter") for w in weight] == ["mlp", None]
    assert weight[0]["value"]["search"] == [0.0, None]
    assert weight[0]["value"]["start"] == 0.5
    assert weight[0]["value"]["smooth"] is weight[0]["value"]["random_start"] is True
    genome = genome_of({**given, "base_model": str(tmp_path / "m1")})
    assert len(genome.genes) == 2 * 2 * 2 * 2
    assert genome.genes[0].name == "weight of m2, mlp, layers 0-3"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"merge_method": "karcher"}, "expected linear, task_arithmetic, ties, dare_ties, slerp, found `karcher`"),
        ({"models": []}, "expected a list of models"),
        ({"base_model": None}, "needs the base"),
        ({"models": ["m9"]}, "none but the base"),
        ({"layer_granularity": "all"}, "expected a number of layers"),
        ({"layer_granularty": 2}, "did you mean `layer_granularity`"),
        ({"merge_method": "slerp"}, "slerp is between two"),
        ({"filters": "mlp"}, "expected a list of parts of names"),
    ],
)
def test_genomes_that_are_refused(change: dict[str, Any], said: str) -> None:
    """What is not searched so is refused by its key."""
    genome = {"models": ["m1", "m2"], "merge_method": "ties", "base_model": "m9", **change}
    with pytest.raises(UsageError) as raised:
        translated({"genome": genome, "tasks": []})
    assert said in str(raised.value)
    assert str(raised.value.at).startswith("genome")


def test_a_merge_names_the_verb(tmp_path: Path) -> None:
    """`suture merge` of such a config says which verb reads it."""
    with pytest.raises(UsageError, match="`suture search` reads it"):
        suture.merge({"genome": {"models": ["m1"]}, "tasks": []}, tmp_path / "out")
    models = [{"model": str(tmp_path), "parameters": {"weight": {"search": [0, 1]}}}]
    with pytest.raises(UsageError, match=r"models\[0\].parameters.weight: is to be searched, which `suture search`"):
        suture.merge({"merge_method": "linear", "models": models}, tmp_path / "out")
