"""Configs that do not go together, or make no sense: refused by every verb that would make something of them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..support.checkpoints import Raw, encode, read_checkpoint, write_checkpoint

Config = dict[str, Any]


def tensors(seed: int, layers: int = 2, prefix: str = "model.layers.", outside: bool = True) -> dict[str, Raw]:
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = (
        {"model.embed_tokens.weight": (10, 8), "lm_head.weight": (10, 8)} if outside else {}
    )
    for i in range(layers):
        names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj")
        shapes |= {f"{prefix}{i}.{name}.weight": (8, 8) for name in names}
    return {name: encode(rng.normal(size=shape).astype(np.float32), "F32") for name, shape in shapes.items()}


def config(layers: int = 2, **more: Any) -> Config:
    return {"model_type": "llama", "num_hidden_layers": layers, **more}


def linear(*models: Path, **more: Any) -> Config:
    return {
        "merge_method": "linear",
        "models": [{"model": str(m), "parameters": {"weight": 0.5}} for m in models],
        **more,
    }


def stacked(a: Path, b: Path) -> Config:
    return {
        "merge_method": "passthrough",
        "slices": [{"sources": [{"model": str(m), "layer_range": [0, 1]}]} for m in (a, b)],
    }


VERBS: dict[str, Callable[[Path, Path, Path, suture.Settings], suture.Report]] = {
    "models": lambda a, b, out, how: suture.merge(linear(a, b), out, settings=how, dry_run=True),
    "slices": lambda a, b, out, how: suture.merge(stacked(a, b), out, settings=how, dry_run=True),
    "modules": lambda a, b, out, how: suture.merge(
        {
            "merge_method": "linear",
            "modules": {"rest": {"models": linear(a)["models"]}, "self_attn": {"models": linear(b)["models"]}},
        },
        out, settings=how, dry_run=True,
    ),
    "swap": lambda a, b, out, how: suture.swap(a, b, out, layers="0", settings=how, dry_run=True),
    "revert": lambda a, b, out, how: suture.revert(b, a, out, layers="0", settings=how, dry_run=True),
}  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_models_with_other_heads_are_not_mixed(verb: str, tmp_path: Path) -> None:
    """Tensors of the same shapes that are cut into other heads are other functions; `compat` says so too."""
    a = write_checkpoint(tmp_path / "a", tensors(1), config=config(num_attention_heads=2, num_key_value_heads=2))
    b = write_checkpoint(tmp_path / "b", tensors(2), config=config(num_attention_heads=4, num_key_value_heads=4))
    with pytest.raises(suture.SutureError, match=r"heads"):
        VERBS[verb](a, b, tmp_path / "out", suture.Settings())
    found = suture.compat(a, b)
    assert (found["merge"]["answer"], found["swap"]["answer"]) == ("no", "no")


def quantised(seed: int) -> dict[str, Raw]:
    rng = np.random.default_rng(seed)
    made = {"model.embed_tokens.weight": encode(rng.normal(size=(10, 16)).astype(np.float32), "F32")}
    for i in range(2):
        at = f"model.layers.{i}.self_attn.q_proj."
        made[f"{at}qweight"] = encode(rng.integers(-9, 9, (2, 16)).astype(np.int32), "I32")
        made[f"{at}qzeros"] = encode(rng.integers(-9, 9, (2, 2)).astype(np.int32), "I32")
        made[f"{at}scales"] = encode(rng.normal(size=(2, 16)).astype(np.float32), "F16")
    return made


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 8, "sym": True}


@pytest.mark.parametrize(
    "other", [None, {"quant_method": "awq"}, {"sym": False}, {"bits": 8}, {"desc_act": True}], ids=str
)
@pytest.mark.parametrize("verb", ["slices", "swap", "revert"])
def test_weights_are_not_moved_among_others_that_are_quantised_otherwise(
    verb: str, other: Config | None, tmp_path: Path
) -> None:
    """By another method, or with other parameters: no config says what that is. Lists of modules do not count."""
    a = write_checkpoint(tmp_path / "a", quantised(1), config=config(quantization_config=GPTQ))
    said: Config = {} if other is None else {"quantization_config": {**GPTQ, **other}}
    b = write_checkpoint(tmp_path / "b", quantised(2), config=config(**said))
    for pair in ((a, b), (b, a)):
        with pytest.raises(suture.SutureError, match=r"quantization_config|cannot be mixed"):
            VERBS[verb](*pair, tmp_path / "out", suture.Settings())
        assert suture.compat(*pair)["swap"]["answer"] == "no"
        how = suture.Settings(allow_mixed=True)
        if other is None or other.keys() & {"quant_method", "bits", "desc_act"}:
            # What is stored in another form fits no config, whatever is said of it; so does an order that nobody knows.
            with pytest.raises(suture.SutureError, match="cannot be mixed"):
                VERBS[verb](*pair, tmp_path / "out", how)
        else:
            told = VERBS[verb](*pair, tmp_path / "out", how).warnings
            assert any("quantization_config" in w for w in told)
    same = {**GPTQ, "modules_to_not_convert": ["lm_head"], "dataset": "c4"}
    c = write_checkpoint(tmp_path / "c", quantised(3), config=config(quantization_config=same))
    VERBS[verb](a, c, tmp_path / "out", suture.Settings())
    assert suture.compat(a, c)["swap"]["answer"] != "no"


def two_towers(folder: Path, seed: int, **acts: str) -> Path:
    made = tensors(seed, 3, "language_model.model.layers.", False) | tensors(
        seed + 9, 2, "vision_tower.encoder.layers.", False
    )
    said = {
        "model_type": "llava",
        "text_config": {"model_type": "llama", "num_hidden_layers": 3, "hidden_act": acts.get("text", "silu")},
        "vision_config": {
            "model_type": "siglip_vision_model",
            "num_hidden_layers": 2,
            "hidden_act": acts.get("vision", "gelu"),
        },
    }
    return write_checkpoint(folder, made, config=said)


def test_every_stack_that_is_merged_is_compared_and_no_other(tmp_path: Path) -> None:
    """Another activation of the vision tower stops what takes of it and nothing else; so does the text's."""
    a, vision, text = (two_towers(tmp_path / n, i, **{n: "relu"}) for i, n in enumerate(("a", "vision", "text")))
    for other, own in ((vision, "vision_tower"), (text, "language_model")):
        rest = {"vision_tower": "language_model", "language_model": "vision_tower"}[own]
        assert suture.compat(a, other)["merge"]["answer"] == "no"
        for made in (linear(a, other), linear(a, other, include=[own])):
            with pytest.raises(suture.SutureError, match=r"activation .*'relu', not "):
                suture.merge(made, tmp_path / "out", dry_run=True)
        assert not suture.merge(linear(a, other, include=[rest]), tmp_path / "out", dry_run=True).warnings
        modules = {name: {"models": linear(m)["models"]} for name, m in ((own, other), (rest, a))}
        with pytest.raises(suture.SutureError, match=r"'relu', not "):
            suture.merge(
                {"merge_method": "linear", "base_model": str(a), "modules": modules}, tmp_path / "out", dry_run=True
            )


