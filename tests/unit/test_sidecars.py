"""What lies beside the weights: config.json kept true, tokenizers carried over, suture.json, the index."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors

import suture

from ..support.checkpoints import INDEX_NAME, Raw, encode, llama_family, read_checkpoint, write_checkpoint

FULL, SLIDING = "full_attention", "sliding_attention"
KINDS = [SLIDING, SLIDING, FULL, SLIDING, SLIDING, FULL]
EMPTY_DIGEST = "99aa06d3014798d86001c324468d497f"

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 6,
    "eos_token_id": [128001, 128008, 128009],
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "short_factor": [1.0] * 6},
    "torch_dtype": "bfloat16",
}
MISTRAL: dict[str, Any] = {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "num_hidden_layers": 6,
    "sliding_window": 4096,
    "torch_dtype": "bfloat16",
}
QWEN2: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "num_hidden_layers": 6,
    "max_window_layers": 6,
    "use_sliding_window": False,
    "torch_dtype": "bfloat16",
}
QWEN3: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "num_hidden_layers": 6,
    "max_window_layers": 6,
    "layer_types": [FULL] * 6,
    "dtype": "bfloat16",
}
GEMMA2: dict[str, Any] = {
    "architectures": ["Gemma2ForCausalLM"],
    "model_type": "gemma2",
    "num_hidden_layers": 6,
    "layer_types": [SLIDING, FULL] * 3,
    "sliding_window": 4096,
    "torch_dtype": "bfloat16",
}
GEMMA3: dict[str, Any] = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3",
    "dtype": "bfloat16",
    "text_config": {
        "model_type": "gemma3_text",
        "num_hidden_layers": 6,
        "layer_types": KINDS,
        "sliding_window_pattern": 3,
        "dtype": "bfloat16",
    },
    "vision_config": {"num_hidden_layers": 6, "depths": [1, 2, 3, 4, 5, 6]},
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "gemma2": GEMMA2,
    "gemma3": GEMMA3,
}

# Which layers of the model the output is made of: dropped, stacked, repeated, out of order.
STACKS = {
    "whole": [(0, 6)],
    "dropped": [(0, 2), (5, 6)],
    "stacked": [(0, 4), (2, 6)],
    "repeated": [(1, 2)] * 4,
    "backwards": [(4, 6), (0, 2)],
    "tail": [(2, 6)],
}


def model(
    folder: Path, config: Mapping[str, Any], *, layers: int = 6, seed: int = 0, dtype: str = "BF16", shards: int = 1
) -> Path:
    """A model of `layers` layers, each with one tensor that holds its number."""
    prefix = "language_model.model.layers." if "text_config" in config else "model.layers."
    tensors = {"model.embed_tokens.weight": encode(np.full((4, 3), seed, np.float32), dtype)}
    for layer in range(layers):
        tensors[f"{prefix}{layer}.mlp.up_proj.weight"] = encode(np.full((3, 5), layer, np.float32), dtype)
    tensors["model.norm.weight"] = encode(np.ones(3, np.float32), dtype)
    return write_checkpoint(folder, tensors, config=config, shards=shards)


def stack(source: Path | Sequence[Path], ranges: Sequence[tuple[int, int]], out: Path, **recipe: Any) -> Any:
    """The config.json of these layers stacked; with several sources, slice by slice in turn."""
    sources = [source] * len(ranges) if isinstance(source, Path) else source
    slices = [
        {"sources": [{"model": str(path), "layer_range": list(layers)}]}
        for path, layers in zip(sources, ranges, strict=True)
    ]
    suture.merge({"merge_method": "passthrough", "slices": slices, **recipe}, out)
    return json.loads((out / "config.json").read_text())


def picked(values: Sequence[Any], ranges: Sequence[tuple[int, int]]) -> list[Any]:
    return [values[layer] for first, last in ranges for layer in range(first, last)]


def layers_of(folder: Path) -> list[int]:
    """For each output layer, the number of the layer that it was."""
    found = {
        int(match[1]): int(raw.values().flat[0])
        for name, raw in read_checkpoint(folder).items()
        if (match := re.search(r"layers\.(\d+)\.", name))
    }
    return [found[layer] for layer in range(len(found))]


@pytest.mark.parametrize("ranges", STACKS.values(), ids=STACKS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_config_follows_the_layers(kind: str, ranges: list[tuple[int, int]], tmp_path: Path) -> None:
    """The layer count and every per-layer list say what the layers now are; all else is as it was."""
    config = CONFIGS[kind]
    out = stack(model(tmp_path / "in", config), ranges, tmp_path / "out")
    expected = json.loads(json.dumps(config))
    section = expected.get("text_config", expected)
    section["num_hidden_layers"] = sum(last - first for first, last in ranges)
    if "layer_types" in section:
        section["layer_types"] = picked(section["layer_types"], ranges)
    if "max_window_layers" in section:
        section["max_window_layers"] = section["num_hidden_layers"]
    assert out == expected
    assert layers_of(tmp_path / "out") == picked(range(6), ranges)


@pytest.mark.parametrize("ranges", STACKS.values(), ids=STACKS)
def test_windows_stay_with_their_layers(ranges: list[tuple[int, int]], tmp_path: Path) -> None:
    """Qwen2 gives a window to the layers from `max_window_layers` on; a moved layer keeps what it had."""
    config = QWEN2 | {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 3}
    out = stack(model(tmp_path / "in", config), ranges, tmp_path / "out")
    count = out["num_hidden_layers"]
    derived = [SLIDING if layer >= out.get("max_window_layers", count) else FULL for layer in range(count)]
    assert out.get("layer_types", derived) == picked([FULL] * 3 + [SLIDING] * 3, ranges)


def test_each_layer_brings_its_own_entry(tmp_path: Path) -> None:
    """Stacked from two models, a per-layer list has the entries of the model each layer came from."""
    first = model(tmp_path / "a", GEMMA2)
    second = model(tmp_path / "b", GEMMA2 | {"layer_types": [FULL] * 6, "rope_layers": [1] * 6})
    out = stack([first, second, first], [(0, 2), (0, 3), (5, 6)], tmp_path / "out")
    assert out["layer_types"] == [SLIDING, FULL, FULL, FULL, FULL, FULL]
    assert "rope_layers" not in out


@pytest.mark.parametrize("key", ["architectures", "eos_token_id"])
def test_a_list_that_only_happens_to_be_as_long_is_left_alone(key: str, tmp_path: Path) -> None:
    """In a model of as many layers as it has end tokens, the end tokens are still no per-layer list."""
    values = ["LlamaForCausalLM"] if key == "architectures" else [2, 7, 32000]
    config = {"model_type": "llama", "num_hidden_layers": len(values), key: values}
    source = model(tmp_path / "in", config, layers=len(values))
    out = stack(source, [(0, 1), (0, 1)], tmp_path / "out")
    assert out == config | {"num_hidden_layers": 2}


@pytest.mark.parametrize("name", ["n_layer", "num_layers", "n_layers"])
def test_the_count_has_several_names(name: str, tmp_path: Path) -> None:
    """GPT-2 and its like call the number of layers otherwise."""
    config = {"model_type": "gpt2", name: 6, "layer_flavours": ["global", "local"] * 3}
    out = stack(model(tmp_path / "in", config), [(0, 3), (2, 6)], tmp_path / "out")
    assert out == config | {
        name: 7,
        "layer_flavours": ["global", "local", "global", "global", "local", "global", "local"],
    }


def test_a_merge_of_whole_models_keeps_the_config(tmp_path: Path) -> None:
    """Where no layer moves, config.json is the base's, every key of it, and never a random input's."""
    paths = [model(tmp_path / name, GEMMA3 | {"name": name}, seed=n) for n, name in enumerate("abc")]
    models = [{"model": str(path), "parameters": {"weight": 1.0}} for path in paths[:2]]
    recipe = {"merge_method": "task_arithmetic", "base_model": str(paths[2]), "models": models}
    suture.merge(recipe, tmp_path / "with-base")
    assert json.loads((tmp_path / "with-base" / "config.json").read_text()) == GEMMA3 | {"name": "c"}
    suture.merge({"merge_method": "linear", "models": models}, tmp_path / "without")
    assert json.loads((tmp_path / "without" / "config.json").read_text()) == GEMMA3 | {"name": "a"}
    suture.swap(paths[1], paths[0], tmp_path / "swapped", bottom=1)
    assert json.loads((tmp_path / "swapped" / "config.json").read_text()) == GEMMA3 | {"name": "b"}


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3"])
def test_the_dtype_is_said(kind: str, tmp_path: Path) -> None:
    """The dtype of the output is in config.json, under the key that the model uses, nested ones too."""
    source = model(tmp_path / "in", CONFIGS[kind])
    out = stack(source, [(0, 6)], tmp_path / "out", dtype="float32")
    stored = json.dumps(out)
    assert '"bfloat16"' not in stored
    assert stored.count('"float32"') == json.dumps(CONFIGS[kind]).count('"bfloat16"')
    assert {raw.dtype for raw in read_checkpoint(tmp_path / "out").values()} == {"F32"}


def test_the_dtype_is_said_where_only_the_inputs_decide_it(tmp_path: Path) -> None:
    """A bf16 base and an f32 fine-tune give an f32 merge, whatever the base's config said of the base."""
    base = model(tmp_path / "base", LLAMA)
    tuned = model(tmp_path / "tuned", LLAMA | {"torch_dtype": "float32"}, dtype="F32")
    models = [{"model": str(path), "parameters": {"weight": 0.5}} for path in (base, tuned)]
    suture.merge({"merge_method": "linear", "models": models}, tmp_path / "out")
    stored = {raw.dtype for raw in read_checkpoint(tmp_path / "out").values()}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert [{"float32": "F32", "bfloat16": "BF16"}[config["torch_dtype"]]] == list(stored)


