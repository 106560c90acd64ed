"""Heads are cut by the counts of the stack concerned; what has none, or names no module, is refused in words."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..support.checkpoints import Raw, encode, read_checkpoint, write_checkpoint
from ..support.refusals import refusal

WIDTH = 24


@dataclass(frozen=True)
class Case:
    """Two stacks of attention, each with its own heads, and what names its projections."""

    stacks: Mapping[str, tuple[int, int]]
    projections: tuple[str, str, str, str]
    config: Mapping[str, Any]
    layers: int = 2
    more: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


LLAMA = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
BART = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj")
CASES: dict[str, Case] = {
    "llava": Case(
        {"language_model.model.layers.": (6, 2), "vision_tower.encoder.layers.": (4, 4)},
        LLAMA,
        {
            "text_config": {"num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2},
            "vision_config": {"num_hidden_layers": 2, "num_attention_heads": 4},
        },
    ),
    "qwen2-vl": Case(
        {"model.layers.": (6, 3), "visual.blocks.": (4, 4)},
        LLAMA,
        {
            "model_type": "qwen2_vl",
            "num_hidden_layers": 2,
            "num_attention_heads": 6,
            "num_key_value_heads": 3,
            "vision_config": {"depth": 2, "num_heads": 4},
        },
    ),
    "bart": Case(
        {"model.decoder.layers.": (3, 3), "model.encoder.layers.": (6, 6)},
        BART,
        {
            "model_type": "bart",
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 6,
            "decoder_attention_heads": 3,
            "num_hidden_layers": 2,
            "is_encoder_decoder": True,
        },
    ),
    "clip": Case(
        {"text_model.encoder.layers.": (3, 3), "vision_model.encoder.layers.": (8, 8)},
        BART,
        {
            "text_config": {"num_hidden_layers": 2, "num_attention_heads": 3},
            "vision_config": {"num_hidden_layers": 2, "num_attention_heads": 8},
        },
    ),
}


def build(case: Case, seed: int) -> dict[str, Raw]:
    """Both stacks, with rows for all heads."""
    rng = np.random.default_rng(seed)
    found = {}
    q, k, v, o = case.projections
    for prefix, (heads, shared) in case.stacks.items():
        rows = {q: WIDTH, k: WIDTH // heads * shared, v: WIDTH // heads * shared, o: WIDTH}
        for layer in range(case.layers):
            for name, n in rows.items():
                found[f"{prefix}{layer}.{name}.weight"] = encode(rng.normal(0, 1, (n, WIDTH)), "F32")
            found[f"{prefix}{layer}.mlp.fc1.weight"] = encode(rng.normal(0, 1, (5, WIDTH)), "F32")
    return found | {"embed_tokens.weight": encode(rng.normal(0, 1, (5, WIDTH)), "F32")}


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(("name", "number"), [(n, i) for n in CASES for i in (0, 1)])
def test_heads_are_those_of_the_stack_concerned(name: str, number: int, named: bool, place: Path) -> None:
    """The last head of a stack is cut by the counts of that stack, of the main one where none is named."""
    case = CASES[name]
    prefix, (heads, shared) = list(case.stacks.items())[number]
    if not named and number:
        pytest.skip("not the main one")
    into, donor = (write_checkpoint(place / n, build(case, i), config=case.config) for i, n in enumerate("ab"))
    stack: dict[str, Any] = {"stack": prefix} if named else {}
    # The last group of heads, whole.
    per = heads // shared
    listed = range(heads - per, heads)
    suture.swap(into, donor, place / "out", layers=[1], heads=list(listed), **stack)
    found, own, other = (read_checkpoint(p) for p in (place / "out", into, donor))
    q, k, v, o = case.projections
    size = WIDTH // heads
    for tensor, raw in found.items():
        right = own[tensor].values().copy()
        module = tensor.removeprefix(f"{prefix}1.").removesuffix(".weight") if tensor.startswith(f"{prefix}1.") else ""
        if module == q:
            right[-per * size :] = other[tensor].values()[-per * size :]
        elif module in (k, v):
            right[-size:] = other[tensor].values()[-size:]
        elif module == o:
            right[:, -per * size :] = other[tensor].values()[:, -per * size :]
        assert np.array_equal(raw.values(), right), tensor
    with pytest.raises(suture.UsageError, match=rf"\b{heads}\b"):
        suture.swap(into, donor, place / "none", layers=[1], heads=[heads], **stack)


@pytest.mark.parametrize(("name", "number"), [(n, i) for n in CASES for i in (0, 1)])
def test_diff_measures_the_heads_of_every_stack_by_its_own_counts(name: str, number: int, place: Path) -> None:
    """`diff --heads`: as many heads a layer as the config says of the stack, in all stacks."""
    case = CASES[name]
    prefix, (heads, _) = list(case.stacks.items())[number]
    a, b = (write_checkpoint(place / n, build(case, i), config=case.config) for i, n in enumerate("ab"))
    rows = suture.diff(a, b, heads=True)["models"][0]["heads"]
    label = next(s["name"] for s in suture.inspect(a)["stacks"] if s["prefix"] == prefix)
    for layer in range(case.layers):
        of = {str(layer)} if number == 0 else {f"{label}:{layer}"}
        assert {row["head"] for row in rows if row["layer"] in of} == set(range(heads))


HYBRID = {"model_type": "jamba", "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4}


def hybrid(seed: int) -> dict[str, Raw]:
    """Layers 0 and 2 are a Mamba's, layer 1 attends."""
    rng = np.random.default_rng(seed)
    found = {"model.embed_tokens.weight": encode(rng.normal(0, 1, (5, WIDTH)), "F32")}
    for layer in range(3):
        before = f"model.layers.{layer}."
        mixers = ("mamba.in_proj", "mamba.out_proj", "mamba.x_proj") if layer != 1 else LLAMA
        for module in (*mixers, "mlp.up_proj"):
            found[f"{before}{module}.weight"] = encode(rng.normal(0, 1, (WIDTH, WIDTH)), "F32")
    return found


