"""Factors of changes: the best of their rank, and adapters that PEFT loads."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture
from suture import Settings

from ..support.checkpoints import encode
from .worlds import change, llama, pair, said, tensors_of, tuned, write


def best(delta: np.ndarray[Any, Any], rank: int) -> float:
    """The relative error of the best approximation of a rank (Eckart and Young)."""
    values = np.linalg.svd(delta.astype(np.float64), compute_uv=False)
    return float(np.sqrt((values[rank:] ** 2).sum() / (values**2).sum()))


def factors(delta: Path, name: str) -> np.ndarray[Any, Any]:
    """The product of a tensor's factors, in f64."""
    held = tensors_of(delta)
    u, s, vt = (held[f"{name}.{part}"].values().astype(np.float64) for part in ("U", "S", "Vt"))
    return np.asarray((u * s) @ vt)


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (700, 300), (900, 1100)])
@pytest.mark.parametrize("exact_svd", [True, False])
@pytest.mark.parametrize("kind", ["noise", "planted", "falling"])
def test_the_error_is_the_optimum(tmp_path: Path, shape: tuple[int, int], exact_svd: bool, kind: str) -> None:
    """Law: the error of rank r is the root of the dropped squares, to 1e-4, and is what is told."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1e-2, shape)
    if kind == "planted":
        noise = noise / 20 + rng.normal(size=(shape[0], 5)) @ rng.normal(size=(5, shape[1])) / 30
    if kind == "falling":
        u, s, vt = np.linalg.svd(noise, full_matrices=False)
        noise = (u * s[0] / np.arange(1, s.size + 1)) @ vt
    name = "model.layers.0.mlp.up_proj.weight"
    base = {name: encode(rng.normal(0, 0.5, shape), "F32")}
    fine = {name: encode(base[name].values() + noise, "F32")}
    one, other = write(tmp_path / "base", base), write(tmp_path / "tuned", fine)
    rank = 8
    suture.delta.extract(one, other, tmp_path / "d", form="lowrank", rank=rank, exact_svd=exact_svd)
    delta = change(base[name], fine[name]).astype(np.float64)
    left = np.linalg.norm(delta - factors(tmp_path / "d", name)) / np.linalg.norm(delta)
    assert left == pytest.approx(best(delta, rank), rel=1e-4)
    figures = said(tmp_path / "d")["tensors"][name]["figures"]
    assert figures["error"] == pytest.approx(left, rel=1e-4)
    assert figures["rank"] == rank


def test_applying_is_the_f64_sum_rounded_once(tmp_path: Path) -> None:
    """Law 2: base + U S V', formed in f64 and rounded once."""
    base, fine = llama(0), tuned(llama(0), 1)
    one, other = write(tmp_path / "base", base), write(tmp_path / "tuned", fine)
    suture.delta.extract(one, other, tmp_path / "d", form="lowrank", rank=2)
    suture.delta.apply(one, [tmp_path / "d"], tmp_path / "out", settings=Settings(dtype="float32"))
    out = tensors_of(tmp_path / "out")
    for name, entry in said(tmp_path / "d")["tensors"].items():
        if entry["kept"] == "lowrank":
            wanted = base[name].values() + factors(tmp_path / "d", name)
            assert np.allclose(out[name].values(), wanted, rtol=1e-6, atol=1e-7)
        elif entry["kept"] == "whole":
            assert np.array_equal(out[name].values(), fine[name].values())


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.999])
def test_the_lowest_rank_that_holds_the_energy(tmp_path: Path, energy: float) -> None:
    """Law: the rank is the least whose squares come to the share asked for."""
    rng = np.random.default_rng(0)
    name = "model.layers.0.mlp.up_proj.weight"
    base = {name: encode(rng.normal(0, 0.5, (60, 80)), "F32")}
    delta = rng.normal(size=(60, 60)) @ np.diag(0.8 ** np.arange(60)) @ rng.normal(size=(60, 80)) * 1e-2
    fine = {name: encode(base[name].values() + delta, "F32")}
    one, other = write(tmp_path / "base", base), write(tmp_path / "tuned", fine)
    suture.delta.extract(one, other, tmp_path / "d", form="lora", energy=energy)
    squares = np.linalg.svd(change(base[name], fine[name]).astype(np.float64), compute_uv=False) ** 2
    held = np.cumsum(squares) / squares.sum()
    assert said(tmp_path / "d")["tensors"][name]["figures"]["rank"] == int(np.searchsorted(held, energy) + 1)


