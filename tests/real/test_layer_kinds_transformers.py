"""What layers are, against transformers: its configurations' lists, and the layers that its models make of a config.

The stacking oracle builds tiny models without memory (`meta`), one of the config before and one of the config after,
and compares every layer of the one with the layer of the other that it was: its modules, the shapes of their tensors
and their settings. Whatever differs and was not refused is a fault.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from suture.errors import SutureError
from suture.sidecars.kind_tables import FAMILIES
from suture.sidecars.kind_words import TYPES
from suture.sidecars.kinds import kinds
from suture.sidecars.relayer import relayer

LAYERS = 8
STACKS = (
    [0, 1, 2, 2, 3],
    [0, 1, 2, 3, 4, 5, 2, 3, 4, 5, 6, 7],
    [0, 1, 4, 5, 6, 7],
    [4, 5, 6, 7, 0, 1, 2, 3],
    [1, 3, 5, 7],
    [0, 1, 2, 3],
    [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7],
)
TINY: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 32, "moe_intermediate_size": 16, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 128, "num_experts": 4, "num_local_experts": 4,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_num_experts": 4, "n_group": 1, "topk_group": 1,
    "vocab_size_per_layer_input": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "d_model": 64,
    "d_ff": 32,     "decoder_ffn_dim": 32,
    "encoder_ffn_dim": 32, "sliding_window": 7,
}  # fmt: skip
WINDOWED = {"use_sliding_window": True, "max_window_layers": 4}
BY_TURNS = ["sliding_attention", "full_attention"] * 4
#: What families need beside the sizes, or what makes their layers differ.
EXTRA: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [2, 5]},
    "cohere2_moe": {"first_k_dense_replace": 2},
    "diffusion_gemma_text": {"layer_types": BY_TURNS},
    "dots1": {"n_shared_experts": 1, "max_window_layers": 4, "first_k_dense_replace": 2},
    "ernie4_5_moe": {"moe_layer_interval": 2, "moe_layer_start_index": 2},
    "esmc": {"num_key_value_heads": 4},
    "gemma3n_text": {"num_kv_shared_layers": 2},
    "gemma4_text": {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 2},
    "gemma4_unified_text": {"layer_types": BY_TURNS},
    "glm5_next_text": {"num_key_value_heads": 4},
    "gpt2": {"scale_attn_by_inverse_layer_idx": True},
    "gpt_neo": {"attention_types": [[["global", "local"], 4]]},
    "hunyuan_v1_moe": {"moe_topk": [1, 2] * 4},
    "inkling_text": {"local_layer_ids": [1, 2], "dense_mlp_idx": 2},
    "kimi_linear": {"linear_attn_config": {"full_attn_layers": [2, 4, 6, 8], "kda_layers": [1, 3, 5, 7]}},
    "laguna": {"num_attention_heads_per_layer": [4, 2, 4, 2, 4, 4, 2, 2], "layer_types": BY_TURNS[::-1]},
    "lfm2": {"full_attn_idxs": [1, 3]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 4},
    "llama4_text": {"interleave_moe_layer_step": 2},
    "mamba2": {"num_heads": 8, "n_groups": 1},
    "minimax_m3_vl_text": {
        "sparse_attention_config": {"sparse_attention_freq": [0, 0, 1, 1, 1, 0, 1, 1]},
        "moe_layer_freq": [0, 1, 1, 1, 1, 1, 1, 1],
    },
    "mllama_text_model": {"cross_attention_layers": [3, 6]},
    "nemotron_h": {"hybrid_override_pattern": "M*-EM*-E"},
    "qwen2": WINDOWED,
    "qwen2_moe": WINDOWED,
    "qwen3": WINDOWED,
    "qwen3_moe": {"mlp_only_layers": [3], "decoder_sparse_step": 2},
    "qwen3_next": {"mlp_only_layers": [3]},
    "qwen3_omni_moe_talker_text": {"shared_expert_intermediate_size": 16},
    "reformer": {"axial_pos_embds_dim": [32, 32], "attn_layers": ["local", "lsh"] * 4},
    "smollm3": {"use_sliding_window": True},
    "step3p5": {"moe_layers_enum": "4,5,6"},
    "t5gemma2_decoder": {"dropout_rate": 0.0},
    "t5gemma2_text": {"dropout_rate": 0.0},
    "zamba2": {"layers_block_type": ["mamba", "mamba", "hybrid", "mamba", "mamba", "hybrid", "mamba", "mamba"]},
    "zaya": {"num_experts_per_tok": 1, "layer_types": ["hybrid", "hybrid_sliding"] * 4},
}
#: Without a class, or without a model that can be built of this part alone.
UNBUILT = {
    "EvollaModel", "cohere_compass_text", "deepseek_ocr2_encoder", "deepseek_ocr2_sam_vision_model",
    "ernie4_5_vl_moe_text", "exaone4_5_vision", "got_ocr2_vision", "hymba", "instructblip_qformer",
    "instructblipvideo_qformer", "minicpm", "openelm", "phi3small", "pp_chart2table_vision", "pp_formulanet_vision",
    "qwen2_5_omni_vision_encoder", "qwen2_5_vl_vision", "qwen4_exp_text", "slanext_vision", "t5_gemma_module",
    "unlimited_ocr_sam_vision_model",
}  # fmt: skip
#: Families of the tables, and others whose layers are all alike.
BUILT = sorted(
    ({name.split("/")[0] for name in FAMILIES} - UNBUILT)
    | {"bart", "bert", "falcon", "led", "llama", "longformer", "marian", "mistral", "mixtral", "moonshine", "opt",
       "phi3", "sapiens2", "trocr", "umt5", "vitdet", "whisper"}
)  # fmt: skip
#: Refusals of transformers itself: this family wants layers of both kinds.
LOUD = {"olmo_hybrid"}
#: Attributes of modules that number layers, or that say nothing of what they compute.
NUMBERS = {
    "block_id", "idx", "index", "kv_shared_layer_index", "layer_id", "layer_idx", "layer_number", "num_fwd_mem_blocks",
    "sliding_window_pattern", "store_full_length_kv", "training",
}  # fmt: skip


@pytest.fixture(scope="module")
def classes(transformers: Any) -> Iterator[dict[str, Any]]:
    """The configuration classes, by model type, those of parts too."""
    found = {name: transformers.CONFIG_MAPPING[name] for name in transformers.CONFIG_MAPPING}
    todo = list(found.values())
    while todo:
        for part in (getattr(todo.pop(), "sub_configs", None) or {}).values():
            named = inspect.isclass(part) and getattr(part, "model_type", None)
            if named and named not in found:
                found[named] = part
                todo.append(part)
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield found
    logging.disable(before)


def count_key(config: Any) -> str:
    return str((getattr(config, "attribute_map", None) or {}).get("num_hidden_layers", "num_hidden_layers"))


def tiny(model_type: str, config: Any) -> dict[str, Any]:
    """A small config, with what differs from layer to layer where the defaults do not."""
    known, renamed = config.__dataclass_fields__, getattr(config, "attribute_map", None) or {}
    sizes = {k: v for k, v in TINY.items() if k in known or renamed.get(k) in known}
    both = {"num_decoder_layers": LAYERS} if "num_decoder_layers" in known else {}
    return {"model_type": model_type, count_key(config): LAYERS, **sizes, **both, **EXTRA.get(model_type, {})}


def build(section: Mapping[str, Any], config: Any) -> Any:
    """A model of a config, without memory."""
    torch, transformers = (importlib.import_module(name) for name in ("torch", "transformers"))
    made = config(**{k: v for k, v in section.items() if k != "model_type"})
    with torch.device("meta"):
        try:
            return transformers.AutoModel.from_config(made)
        except (KeyError, ValueError, AttributeError):
            return _of_module(config)(made)


def _of_module(config: Any) -> Any:
    """The first model class in the module beside the config's, for parts that have no entry of their own."""
    module = importlib.import_module(config.__module__.replace("configuration_", "modeling_"))
    classes = [c for c in vars(module).values() if inspect.isclass(c) and "PreTrained" not in c.__name__]
    takes = [c for c in classes if getattr(c, "config_class", None) is config]
    named = [c for c in classes if getattr(c, "__annotations__", {}).get("config") in (config, config.__name__)]
    return next(c for c in [*takes, *(c for c in named if c.__name__.endswith("Model"))])


