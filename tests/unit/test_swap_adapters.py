"""Layers of LoRA adapters are exchanged whole: to swap and fold in is to fold in and swap."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..reference.layers import layer_of
from ..reference.swap import parse_layers
from ..support.adapters import CONFIG, WEIGHTS, fold, read_adapter, write_adapter
from ..support.checkpoints import Raw, llama_family, read_checkpoint, write_json
from ..support.swapping import assemble, between, by_layer, same

LAYERS = 4
SMALL: dict[str, Any] = {"layers": LAYERS, "hidden": 16, "heads": 2, "kv_heads": 1, "ff": 24, "vocab": 20, "n": 0}
ATTENTION = ("self_attn.q_proj", "self_attn.v_proj")
MLP = ("mlp.up_proj", "mlp.down_proj")
ALL = (*ATTENTION, "self_attn.k_proj", "self_attn.o_proj", "mlp.gate_proj", *MLP)
SCALE = 2.0


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Raw]:
    (folder,) = llama_family(tmp_path_factory.mktemp("base"), **SMALL, dtype="f32")
    return read_checkpoint(folder)


def pair(
    folder: Path,
    base: dict[str, Raw],
    modules: tuple[Sequence[str], Sequence[str]] = (ATTENTION, ATTENTION),
    layers: tuple[Sequence[int], Sequence[int]] = (range(LAYERS), range(LAYERS)),
    **both: Any,
) -> tuple[Path, Path]:
    """A recipient and a donor adapter."""
    into = write_adapter(folder / "into", base, modules[0], layers[0], seed=1, **both)
    donor = write_adapter(folder / "donor", base, modules[1], layers[1], seed=2, **both)
    return into, donor


def expected(into: Path, donor: Path, layers: Sequence[int]) -> dict[str, Raw]:
    """The recipient's tensors outside the swapped layers, the donor's inside."""
    own = {name: raw for name, raw in read_adapter(into).items() if layer_of(name) not in layers}
    return own | {name: raw for name, raw in read_adapter(donor).items() if layer_of(name) in layers}


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / CONFIG).read_text())
    return found


@pytest.mark.parametrize("modules", [(ATTENTION, ATTENTION), (ATTENTION, MLP), (ALL, ATTENTION), (MLP, ALL)], ids=str)
@pytest.mark.parametrize(
    ("options", "layers"),
    [
        ({"bottom": 1, "top": 1}, [0, 3]),
        ({"bottom": 2}, [0, 1]),
        ({"top": 3}, [1, 2, 3]),
        ({"layers": "1-2"}, [1, 2]),
        ({"layers": "0-3"}, [0, 1, 2, 3]),
    ],
    ids=str,
)
def test_swapping_and_folding_commute(
    options: dict[str, Any],
    layers: list[int],
    modules: tuple[Sequence[str], Sequence[str]],
    base: dict[str, Raw],
    tmp_path: Path,
) -> None:
    """Law 2: bit for bit the same model, whether the adapters' layers are swapped or the folded models' layers.

    A layer of the donor is all of it: what only the recipient targets is gone there, and the weight is the base's.
    """
    into, donor = pair(tmp_path, base, modules)
    suture.swap(into, donor, tmp_path / "out", **options)
    found = read_adapter(tmp_path / "out")
    same(found, expected(into, donor, layers))
    folded = {"into": fold(base, read_adapter(into), SCALE), "donor": fold(base, read_adapter(donor), SCALE)}
    inside = by_layer([between(float(layer in layers)) for layer in range(LAYERS)])
    same(fold(base, found, SCALE), assemble(folded, inside))


def test_the_config_targets_the_modules_of_both(base: dict[str, Raw], tmp_path: Path) -> None:
    """Law 5: `target_modules` is the union, and everything else the recipient's; the folder is an adapter's."""
    into, donor = pair(tmp_path, base, (ATTENTION, MLP))
    report = suture.swap(into, donor, tmp_path / "out", bottom=1)
    assert report.warnings == []
    found = config_of(tmp_path / "out")
    assert sorted(found.pop("target_modules")) == ["down_proj", "q_proj", "up_proj", "v_proj"]
    wanted = config_of(into)
    del wanted["target_modules"]
    assert found == wanted
    assert (tmp_path / "out" / WEIGHTS).is_file()
    assert [path.name for path in (tmp_path / "out").glob("*.safetensors")] == [WEIGHTS]
    assert not (tmp_path / "out" / "config.json").exists()
    assert suture.verify(tmp_path / "out")["differing"] == []


@pytest.mark.parametrize(
    ("into", "donor", "stated"),
    [
        ({}, {"target_parameters": ["mlp.up_proj.weight"]}, {"target_parameters": ["mlp.up_proj.weight"]}),
        (
            {"target_parameters": ["a.weight"]},
            {"target_parameters": ["b.weight"]},
            {"target_parameters": ["a.weight", "b.weight"]},
        ),
        (
            {"layers_to_transform": [1], "layers_pattern": "layers"},
            {},
            {"layers_to_transform": None, "layers_pattern": None},
        ),
        ({"exclude_modules": ["v_proj"]}, {}, {"exclude_modules": None}),
        ({"exclude_modules": ["x"]}, {"exclude_modules": ["x"]}, {"exclude_modules": ["x"]}),
        ({"bias": "none"}, {"bias": "lora_only"}, {"bias": "lora_only"}),
        ({"bias": "lora_only"}, {"bias": "all"}, {"bias": "all"}),
        ({"lora_bias": False}, {"lora_bias": True}, {"lora_bias": True}),
    ],
    ids=str,
)
def test_loaders_look_for_what_either_has(
    into: dict[str, Any], donor: dict[str, Any], stated: dict[str, Any], base: dict[str, Raw], tmp_path: Path
) -> None:
    """PEFT reads what the config tells of, and passes over the rest without a word."""
    one = write_adapter(tmp_path / "into", base, ATTENTION, range(LAYERS), seed=1, **into)
    other = write_adapter(tmp_path / "donor", base, ATTENTION, range(LAYERS), seed=2, **donor)
    suture.swap(one, other, tmp_path / "out", bottom=1)
    found = config_of(tmp_path / "out")
    assert {key: found[key] for key in stated} == stated


@pytest.mark.parametrize(
    ("layers", "swapped"),
    [(([0, 1, 2, 3], [0, 3]), "0-1"), (([0, 3], [0, 1, 2, 3]), "1-2"), (([1, 2], [0, 3]), "0,2"), (([2], [1]), "1")],
    ids=str,
)
def test_a_layer_without_an_adapter_has_no_change(
    layers: tuple[list[int], list[int]], swapped: str, base: dict[str, Raw], tmp_path: Path
) -> None:
    """Law 2: where the donor has nothing in a layer, its change there is nothing; nor is one left of the recipient."""
    into, donor = pair(tmp_path, base, layers=layers)
    suture.swap(into, donor, tmp_path / "out", layers=swapped)
    same(read_adapter(tmp_path / "out"), expected(into, donor, parse_layers(swapped)))


def test_factors_have_no_ancestry(base: dict[str, Raw], tmp_path: Path) -> None:
    """Law 8: factors of two trainings are as far apart as strangers; no warning is made of that."""
    into, donor = pair(tmp_path, base)
    assert suture.swap(into, donor, tmp_path / "out", bottom=2).warnings == []


def test_layers_that_the_config_names_are_those_that_are_there(base: dict[str, Raw], tmp_path: Path) -> None:
    """Law 5: PEFT makes adapters in `layers_to_transform` only; what lies in other layers would be lost on loading."""
    into = write_adapter(tmp_path / "into", base, ATTENTION, [0, 1], layers_to_transform=[0, 1])
    donor = write_adapter(tmp_path / "donor", base, ATTENTION, [2, 3], seed=2, layers_to_transform=[2, 3])
    suture.swap(into, donor, tmp_path / "out", layers="3")
    stated = config_of(tmp_path / "out")["layers_to_transform"]
    there = {layer_of(name) for name in read_adapter(tmp_path / "out")}
    assert there == {0, 1, 3}
    assert stated is None or set(stated) >= there


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_adapters_of_any_dtype_are_moved(dtype: str, base: dict[str, Raw], tmp_path: Path) -> None:
    """Law 2: bit for bit in whatever dtype they are."""
    into, donor = pair(tmp_path, base, (ALL, ALL), dtype=dtype)
    suture.swap(into, donor, tmp_path / "out", bottom=2)
    same(read_adapter(tmp_path / "out"), expected(into, donor, [0, 1]))


@pytest.mark.parametrize("held", [range(LAYERS), (0, 2)], ids=["all layers", "a layer the recipient lacks"])
def test_an_adapter_has_one_dtype(held: Sequence[int], base: dict[str, Raw], tmp_path: Path) -> None:
    """Law 2: a donor's factors of another float dtype are cast to the recipient's, once, and that is told."""
    into = write_adapter(tmp_path / "into", base, ATTENTION, held, seed=1, dtype="F32")
    donor = write_adapter(tmp_path / "donor", base, ATTENTION, range(LAYERS), seed=2, dtype="BF16")
    report = suture.swap(into, donor, tmp_path / "out", layers=[1])
    out, given = read_adapter(tmp_path / "out"), read_adapter(donor)
    moved = [name for name in given if ".layers.1." in name]
    assert moved
    assert {raw.dtype for raw in out.values()} == {"F32"}
    for name in moved:
        np.testing.assert_array_equal(out[name].values(), given[name].values())
    assert any("cast from BF16 to F32" in warning for warning in report.warnings)


def test_every_adapter_tensor_is_used_or_listed(base: dict[str, Raw], tmp_path: Path) -> None:
    """Law 5: also where donor and recipient target other modules nothing is lost without a word."""
    into, donor = pair(tmp_path, base, (ATTENTION, MLP))
    data = suture.swap(into, donor, tmp_path / "out", bottom=1).data
    used = {(label, name) for tensor in data["tensors"].values() for label, name, _ in tensor["from"]}
    unused = {(entry["model"], entry["tensor"]) for entry in data["unused"]}
    assert used | unused == {(folder.name, name) for folder in (into, donor) for name in read_adapter(folder)}
    assert used & unused == set()


@pytest.mark.parametrize(
    ("key", "mine", "theirs", "said"),
    [
        ("r", 4, 8, ("4", "8")),
        ("lora_alpha", 8, 16, ("8", "16")),
        ("use_rslora", False, True, ("rslora",)),
        ("fan_in_fan_out", False, True, ("fan_in_fan_out",)),
    ],
)
def test_adapters_of_other_scales_are_refused(
    key: str, mine: Any, theirs: Any, said: tuple[str, ...], base: dict[str, Raw], tmp_path: Path
) -> None:
    """Law 8: one scale holds for a whole adapter, so both must have it; the error names both values."""
    into = write_adapter(tmp_path / "into", base, ATTENTION, range(LAYERS))
    donor = write_adapter(tmp_path / "donor", base, ATTENTION, range(LAYERS), r=theirs if key == "r" else 4)
    write_json(donor / CONFIG, config_of(donor) | {key: theirs})
    assert config_of(into)[key] == mine
    with pytest.raises(suture.SutureError) as caught:
        suture.swap(into, donor, tmp_path / "out", bottom=1)
    assert [part for part in (key, *said, "donor") if part not in str(caught.value)] == [], str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", ["alpha_pattern", "rank_pattern"])
def test_patterns_of_scales_must_agree(key: str, base: dict[str, Raw], tmp_path: Path) -> None:
    """Law 2: a scale of its own for some module would be lost, or laid upon the other's layers."""
    into, donor = pair(tmp_path, base)
    write_json(donor / CONFIG, config_of(donor) | {key: {"q_proj": 16}})
    with pytest.raises(suture.SutureError, match=key):
        suture.swap(into, donor, tmp_path / "out", bottom=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"bottom": 1, "transition": 1},
        {"bottom": 1, "transition_bottom": 1},
        {"top": 1, "transition_top": 1, "blend": "ramp"},
    ],
    ids=str,
)
def test_adapters_are_not_blended(options: dict[str, Any], base: dict[str, Raw], tmp_path: Path) -> None:
    """Law 8: the mean of two pairs of factors is not the mean of their products; it is refused, and said why."""
    into, donor = pair(tmp_path, base)
    with pytest.raises(suture.UsageError, match="adapter"):
        suture.swap(into, donor, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("adapter_first", [False, True])
def test_an_adapter_and_a_model_do_not_go_together(adapter_first: bool, base: dict[str, Raw], tmp_path: Path) -> None:
    """Law 8: a whole model cannot give layers to an adapter, nor the other way round."""
    into, _ = pair(tmp_path, base)
    (model,) = llama_family(tmp_path / "model", **SMALL)
    models = (into, model) if adapter_first else (model, into)
    with pytest.raises(suture.SutureError, match="adapter"):
        suture.swap(*models, tmp_path / "out", bottom=1)
    assert not (tmp_path / "out").exists()


def test_layers_that_no_adapter_has_are_refused(base: dict[str, Raw], tmp_path: Path) -> None:
    """Law 8: a layer beyond the last that either adapter speaks of is a usage error."""
    into, donor = pair(tmp_path, base)
    with pytest.raises(suture.UsageError, match="9"):
        suture.swap(into, donor, tmp_path / "out", layers="0,9")
    assert not (tmp_path / "out").exists()
