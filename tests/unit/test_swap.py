"""`swap` writes the bytes that the oracle writes, over the options, dtypes, heads and shards there are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..reference import swap
from ..reference.config import layer_of
from ..support.checkpoints import (
    INDEX_NAME,
    Raw,
    encode,
    llama_config,
    llama_family,
    llama_shapes,
    read_checkpoint,
    write_checkpoint,
)

LAYERS = 6
SMALL = {"layers": LAYERS, "hidden": 16, "heads": 2, "kv_heads": 1, "ff": 24, "vocab": 20, "n": 1}
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


def family(folder: Path, **changes: Any) -> tuple[Path, Path]:
    """A recipient and a donor."""
    into, donor = llama_family(folder, **(SMALL | changes))
    return into, donor


def roles_of(options: Mapping[str, Any]) -> list[swap.Role]:
    if "layers" in options:
        listed = options["layers"]
        taken = swap.parse_layers(listed) if isinstance(listed, str) else list(listed)
        return ["donor" if layer in taken else "into" for layer in range(LAYERS)]
    places = {key: options.get(key, 0) for key in ("bottom", "top", "transition")}
    return swap.roles(LAYERS, **places)


def moves(name: str, globs: str | None) -> bool:
    """True if a tensor of a layer belongs to one of the modules that move."""
    module = name.split(f"layers.{layer_of(name)}.", 1)[1].removesuffix(".weight").removesuffix(".bias")
    return globs is None or any(fnmatchcase(module, glob.strip()) for glob in globs.split(","))


def expected(into: Path, donor: Path, **options: Any) -> dict[str, Raw]:
    """The output by the oracle: bytes of one side where nothing is blended or cast."""
    own, other = read_checkpoint(into), read_checkpoint(donor)
    roles = roles_of(options)
    outside: dict[str, swap.Role] = {"into": "into", "from": "donor", "mean": "blend"}
    out = {}
    for name, mine in own.items():
        layer = layer_of(name)
        theirs = other.get(name, other[EMBEDDING])
        weight = options.get("blend", 0.5)
        if layer is None:
            role, weight = outside[options.get("non_layer", "into")], 0.5
        else:
            role = roles[layer] if moves(name, options.get("modules")) else "into"
        dtype = options.get("dtype", mine.dtype)
        if role == "blend":
            out[name] = encode(swap.blend(mine.values(), theirs.values(), weight, dtype), dtype)
        else:
            chosen = theirs if role == "donor" else mine
            out[name] = chosen if chosen.dtype == dtype else encode(chosen.values(), dtype)
    return out


def same(found: Mapping[str, Raw], wanted: Mapping[str, Raw]) -> None:
    """Bit for bit, with the first tensor that differs named."""
    assert sorted(found) == sorted(wanted)
    assert [name for name, raw in wanted.items() if found[name] != raw] == []


GRID: list[dict[str, Any]] = [
    {"bottom": 1},
    {"top": 1},
    {"bottom": 2, "top": 1},
    {"bottom": 2, "top": 1, "transition": 1},
    {"bottom": 1, "top": 1, "transition": 2},
    {"bottom": 2, "transition": 1},
    {"top": 2, "transition": 1},
    {"bottom": 1, "transition": 5},
    {"top": 1, "transition": 5},
    {"bottom": LAYERS},
    {"top": LAYERS},
    {"bottom": 3, "top": 3},
    {"bottom": 2, "top": 1, "transition": 1, "blend": 0.3},
    {"bottom": 2, "top": 1, "transition": 1, "blend": 0.0},
    {"bottom": 2, "top": 1, "transition": 1, "blend": 1.0},
    {"layers": "0-1,5"},
    {"layers": "3"},
    {"layers": " 0 - 2 , 4,4 "},
    {"layers": [5, 0, 0]},
    {"layers": range(2, 4)},
    {"bottom": 1, "top": 1, "non_layer": "from"},
    {"bottom": 1, "top": 1, "non_layer": "mean"},
    {"bottom": 1, "transition": 1, "blend": 0.2, "non_layer": "mean"},
    {"bottom": 2, "top": 1, "transition": 1, "modules": "self_attn.*"},
    {"bottom": 2, "top": 1, "transition": 1, "modules": "mlp.up_proj, mlp.down_proj"},
    {"layers": "1-4", "modules": "*layernorm"},
    {"layers": "1-4", "modules": "self_attn.[qk]_proj", "non_layer": "from"},
]


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return family(tmp_path_factory.mktemp("untied"))


@pytest.mark.parametrize("options", GRID, ids=str)
def test_swap_is_the_oracle(options: dict[str, Any], untied: tuple[Path, Path], tmp_path: Path) -> None:
    """Law 2: moved bit for bit, or blended and rounded once; an end without donor layers has no seam."""
    suture.swap(*untied, tmp_path / "out", **options)
    same(read_checkpoint(tmp_path / "out"), expected(*untied, **options))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shards", [(1, 1), (3, 1), (2, 5)])
@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32", "f64"])
def test_every_layout_gives_the_same(dtype: str, shards: tuple[int, int], tied: bool, tmp_path: Path) -> None:
    """Law 3: bytes do not depend on how either model is sharded; tied models have no head to move."""
    models = family(tmp_path, dtype=dtype, shards=shards, tied=tied)
    options: dict[str, Any] = {"bottom": 2, "top": 1, "transition": 1, "non_layer": "mean"}
    suture.swap(*models, tmp_path / "out", **options)
    found = read_checkpoint(tmp_path / "out")
    same(found, expected(*models, **options))
    assert (HEAD in found) is not tied


@pytest.mark.parametrize("donor_dtype", ["bf16", "f16", "f32"])
@pytest.mark.parametrize("into_dtype", ["bf16", "f16", "f32"])
def test_a_donor_of_another_dtype_is_cast(into_dtype: str, donor_dtype: str, tmp_path: Path) -> None:
    """Law 2: the output keeps the recipient's dtype; what is taken is rounded once, not moved."""
    into, _ = family(tmp_path / "a", dtype=into_dtype)
    _, donor = family(tmp_path / "b", dtype=donor_dtype)
    options: dict[str, Any] = {"bottom": 2, "top": 1, "transition": 1, "blend": 0.3}
    suture.swap(into, donor, tmp_path / "out", **options)
    found = read_checkpoint(tmp_path / "out")
    same(found, expected(into, donor, **options))
    assert {raw.dtype for raw in found.values()} == {into_dtype.upper()}


