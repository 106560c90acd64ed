"""What stands beside an output's weights: its config after slices, the files that are the model's, and no others."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..support.checkpoints import Raw, encode, read_checkpoint, write_checkpoint, write_file
from ..support.verbs import VERBS

Config = dict[str, Any]


def layers(prefix: str, count: int, seed: int) -> dict[str, Raw]:
    rng = np.random.default_rng(seed)
    names = [f"{prefix}{i}.mlp.fc1.weight" for i in range(count)]
    return {n: encode(rng.normal(0, 1, (4, 4)), "F32") for n in names}


#: A config, its stacks, the main one first, and the keys that count the layers of each.
COUNTED: dict[str, tuple[Config, dict[str, int], dict[str, list[str]]]] = {
    "llama": (
        {"model_type": "llama", "num_hidden_layers": 4},
        {"model.layers.": 4},
        {"model.layers.": ["num_hidden_layers"]},
    ),
    "gpt-2": ({"model_type": "gpt2", "n_layer": 4}, {"transformer.h.": 4}, {"transformer.h.": ["n_layer"]}),
    "bart": (
        {
            "model_type": "bart",
            "encoder_layers": 3,
            "decoder_layers": 4,
            "num_hidden_layers": 3,
            "is_encoder_decoder": True,
        },
        {"model.decoder.layers.": 4, "model.encoder.layers.": 3},
        {
            "model.decoder.layers.": ["decoder_layers"],
            "model.encoder.layers.": ["encoder_layers", "num_hidden_layers"],
        },
    ),
    "whisper, as many of both": (
        {
            "model_type": "whisper",
            "encoder_layers": 4,
            "decoder_layers": 4,
            "num_hidden_layers": 4,
            "is_encoder_decoder": True,
        },
        {"model.decoder.layers.": 4, "model.encoder.layers.": 4},
        {
            "model.decoder.layers.": ["decoder_layers"],
            "model.encoder.layers.": ["encoder_layers", "num_hidden_layers"],
        },
    ),
    "t5": (
        {"model_type": "t5", "num_layers": 3, "num_decoder_layers": 4, "is_encoder_decoder": True},
        {"decoder.block.": 4, "encoder.block.": 3},
        {"decoder.block.": ["num_decoder_layers"], "encoder.block.": ["num_layers"]},
    ),
    "t5, one count for both": (
        {"model_type": "t5", "num_layers": 4, "is_encoder_decoder": True},
        {"decoder.block.": 4, "encoder.block.": 4},
        {"decoder.block.": ["num_decoder_layers"], "encoder.block.": ["num_layers"]},
    ),
    "llava": (
        {
            "model_type": "llava",
            "text_config": {"model_type": "llama", "num_hidden_layers": 4, "tie_word_embeddings": True},
            "vision_config": {"num_hidden_layers": 4, "model_type": "clip_vision_model"},
        },
        {"language_model.model.layers.": 4, "vision_tower.encoder.layers.": 4},
        {
            "language_model.model.layers.": ["text_config.num_hidden_layers"],
            "vision_tower.encoder.layers.": ["vision_config.num_hidden_layers"],
        },
    ),
    "qwen2-vl": (
        {"model_type": "qwen2_vl", "num_hidden_layers": 4, "vision_config": {"depth": 3, "model_type": "qwen2_vl"}},
        {"model.layers.": 4, "visual.blocks.": 3},
        {"model.layers.": ["num_hidden_layers"], "visual.blocks.": ["vision_config.depth"]},
    ),
}


def at(config: Config, path: str, value: Any) -> None:
    """Sets a value inside of a config."""
    *outer, last = path.split(".")
    for key in outer:
        config = config[key]
    config[last] = value


@pytest.mark.parametrize("cut", ["fewer", "more", "as many"])
@pytest.mark.parametrize(
    ("name", "number"),
    [(n, i) for n, c in COUNTED.items() for i in range(len(c[1])) if (n, i) != ("t5, one count for both", 0)],
)
def test_slices_change_the_counts_of_their_stack_alone(name: str, number: int, cut: str, place: Path) -> None:
    """After slices the config is as it was but for the keys that count the stack that was cut."""
    config, stacks, keys = COUNTED[name]
    prefix, count = list(stacks.items())[number]
    tensors: dict[str, Raw] = {}
    for p, n in stacks.items():
        tensors |= layers(p, n, len(p))
    model = write_checkpoint(place / "m", tensors, config=config)
    runs = {"fewer": [(0, 2)], "more": [(0, count), (1, count)], "as many": [(0, 1), (1, count)]}[cut]
    slices = [{"sources": [{"model": str(model), "layer_range": list(run)}]} for run in runs]
    # What T5 has in its first layer alone does not matter here.
    how = suture.Settings(allow_mixed=True)
    stack = {} if number == 0 else {"stack": prefix}
    suture.merge({"merge_method": "passthrough", "slices": slices, **stack}, place / "out", settings=how)
    found = json.loads((place / "out" / "config.json").read_text())
    for key in ("torch_dtype", "dtype"):
        found.pop(key, None)
    wanted = copy.deepcopy(config)
    after = sum(b - a for a, b in runs)
    for key in keys[prefix]:
        at(wanted, key, after)
    if cut == "as many":
        wanted = config
    if config.get("model_type") == "t5" and "num_decoder_layers" not in config and number == 1 and cut != "as many":
        # Without a count of its own the decoder would follow the encoder.
        wanted["num_decoder_layers"] = 4
    assert found == wanted
    # The output is a model of that config: nothing to doubt.
    assert suture.inspect(place / "out")["warnings"] == []
    got = {s["prefix"]: s["layers"] for s in suture.inspect(place / "out")["stacks"]}
    assert got == {**stacks, prefix: after}


FILES = {
    "tokenizer.json": "{}",
    "tokenizer_config.json": "{}",
    "generation_config.json": "{}",
    "preprocessor_config.json": "{}",
    "chat_template.jinja": "x",
    "modeling_x.py": "x = 1",
    "special_tokens_map.json": "{}",
}
LEFT = {
    "events.out.tfevents.1700000000.host.1.0": "x",
    "data.parquet": "x",
    "all_results.json": "{}",
    "train_results.json": "{}",
    "eval_results.json": "{}",
    "trainer_state.json": "{}",
    "training_args.bin": "x",
    "optimizer.pt": "x",
    "scheduler.pt": "x",
    "rng_state.pth": "x",
    "zero_to_fp32.py": "x",
    "latest": "global_step10",
    "mergekit_config.yml": "x",
    "quantize_config.json": "{}",
    "pytorch_model.bin": "x",
    "model.gguf": "x",
    "suture.json": "{}",
    ".gitattributes": "x",
    "runs/Nov26/events.out.tfevents.1": "x",
    "checkpoint-500/tokenizer.json": "{}",
    "global_step10/zero_pp_rank_0_mp_rank_00_optim_states.pt": "x",
}
PLAIN = {"model_type": "llama", "num_hidden_layers": 2}


def filled(folder: Path, files: Mapping[str, str], seed: int = 0) -> Path:
    write_checkpoint(folder, layers("model.layers.", 2, seed), config=PLAIN)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def names_in(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("verb", VERBS)
def test_what_a_training_run_left_stays_behind(verb: str, place: Path) -> None:
    """Files of the model go along, those of a training run or of another tool do not, whichever the verb."""
    a, b = filled(place / "a", FILES | LEFT), filled(place / "b", {"other.json": "{}"}, 1)
    VERBS[verb](a, b, place / "out")
    own = {"config.json", "model.safetensors", "suture.json", "model.safetensors.index.json"}
    assert names_in(place / "out") - own == set(FILES)
    assert json.loads((place / "out" / "suture.json").read_text()) != {}


PARTS = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
]


@pytest.mark.parametrize("verb", VERBS)
def test_the_parts_that_modules_json_names_go_along(verb: str, place: Path) -> None:
    """Subfolders that modules.json names are carried, with weights of their own too, which is told."""
    a = filled(place / "a", {"modules.json": json.dumps(PARTS), "1_Pooling/config.json": "{}"})
    (a / "2_Dense").mkdir()
    (a / "2_Dense" / "config.json").write_text("{}")
    write_file(a / "2_Dense" / "model.safetensors", {"linear.weight": encode(np.ones((2, 2)), "F32")})
    (a / "3_Other").mkdir()
    write_file(a / "3_Other" / "model.safetensors", {"linear.weight": encode(np.ones((2, 2)), "F32")})
    b = filled(place / "b", {}, 1)
    report = VERBS[verb](a, b, place / "out")
    there = names_in(place / "out")
    assert {"modules.json", "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"} <= there
    assert not [n for n in there if n.startswith("3_Other")]
    assert (place / "out" / "2_Dense" / "model.safetensors").read_bytes() == (
        a / "2_Dense" / "model.safetensors"
    ).read_bytes()
    assert [w for w in report.warnings if "2_Dense" in w]
    assert read_checkpoint(place / "out").keys() == layers("model.layers.", 2, 0).keys()
    assert suture.verify(place / "out")["differing"] == []


@pytest.mark.parametrize(
    "path", ["..", "../a-secret", "/etc", "x/../../a-secret", ".", "link", "\x00", "1_Pooling/../.."]
)
def test_parts_lead_nowhere_else(path: str, place: Path) -> None:
    """Hostile input: what modules.json names is a folder inside of the model's, or it is not carried."""
    (place / "a-secret").mkdir()
    (place / "a-secret" / "secret.json").write_text("{}")
    a = filled(place / "a", {"modules.json": json.dumps([{"path": path}]), "1_Pooling/config.json": "{}"})
    (a / "link").symlink_to(place / "a-secret")
    b = filled(place / "b", {}, 1)
    suture.swap(a, b, place / "out", layers="0")
    assert not [n for n in names_in(place / "out") if "secret" in n]
    assert {p.name for p in place.iterdir()} == {"a", "a-secret", "b", "out"}


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "null", "3", "[3]", '[{"path": 3}]', '[{"path": null}]', '{"a": 3}', "{"]
)
def test_a_modules_json_of_nonsense_stops_nothing(content: str, place: Path) -> None:
    """Hostile input: a list of parts that is none."""
    for i, name in enumerate(("modules.json", "model_index.json")):
        a = filled(place / f"a{i}", {name: content})
        suture.swap(a, filled(place / f"b{i}", {}, 1), place / f"out-{i}", layers="0")