def test_stacked_experts_are_a_matrix_each(tmp_path: Path) -> None:
    """Law: the experts of one tensor are decomposed one by one."""
    rng = np.random.default_rng(0)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    base = {name: encode(rng.normal(0, 0.5, (3, 40, 24)), "F32")}
    fine = {name: encode(base[name].values() + rng.normal(0, 0.1, (3, 40, 24)), "F32")}
    one, other = write(tmp_path / "base", base), write(tmp_path / "tuned", fine)
    suture.delta.extract(one, other, tmp_path / "d", form="lowrank", rank=4)
    suture.delta.apply(one, [tmp_path / "d"], tmp_path / "out")
    out = tensors_of(tmp_path / "out")[name].values() - base[name].values()
    for i, delta in enumerate(change(base[name], fine[name])):
        left = np.linalg.norm(delta - out[i]) / np.linalg.norm(delta)
        assert left == pytest.approx(best(delta, 4), rel=1e-4)


def test_the_adapter_is_an_adapter_without_its_record(tmp_path: Path) -> None:
    """Law 10: without delta.json the folder is a plain adapter, whose model is the same."""
    base, fine = pair(tmp_path, "F32")
    suture.delta.extract(base, fine, tmp_path / "d", form="lora", rank=3)
    suture.delta.apply(base, [tmp_path / "d"], tmp_path / "out")
    (tmp_path / "d" / "delta.json").unlink()
    suture.fold(base, [tmp_path / "d"], tmp_path / "folded")
    one, other = tensors_of(tmp_path / "out"), tensors_of(tmp_path / "folded")
    assert one.keys() == other.keys()
    for name in one:
        assert np.allclose(one[name].values(), other[name].values(), rtol=1e-6, atol=1e-7), name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("embed", [False, True])
def test_peft_loads_it_and_makes_the_same_model(tmp_path: Path, embed: bool) -> None:
    """Law: PEFT loads the adapter into the base, and its merged model is ours to one rounding of f32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch, peft, transformers = (pytest.importorskip(n) for n in ("torch", "peft", "transformers"))
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=64, attention_bias=True, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "base")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "tuned")
    suture.delta.extract(tmp_path / "base", tmp_path / "tuned", tmp_path / "d", form="lora", rank=4, embed=embed)
    suture.delta.apply(tmp_path / "base", [tmp_path / "d"], tmp_path / "out")
    fresh = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base")
    merged = peft.PeftModel.from_pretrained(fresh, tmp_path / "d").merge_and_unload()
    ours = tensors_of(tmp_path / "out")
    for name, tensor in merged.state_dict().items():
        assert np.allclose(tensor.float().numpy(), ours[name].values(), rtol=1e-5, atol=1e-6), name


def test_whatever_linear_layers_are_laid_as(tmp_path: Path) -> None:
    """Law: a model that keeps its matrices as [in, out] gets factors that go the other way round, and says so."""
    rng = np.random.default_rng(0)
    names = {"h.0.attn.c_attn.weight": (24, 72), "h.0.mlp.c_fc.weight": (24, 96), "h.0.mlp.c_proj.weight": (96, 24)}
    base = {n: encode(rng.normal(0, 0.5, s), "F32") for n, s in names.items()}
    fine = {n: encode(r.values() + rng.normal(0, 0.1, r.shape), "F32") for n, r in base.items()}
    one, other = write(tmp_path / "base", base), write(tmp_path / "tuned", fine)
    suture.delta.extract(one, other, tmp_path / "d", form="lora", rank=5)
    held, config = tensors_of(tmp_path / "d"), json.loads((tmp_path / "d" / "adapter_config.json").read_text())
    assert config["fan_in_fan_out"] is True
    suture.delta.apply(one, [tmp_path / "d"], tmp_path / "out")
    for name, raw in tensors_of(tmp_path / "out").items():
        module = "base_model.model." + name.removesuffix(".weight")
        a, b = (held[f"{module}.lora_{x}.weight"].values() for x in "AB")
        assert a.shape[1] == raw.shape[0]
        assert np.allclose(raw.values() - base[name].values(), (b @ a).T, atol=1e-6)
        delta = change(base[name], fine[name])
        assert np.linalg.norm(delta - (b @ a).T) / np.linalg.norm(delta) == pytest.approx(best(delta, 5), rel=1e-4)
