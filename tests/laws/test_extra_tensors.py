"""Tensors that one of the inputs lacks, or that are no weights: excluded, not needed, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..support.adapters import write_adapter
from ..support.catalogue import DEFAULTS, Case, configure, differing
from ..support.checkpoints import Raw, encode, read_checkpoint, write_checkpoint
from ..support.layered import sliced, write_layered
from ..support.refusals import left_behind, refusal

BUFFERS: dict[str, Raw] = {
    "model.layers.1.self_attn.rotary_emb.inv_freq": encode(np.linspace(1, 2, 5), "F32"),
    "model.rotary.inv_freq": encode(np.linspace(1, 2, 5), "BF16"),
    "model.position_ids": Raw("I64", (1, 3), bytes(range(24))),
    "model.layers.0.attn.masked_bias": Raw("BOOL", (2, 2), b"\1\0\1\1"),
}


@pytest.fixture
def models(place: Path) -> list[Path]:
    return write_layered(place, count=3)


def with_buffer(path: Path, name: str) -> Path:
    """The model with a buffer besides."""
    return write_checkpoint(path.with_name(f"{path.name}-with"), read_checkpoint(path) | {name: BUFFERS[name]})


def mean(*paths: Path, **more: Any) -> dict[str, Any]:
    """A linear merge."""
    return {
        "merge_method": "linear",
        "models": [{"model": str(p), "parameters": {"weight": 1.0}} for p in paths],
    } | more


@pytest.mark.parametrize("form", ["models", "slices"])
@pytest.mark.parametrize("first", [True, False], ids=["the first has it", "the second has it"])
@pytest.mark.parametrize("name", BUFFERS)
def test_a_buffer_that_one_model_lacks_can_be_excluded(
    name: str, first: bool, form: str, models: list[Path], place: Path
) -> None:
    """Law 5: what is excluded is needed of no model: it is the first's, or left out and listed."""
    one, two = models[1], with_buffer(models[2], name)
    paths = [two, one] if first else [one, two]
    config = mean(*paths, exclude=[name.rpartition(".")[2]])
    report = suture.merge(sliced(config, [(0, 2), (2, 4)]) if form == "slices" else config, place / "out")
    found = read_checkpoint(place / "out")
    kept = found.pop(name, None)
    suture.merge(mean(*([models[2], one] if first else [one, models[2]])), place / "plain")
    assert not differing(found, read_checkpoint(place / "plain"))
    assert kept == (BUFFERS[name] if first else kept)
    assert kept in (None, BUFFERS[name])
    listed = [u["tensor"] for u in report.data["unused"]]
    assert (name in listed) == (kept is None)


@pytest.mark.parametrize("form", ["models", "slices", "swap"])
@pytest.mark.parametrize("first", [True, False], ids=["the first has it", "the second has it"])
@pytest.mark.parametrize("name", BUFFERS)
def test_a_buffer_that_one_model_lacks_is_the_firsts(
    name: str, first: bool, form: str, models: list[Path], place: Path
) -> None:
    """What loaders compute again stays as the first model, the recipient, has it, or is left out; it is told."""
    paths = [models[1], with_buffer(models[2], name)]
    paths = paths[::-1] if first else paths
    if form == "swap":
        report = suture.swap(paths[0], paths[1], place / "out", layers=[0, 1], non_layer="from")
    else:
        config = sliced(mean(*paths), [(0, 2), (2, 4)]) if form == "slices" else mean(*paths)
        report = suture.merge(config, place / "out")
    assert read_checkpoint(place / "out").get(name) == (BUFFERS[name] if first else None)
    assert sum(name in w for w in report.warnings) == 1


@pytest.mark.parametrize("first", [True, False], ids=["the first has it", "the second has it"])
def test_a_tensor_that_one_model_lacks_is_an_error(first: bool, models: list[Path], place: Path) -> None:
    """Law 5: a weight is not dropped: the error names the model that lacks it, the tensor, and what to do."""
    more = {"model.extra.weight": encode(np.ones(3), "F32"), "model.layers.0.extra.weight": encode(np.ones(3), "F32")}
    other = write_checkpoint(place / "other", read_checkpoint(models[2]) | more)
    paths = [other, models[1]] if first else [models[1], other]
    before = [p.name for p in place.iterdir()]
    error = refusal(suture.merge, mean(*paths), place / "out")
    assert error is not None
    said = (".extra.weight", "tuned-1", "2 of", "exclude", "--ignore")
    assert [part for part in said if part not in error] == [], error
    assert refusal(suture.swap, paths[0], paths[1], place / "out", layers=[0]) is not None
    assert left_behind(place, before) == []
    suture.merge(mean(*paths, exclude=["extra"]), place / "merged")
    suture.swap(paths[0], paths[1], place / "swapped", layers=[0], ignore="extra")
    for out in ("merged", "swapped"):
        assert (read_checkpoint(place / out).keys() & more.keys() == more.keys()) is first


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.model."])
def test_names_that_differ_by_a_prefix_are_matched(prefix: str, models: list[Path], place: Path) -> None:
    """A compiled or wrapped model is recognised by what stands before its names; the merge is that of plain ones."""
    tensors = read_checkpoint(models[2])
    other = write_checkpoint(place / "other", {prefix + name: raw for name, raw in tensors.items()})
    suture.merge(mean(models[1], models[2]), place / "plain")
    report = suture.merge(mean(models[1], other), place / "out")
    assert not differing(read_checkpoint(place / "out"), read_checkpoint(place / "plain"))
    assert any(f"{len(tensors)} without `{prefix}`" in text for _, text in report.data["notes"])