@pytest.mark.parametrize("layers", ["0", "0-1", "0-2", "2"])
def test_a_layer_without_attention_has_no_heads_to_move(layers: str, place: Path) -> None:
    """`--heads` of a layer that does not attend is refused; a mixer's `out_proj` is no attention."""
    into, donor = (write_checkpoint(place / n, hybrid(i), config=HYBRID) for i, n in enumerate("ab"))
    with pytest.raises(suture.UsageError, match="attention"):
        suture.swap(into, donor, place / "out", layers=layers, heads="0")
    assert not (place / "out").exists()
    suture.swap(into, donor, place / "out", layers="1", heads="0")
    found, own = read_checkpoint(place / "out"), read_checkpoint(into)
    assert {n for n in found if found[n] != own[n]} == {f"model.layers.1.{m}.weight" for m in LLAMA}


@pytest.mark.parametrize("mixer", ["mixer", "mamba", "ssm"])
def test_a_model_of_mixers_alone_has_no_heads(mixer: str, place: Path) -> None:
    """Mamba's in_proj and out_proj are never cut by heads, and `diff --heads` finds none."""
    rng = np.random.default_rng(0)
    config = {"model_type": "mamba2", "num_hidden_layers": 2, "num_heads": 4, "hidden_size": WIDTH}
    models = []
    for name in "ab":
        names = [f"backbone.layers.{i}.{mixer}.{n}.weight" for i in range(2) for n in ("in_proj", "out_proj")]
        tensors = {n: encode(rng.normal(0, 1, (WIDTH, WIDTH)), "F32") for n in names}
        models.append(write_checkpoint(place / name, tensors, config=config))
    with pytest.raises(suture.SutureError):
        suture.swap(models[0], models[1], place / "out", layers="0", heads="0")
    told = refusal(suture.diff, *models, heads=True)
    assert told is None or "head" in told
    if told is None:
        assert suture.diff(*models, heads=True)["models"][0]["heads"] == []


@pytest.mark.parametrize(("name", "number"), [(n, i) for n in CASES for i in (0, 1)])
def test_nothing_to_move_is_exit_2_with_the_modules_there_are(name: str, number: int, place: Path) -> None:
    """`--modules` that no tensor of the layers matches: exit 2, and the modules of this stack are listed."""
    case = CASES[name]
    prefix = list(case.stacks)[number]
    into, donor = (write_checkpoint(place / n, build(case, i), config=case.config) for i, n in enumerate("ab"))
    with pytest.raises(suture.UsageError) as e:
        suture.swap(into, donor, place / "out", layers="0", modules="nosuch", stack=prefix)
    for module in (*case.projections, "mlp.fc1"):
        assert module in str(e.value)
    assert "embed_tokens" not in str(e.value)
    assert not (place / "out").exists()
    with pytest.raises(suture.UsageError, match="nothing"):
        suture.swap(into, donor, place / "out", stack=prefix)


@pytest.mark.parametrize("given", [[], ["--bottom", "0"], ["--layers", "0", "--modules", "nosuch"]])
def test_nothing_to_move_is_a_mistake_of_the_command(given: list[str], place: Path) -> None:
    """Exit 2, as for every mistake in what was asked."""
    case = CASES["llava"]
    into, donor = (write_checkpoint(place / n, build(case, i), config=case.config) for i, n in enumerate("ab"))
    line = [sys.executable, "-m", "suture", "swap", "--into", str(into), "--from", str(donor), str(place / "out")]
    done = subprocess.run([*line, *given], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "nothing" in done.stderr
    assert not (place / "out").exists()


FILTERS = {
    "mlp": {"mlp.up_proj", "mlp.down_proj"},
    "self_attn": {"self_attn.q_proj", "self_attn.o_proj"},
    "mlp.*": {"mlp.up_proj", "mlp.down_proj"},
    "*q_proj": {"self_attn.q_proj"},
    "q_proj": {"self_attn.q_proj"},
    "q_proj,mlp": {"self_attn.q_proj", "mlp.up_proj", "mlp.down_proj"},
    "!norm": {"self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"},
    "regex:.*_proj": {"self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"},
}


@pytest.mark.parametrize("text", FILTERS)
def test_modules_match_as_filters_in_configs_do(text: str, place: Path) -> None:
    """`--modules mlp` moves what `filter: mlp` means in a config: parts of names, globs, expressions."""
    rng = np.random.default_rng(0)
    names = [f"model.layers.{i}.{m}.weight" for i in range(2) for m in (*FILTERS["mlp"], *FILTERS["self_attn"], "norm")]
    models = [
        write_checkpoint(
            place / label,
            {n: encode(rng.normal(0, 1, (4, 4)), "F32") for n in names},
            config={"num_hidden_layers": 2},
        )
        for label in "ab"
    ]
    suture.swap(models[0], models[1], place / "out", layers="0-1", modules=text)
    found, own = read_checkpoint(place / "out"), read_checkpoint(models[0])
    changed = {n.split(".", 3)[3].removesuffix(".weight") for n in found if found[n] != own[n]}
    assert changed == FILTERS[text]