CARRIED = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "preprocessor_config.json",
    "modules.json",
    "configuration_custom.py",
    "modeling_custom.py",
    "LICENSE",
    "1_Pooling/config.json",
    "additional_chat_templates/tool.jinja",
]
LEFT = [
    "README.md",
    "pytorch_model.bin",
    "pytorch_model-00001-of-00002.bin",
    "pytorch_model.bin.index.json",
    "consolidated.00.pth",
    "model.gguf",
    "tf_model.h5",
    "flax_model.msgpack",
    "model.onnx",
    "adapter_config.json",
    "adapter_model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state_0.pth",
    "training_args.bin",
    "trainer_state.json",
    "runs/Jan01_host/events.out.tfevents.1700000000.host.1.0",
    "checkpoint-500/model.safetensors",
    "checkpoint-500/tokenizer.json",
    "onnx/model.onnx",
    "original/consolidated.00.pth",
    "original/tokenizer.model",
    ".gitattributes",
    ".git/config",
    ".cache/huggingface/download/tokenizer.json.metadata",
    "suture.json",
]


def test_what_is_carried_over(tmp_path: Path) -> None:
    """Tokenizers, templates, code and subfolders come along byte for byte; weights and training state do not."""
    source = model(tmp_path / "in", LLAMA)
    for number, name in enumerate(CARRIED + LEFT):
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{number} {name}\n".encode() + bytes([0xFF, 0, 13, 10]))
    # Beside an adapter's weights lies the model's own index, which says what the model is.
    (source / INDEX_NAME).write_text(
        json.dumps({"weight_map": dict.fromkeys(read_checkpoint(source / "model.safetensors"), "model.safetensors")})
    )
    suture.swap(source, source, tmp_path / "out", bottom=1)
    found = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert found == {*CARRIED, "config.json", "model.safetensors", "suture.json"}
    for name in CARRIED:
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes(), name