def layers_of(model: Any, count: int) -> list[list[Any]]:
    """What the layers of every stack of so many are made of."""
    stacks = [m for m in model.modules() if type(m).__name__ == "ModuleList" and len(m) == count]
    return [[_made_of(layer) for layer in stack] for stack in stacks]


def _made_of(layer: Any) -> list[Any]:
    return [
        (
            name,
            type(module).__name__,
            sorted(
                (k, _rounded(v)) for k, v in vars(module).items() if k not in NUMBERS and k[0] != "_" and _simple(v)
            ),
            [(k, tuple(p.shape)) for k, p in module.named_parameters(recurse=False)],
        )
        for name, module in layer.named_modules()
    ]


def _simple(value: Any) -> bool:
    return isinstance(value, int | float | str | bool | None)


def _rounded(value: Any) -> str:
    return repr(round(value, 9) if isinstance(value, float) else value)


@pytest.mark.parametrize("model_type", BUILT)
def test_layers_stay_what_they_were_or_are_refused(model_type: str, classes: dict[str, Any]) -> None:
    config = classes[model_type]
    section, key = tiny(model_type, config), count_key(config)
    before = layers_of(build(section, config), LAYERS)
    assert before
    for moved in STACKS:
        try:
            out, _ = relayer(section, [(0, layer) for layer in moved], {0: section}, key, model=0)
        except SutureError:
            continue
        assert kinds(out, len(moved), key) == [kinds(section, LAYERS, key)[layer] for layer in moved]
        try:
            after = layers_of(build(out, config), len(moved))
        except ValueError:
            assert model_type in LOUD
            continue
        assert any(all(a[i] == b[layer] for i, layer in enumerate(moved)) for a in after for b in before), moved