@pytest.mark.parametrize("form", ["head left out", "table left out", "slices"])
@pytest.mark.parametrize("truth", [True, 1])
def test_a_head_that_is_made_otherwise_than_its_table_is_none_of_it(form: str, truth: Any, tmp_path: Path) -> None:
    """The config ties no longer: a loader would throw the head away that was written."""

    def model(name: str, seed: int, tied: Any, stored: bool) -> Path:
        made = tensors(seed)
        if tied:
            made.pop("lm_head.weight")
        if tied and stored:
            made["lm_head.weight"] = made["model.embed_tokens.weight"]
        return write_checkpoint(tmp_path / name, made, config=config(tie_word_embeddings=tied))

    a = model("a", 1, truth, False)
    b = model("b", 2, False if form == "head left out" else truth, True)
    made = {
        "head left out": linear(a, b, exclude=["lm_head"]),
        "table left out": linear(a, b, exclude=["embed_tokens"]),
        "slices": stacked(a, b),
    }[form]
    report = suture.merge(made, tmp_path / "out")
    found = read_checkpoint(tmp_path / "out")
    assert found["lm_head.weight"] != found["model.embed_tokens.weight"]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    assert any("head of its own" in w for w in report.warnings)


SENSELESS: dict[str, Config] = {
    "exaone4": {"model_type": "exaone4", "sliding_window_pattern": ""},
    "layers by number": {"per_layer_config": {"²": 1}},
    "step3p5": {"model_type": "step3p5", "moe_layers_enum": "x"},
    "step3p5 list": {"model_type": "step3p5", "moe_layers_enum": ["a"]},
    "step3p5 number": {"model_type": "step3p5", "moe_layers_enum": 5},
    "gpt_neo": {"model_type": "gpt_neo", "attention_types": "x"},
    "gpt_neo null": {"model_type": "gpt_neo", "attention_types": None},
    "gpt_neo pair": {"model_type": "gpt_neo", "attention_types": [["global"], 2]},
    "gpt_neo that cancels out": {
        "model_type": "gpt_neo",
        "attention_types": [[["a"], 2_000_000_000], [["b"], 4 - 2_000_000_000]],
    },
    "gpt_neo of nothing": {"model_type": "gpt_neo", "attention_types": [[[], 2_000_000_000], [["a"], 4]]},
    "gpt_neo many": {"model_type": "gpt_neo", "attention_types": [[["global"], 2_000_000_000]]},
    "deepseek_v4": {"model_type": "deepseek_v4", "compress_ratios": 5},
    "cohere2_moe many": {"model_type": "cohere2_moe", "first_k_dense_replace": 2_000_000_000},
    "a type that is a list": {"model_type": ["llama"]},
    "a type that is a mapping": {"model_type": {}},
    "numbers as text": {"model_type": "llama", "num_hidden_layers": "4"},
}


