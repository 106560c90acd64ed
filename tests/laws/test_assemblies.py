"""Outputs put together of several models compose with all else: parts, memory, adapters, quantised inputs, casts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture
from suture import Settings, SutureError

from ..parts.whole import check_same, in_parts
from ..support.checkpoints import llama_family, read_checkpoint
from ..support.lora import factors, write_lora
from ..support.measuring import MIB, run

MODULE = "model.layers.1.mlp.up_proj"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and two fine-tunes, one of them in three shards."""
    folder = tmp_path_factory.mktemp("models")
    return llama_family(folder, layers=3, hidden=32, ff=64, n=2, shards=[1, 3, 1])


def mixture(models: list[Path], *sources: str | Path, **more: Any) -> dict[str, Any]:
    experts = [{"source_model": str(s)} for s in (sources or models)]
    return {"base_model": str(models[0]), "gate_mode": "random", "experts": experts, **more}


@pytest.mark.parametrize("n", [1, 2, 5])
def test_parts_give_the_bytes_of_one_run(models: list[Path], tmp_path: Path, n: int) -> None:
    """Law 3: a mixture, a model of experts of its own, and one with fewer, in parts as in one run."""

    def mixed(out: Path, how: Settings) -> Any:
        return suture.moe.make(mixture(models), out, settings=how)

    def upcycled(out: Path, how: Settings) -> Any:
        return suture.moe.from_dense(models[1], out, experts=4, settings=how)

    for name, verb in {"mixed": mixed, "upcycled": upcycled}.items():
        how: dict[str, Any] = {"shard_size": 40_000}
        verb(tmp_path / f"{name}-whole", Settings(**how))
        out = tmp_path / f"{name}-parts" / f"{name}-whole"
        out.parent.mkdir()
        in_parts(verb, out, n, order=list(range(n, 0, -1)), **how)
        one, two = (json.loads((p / "suture.json").read_text()) for p in (tmp_path / f"{name}-whole", out))
        assert one["tensors"] == two["tensors"]
        assert read_checkpoint(tmp_path / f"{name}-whole") == read_checkpoint(out)
        assert [p.name for p in out.parent.iterdir()] == [out.name]

    def dropped(out: Path, how: Settings) -> Any:
        return suture.moe.drop(tmp_path / "mixed-whole", out, experts="1", settings=how)

    dropped(tmp_path / "dropped", Settings(shard_size=40_000))
    in_parts(dropped, tmp_path / "in parts", n, shard_size=40_000)
    check_same(tmp_path / "dropped", tmp_path / "in parts")


def test_nothing_is_left_beside_the_output(models: list[Path], tmp_path: Path) -> None:
    """Law 6: what was computed for a run is gone when it is done, and a plan alone leaves no output."""
    suture.moe.from_dense(models[0], tmp_path / "out", experts=2, dry_run=True)
    assert not (tmp_path / "out").exists()
    suture.moe.from_dense(models[0], tmp_path / "out", experts=2)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert suture.verify(tmp_path / "out")["differing"] == []


def test_an_expert_may_have_an_adapter(models: list[Path], tmp_path: Path) -> None:
    """Law 10: an expert of `base+adapter` has the bytes of the folded model's."""
    write_lora(tmp_path / "adapter", factors(np.random.default_rng(0), MODULE, (64, 32)), r=4, lora_alpha=8)
    suture.fold(models[1], [tmp_path / "adapter"], tmp_path / "folded")
    suture.moe.make(mixture(models, f"{models[1]}+{tmp_path / 'adapter'}", models[2]), tmp_path / "one")
    suture.moe.make(mixture(models, tmp_path / "folded", models[2]), tmp_path / "two")
    assert read_checkpoint(tmp_path / "one") == read_checkpoint(tmp_path / "two")
    suture.moe.make(mixture(models, models[1], models[2]), tmp_path / "none")
    assert read_checkpoint(tmp_path / "one") != read_checkpoint(tmp_path / "none")


