"""`revert` gives layers back to the base, bit for bit, and leaves the rest of the fine-tune as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import suture

from ..reference.layers import layer_of
from ..reference.swap import parse_layers
from ..support.checkpoints import INDEX_NAME, Raw, encode, llama_family, read_checkpoint, write_json
from ..support.swapping import EMBEDDING, HEAD, INTO, Shares, assemble, by_layer, same

LAYERS = 5
SMALL: dict[str, Any] = {"layers": LAYERS, "hidden": 16, "heads": 2, "kv_heads": 1, "ff": 24, "vocab": 20, "n": 1}


def family(folder: Path, **changes: Any) -> tuple[Path, Path]:
    """A base and its fine-tune."""
    base, tuned = llama_family(folder, **(SMALL | {"shards": [1, 3]} | changes))
    return base, tuned


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return family(tmp_path_factory.mktemp("models"))


def expected(base: Path, tuned: Path, **options: Any) -> dict[str, Raw]:
    """The fine-tune with the base's bytes where they are asked for."""
    listed = options.get("layers") or []
    layers = parse_layers(listed) if isinstance(listed, str) else list(listed)
    back: list[Shares] = [{"base": 1.0} if layer in layers else INTO for layer in range(LAYERS)]
    tensors = {"base": read_checkpoint(base), "into": read_checkpoint(tuned)}
    inside = by_layer(back, options.get("modules") or "*")
    return assemble(tensors, inside, {"base": 1.0} if options.get("outside") else INTO)


GRID: list[dict[str, Any]] = [
    {"layers": "0"},
    {"layers": "0-1,4"},
    {"layers": [3, 1]},
    {"layers": range(LAYERS)},
    {"layers": "1-3", "outside": True},
    {"outside": True},
    {"layers": "0-4", "outside": True},
    {"layers": "1-3", "modules": "self_attn.*"},
    {"layers": "2", "modules": "mlp.up_proj, *layernorm", "outside": True},
]


@pytest.mark.parametrize("options", GRID, ids=str)
@pytest.mark.parametrize("tied", [False, True])
def test_reverted_layers_are_the_bases(tied: bool, options: dict[str, Any], tmp_path: Path) -> None:
    """Laws 2 and 5: base bytes in these layers, tuned bytes elsewhere; shards, index, config and tokenizer stay."""
    base, tuned = family(tmp_path, tied=tied)
    suture.revert(base, tuned, tmp_path / "out", **options)
    found = read_checkpoint(tmp_path / "out")
    same(found, expected(base, tuned, **options))
    layouts = [{n: Path(c.info(n).shard).name for n in c.names} for c in map(suture.open, (tuned, tmp_path / "out"))]
    assert layouts[0] == layouts[1]
    maps = [json.loads((folder / INDEX_NAME).read_text())["weight_map"] for folder in (tuned, tmp_path / "out")]
    assert maps[0] == maps[1]
    assert json.loads((tuned / "config.json").read_text()) == json.loads((tmp_path / "out/config.json").read_text())
    assert (tuned / "tokenizer_config.json").read_bytes() == (tmp_path / "out/tokenizer_config.json").read_bytes()


def test_everything_reverted_is_the_base(models: tuple[Path, Path], tmp_path: Path) -> None:
    """Identity: all layers and what is outside of them make the base again; diff finds nothing."""
    suture.revert(*models, tmp_path / "out", layers=range(LAYERS), outside=True)
    same(read_checkpoint(tmp_path / "out"), read_checkpoint(models[0]))


def test_a_revert_is_a_swap_with_the_base(models: tuple[Path, Path], tmp_path: Path) -> None:
    """Both ways to the same thing give the same bytes."""
    base, tuned = models
    suture.revert(base, tuned, tmp_path / "revert", layers="1-2", outside=True)
    suture.swap(tuned, base, tmp_path / "swap", layers="1-2", non_layer="from")
    same(read_checkpoint(tmp_path / "revert"), read_checkpoint(tmp_path / "swap"))


def test_a_revert_undoes_what_it_can_and_no_more(models: tuple[Path, Path], tmp_path: Path) -> None:
    """Reverting the rest of what was reverted is reverting all; a second time changes nothing."""
    base, tuned = models
    suture.revert(base, tuned, tmp_path / "first", layers="0-2")
    suture.revert(base, tmp_path / "first", tmp_path / "again", layers="0-2")
    same(read_checkpoint(tmp_path / "again"), read_checkpoint(tmp_path / "first"))
    suture.revert(base, tmp_path / "first", tmp_path / "rest", layers="3-4", outside=True)
    same(read_checkpoint(tmp_path / "rest"), read_checkpoint(base))


