"""An adapter in several: every tensor is in one piece, and pieces folded one after the other are the whole folded."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture
from suture import Settings, SutureError, UsageError

from ..support.adapters import CONFIG, PREFIX, WEIGHTS
from ..support.checkpoints import Raw, llama_family, read_checkpoint, write_checkpoint, write_file, write_json
from ..support.lora import factors, random, read_lora, write_lora
from ..support.pickles import write_torch
from .kinds import KINDS, Made

SHAPE: dict[str, Any] = {"layers": 4, "hidden": 16, "heads": 2, "kv_heads": 1, "ff": 24, "vocab": 20, "n": 0}
Q, UP, NORM = "self_attn.q_proj", "mlp.up_proj", "input_layernorm"
RANKS = {r"^model\.layers\.[12]\.mlp.up_proj": 3}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of four layers in bf16: what is folded is rounded."""
    (folder,) = llama_family(tmp_path_factory.mktemp("base"), **SHAPE)
    return folder


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of all layers, a table, and modules that were trained whole, in and outside of layers."""
    rng, own = np.random.default_rng(0), read_checkpoint(base)
    given: dict[str, Raw] = {}
    for i in range(4):
        for module in (Q, UP):
            name = f"model.layers.{i}.{module}"
            rows, columns = own[f"{name}.weight"].shape
            given |= factors(rng, name, (rows, columns), r=3 if module == UP and i in (1, 2) else 4)
    given |= {
        f"model.embed_tokens.lora_embedding_{side}": random(rng, *s)
        for side, s in zip("AB", ((4, 20), (16, 4)), strict=True)
    }
    given |= {"lm_head.weight": random(rng, 20, 16), f"model.layers.1.{NORM}.weight": random(rng, 16)}
    folder = tmp_path_factory.mktemp("whole") / "lora"
    more: dict[str, Any] = {
        "rank_pattern": RANKS,
        "alpha_pattern": {"q_proj": 6},
        "target_modules": r".*(_proj|tokens)",
    }
    return write_lora(folder, given, modules_to_save=["lm_head", NORM], layers_to_transform=[0, 1, 2, 3], **more)


def config(folder: Path) -> dict[str, Any]:
    """The config of a piece."""
    found: dict[str, Any] = json.loads((folder / CONFIG).read_text())
    return found


def check_pieces(whole: Path, out: Path, parts: list[str]) -> None:
    """Every tensor is in one piece, to the byte, and none more."""
    found = [read_lora(out / part) for part in parts]
    assert sum(map(len, found)) == len(read_lora(whole))
    assert {name: raw for piece in found for name, raw in piece.items()} == read_lora(whole)


SPLITS: list[tuple[dict[str, Any], list[str]]] = [
    ({"by": "layer", "layers": "0-1,2-7"}, ["layers-0-1", "layers-2-7", "rest"]),
    ({"by": "layer"}, ["layer-0", "layer-1", "layer-2", "layer-3", "rest"]),
    ({"by": "module"}, ["q_proj", "up_proj", "embed_tokens", "lm_head", "input_layernorm"]),
    ({"by": "module", "modules": {"mlp": "mlp|layernorm", "attention": r"self_attn\."}}, ["mlp", "attention", "rest"]),
]


@pytest.mark.parametrize(("how", "parts"), SPLITS, ids=["ranges", "layers", "modules", "patterns"])
def test_pieces_folded_are_the_whole_folded(
    how: dict[str, Any], parts: list[str], base: Path, whole: Path, tmp_path: Path
) -> None:
    """Law: where pieces are of other tensors their sum is the whole, bit for bit; in any order."""
    report = suture.split_adapter(whole, tmp_path / "out", **how)
    assert sorted(report.parts) == sorted(parts)
    check_pieces(whole, tmp_path / "out", parts)
    suture.fold(base, [whole], tmp_path / "one")
    suture.fold(base, [tmp_path / "out" / part for part in parts[::-1]], tmp_path / "two")
    assert read_checkpoint(tmp_path / "two") == read_checkpoint(tmp_path / "one")
    assert read_checkpoint(tmp_path / "one") != read_checkpoint(base)


@pytest.mark.parametrize("by", ["layer", "module"])
@pytest.mark.parametrize("kind", [k for k in KINDS if "experts" not in k or "(10, 7)" in k])
def test_every_kind_of_adapter(kind: str, by: str, tmp_path: Path) -> None:
    """Law 10: what an adapter may hold is in the piece of its module, and means there what it meant."""
    made = KINDS[kind](Made("F32", "F32"))
    if by == "layer" and not any(re.search(r"\.(layers|h)\.\d", name) for name in made.adapter):
        return
    model = write_checkpoint(tmp_path / "base", made.base)
    lora = write_lora(tmp_path / "lora", made.adapter, **made.config)
    report = suture.split_adapter(lora, tmp_path / "out", by=by)
    check_pieces(lora, tmp_path / "out", list(report.parts))
    suture.fold(model, [lora], tmp_path / "one")
    suture.fold(model, [tmp_path / "out" / part for part in report.parts], tmp_path / "two")
    assert read_checkpoint(tmp_path / "two") == read_checkpoint(tmp_path / "one")


def test_a_piece_says_what_is_in_it(whole: Path, tmp_path: Path) -> None:
    """Law: modules are named whole, patterns that fit none of them are gone, and limits by layers with them."""
    suture.split_adapter(whole, tmp_path / "out", by="layer", layers="0,1-3")
    first, others, rest = (config(tmp_path / "out" / part) for part in ("layer-0", "layers-1-3", "rest"))
    assert first["target_modules"] == [f"model.layers.0.{UP}", f"model.layers.0.{Q}"]
    assert first["rank_pattern"] == rest["rank_pattern"] == rest["alpha_pattern"] == {}
    assert first["alpha_pattern"] == others["alpha_pattern"] == {"q_proj": 6}
    assert others["rank_pattern"] == RANKS
    assert first["modules_to_save"] is None
    assert others["modules_to_save"] == [f"model.layers.1.{NORM}"]
    assert rest["modules_to_save"] == ["lm_head"]
    assert rest["target_modules"] == ["model.embed_tokens"]
    assert first["layers_to_transform"] is others["layers_to_transform"] is None
    assert {first["r"], first["lora_alpha"], first["base_model_name_or_path"]} == {4, 8, "some/base"}


@pytest.mark.parametrize("key", ["modules_to_save", "target_parameters", "target_modules", "layers_to_transform"])
@pytest.mark.parametrize("odd", [4, {}, [None], True])
def test_a_config_that_says_odd_things(whole: Path, tmp_path: Path, key: str, odd: Any) -> None:
    """Law 7: a key that is no list of names is no traceback; the pieces hold all tensors as they were."""
    adapter = tmp_path / "adapter"
    shutil.copytree(whole, adapter)
    said = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(said | {key: odd}))
    suture.split_adapter(adapter, tmp_path / "pieces", by="module")
    held = [tensor for piece in sorted((tmp_path / "pieces").iterdir()) if piece.is_dir()
            for tensor in read_lora(piece)]  # fmt: skip
    assert sorted(held) == sorted(read_lora(adapter))


def test_experts_stay_with_their_parameters(tmp_path: Path) -> None:
    """Law: `target_parameters` are named whole, in the order that wraps them, in the piece of their layer alone."""
    rng = np.random.default_rng(3)
    given: dict[str, Raw] = {}
    for i in range(2):
        for wrapped in (".base_layer", ""):
            at = f"model.layers.{i}.mlp.experts{wrapped}"
            given |= {f"{at}.lora_A.weight": random(rng, 6, 8), f"{at}.lora_B.weight": random(rng, 8, 6)}
    parameters = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    lora = write_lora(tmp_path / "lora", given, r=2, target_modules=[], target_parameters=parameters)
    suture.split_adapter(lora, tmp_path / "out", by="layer")
    found = config(tmp_path / "out" / "layer-1")
    assert found["target_parameters"] == [f"model.layers.1.{p}" for p in parameters]
    assert found["target_modules"] == []


def test_stacks_of_an_encoder_and_a_decoder(tmp_path: Path) -> None:
    """Law: layers are the decoder's, or of the stack that is named; what lies in another one is in the rest."""
    rng = np.random.default_rng(4)
    names = [f"{stack}.block.{i}.layer.0.SelfAttention.q" for stack in ("encoder", "decoder") for i in range(2)]
    given = {k: raw for name in names for k, raw in factors(rng, name, (8, 8)).items()}
    lora = write_lora(tmp_path / "lora", given)
    stacks = suture.inspect(lora)["stacks"]
    (encoder,) = (s["name"] for s in stacks if "encoder" in s["prefix"])
    report = suture.split_adapter(lora, tmp_path / "out", by="layer", layers="0,1", stack=encoder)
    assert list(report.parts) == ["layer-0", "layer-1", "rest"]
    assert all("decoder" in name for name in read_lora(tmp_path / "out" / "rest"))