@pytest.mark.parametrize(("name", "stored"), [("bfloat16", "BF16"), ("float16", "F16"), ("float32", "F32")])
def test_dtype_casts_everything(name: str, stored: str, untied: tuple[Path, Path], tmp_path: Path) -> None:
    """`dtype` holds for every float tensor, kept, taken or blended, and is what config.json says."""
    options: dict[str, Any] = {"bottom": 2, "top": 1, "transition": 1}
    suture.swap(*untied, tmp_path / "out", **options, settings=suture.Settings(dtype=name))
    same(read_checkpoint(tmp_path / "out"), expected(*untied, **options, dtype=stored))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == name


def test_integer_buffers_are_carried(tmp_path: Path) -> None:
    """Law 5: a tensor that is not computed on follows its layer; equal ones pass through a blend."""
    folders = []
    for side in range(2):
        tensors = {}
        for layer in range(LAYERS):
            prefix = f"model.layers.{layer}."
            tensors[prefix + "w.weight"] = encode(np.full((2, 3), side + layer, np.float32), "BF16")
            tensors[prefix + "steps"] = Raw("I64", (1,), bytes([7 if layer == 1 else side]) + bytes(7))
        tensors["positions"] = Raw("I32", (2,), bytes([side] * 8))
        folders.append(write_checkpoint(tmp_path / str(side), tensors))
    suture.swap(folders[0], folders[1], tmp_path / "out", bottom=1, transition=1)
    into, donor = (read_checkpoint(folder) for folder in folders)
    found = read_checkpoint(tmp_path / "out")
    assert found["model.layers.0.steps"] == donor["model.layers.0.steps"]
    assert found["model.layers.1.steps"] == into["model.layers.1.steps"] == donor["model.layers.1.steps"]
    assert found["positions"] == into["positions"]
    with pytest.raises(suture.SutureError, match=r"model\.layers\.2\.steps"):
        suture.swap(folders[0], folders[1], tmp_path / "other", bottom=2, transition=1)


@pytest.mark.parametrize("shards", [1, 3])
def test_the_recipients_shards_are_kept(shards: int, tmp_path: Path) -> None:
    """Without `shard_size` every tensor stays in the file it has in the recipient."""
    into, donor = family(tmp_path, shards=[shards, 2])
    suture.swap(into, donor, tmp_path / "out", bottom=2, top=1, transition=1)
    layouts = [
        {name: suture.open(f).info(name).shard for name in suture.open(f).names} for f in (into, tmp_path / "out")
    ]
    assert {n: Path(p).name for n, p in layouts[0].items()} == {n: Path(p).name for n, p in layouts[1].items()}
    assert (tmp_path / "out" / INDEX_NAME).exists() is (shards > 1)


def test_shard_size_cuts_anew(tmp_path: Path) -> None:
    """With `shard_size` no file holds more, but for one tensor that is larger alone."""
    into, donor = family(tmp_path, shards=3)
    suture.swap(into, donor, tmp_path / "out", bottom=2, settings=suture.Settings(shard_size="5kB"))
    same(read_checkpoint(tmp_path / "out"), expected(into, donor, bottom=2))
    checkpoint = suture.open(tmp_path / "out")
    filled: dict[str, list[int]] = {}
    for name in checkpoint.names:
        info = checkpoint.info(name)
        filled.setdefault(info.shard, []).append(info.nbytes)
    assert len(filled) > 3
    assert all(sum(sizes) <= 5000 or len(sizes) == 1 for sizes in filled.values())