@pytest.mark.parametrize("method", ["fisher", "mask"])
@pytest.mark.parametrize("name", ["model.position_ids", "model.layers.0.attn.masked_bias"])
def test_a_buffer_that_a_checkpoint_beside_a_model_lacks(
    name: str, method: str, models: list[Path], place: Path
) -> None:
    """What is copied needs no weights of its own: squared gradients and masks have no positions."""
    with_it = [with_buffer(m, name) for m in models]
    case = next(case for case in DEFAULTS if case.name == method)
    suture.merge(configure(case, with_it, beside=models[1:]), place / "out")
    suture.merge(configure(case, models, beside=models[1:]), place / "plain")
    assert not differing(read_checkpoint(place / "out"), read_checkpoint(place / "plain") | {name: BUFFERS[name]})


@pytest.mark.parametrize("method", ["fisher", "mask"])
def test_a_weight_that_a_checkpoint_beside_a_model_lacks(method: str, models: list[Path], place: Path) -> None:
    """Law 8: what is computed on needs them: the error names the checkpoint and the tensor."""
    name = "model.layers.2.mlp.up_proj.weight"
    less = {n: raw for n, raw in read_checkpoint(models[1]).items() if n != name}
    beside = write_checkpoint(place / "less", less)
    case = next(case for case in DEFAULTS if case.name == method)
    error = refusal(suture.merge, configure(case, models, beside=[beside] * 3), place / "out")
    assert error is not None
    assert (name in error, "less" in error) == (True, True), error
    assert not (place / "out").exists()


@pytest.mark.parametrize("method", ["fisher", "mask"])
def test_an_excluded_weight_needs_nothing_beside_it(method: str, models: list[Path], place: Path) -> None:
    """What is excluded is copied, so it needs neither masks nor squared gradients."""
    name = "lm_head.weight"
    less = {n: raw for n, raw in read_checkpoint(models[1]).items() if n != name}
    beside = write_checkpoint(place / "less", less)
    case = next(case for case in DEFAULTS if case.name == method)
    suture.merge(configure(case, models, beside=[beside] * 3) | {"exclude": ["lm_head"]}, place / "out")
    owner = models[0] if method == "mask" else models[1]
    assert read_checkpoint(place / "out")[name] == read_checkpoint(owner)[name]


FACTORS = ("lora_A.weight", "lora_A.default.weight", "lora_embedding_A")


def adapters(place: Path, models: list[Path], spelling: str) -> list[Path]:
    """Four adapters for the queries of a model, as PEFT and others name their factors."""
    found = []
    for number in range(4):
        shapes = read_checkpoint(models[0])
        path = write_adapter(place / f"adapter-{number}", shapes, ["self_attn.q_proj"], range(4), seed=number)
        if spelling != FACTORS[0]:
            tensors = read_checkpoint(path / "adapter_model.safetensors")
            other = spelling.replace("_A", "_B")
            renamed = {
                n.replace(FACTORS[0], spelling).replace("lora_B.weight", other): raw for n, raw in tensors.items()
            }
            (path / "adapter_model.safetensors").unlink()
            write_checkpoint(path, renamed)
            (path / "model.safetensors").rename(path / "adapter_model.safetensors")
        found.append(path)
    return found


@pytest.mark.parametrize("spelling", FACTORS)
@pytest.mark.parametrize("case", [c for c in DEFAULTS if c.experts > 1 or c.changes], ids=str)
def test_a_merge_of_adapters_is_refused(case: Case, spelling: str, models: list[Path], place: Path) -> None:
    """The mean of factors is not the factors of the mean: until adapters are inputs, no method takes them."""
    paths = adapters(place, models, spelling)
    before = [p.name for p in place.iterdir()]
    error = refusal(suture.merge, configure(case, paths), place / "out")
    assert error is not None
    assert "adapter" in error.lower() or "lora" in error.lower(), error
    assert left_behind(place, before) == []


@pytest.mark.parametrize("how", ["files", "slices", "one"])
def test_adapters_are_refused_in_every_form(how: str, models: list[Path], place: Path) -> None:
    """The same for single files, for slices, and for one that is to be scaled."""
    paths = adapters(place, models, FACTORS[0])
    files = [p / "adapter_model.safetensors" for p in paths]
    config = mean(*(files if how == "files" else paths[:1] if how == "one" else paths))
    if how == "slices":
        config = sliced(config, [(0, 2), (2, 4)])
    if how == "one":
        config = {"merge_method": "passthrough", "models": [{"model": str(paths[0]), "parameters": {"scale": 0.5}}]}
    error = refusal(suture.merge, config, place / "out")
    assert error is not None
    assert "adapter" in error.lower() or "lora" in error.lower(), error


def test_a_model_is_no_adapter_for_one_name(models: list[Path], place: Path) -> None:
    """A model whose own weights have such names in passing is merged: `flora_A` is no factor."""
    extra = {"model.flora_A.weight": encode(np.ones((2, 2)), "F32"), "model.lora.norm": encode(np.ones(2), "F32")}
    paths = [write_checkpoint(place / f"m{n}", read_checkpoint(m) | extra) for n, m in enumerate(models)]
    suture.merge(mean(*paths), place / "out")
    assert extra.keys() <= read_checkpoint(place / "out").keys()
