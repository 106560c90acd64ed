"""What config.json tells of every layer, and its rewriting when layers move, against facts written by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suture.errors import SutureError
from suture.sidecars.kind_tables import FAMILIES
from suture.sidecars.kinds import Kind, kinds
from suture.sidecars.quantized import rename_quantized
from suture.sidecars.relayer import relayer

COUNT = "num_hidden_layers"
STACKED = (0, 1, 2, 2, 3)


def config(model_type: str, layers: int = 4, **keys: Any) -> dict[str, Any]:
    return {"model_type": model_type, COUNT: layers, **keys}


def stacked(
    section: Mapping[str, Any], layers: Sequence[int] = STACKED, count_key: str = COUNT
) -> tuple[dict[str, Any], list[str]]:
    """Layers of one model, stacked."""
    return relayer(section, [(0, layer) for layer in layers], {0: section}, count_key, model=0)


def told(made: Sequence[Kind], aspect: str) -> list[Any]:
    return [getattr(kind, aspect) for kind in made]


# What each of four layers is.
FACTS: dict[str, tuple[dict[str, Any], str, list[Any]]] = {
    "gemma2": (config("gemma2", sliding_window=9), "attention", ["sliding", "full", "sliding", "full"]),
    "gemma2's window": (config("gemma2", sliding_window=9), "window", [9, None, 9, None]),
    "gemma3": (config("gemma3_text", sliding_window_pattern=2), "rope", ["local", "global"] * 2),
    "gemma3, flat": (config("gemma3", sliding_window_pattern=4), "attention", ["sliding"] * 3 + ["full"]),
    "gemma3n": (config("gemma3n_text", num_kv_shared_layers=1), "shares", ["", "", "", "shared"]),
    "gemma4": (config("gemma4_text", layer_types=["sliding_attention"] * 4), "attention", ["sliding"] * 3 + ["full"]),
    "gpt_oss": (config("gpt_oss"), "attention", ["sliding", "full"] * 2),
    "olmo3": (config("olmo3"), "attention", ["sliding"] * 3 + ["full"]),
    "cohere2": (config("cohere2", sliding_window_pattern=2), "rope", ["", "none"] * 2),
    "exaone4": (config("exaone4", sliding_window_pattern="LLG"), "attention", ["sliding", "sliding", "full", "full"]),
    "modernbert": (config("modernbert", global_attn_every_n_layers=2), "attention", ["full", "sliding"] * 2),
    "modernbert's first": (config("modernbert"), "place", ["first", "", "", ""]),
    "qwen2": (
        config("qwen2", use_sliding_window=True, max_window_layers=3),
        "attention",
        ["full", "full", "full", "sliding"],
    ),
    "qwen2 without": (config("qwen2", use_sliding_window=False, max_window_layers=3), "attention", ["full"] * 4),
    "qwen3_moe": (config("qwen3_moe", mlp_only_layers=[3]), "mlp", ["experts"] * 3 + ["dense"]),
    "qwen3_moe's step": (config("qwen3_moe", decoder_sparse_step=2), "mlp", ["dense", "experts"] * 2),
    "qwen3_next": (config("qwen3_next", full_attention_interval=2), "attention", ["linear", "full"] * 2),
    "smollm3": (config("smollm3", no_rope_layer_interval=2), "rope", ["", "none"] * 2),
    "llama4": (config("llama4_text"), "attention", ["chunked"] * 3 + ["full"]),
    "llama4's experts": (config("llama4_text", interleave_moe_layer_step=2), "mlp", ["dense", "experts"] * 2),
    "mllama": (config("mllama_text_model", cross_attention_layers=[3]), "attention", ["full"] * 3 + ["cross"]),
    "jamba": (config("jamba", attn_layer_period=2, attn_layer_offset=1), "attention", ["linear", "full"] * 2),
    "lfm2": (config("lfm2", full_attn_idxs=[1, 3]), "attention", ["conv", "full"] * 2),
    "deepseek_v3": (config("deepseek_v3"), "mlp", ["dense"] * 3 + ["experts"]),
    "ernie4_5_moe": (config("ernie4_5_moe", moe_layer_end_index=2), "mlp", ["dense", "experts", "experts", "dense"]),
    "nemotron_h": (config("nemotron_h", hybrid_override_pattern="M*-E"), "attention", ["linear", "full", "mlp", "moe"]),
    "recurrent_gemma": (config("recurrent_gemma"), "attention", ["recurrent", "recurrent", "sliding", "recurrent"]),
    "granitemoehybrid": (
        config("granitemoehybrid", layer_types=["mamba", "attention"] * 2),
        "attention",
        ["linear", "full"] * 2,
    ),
    "gpt2": (config("gpt2", scale_attn_by_inverse_layer_idx=True), "place", [f"layer {i}" for i in range(4)]),
    "mistral": (config("mistral", sliding_window=7), "window", [7] * 4),
    "llama": (config("llama"), "attention", ["full"] * 4),
}


@pytest.mark.parametrize("name", FACTS)
def test_what_layers_are(name: str) -> None:
    section, aspect, expected = FACTS[name]
    assert told(kinds(section, 4), aspect) == expected


# The new keys of layers 0, 1, 2, 2, 3; a text is part of the refusal.
MOVES: dict[str, tuple[dict[str, Any], dict[str, Any] | str]] = {
    "cohere2": (
        config("cohere2", sliding_window=3, sliding_window_pattern=2),
        {"layer_types": ["sliding_attention", "full_attention", *["sliding_attention"] * 2, "full_attention"]},
    ),
    "modernbert": (
        config("modernbert", global_attn_every_n_layers=2),
        {"layer_types": ["full_attention", "sliding_attention", *["full_attention"] * 2, "sliding_attention"]},
    ),
    "qwen3_next": (
        config("qwen3_next", full_attention_interval=2),
        {"layer_types": ["linear_attention", "full_attention", *["linear_attention"] * 2, "full_attention"]},
    ),
    "smollm3": (config("smollm3", no_rope_layer_interval=2), {"no_rope_layers": [1, 0, 1, 1, 0]}),
    "qwen3_moe": (config("qwen3_moe", mlp_only_layers=[3]), {"mlp_only_layers": [4]}),
    "lfm2": (config("lfm2", full_attn_idxs=[1, 3]), {"full_attn_idxs": [1, 4]}),
    "jamba": (
        config("jamba", attn_layer_period=2, attn_layer_offset=1),
        {"attn_layer_period": 3, "attn_layer_offset": 1, "expert_layer_period": 3, "expert_layer_offset": 1},
    ),
    "jamba, without a period": (config("jamba", attn_layer_period=2, attn_layer_offset=0), "attn_layer_period"),
    "llama4": (
        config("llama4_text", interleave_moe_layer_step=2),
        {"moe_layers": [1, 4], "no_rope_layer_interval": 5},
    ),
    "mllama": (config("mllama_text_model", cross_attention_layers=[3]), {"cross_attention_layers": [4]}),
    "gpt_oss": (
        config("gpt_oss", sliding_window=3),
        {"layer_types": ["sliding_attention", "full_attention", *["sliding_attention"] * 2, "full_attention"]},
    ),
    "exaone4": (
        config("exaone4", sliding_window=3, sliding_window_pattern=2),
        {"layer_types": ["sliding_attention", "full_attention", *["sliding_attention"] * 2, "full_attention"]},
    ),
    "qwen2": (config("qwen2", use_sliding_window=True, max_window_layers=3), {"max_window_layers": 4}),
    "gpt_neo": (
        {"model_type": "gpt_neo", COUNT: 4, "attention_types": [[["global", "local"], 2]]},
        {"attention_types": [[["global", "local", "global", "global", "local"], 1]]},
    ),
    "deepseek_v3": (config("deepseek_v3", first_k_dense_replace=2), {"first_k_dense_replace": 2}),
    "nemotron_h": (config("nemotron_h", hybrid_override_pattern="M*-E"), {"hybrid_override_pattern": "M*--E"}),
    "gemma3n": (config("gemma3n_text", num_kv_shared_layers=1), "hidden_size_per_layer_input"),
    "diffllama": (config("diffllama"), "num_hidden_layers"),
    "unknown": (config("brand_new", attn_every_n_layers=2), "attn_every_n_layers"),
    "sizes": (
        config("decilm", block_configs=[{"n": i} for i in range(4)]),
        {"block_configs": [{"n": i} for i in STACKED]},
    ),
    "overrides": (
        config("llama", per_layer_config={"2": {"a": 1}}),
        {"per_layer_config": {"2": {"a": 1}, "3": {"a": 1}}},
    ),
}


@pytest.mark.parametrize("name", MOVES)
def test_what_is_written(name: str) -> None:
    section, expected = MOVES[name]
    if isinstance(expected, str):
        with pytest.raises(SutureError, match=f"`{expected}`"):
            stacked(section)
        return
    out, warnings = stacked(section)
    assert {k: v for k, v in out.items() if section.get(k) != v} == {
        COUNT: 5,
        **expected,
    } or expected.items() <= out.items()
    assert kinds(out, 5) == [kinds(section, 4)[i] for i in STACKED]
    assert not warnings


def test_a_period_that_no_longer_holds_goes() -> None:
    """Beside the list that is written in its stead, it would be wrong; beside a list that was there, it is history."""
    assert "sliding_window_pattern" not in stacked(config("cohere2", sliding_window_pattern=2))[0]
    types = ["sliding_attention", "full_attention"] * 2
    out, _ = stacked(config("gemma3_text", sliding_window_pattern=2, layer_types=types))
    assert out["sliding_window_pattern"] == 2
    assert out["layer_types"] == [types[i] for i in STACKED]


def test_shared_keys_and_values_stay_with_their_source() -> None:
    """Dropping the layer whose keys and values are shared is refused, dropping another is not."""
    types = ["full_attention", "sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    section = config("gemma4_text", 5, layer_types=types, num_kv_shared_layers=2, hidden_size_per_layer_input=0)
    out, _ = stacked(section, (1, 2, 3, 4))
    assert out["num_kv_shared_layers"] == 2
    with pytest.raises(SutureError, match="num_kv_shared_layers"):
        stacked(section, (0, 1, 3, 4))


@pytest.mark.parametrize(
    ("section", "count_key", "expected"),
    [
        ({"model_type": "t5", "num_layers": 4}, "num_layers", {"num_layers": 3, "num_decoder_layers": 4}),
        (
            {"model_type": "t5", "num_layers": 4, "num_decoder_layers": 4},
            "num_decoder_layers",
            {"num_layers": 4, "num_decoder_layers": 3},
        ),
        ({"model_type": "t5", "num_layers": 4}, "num_decoder_layers", {"num_layers": 4, "num_decoder_layers": 3}),
        (
            {"model_type": "whisper", "encoder_layers": 4, "decoder_layers": 4, COUNT: 4},
            "decoder_layers",
            {"encoder_layers": 4, "decoder_layers": 3, COUNT: 4},
        ),
        (
            {"model_type": "bart", "encoder_layers": 4, "decoder_layers": 4, COUNT: 4},
            "encoder_layers",
            {"encoder_layers": 3, "decoder_layers": 4, COUNT: 3},
        ),
        ({"model_type": "mpt", "n_layers": 4, COUNT: 4}, "n_layers", {"n_layers": 3, COUNT: 3}),
        ({"model_type": "llama", COUNT: 4, "n_layer": 7}, COUNT, {COUNT: 3, "n_layer": 7}),
    ],
)
def test_only_the_counts_of_the_stack_concerned(
    section: dict[str, Any], count_key: str, expected: dict[str, int]
) -> None:
    out, _ = stacked(section, (0, 1, 2), count_key)
    assert out == {**section, **expected}


def test_layers_of_two_models() -> None:
    """Lists have the entries of the model each layer came from, and windows must be the same."""
    first = config("gemma2", sliding_window=8, layer_types=["sliding_attention", "full_attention"] * 2)
    second = {**first, "layer_types": ["full_attention"] * 4}
    moved = [(0, 0), (1, 1), (1, 2), (0, 1)]
    out, _ = relayer(first, moved, {0: first, 1: second}, COUNT, model=0)
    assert out["layer_types"] == ["sliding_attention", *["full_attention"] * 3]
    other = {**first, "sliding_window": 16}
    with pytest.raises(SutureError, match="`sliding_window`"):
        relayer(first, [(0, 0), (0, 1), (1, 2), (1, 3)], {0: first, 1: other}, COUNT, model=0)
    wider = [config("llama", intermediate_size=s) for s in (8, 16)]
    with pytest.raises(SutureError, match="`intermediate_size`"):
        relayer(wider[0], moved, dict(enumerate(wider)), COUNT, model=0)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"fancy_layers": 3}, "fancy_layers"),
        ({"some_block_setting": 2}, "some_block_setting"),
        ({"strange": [1, 2, 3, 4]}, "strange"),
        ({"odd_layer_ids": [1, 3]}, "odd_layer_ids"),
        ({"first_k_dense_replace": 1, "model_type": "gemma2"}, "first_k_dense_replace"),
    ],
)
def test_keys_of_unknown_meaning_are_named(keys: dict[str, Any], named: str) -> None:
    _, warnings = stacked(config("llama") | keys)
    assert [w for w in warnings if f"`{named}`" in w]


@pytest.mark.parametrize(
    "key", ["layer_norm_eps", "layer_norm_epsilon", "layerdrop", "vision_feature_layer", "use_layer_scale"]
)
def test_keys_that_only_sound_like_layers_are_not(key: str) -> None:
    assert stacked(config("llama", **{key: 1}))[1] == []


@pytest.mark.parametrize(
    "section",
    [
        config("gemma2", layer_types=["full_attention"] * 3),
        config("qwen3_next", full_attention_interval=0),
        config("deepseek_v3", first_k_dense_replace="three"),
        config("lfm2", full_attn_idxs="1"),
        config("nemotron_h", hybrid_override_pattern="M*"),
        config("llama", per_layer_config={"9": {}}),
    ],
)
def test_what_makes_no_sense_is_an_error(section: dict[str, Any]) -> None:
    with pytest.raises(SutureError, match=r"expected|names layer"):
        kinds(section, 4)


def test_layers_that_are_not_there_are_an_error() -> None:
    with pytest.raises(SutureError, match="layer 4"):
        stacked(config("llama"), (0, 4))
    with pytest.raises(SutureError, match=COUNT):
        stacked({"model_type": "llama"}, (0,))
    with pytest.raises(SutureError, match="at least one layer"):
        stacked(config("llama"), ())


QUANTIZED = {
    "quant_method": "compressed-tensors",
    "ignore": ["lm_head", "model.layers.1.mlp.gate", "visual.blocks.1.attn", "re:.*self_attn\\.\\d+x"],
    "config_groups": {"group_0": {"targets": ["Linear", "model.layers.2.mlp.up_proj"]}},
    "extra_config": {"model.layers.3.mlp": {"bits": 8}, "lm_head": {"bits": 4}},
}


def test_names_of_quantised_layers_move() -> None:
    out, warnings = stacked(config("llama", quantization_config=QUANTIZED))
    found = out["quantization_config"]
    assert found["ignore"] == [*[n for n in QUANTIZED["ignore"] if "layers" not in n], "model.layers.1.mlp.gate"]
    targets = ["Linear", "model.layers.2.mlp.up_proj", "model.layers.3.mlp.up_proj"]
    assert found["config_groups"]["group_0"]["targets"] == targets
    assert found["extra_config"] == {"lm_head": {"bits": 4}, "model.layers.4.mlp": {"bits": 8}}
    assert not warnings


@pytest.mark.parametrize("pattern", ["re:model\\.layers\\.(0|1)\\..*", "*.layers.3.*", "-:.*\\.7\\..*", "re:.*[12].*"])
def test_patterns_that_depend_on_a_number_are_refused(pattern: str) -> None:
    with pytest.raises(SutureError, match="modules_to_not_convert"):
        rename_quantized({"modules_to_not_convert": [pattern]}, [(0, 1)], {}, model=0)
    with pytest.raises(SutureError, match="dynamic"):
        rename_quantized({"dynamic": {pattern: {}}}, [(0, 1)], {}, model=0)


@pytest.mark.parametrize("pattern", ["re:.*lm_head", "re:.*layers\\.\\d+\\.mlp", "*fc1*", "re:.*experts\\.[0-9]+\\.w1"])
def test_patterns_for_all_layers_stay(pattern: str) -> None:
    out, warnings = rename_quantized({"ignore": [pattern]}, [(0, 1)], {}, model=0)
    assert (out, warnings) == ({"ignore": [pattern]}, [])


def test_other_quantisation_of_a_donor_is_told() -> None:
    donors = {0: {"bits": 4}, 1: {"bits": 8}}
    assert "model 1" in rename_quantized(donors[0], [(0, 0), (1, 1)], donors, model=0)[1][0]


SECTIONS = st.builds(
    lambda model_type, layers, keys: config(model_type, layers, **keys),
    st.sampled_from(sorted({name.split("/")[0] for name in FAMILIES} | {"llama", "mistral", "brand_new"})),
    st.integers(1, 9),
    st.fixed_dictionaries(
        {},
        optional={
            "sliding_window": st.sampled_from([None, 4, 8]),
            "sliding_window_pattern": st.integers(1, 5),
            "global_attn_every_n_layers": st.integers(1, 4),
            "full_attention_interval": st.integers(1, 4),
            "no_rope_layer_interval": st.integers(1, 4),
            "interleave_moe_layer_step": st.integers(1, 3),
            "decoder_sparse_step": st.integers(1, 3),
            "mlp_only_layers": st.lists(st.integers(0, 8), max_size=3),
            "full_attn_idxs": st.lists(st.integers(0, 8), max_size=3),
            "first_k_dense_replace": st.integers(0, 4),
            "max_window_layers": st.integers(0, 9),
            "use_sliding_window": st.booleans(),
            "attn_layer_period": st.integers(1, 4),
            "num_kv_shared_layers": st.integers(0, 3),
            "hidden_size_per_layer_input": st.just(0),
        },
    ),
)


@settings(max_examples=300, deadline=None)
@given(section=SECTIONS, data=st.data())
def test_right_or_refused(section: dict[str, Any], data: st.DataObject) -> None:
    """Identity changes nothing; any other stacking tells of every layer what it was, or is refused by a key's name."""
    layers = section[COUNT]
    text = json.dumps(section)
    same, warnings = stacked(section, range(layers))
    assert (json.dumps(same), warnings) == (text, [])
    chosen = data.draw(st.lists(st.integers(0, layers - 1), min_size=1, max_size=12))
    try:
        before = kinds(section, layers)
        out, _ = stacked(section, chosen)
    except SutureError as error:
        named = "`" in str(error)
    else:
        named = True
        assert kinds(out, len(chosen)) == [before[i] for i in chosen]
        assert stacked(out, range(len(chosen)))[0] == out
    assert named
    assert json.dumps(section) == text