def test_an_untied_recipient_takes_a_tied_donors_head(tmp_path: Path) -> None:
    """A tied donor's head is its embedding: the output's own head is filled with it."""
    into, _ = family(tmp_path / "a")
    _, donor = family(tmp_path / "b", tied=True)
    suture.swap(into, donor, tmp_path / "out", bottom=1, non_layer="from")
    found = read_checkpoint(tmp_path / "out")
    same(found, expected(into, donor, bottom=1, non_layer="from"))
    assert found[HEAD] == read_checkpoint(donor)[EMBEDDING]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False


@pytest.mark.parametrize("non_layer", ["from", "mean"])
def test_an_untied_donors_head_is_not_lost(non_layer: str, tmp_path: Path) -> None:
    """Law 5: with the donor's embeddings its own head comes too, and config.json says it is untied."""
    into, _ = family(tmp_path / "a", tied=True)
    _, donor = family(tmp_path / "b")
    suture.swap(into, donor, tmp_path / "out", bottom=1, non_layer=non_layer)
    own, other, found = (read_checkpoint(p) for p in (into, donor, tmp_path / "out"))
    head = other[HEAD]
    if non_layer == "mean":
        head = encode(swap.blend(own[EMBEDDING].values(), head.values(), 0.5, "BF16"), "BF16")
    assert found[HEAD] == head
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False


def test_a_tied_recipient_keeps_its_tie(tmp_path: Path) -> None:
    """With the recipient's embeddings an untied donor's head is listed as unused, and nothing is untied."""
    into, _ = family(tmp_path / "a", tied=True)
    _, donor = family(tmp_path / "b")
    report = suture.swap(into, donor, tmp_path / "out", bottom=1)
    assert HEAD not in read_checkpoint(tmp_path / "out")
    assert HEAD in [entry["tensor"] for entry in report.data["unused"]]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is True


@pytest.mark.parametrize("options", GRID[:9] + GRID[-6:], ids=str)
def test_every_input_tensor_is_used_or_listed(
    options: dict[str, Any], untied: tuple[Path, Path], tmp_path: Path
) -> None:
    """Law 5: every tensor of both models is an input of some output tensor, or unused with a reason."""
    data = suture.swap(*untied, tmp_path / "out", **options).data
    used = {(label, name) for tensor in data["tensors"].values() for label, name, _ in tensor["from"]}
    unused = {(entry["model"], entry["tensor"]) for entry in data["unused"]}
    whole = {(model.name, name) for model in untied for name in read_checkpoint(model)}
    assert used | unused == whole
    assert used & unused == set()
    assert all(entry["reason"] for entry in data["unused"])


def test_a_stray_tensor_of_the_donor_is_refused(tmp_path: Path) -> None:
    """Law 5: a tensor in the donor's layers that the recipient lacks would be lost, so it is an error."""
    into, donor = family(tmp_path)
    tensors: dict[str, Any] = dict(read_checkpoint(donor))
    extra = "model.layers.0.self_attn.q_proj.bias"
    tensors[extra] = encode(np.ones(16, np.float32), "BF16")
    write_checkpoint(donor, tensors)
    with pytest.raises(suture.SutureError, match=r"q_proj\.bias") as caught:
        suture.swap(into, donor, tmp_path / "out", bottom=1)
    assert caught.value.tensor == extra
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("non_layer", ["into", "from", "mean"])
def test_the_source_of_everything_else_is_said(non_layer: str, untied: tuple[Path, Path], tmp_path: Path) -> None:
    """Whose embeddings and head the output has is in the plan and in the report, whatever was asked."""
    for dry in (True, False):
        report = suture.swap(*untied, tmp_path / "out", bottom=1, non_layer=non_layer, dry_run=dry)
        (text,) = [text for title, text in report.data["notes"] if title == "outside"]
        assert f"--non-layer {non_layer}" in text
        assert {"into": "base", "from": "tuned-1", "mean": "mean"}[non_layer] in text


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"bottom": 7}, "6 layers"),
    ({"bottom": 4, "top": 3}, "6 layers"),
    ({"bottom": 2, "top": 2, "transition": 2}, "6 layers"),
    ({"bottom": 1, "transition": 6}, "6 layers"),
    ({"bottom": -1}, "-1"),
    ({"top": -1}, "-1"),
    ({"transition": -1}, "-1"),
    ({"blend": 1.5}, "1.5"),
    ({"blend": -0.1}, "-0.1"),
    ({"blend": float("nan")}, "blend"),
    ({"layers": "6"}, "6"),
    ({"layers": [0, 17]}, "17"),
    ({"layers": [-1]}, "layers"),
    ({"layers": "3-1"}, "3-1"),
    ({"layers": "a"}, "a"),
    ({"layers": "1,,2"}, "layers"),
    ({"layers": "0", "bottom": 1}, "layers"),
    ({"layers": "0", "transition": 1}, "layers"),
    ({"bottom": 1, "modules": "[a"}, "modules"),
    ({"bottom": 1, "non_layer": "donor"}, "donor"),
]