@pytest.mark.parametrize(("base_tied", "tuned_tied"), [(True, False), (False, True)])
@pytest.mark.parametrize("outside", [False, True])
def test_a_head_of_its_own(outside: bool, base_tied: bool, tuned_tied: bool, tmp_path: Path) -> None:
    """Law 5: the base's head comes back with its embedding; one the base lacks is its embedding."""
    base, _ = family(tmp_path / "a", tied=base_tied)
    _, tuned = family(tmp_path / "b", tied=tuned_tied)
    suture.revert(base, tuned, tmp_path / "out", layers="0", outside=outside)
    found = read_checkpoint(tmp_path / "out")
    same(found, expected(base, tuned, layers="0", outside=outside))
    if outside:
        assert found[HEAD] == read_checkpoint(base)[EMBEDDING if base_tied else HEAD]
    tied = json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"]
    assert tied is (HEAD not in found)


def test_a_base_of_another_dtype_is_cast(tmp_path: Path) -> None:
    """Law 2: the output keeps the fine-tune's dtype; what comes back is rounded once."""
    base, _ = family(tmp_path / "a", dtype="f32")
    _, tuned = family(tmp_path / "b", dtype="bf16")
    suture.revert(base, tuned, tmp_path / "out", layers="0-1")
    same(read_checkpoint(tmp_path / "out"), expected(base, tuned, layers="0-1"))
    found = read_checkpoint(tmp_path / "out")
    name = "model.layers.0.mlp.up_proj.weight"
    assert found[name] == encode(read_checkpoint(base)[name].values(), "BF16")
    assert {raw.dtype for raw in found.values()} == {"BF16"}


def test_what_was_asked_for_is_no_warning(models: tuple[Path, Path], tmp_path: Path) -> None:
    """Law 8: a warning is for what the user may not know; that no layer goes back is what `outside` alone says."""
    assert suture.revert(*models, tmp_path / "outside", outside=True).warnings == []
    assert suture.revert(*models, tmp_path / "layers", layers="0").warnings == []


def test_every_input_tensor_is_used_or_listed(models: tuple[Path, Path], tmp_path: Path) -> None:
    """Law 5: every tensor of both models is an input of some output tensor, or unused with a reason."""
    data = suture.revert(*models, tmp_path / "out", layers="1").data
    used = {(label, name) for tensor in data["tensors"].values() for label, name, _ in tensor["from"]}
    unused = {(entry["model"], entry["tensor"]) for entry in data["unused"]}
    whole = {(model.name, name) for model in models for name in read_checkpoint(model)}
    assert used | unused == whole
    assert used & unused == set()
    assert {(label, layer_of(name)) for label, name in used if label == "base"} == {("base", 1)}


def test_a_dry_run_writes_nothing(models: tuple[Path, Path], tmp_path: Path) -> None:
    """The plan of a dry run is that of the run itself."""
    dry = suture.revert(*models, tmp_path / "out", layers="1", dry_run=True)
    assert list(tmp_path.iterdir()) == []
    assert dry.data["hash"] == suture.revert(*models, tmp_path / "out", layers="1").data["plan"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layers": "5"}, "5 layers|there are 5"),
        ({"layers": [0, 17]}, "17"),
        ({"layers": "3-1"}, "3-1"),
        ({"layers": "first"}, "first"),
        ({"layers": [-1]}, "layers"),
        ({"layers": "0", "modules": "[a"}, "modules"),
        ({"layers": ""}, "layers"),
        ({}, "layers"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(
    options: dict[str, Any], said: str, models: tuple[Path, Path], tmp_path: Path
) -> None:
    """Law 8: layers that do not exist, or nothing to revert, are usage errors; nothing is written."""
    with pytest.raises(suture.UsageError, match=said):
        suture.revert(*models, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_base_that_does_not_match_is_refused(models: tuple[Path, Path], tmp_path: Path) -> None:
    """Law 8: other layers are an error, and nothing is written."""
    other, _ = family(tmp_path / "other", layers=3)
    with pytest.raises(suture.SutureError, match="3 layers"):
        suture.revert(other, models[1], tmp_path / "out", layers="0")
    assert not (tmp_path / "out").exists()


def test_layers_of_another_kind_are_refused(tmp_path: Path) -> None:
    """A base whose layers are of other kinds is not this model's base."""
    base, tuned = family(tmp_path)
    for folder, kind in ((base, "full_attention"), (tuned, "sliding_attention")):
        config = json.loads((folder / "config.json").read_text())
        write_json(folder / "config.json", config | {"layer_types": [kind] * LAYERS})
    with pytest.raises(suture.SutureError, match="layer_types"):
        suture.revert(base, tuned, tmp_path / "out", layers="0")