def several(folder: Path, form: str, names: tuple[str, ...] = ("de", "sw")) -> tuple[Path, dict[str, dict[str, Raw]]]:
    """A file that holds adapters side by side, and each as PEFT names it."""
    rng = np.random.default_rng(5)
    apart = {
        n: {k: r for i in range(2) for k, r in factors(rng, f"model.layers.{i}.{Q}", (16, 16)).items()} for n in names
    }
    between = "loras." if form == "adapterhub" else ""
    tensors: dict[str, Raw] = {}
    for name, own in apart.items():
        for key, raw in own.items():
            module, _, side = key.removesuffix(".weight").rpartition(".")
            tensors[f"{module}.{between}{name}.{side}" if between else f"{PREFIX}{module}.{side}.{name}.weight"] = raw
    folder.mkdir()
    write_file(folder / WEIGHTS, tensors)
    hub = {"config": {"architecture": "lora", "r": 4, "alpha": 8, "composition_mode": "add"}}
    write_json(
        folder / CONFIG,
        hub if between else {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]},
    )
    return folder, apart


@pytest.mark.parametrize("form", ["peft", "adapterhub"])
def test_adapters_that_lie_side_by_side(form: str, base: Path, tmp_path: Path) -> None:
    """Law: by language each adapter of a file becomes one of its own, as if it had been written alone."""
    folder, apart = several(tmp_path / "both", form)
    report = suture.split_adapter(folder, tmp_path / "out", by="language")
    assert list(report.parts) == list(apart)
    for name, own in apart.items():
        assert read_lora(tmp_path / "out" / name) == own
        suture.fold(base, [tmp_path / "out" / name], tmp_path / f"{name}-found")
        suture.fold(base, [write_lora(tmp_path / f"{name}-alone", own)], tmp_path / f"{name}-wanted")
        assert read_checkpoint(tmp_path / f"{name}-found") == read_checkpoint(tmp_path / f"{name}-wanted")
    one = suture.split_adapter(folder, tmp_path / "one", by="language", languages=["sw"])
    assert list(one.parts) == ["sw"]
    with pytest.raises(UsageError, match=r"holds no adapter `sww`.*did you mean"):
        suture.split_adapter(folder, tmp_path / "no", by="language", languages=["sww"])
    with pytest.raises(UsageError, match=r"holds 2 adapters .de, sw.; say which"):
        suture.convert_adapter(folder, tmp_path / "no", to="peft")