@pytest.mark.parametrize(("options", "said"), WRONG, ids=str)
def test_wrong_options_are_usage_errors(
    options: dict[str, Any], said: str, untied: tuple[Path, Path], tmp_path: Path
) -> None:
    """Law 8: what cannot be is refused before anything is written, naming what was found."""
    with pytest.raises(suture.UsageError) as caught:
        suture.swap(*untied, tmp_path / "out", **options)
    assert said in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_glob_that_moves_nothing_is_told(untied: tuple[Path, Path], tmp_path: Path) -> None:
    """Law 8: a misspelt module moves nothing, which is refused, with the modules there are."""
    with pytest.raises(suture.UsageError, match=r"nothing is swapped.*self_attn\.q_proj"):
        suture.swap(*untied, tmp_path / "out", bottom=1, modules="self_atn.*")
    for transition in (0, 1, 5):
        with pytest.raises(suture.UsageError, match="no layer is named"):
            suture.swap(*untied, tmp_path / "out", transition=transition)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [({"layers": 5}, "5 layers"), ({"hidden": 32}, "shape"), ({"vocab": 30}, "shape")],
    ids=str,
)
def test_models_that_do_not_match_are_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    """Law 8: other layers or shapes are an error that names the donor; nothing is written."""
    into, _ = family(tmp_path / "a")
    _, donor = family(tmp_path / "b", **change)
    with pytest.raises(suture.SutureError, match=said) as caught:
        suture.swap(into, donor, tmp_path / "out", bottom=1, non_layer="from")
    assert "tuned-1" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_layers_of_another_kind_are_refused(tmp_path: Path) -> None:
    """A sliding-window layer in the place of a full one is an error, found in config.json."""
    into, donor = family(tmp_path)
    for folder, first in ((into, "sliding_attention"), (donor, "full_attention")):
        config = json.loads((folder / "config.json").read_text())
        config["layer_types"] = [first] + ["full_attention"] * (LAYERS - 1)
        (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(suture.SutureError, match="layer_types"):
        suture.swap(into, donor, tmp_path / "out", bottom=1)
    suture.swap(into, into, tmp_path / "out", bottom=1)


@pytest.mark.parametrize(
    "prefix", ["transformer.h.", "gpt_neox.layers.", "encoder.layer.", "model.language_model.layers.", "blocks."]
)
def test_layers_are_known_by_name_in_any_architecture(prefix: str, tmp_path: Path) -> None:
    """Law 5: tensors are known by their names; a layer number after any of the usual words is a layer."""
    rng = np.random.default_rng(3)
    folders = []
    for side in range(2):
        tensors = {"vision.layers.0.w": encode(rng.normal(size=(3,)), "F32"), "head": encode(rng.normal(size=3), "F32")}
        for layer in range(11):
            tensors[f"{prefix}{layer}.attn.w"] = encode(rng.normal(size=(4, 5)), "F32")
        folders.append(write_checkpoint(tmp_path / str(side), tensors))
    suture.swap(folders[0], folders[1], tmp_path / "out", bottom=2, top=1)
    into, donor = (read_checkpoint(folder) for folder in folders)
    taken = {f"{prefix}{layer}.attn.w" for layer in (0, 1, 10)}
    same(read_checkpoint(tmp_path / "out"), {n: (donor if n in taken else into)[n] for n in into})


def test_swap_of_a_lone_file(tmp_path: Path) -> None:
    """A model may be one file without a folder; its output is a folder all the same."""
    shapes = llama_shapes(2, 8, 2, 1, 8, 8, False)
    rng = np.random.default_rng(1)
    paths = []
    for name in ("into", "donor"):
        tensors = {key: encode(rng.normal(size=shape), "BF16") for key, shape in shapes.items()}
        folder = write_checkpoint(tmp_path / name, tensors, config=llama_config(2, 8, 2, 1, 8, 8, False, "BF16"))
        paths.append((folder / "model.safetensors").rename(tmp_path / f"{name}.safetensors"))
    suture.swap(paths[0], paths[1], tmp_path / "out", top=1)
    into, donor = (read_checkpoint(path) for path in paths)
    same(read_checkpoint(tmp_path / "out"), {n: (donor if layer_of(n) == 1 else into)[n] for n in into})