@pytest.mark.parametrize("to", ["fp8", "mxfp4"])
def test_quantised_in_and_out(tmp_path: Path, to: str) -> None:
    """Law 10: experts of a quantised model are its decoded weights; a mixture is encoded as the plain one is."""
    models = llama_family(tmp_path, layers=1, hidden=128, ff=128, n=2)
    suture.convert(models[1], tmp_path / "coded", settings=Settings(to=to))
    suture.convert(tmp_path / "coded", tmp_path / "plain", settings=Settings(to="bf16"))
    suture.moe.make(mixture(models, tmp_path / "coded", models[2]), tmp_path / "one")
    suture.moe.make(mixture(models, tmp_path / "plain", models[2]), tmp_path / "two")
    assert read_checkpoint(tmp_path / "one") == read_checkpoint(tmp_path / "two")
    suture.moe.make(mixture(models), tmp_path / "direct", settings=Settings(to=to))
    suture.moe.make(mixture(models), tmp_path / "before")
    suture.convert(tmp_path / "before", tmp_path / "after", settings=Settings(to=to))
    assert read_checkpoint(tmp_path / "direct") == read_checkpoint(tmp_path / "after")


def test_a_cast_is_one_rounding(models: list[Path], tmp_path: Path) -> None:
    """Law 2: a mixture in another dtype is the plain one cast; config.json says so."""
    suture.moe.make(mixture(models, dtype="float16"), tmp_path / "one")
    suture.moe.make(mixture(models), tmp_path / "plain")
    suture.convert(tmp_path / "plain", tmp_path / "two", settings=Settings(dtype="float16"))
    one, two = read_checkpoint(tmp_path / "one"), read_checkpoint(tmp_path / "two")
    # Routers are rounded from float32 at once.
    assert {k: v for k, v in one.items() if "gate.weight" not in k} == {
        k: v for k, v in two.items() if "gate.weight" not in k
    }
    assert json.loads((tmp_path / "one" / "config.json").read_text())["torch_dtype"] == "float16"


def test_a_dtype_that_is_asked_for_is_that_of_routers_too(models: list[Path], tmp_path: Path) -> None:
    """Law 10: with --dtype every float tensor has it, what was computed for the output among them."""
    suture.moe.from_dense(models[0], tmp_path / "out", experts=2, settings=Settings(dtype="float32"))
    assert {raw.dtype for raw in read_checkpoint(tmp_path / "out").values()} == {"F32"}


def test_what_is_left_out_is_told(models: list[Path], tmp_path: Path) -> None:
    """Law 5: every tensor of every model is in the output or listed with a reason."""
    report = suture.moe.make(mixture(models, models[1], models[2]), tmp_path / "out")
    left = {(u["model"], u["tensor"]) for u in report.data["unused"]}
    taken = {(label, name) for t in report.data["tensors"].values() for label, name, _ in t["from"]}
    for model in models:
        for name in read_checkpoint(model):
            assert ((model.name, name) in left) != ((model.name, name) in taken)


def test_shapes_that_differ_are_refused(models: list[Path], tmp_path: Path) -> None:
    """Law 8: an expert of another shape is refused in the plan, with both shapes."""
    other = llama_family(tmp_path / "other", layers=3, hidden=32, ff=96, n=1)
    with pytest.raises(SutureError, match=r"\[96, 32\].*\[64, 32\]"):
        suture.moe.make(mixture(models, models[1], other[1]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_many_experts_in_little_memory(tmp_path: Path) -> None:
    """Law 1: 64 copies of an expert are 64 writes, and anonymous memory stays under the budget."""
    base = llama_family(tmp_path, layers=1, hidden=512, heads=8, kv_heads=8, ff=2048, vocab=512, n=0)[0]
    done = run(
        "moe", "from_dense", base, tmp_path / "out", "--experts", "64", "--top-k", "2", "--memory", "64MiB", "--quiet"
    )
    assert done.code == 0, done.stderr
    assert done.peak < 96 * MIB
    assert sum(p.stat().st_size for p in (tmp_path / "out").glob("*.safetensors")) > 350 * MIB