@pytest.mark.parametrize("model_type", BUILT)
def test_kinds_that_are_equal_are_layers_that_are_alike(model_type: str, classes: dict[str, Any]) -> None:
    config = classes[model_type]
    section = tiny(model_type, config)
    found = kinds(section, LAYERS, count_key(config))
    stacks = layers_of(build(section, config), LAYERS)
    alike = [(i, j) for i in range(LAYERS) for j in range(i) if found[i] == found[j]]
    assert any(all(stack[i] == stack[j] for i, j in alike) for stack in stacks)


EXPERTS = {"dense": "dense", "sparse": "experts", "moe": "experts", "hash_moe": "hashed"}


def lists_of(config: Any) -> dict[str, Sequence[str]]:
    """What transformers' configuration tells of every layer, as kinds tell it."""
    told: dict[str, Sequence[str]] = {}
    types = config.layers_block_type if config.model_type == "recurrent_gemma" else getattr(config, "layer_types", None)
    if types is not None:
        told["attention"] = [TYPES.get(t, t) for t in types]
    if config.model_type == "recurrent_gemma":
        told["attention"] = ["sliding" if t == "full" else t for t in told["attention"]]
    if getattr(config, "mlp_layer_types", None) is not None:
        told["mlp"] = [EXPERTS[t] for t in config.mlp_layer_types]
    if getattr(config, "no_rope_layers", None) is not None:
        told["rope"] = ["" if r else "none" for r in config.no_rope_layers]
    if getattr(config, "indexer_types", None) is not None:
        told["shares"] = ["" if t == "full" else "shared" for t in config.indexer_types]
    return told


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 5, 7, 11, 13])
def test_kinds_are_the_lists_of_the_configurations(layers: int, classes: dict[str, Any]) -> None:
    """Every configuration class there is: what it derives without a list is what `kinds` reads."""
    compared = 0
    for model_type, config in classes.items():
        key = count_key(config)
        if inspect.isclass(config) and isinstance(getattr(config, "layer_types", None), list):
            continue  # The kinds of blocks that a ResNet may have, not those of layers.
        try:
            made = config(**{key: layers})
            told = lists_of(made) if made.num_hidden_layers == layers else {}
        except Exception:  # Some want more, some count otherwise.
            continue
        found = kinds({"model_type": model_type, key: layers}, layers, key) if told else []
        assert {a: [getattr(k, a) for k in found] for a in told} == told, model_type
        compared += bool(told)
    assert compared >= 70