def test_names_of_older_files(whole: Path, tmp_path: Path) -> None:
    """Law: `lora_A.default.weight`, and names without PEFT's prefix, come out as PEFT loads them, and once."""
    folder = tmp_path / "old"
    folder.mkdir()
    own = read_lora(whole)
    old = {n.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default."): r for n, r in own.items()}
    old["lm_head.modules_to_save.weight"] = old["lm_head.weight"]
    write_file(folder / WEIGHTS, old)
    (folder / CONFIG).write_bytes((whole / CONFIG).read_bytes())
    report = suture.split_adapter(folder, tmp_path / "out", by="layer")
    check_pieces(whole, tmp_path / "out", list(report.parts))
    suture.convert_adapter(folder, tmp_path / "one", to="peft")
    assert read_lora(tmp_path / "one") == own
    assert all(n.startswith(PREFIX) for n in suture.open(tmp_path / "one").names)


def test_a_pickled_adapter_is_split(whole: Path, tmp_path: Path) -> None:
    """Law: `adapter_model.bin` is read in place of safetensors by split, convert, merge, swap and fold alike."""
    folder = tmp_path / "pickled"
    folder.mkdir()
    write_torch(folder / "adapter_model.bin", {PREFIX + n: raw for n, raw in read_lora(whole).items()})
    (folder / CONFIG).write_bytes((whole / CONFIG).read_bytes())
    report = suture.split_adapter(folder, tmp_path / "out", by="layer", layers="0-1,2-3")
    check_pieces(whole, tmp_path / "out", list(report.parts))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"by": "tensor"}, "by: expected layer, module or language"),
    ({"by": "layer", "layers": "0-2"}, "layers: 3 is in no piece"),
    ({"by": "layer", "layers": "0-2,2-3"}, "share layers"),
    ({"by": "layer", "layers": "0-3,9"}, "`layer-9`: nothing of .* goes into this piece"),
    ({"by": "layer", "layers": "x"}, "expected layers such as"),
    ({"by": "layer", "stack": "encoder"}, "which stack"),
    ({"by": "layer", "modules": {"a": "b"}}, "modules: goes with by module"),
    ({"by": "module", "layers": "0"}, "layers: goes with by layer"),
    ({"by": "module", "modules": {"a": "("}}, "no regular expression"),
    ({"by": "module", "modules": {"a": "nothing", "b": "."}}, "`a`: nothing of"),
    ({"by": "module", "modules": {"rest": "mlp"}}, "is what no pattern takes"),
    ({"by": "module", "modules": {"a/b": "."}}, "`a/b`: is no name for a folder"),
    ({"by": "module", "modules": {"..": "."}}, "is no name for a folder"),
]


