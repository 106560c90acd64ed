"""A stream of merged tensors is the merge, in packs, in the order and under the names of a checkpoint."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

import suture
import suture.torch
from suture.torch.serving import iter_merged
from tests.support.catalogue import RESIDENT, Case
from tests.support.resident import Tensors, call, differing, family

ties = {"weight": [0.5, 0.3, 0.4], "density": 0.5}


@pytest.mark.parametrize("case", RESIDENT, ids=str)
def test_a_stream_is_the_merge(case: Case) -> None:
    arguments = call(case, family("BF16"))
    wanted = suture.torch.merge(**arguments)
    assert differing(dict(iter_merged(**arguments, pack="8KiB")), wanted) == []


def test_ties_of_a_whole_model_are_broken_as_in_the_merge_in_any_order() -> None:
    shapes = {f"model.layers.{i}.w": (9, 8) for i in (2, 0, 1)} | {"z": (7,), "a": (50,)}
    models = family("BF16", shapes=shapes)
    base, *tuned = [{n: torch.round(t.float() * 64).bfloat16() for n, t in m.items()} for m in models]
    for how in ({}, {"rescale": "l2"}, {"sparsify": "breadcrumbs", "gamma": 0.1}):
        arguments: dict[str, Any] = {"base": base, "parameters": {**ties, "scope": "model", **how}}
        wanted = suture.torch.merge(tuned, "ties", **arguments)
        for order in ("layer", "checkpoint"):
            found = dict(iter_merged(tuned, "ties", **arguments, order=order, pack=256))
            assert differing(found, wanted) == []


def test_layers_come_in_order_between_what_comes_before_and_after() -> None:
    names = ["model.embed.weight", *(f"model.layers.{i}.{p}" for i in (10, 2, 0) for p in "ab"), "model.norm.weight"]
    models = family(shapes=dict.fromkeys(names, (3, 4)))
    listed = [n for n, _ in iter_merged(models[1:], "linear", parameters={"weight": 1.0}, order="checkpoint")]
    assert listed == names
    by_layer = [n for n, _ in iter_merged(models[1:], "linear", parameters={"weight": 1.0})]
    layers = [f"model.layers.{i}.{p}" for i in (0, 2, 10) for p in "ab"]
    assert by_layer == ["model.embed.weight", *layers, "model.norm.weight"]


def test_tensors_of_a_pack_lie_in_one_buffer_of_its_size() -> None:
    models = family(shapes={f"model.layers.{i}.w": (16, 16) for i in range(6)} | {"big": (64, 64)})
    packs: dict[int, list[torch.Tensor]] = {}
    kept = list(iter_merged(models[1:], "linear", parameters={"weight": 1.0}, pack=2048))
    for _, tensor in kept:
        packs.setdefault(tensor.untyped_storage().data_ptr(), []).append(tensor)
    assert sorted(len(own) for own in packs.values()) == [1, 2, 2, 2]
    sizes = [own[0].untyped_storage().nbytes() for own in packs.values()]
    assert sorted(sizes) == [2048, 2048, 2048, 64 * 64 * 4]
    assert all(t.is_contiguous() for own in packs.values() for t in own)


def test_nothing_is_kept_of_what_was_yielded() -> None:
    models = family(shapes={f"model.layers.{i}.w": (16, 16) for i in range(6)})
    alive: list[weakref.ref[torch.Tensor]] = []
    stream = iter_merged(models[1:], "linear", parameters={"weight": 1.0}, pack=1024)
    for _, tensor in stream:
        gc.collect()
        assert sum(r() is not None for r in alive) == 0
        alive.append(weakref.ref(tensor))
        del tensor
    assert len(alive) == 6


def test_mistakes_are_told_by_the_call() -> None:
    base, *tuned = family()

    def refused(match: str, **how: Any) -> None:
        arguments: dict[str, Any] = {"models": tuned, "method": "ties", "base": base, "parameters": ties}
        with pytest.raises(suture.SutureError, match=match):
            iter_merged(**(arguments | how))

    refused("order: expected layer or checkpoint, found `size`", order="size")
    refused("pack: expected a size", pack="much")
    refused("there is no `tides`", method="tides")
    refused("density", parameters={"weight": 1.0, "density": 7})
    refused("column", models=[{**tuned[0], "column": torch.zeros(2, 2)}, *tuned[1:]])
    refused("meta device", models=[{**tuned[0], "column": torch.zeros(5, 1, device="meta")}, *tuned[1:]])


def test_the_dtype_may_be_another() -> None:
    base, *tuned = family()
    how: dict[str, Any] = {"base": base, "parameters": ties, "dtype": torch.bfloat16}
    assert differing(dict(iter_merged(tuned, "ties", **how)), suture.torch.merge(tuned, "ties", **how)) == []


def test_gradients_and_the_models_stay_as_they_are() -> None:
    modules = [torch.nn.Linear(4, 3) for _ in range(3)]
    before = [{n: t.clone() for n, t in m.state_dict().items()} for m in modules]
    found = dict(iter_merged(modules[1:], "task_arithmetic", base=modules[0], parameters={"weight": 0.5}))
    assert not any(t.requires_grad for t in found.values())
    for module, kept in zip(modules, before, strict=True):
        assert differing(module.state_dict(), kept) == []
        assert all(
            t.untyped_storage().data_ptr() != p.untyped_storage().data_ptr()
            for t in found.values()
            for p in module.parameters()
        )


def mixture(kind: str, seed: int) -> Any:
    """A tiny model with experts."""
    transformers = pytest.importorskip("transformers", "5.0")
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 32}
    small |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    experts = {"Mixtral": {"num_local_experts": 4}, "Qwen3Moe": {"num_experts": 4, "moe_intermediate_size": 12}}[kind]
    config = getattr(transformers, f"{kind}Config")(**small, **experts)
    torch.manual_seed(seed)
    return getattr(transformers, f"{kind}ForCausalLM")(config).bfloat16()


def saved(module: Any, folder: Path) -> Tensors:
    """The tensors of what `save_pretrained` writes."""
    from safetensors.torch import load_file

    module.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["Mixtral", "Qwen3Moe"])
def test_stacked_experts_have_the_names_of_their_checkpoint(kind: str, tmp_path: Path) -> None:
    base, a, b = (mixture(kind, seed) for seed in range(3))
    how: dict[str, Any] = {"base": base, "parameters": {"weight": [0.5, 0.25], "density": 0.5}}
    found = dict(iter_merged([a, b], "ties", **how, pack="4KiB"))
    suture.torch.merge_(base, [a, b], "ties", **how)
    wanted = saved(base, tmp_path)
    assert differing(found, wanted) == []
    assert any(".experts.3." in name for name in found)
    assert all(t.is_contiguous() for t in found.values())


@pytest.mark.filterwarnings("ignore")
def test_a_tied_head_comes_once_and_names_stay_where_they_are_the_same(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, vocab_size=32, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    a, b = (transformers.LlamaForCausalLM(config) for _ in range(2))
    found = dict(iter_merged([a, b], "linear", parameters={"weight": 1.0}))
    suture.torch.merge_(a, [b], "linear", parameters={"weight": 1.0})
    assert differing(found, saved(a, tmp_path)) == []


def test_names_that_cannot_be_turned_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    loading = pytest.importorskip("transformers.core_model_loading")
    model = mixture("Mixtral", 0)

    def fails(*_: Any) -> Any:
        raise ValueError("Cannot reverse the transform")

    monkeypatch.setattr(loading, "revert_weight_conversion", fails)
    with pytest.raises(suture.SutureError, match="Cannot reverse the transform; give the tensors of the checkpoints"):
        iter_merged([model, mixture("Mixtral", 1)], "linear", parameters={"weight": 1.0})


def test_tensors_that_become_one_are_turned_together(monkeypatch: pytest.MonkeyPatch) -> None:
    loading = pytest.importorskip("transformers.core_model_loading")
    model = mixture("Mixtral", 0)
    parts = ("q_proj", "k_proj", "v_proj")

    def fused(module: Any, tensors: Tensors) -> Tensors:
        out: Tensors = {}
        groups: dict[str, list[torch.Tensor]] = {}
        for name in sorted(tensors, key=lambda n: next((parts.index(p) for p in parts if p in n), 0)):
            part = next((p for p in parts if p in name), None)
            if part is None:
                out[name] = tensors[name]
            else:
                groups.setdefault(name.replace(part, "qkv"), []).append(tensors[name])
        return out | {name: torch.cat(own) for name, own in groups.items()}

    monkeypatch.setattr(loading, "revert_weight_conversion", fused)
    found = dict(iter_merged([model], "linear", parameters={"weight": 1.0}, pack="1KiB"))
    assert differing(found, fused(model, dict(model.state_dict()))) == []