def test_a_dry_run_names_the_files(tmp_path: Path) -> None:
    """The plan lists what will lie beside the weights."""
    source = model(tmp_path / "in", LLAMA)
    (source / "tokenizer.json").write_text("{}")
    report = suture.swap(source, source, tmp_path / "out", bottom=1, dry_run=True)
    assert sorted(report.data["sidecars"]) == ["config.json", "tokenizer.json"]


def test_a_snapshot_of_links_is_followed(tmp_path: Path) -> None:
    """A folder of links, as the Hugging Face cache has it, is a model; the output is of plain files."""
    source = model(tmp_path / "in", LLAMA, shards=2)
    (source / "tokenizer.json").write_text("{}")
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(source.iterdir())):
        path.rename(blobs / f"{number:040x}")
        (snapshot / path.name).symlink_to(os.path.relpath(blobs / f"{number:040x}", snapshot))
    suture.swap(snapshot, snapshot, tmp_path / "out", bottom=1)
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    assert read_checkpoint(tmp_path / "out") == read_checkpoint(snapshot)
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"


def test_a_model_without_a_config_gets_none(tmp_path: Path) -> None:
    """No config.json is made up."""
    source = model(tmp_path / "in", LLAMA)
    (source / "config.json").unlink()
    suture.swap(source, source, tmp_path / "out", bottom=1)
    assert not (tmp_path / "out" / "config.json").exists()


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_a_broken_config_is_refused(text: str, tmp_path: Path) -> None:
    """Law 8: a config.json that is none is an error that names it, before anything is written."""
    source = model(tmp_path / "in", LLAMA)
    (source / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(suture.SutureError, match=r"config\.json"):
        suture.swap(source, source, tmp_path / "out", bottom=1)
    assert not (tmp_path / "out").exists()


def test_odd_characters_survive(tmp_path: Path) -> None:
    """config.json is text in UTF-8 and stays that, with its keys in their order."""
    config = {"zeta": "größe 名前 🙂", "num_hidden_layers": 6, "alpha": None}
    stack(model(tmp_path / "in", config), [(0, 2)], tmp_path / "out")
    text = (tmp_path / "out" / "config.json").read_text(encoding="utf-8")
    assert "größe 名前 🙂" in text
    assert list(json.loads(text)) == ["zeta", "num_hidden_layers", "alpha"]


def test_suture_json_says_how_it_was_made(tmp_path: Path) -> None:
    """The recipe, the plan's hash, the version, and a digest for every input and every output tensor; where on this
    machine the models lie is not in it."""
    into, donor = llama_family(tmp_path, layers=3, hidden=16, heads=2, kv_heads=1, ff=24, vocab=20, n=1)
    plan = suture.swap(into, donor, tmp_path / "out", bottom=1, transition=1, dry_run=True).data
    report = suture.swap(into, donor, tmp_path / "out", bottom=1, transition=1)
    record = json.loads((tmp_path / "out" / "suture.json").read_text())
    assert record == report.data
    assert record["suture"] == suture.__version__
    assert record["plan"] == plan["hash"]
    assert record["recipe"]["swap"]["donors"][0]["bottom"] == 1
    assert record["recipe"]["swap"]["into"] == into.name
    assert [entry["path"] for entry in record["models"]] == [into.name, donor.name]
    assert str(tmp_path) not in (tmp_path / "out" / "suture.json").read_text()

    inputs = {path.name: read_checkpoint(path) for path in (into, donor)}
    out = read_checkpoint(tmp_path / "out")
    assert sorted(record["tensors"]) == sorted(out)
    digests: dict[bytes, str] = {}
    for name, entry in record["tensors"].items():
        seen = [(out[name].data, entry["digest"])]
        seen += [(inputs[label][tensor].data, digest) for label, tensor, digest in entry["from"]]
        for content, digest in seen:
            assert re.fullmatch("[0-9a-f]{32}", digest), name
            assert digests.setdefault(content, digest) == digest, name
        assert (entry["action"], len(entry["from"])) == (("linear", 2) if "layers.1." in name else ("copy", 1)), name
    assert len(set(digests.values())) == len(digests)


def test_the_digest_is_the_one_it_is_called(tmp_path: Path) -> None:
    """A known answer: no leaves, and XXH3-128 of nothing."""
    source = write_checkpoint(tmp_path / "in", {"a": Raw("F32", (0,), b"")})
    report = suture.merge({"merge_method": "passthrough", "models": [{"model": str(source)}]}, tmp_path / "out")
    assert report.data["tensors"]["a"]["digest"] == EMPTY_DIGEST


def test_the_plan_is_known_by_its_hash(tmp_path: Path) -> None:
    """Law 3: the hash is of what decides the output's bytes: not of paths or threads, but of every parameter."""
    sources = [model(tmp_path / name / "in", LLAMA) for name in "ab"]
    donor = model(tmp_path / "donor", LLAMA)

    def plan(source: Path, blend: float = 0.5, **settings: Any) -> str:
        report = suture.swap(
            source, donor, tmp_path / "out", bottom=1, transition=1, blend=blend, dry_run=True,
            settings=suture.Settings(**settings),
        )  # fmt: skip
        return str(report.data["hash"])

    first = plan(sources[0])
    assert first == plan(sources[1]) == plan(sources[0], threads=5, memory="300MiB", io="pread")
    others = [plan(sources[0], blend=0.25), plan(sources[0], dtype="float32"), plan(sources[0], shard_size="100")]
    assert len({first, *others}) == 4


@pytest.mark.parametrize("shard_size", [None, "1MB", "100", "1"])
def test_the_index_is_right(shard_size: str | None, tmp_path: Path) -> None:
    """The index lists every tensor where it is, and the bytes in all; a lone file has none."""
    source = model(tmp_path / "in", LLAMA)
    out = tmp_path / "out"
    suture.merge(
        {"merge_method": "passthrough", "models": [{"model": str(source)}]},
        out,
        settings=suture.Settings(shard_size=shard_size),
    )
    files = sorted(path.name for path in out.glob("*.safetensors"))
    stored = {file: content(out / file) for file in files}
    if shard_size in (None, "1MB"):
        assert files == ["model.safetensors"]
        assert not (out / INDEX_NAME).exists()
        return
    count = len(files)
    assert files == [f"model-{n:05}-of-{count:05}.safetensors" for n in range(1, count + 1)]
    index = json.loads((out / INDEX_NAME).read_text())
    assert index["weight_map"] == {name: file for file, tensors in stored.items() for name in tensors}
    total = sum(len(raw.data) for tensors in stored.values() for raw in tensors.values())
    assert index["metadata"]["total_size"] == total
    if shard_size == "1":
        assert all(len(tensors) == 1 for tensors in stored.values())


def content(path: Path) -> dict[str, Raw]:
    """What the safetensors package reads in a file, its metadata checked."""
    with safetensors.safe_open(path, framework="np") as file:
        assert file.metadata() == {"format": "pt"}
    deserialize: Callable[[bytes], list[tuple[str, dict[str, Any]]]] = safetensors.deserialize
    read = deserialize(path.read_bytes())
    return {name: Raw(t["dtype"], tuple(t["shape"]), bytes(t["data"])) for name, t in read}


DTYPES = (
    "BOOL",
    "U8",
    "I8",
    "I16",
    "U16",
    "F16",
    "BF16",
    "I32",
    "U32",
    "F32",
    "F64",
    "I64",
    "U64",
    "F8_E4M3",
    "F8_E5M2",
)


def test_the_safetensors_package_reads_every_output(tmp_path: Path) -> None:
    """The files are what others read: every dtype, odd sizes, scalars, names in any script, several shards."""
    widths = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2}
    widths |= {"I32": 4, "U32": 4, "F32": 4}
    tensors = {}
    for number, dtype in enumerate(DTYPES):
        for shape in ((), (3, 5), (0, 2), (1, 1, 7)):
            size = int(np.prod(shape)) * widths.get(dtype, 8)
            tensors[f"größe.{dtype}.{shape}"] = Raw(dtype, shape, bytes((number + i) % 2 for i in range(size)))
    source = write_checkpoint(tmp_path / "in", tensors, shards=2)
    for limit in (None, "300"):
        out = tmp_path / f"out-{limit}"
        suture.merge(
            {"merge_method": "passthrough", "models": [{"model": str(source)}]},
            out,
            settings=suture.Settings(shard_size=limit),
        )
        found = {name: raw for path in out.glob("*.safetensors") for name, raw in content(path).items()}
        assert found == tensors
    into, donor = llama_family(tmp_path, layers=3, hidden=16, heads=2, kv_heads=1, ff=24, vocab=20, n=1, shards=2)
    suture.swap(into, donor, tmp_path / "swapped", bottom=1, transition=1)
    found = {n: raw for path in (tmp_path / "swapped").glob("*.safetensors") for n, raw in content(path).items()}
    assert found == read_checkpoint(tmp_path / "swapped")