@pytest.mark.parametrize(("how", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_mistakes_are_refused(how: dict[str, Any], message: str, whole: Path, tmp_path: Path) -> None:
    """Law 8: what would drop a layer, or make nothing, is refused before anything is written."""
    with pytest.raises(UsageError, match=message):
        suture.split_adapter(whole, tmp_path / "out", **how)
    assert not (tmp_path / "out").exists()


def test_one_adapter_has_no_languages(whole: Path, tmp_path: Path) -> None:
    """Law 8: an adapter without a name beside others is not split by language."""
    with pytest.raises(SutureError, match="holds one adapter"):
        suture.split_adapter(whole, tmp_path / "out", by="language")


def interrupt(*_: Any) -> None:
    """Ctrl-C, just then."""
    raise KeyboardInterrupt


def test_what_was_interrupted_goes_on(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 6: pieces of a call that did not end are its own; another call does not take them for its own."""
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("suture.surgery.several._listed", interrupt)
        with pytest.raises(KeyboardInterrupt):
            suture.split_adapter(whole, out, by="layer", layers="0-1,2-3")
    assert (out / "rest").is_dir()
    assert not (out / "outputs.json").exists()
    with pytest.raises(SutureError, match=r"layers-0-1: is of another call, which did not end"):
        suture.split_adapter(whole, out, by="layer", layers="0,1-3")
    report = suture.split_adapter(whole, out, by="layer", layers="0-1,2-3")
    check_pieces(whole, out, list(report.parts))
    assert json.loads((out / "outputs.json").read_text())["outputs"].keys() == report.parts.keys()
    assert {p.name for p in out.iterdir()} == {*report.parts, "outputs.json"}


def test_what_is_there_is_replaced_if_asked(whole: Path, tmp_path: Path) -> None:
    """Law 6: an output is replaced with `overwrite` alone, and then pieces of an earlier split go."""
    out = tmp_path / "out"
    suture.split_adapter(whole, out, by="layer")
    dry = suture.split_adapter(whole, out, by="module", dry_run=True)
    assert any("exists" in w for w in dry.warnings)
    with pytest.raises(SutureError, match="exists"):
        suture.split_adapter(whole, out, by="layer", layers="0-3")
    report = suture.split_adapter(whole, out, by="layer", layers="0-3", settings=Settings(overwrite=True))
    assert {p.name for p in out.iterdir()} == {*report.parts, "outputs.json"}
    found = suture.verify(out)
    assert found["tensors"] == len(read_lora(whole))
    assert not found["differing"]


def test_a_dry_run_writes_nothing(whole: Path, tmp_path: Path) -> None:
    """Law 6: the plan of every piece, and no file; memory and dtype hold as everywhere."""
    how = Settings(memory="64MiB", dtype="bfloat16", threads=1)
    report = suture.split_adapter(whole, tmp_path / "out", by="layer", layers="0-3", dry_run=True, settings=how)
    assert set(report.parts) == {"layers-0-3", "rest"}
    assert not (tmp_path / "out").exists()
    suture.split_adapter(whole, tmp_path / "out", by="layer", layers="0-3", settings=how)
    assert {raw.dtype for raw in read_lora(tmp_path / "out" / "rest").values()} == {"BF16"}


@pytest.mark.parametrize("what", ["part", "store"])
def test_what_goes_to_folders_only_says_so(what: str, whole: Path, tmp_path: Path) -> None:
    """Law 8: parts and stores are refused by name, as by all that makes several outputs."""
    out = str(tmp_path / "out") if what == "part" else "s3://bucket/out"
    with pytest.raises(UsageError, match="part:" if what == "part" else "folders only"):
        suture.split_adapter(whole, out, by="layer", settings=Settings(part="1/2" if what == "part" else None))