@pytest.mark.parametrize("name", SENSELESS)
@pytest.mark.parametrize("whose", ["first", "second", "both"])
def test_values_that_make_no_sense_are_errors_or_passed_over(name: str, whose: str, tmp_path: Path) -> None:
    """Never a crash, a hang or gigabytes: an error of suture, or a result that does not go by the value."""
    odd = config(4) | SENSELESS[name]
    plain = config(4) | ({"model_type": odd["model_type"]} if isinstance(odd["model_type"], str) else {})
    configs = [odd if whose in (at, "both") else plain for at in ("first", "second")]
    a, b = (
        write_checkpoint(tmp_path / n, tensors(i, 4), config=c)
        for i, (n, c) in enumerate(zip("ab", configs, strict=True))
    )
    suture.inspect(a)
    suture.compat(a, b)
    for verb in VERBS.values():
        for mixed in (False, True):
            with contextlib.suppress(suture.SutureError):
                verb(a, b, tmp_path / "out", suture.Settings(allow_mixed=mixed))


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "vocab.json", "modules.json", "model_index.json"])
def test_a_pipe_among_the_small_files_is_not_waited_for(file: str, tmp_path: Path) -> None:
    """A file without an end is none."""
    a, b = (write_checkpoint(tmp_path / n, tensors(i)) for i, n in enumerate("ab"))
    os.mkfifo(a / file)
    suture.inspect(a)
    suture.compat(a, b)
    suture.merge(linear(a, b), tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["model.safetensors", "suture.json"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer"),
        ("<!DOCTYPE html><html>", "HTML page"),
    ],
)
def test_a_config_that_is_something_else_is_called_what_it_is(text: str, says: str, tmp_path: Path) -> None:
    """As weights are: a download left something else in its place."""
    a, b = (write_checkpoint(tmp_path / n, tensors(i)) for i, n in enumerate("ab"))
    (a / "config.json").write_text(text)
    with pytest.raises(suture.SutureError, match=says):
        suture.merge(linear(a, b), tmp_path / "out")


def test_an_output_without_a_config_is_told(tmp_path: Path) -> None:
    """The first model has none, the second has: nothing says that the output is like either."""
    a = write_checkpoint(tmp_path / "a", tensors(1))
    b = write_checkpoint(tmp_path / "b", tensors(2), config=config())
    assert any("no config.json" in w for w in suture.merge(linear(a, b), tmp_path / "out").warnings)


def test_dtypes_of_all_parts_are_kept_true(tmp_path: Path) -> None:
    """`--dtype` changes what every part of the config says of its weights."""
    path = two_towers(tmp_path / "m", 1)
    said = json.loads((path / "config.json").read_text())
    said |= {"torch_dtype": "float32"}
    for part in ("text_config", "vision_config"):
        said[part]["torch_dtype"] = "float32"
    (path / "config.json").write_text(json.dumps(said))
    other = two_towers(tmp_path / "n", 2)
    suture.swap(path, other, tmp_path / "out", layers="0", settings=suture.Settings(dtype="bfloat16"))
    made = json.loads((tmp_path / "out" / "config.json").read_text())
    assert [p["torch_dtype"] for p in (made, made["text_config"], made["vision_config"])] == ["bfloat16"] * 3


@pytest.mark.parametrize("value", [[1, "a"], [{}], [[1]]], ids=str)
def test_an_adapter_whose_lists_mix_names_and_numbers(value: Any, tmp_path: Path) -> None:
    """An error with the file, no traceback."""
    paths = []
    for name, said in (("a", ["q_proj"]), ("b", value)):
        at = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
        folder = tmp_path / name
        made = {f"{at}A.weight": np.ones((2, 8), np.float32), f"{at}B.weight": np.ones((8, 2), np.float32)}
        write_checkpoint(folder, {n: encode(t, "F32") for n, t in made.items()})
        (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4, "target_modules": said}))
        paths.append(folder)
    with pytest.raises(
        suture.SutureError, match=r"adapter_config\.json: expected names or numbers in `target_modules`"
    ):
        suture.swap(paths[0], paths[1], tmp_path / "out", layers="0")
    assert suture.compat(*paths)["swap"]["answer"] == "no"