def whole(*models: Path) -> dict[str, Any]:
    listed = [{"model": str(m), "parameters": {"weight": 0.5}} for m in models]
    return {"merge_method": "linear", "models": listed}


def sliced(*models: Path) -> dict[str, Any]:
    sources = [{"model": str(m), "layer_range": [0, 2], "parameters": {"weight": 0.5}} for m in models]
    return {"merge_method": "linear", "slices": [{"sources": sources, "base_model": str(models[0])}]}


def weighed(*models: Path) -> dict[str, Any]:
    value = [{"filter": "mlp", "value": str(models[1])}, {"value": str(models[0])}]
    return {"merge_method": "fisher", "models": [{"model": str(m), "parameters": {"fisher": value}} for m in models]}


def in_modules(*models: Path) -> dict[str, Any]:
    return {"merge_method": "linear", "modules": {"all": {"models": whole(*models)["models"][:2]}}}


def in_documents(*models: Path) -> list[dict[str, Any]]:
    return [whole(*models) | {"name": "made"}, whole(Path("made"), models[1])]


Write = Callable[[list[Path], Path, suture.Settings], object]
TOLD: dict[str, Write] = {
    "models": lambda m, o, s: suture.merge(whole(*m), o, settings=s),
    "slices": lambda m, o, s: suture.merge(sliced(*m), o, settings=s),
    "modules": lambda m, o, s: suture.merge(in_modules(*m), o, settings=s),
    "parameters": lambda m, o, s: suture.merge(weighed(*m), o, settings=s),
    "base": lambda m, o, s: suture.merge(
        whole(*m[1:]) | {"merge_method": "ties", "base_model": str(m[0]), "parameters": {"density": 0.5}}, o, settings=s
    ),
    "outputs": lambda m, o, s: suture.merge(whole(*m) | {"outputs": {"a": {}, "b": {}}}, o, settings=s),
    "documents": lambda m, o, s: suture.merge(as_documents(o, in_documents(*m)), o, settings=s),
    "swap": lambda m, o, s: suture.swap(m[1], m[2], o, bottom=1, settings=s),
    "swap of several": lambda m, o, s: suture.swap(m[0], {str(m[1]): "0", str(m[2]): "1"}, o, settings=s),
    "swap of changes": lambda m, o, s: suture.swap(m[1], m[2], o, top=1, base=m[0], donor_base=m[0], settings=s),
    "revert": lambda m, o, s: suture.revert(m[0], m[1], o, layers="0", settings=s),
}


def as_documents(out: Path, documents: list[dict[str, Any]]) -> Path:
    path = out.with_name("config.yml")
    path.write_text("\n---\n".join(map(json.dumps, documents)))
    return path


@pytest.mark.parametrize("form", TOLD)
def test_where_models_lay_is_told_to_nobody(form: str, tmp_path: Path) -> None:
    """Card, report and list of outputs call models by their folders' names: no path of this machine is in them."""
    models = llama_family(tmp_path / "secret", layers=2, n=2, hidden=8, heads=2, kv_heads=1, ff=12, vocab=10)
    TOLD[form](models, tmp_path / "out", suture.Settings(model_card=True))
    texts = [p for p in (tmp_path / "out").rglob("*") if p.name in ("README.md", "suture.json", "outputs.json")]
    assert {p.name for p in texts} >= {"README.md", "suture.json"}
    for path in texts:
        text = path.read_text()
        assert str(tmp_path) not in text
        assert "secret" not in text
        if path.name == "README.md":
            recipe = json.loads(text.partition("```json\n")[2].partition("```")[0])
            assert recipe == json.loads((path.parent / "suture.json").read_text())["recipe"]
            assert models[1].name in text
