"""Keys whose names tell what they say of layers, whatever the model family, and rules made of the keys a config has."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from suture.errors import SutureError
from suture.sidecars.kind_rules import (
    Changes,
    First,
    Fixed,
    Last,
    Letters,
    Listed,
    Members,
    Rule,
    Section,
    extra,
    plain,
)
from suture.sidecars.kind_words import SPELLED, TYPES

#: Counts of layers, by the stack that they count where a model has two.
ENCODER = ("encoder_layers", "num_encoder_layers", "encoder_num_hidden_layers", "n_encoder_layers", "encoder_depth")
DECODER = ("decoder_layers", "num_decoder_layers", "decoder_num_hidden_layers", "n_decoder_layers", "decoder_depth")
EITHER = (
    "num_hidden_layers", "n_layer", "num_layers", "n_layers", "num_transformer_layers", "depth", "num_blocks",
    "n_blocks", "layers", "max_window_layers",
)  # fmt: skip
COUNTS = (*EITHER, *ENCODER, *DECODER)
#: Lists with one entry a layer.
LISTS = frozenset({
    "layer_types", "layers_block_type", "no_rope_layers", "attention_layers", "mlp_layer_types", "indexer_types",
    "num_key_value_heads", "num_attention_heads", "intermediate_size", "head_dim", "attention_window",
    "num_query_heads", "num_kv_heads", "ffn_multipliers", "block_configs", "sliding_window", "sliding_windows",
    "layer_rope_theta", "activation_sparsity_pattern", "moe_topk", "num_experts", "num_experts_per_tok",
    "num_shared_expert", "moe_intermediate_size", "attn_type_list", "swiglu_limits", "swiglu_limits_shared",
    "num_attention_heads_per_layer", "num_key_value_heads_per_layer", "rope_theta", "partial_rotary_factors",
    "attention_windows", "compress_ratios", "moe_layer_freq", "attn_layers",
    "num_local_experts", "n_head", "n_inner", "layer_windows",
})  # fmt: skip
#: Lists of numbers of layers.
INDEXES = frozenset({
    "mlp_only_layers", "full_attn_idxs", "attn_layer_indices", "cross_attention_layers", "moe_layers",
    "global_attn_indexes", "global_attn_idx", "hybrid_layer_ids", "fullatt_block_indexes", "window_block_indices",
    "residual_block_indices", "global_attention_blocks", "full_attention_idx", "local_layer_ids",
    "rope_scaling_layers", "attn_layer_idxs", "dense_layers", "subsample_layers",
})  # fmt: skip
#: Counts of first layers that are different, and of last ones.
FIRSTS = ("first_k_dense_replace", "num_dense_layers", "n_dense_layers", "moe_layer_start_index", "num_hash_layers",
          "num_first_full_attention_layers")  # fmt: skip
LASTS = ("num_kv_shared_layers", "num_last_full_attention_layers")
#: Numbers of which every so manieth layer is different.
PERIODS = frozenset({
    "sliding_window_pattern", "global_attn_every_n_layers", "full_attention_interval", "no_rope_layer_interval",
    "interleave_moe_layer_step", "decoder_sparse_step", "encoder_sparse_step", "moe_layer_freq", "moe_layer_frequency",
    "attn_layer_period", "expert_layer_period", "moe_every_n_layers", "moe_layer_interval", "cross_layer_interval",
    "cross_attention_frequency", "cross_attention_every_n_layers", "layer_group_size", "mb_per_layer", "mamba_step",
    "dense_attention_every_n_layers", "attn_every_n_layers", "global_attention_every_n_layers", "moe_layers_step",
})  # fmt: skip
_PERIOD = re.compile(r"(every|_interval|_period|_freq|_frequency|sparse_step|layer_step)($|_)")
#: Texts with a letter for every layer.
LETTERS = ("hybrid_override_pattern", "layer_pattern", "layers_pattern")
#: Keys in which "layer", "block" or "depth" says nothing of single layers of a stack.
_NEUTRAL = re.compile(
    r"layer_?norm|norm_layer|layer_scale|layerscale|layer_?drop|_(drop|dropout|prob|eps|std)$|^block_(size|multiple|ff|"
    r"auto|dilation|use|dim)|^use_|_block_size$|per_layer_input|feature_layer|num_nextn|num_mtp|mtp_|conv_layer|"
    r"adapter_layers|pooler_layers|^num_feat|projector|_depth_rate|drop_path|depth_(coefficient|divisor|multiplier)|"
    r"scale_depth|^depths$|num_blocks_per|modules_in_block|block_name|projection_layer|layer_group_size|postnet|prenet|"
    r"scale_attn_by_inverse_layer_idx|apply_residual_connection_post_layernorm|skip_first_layer|moe_layer_end_index|"
    r"attn_layer_offset|expert_layer_offset|dense_mlp_idx|share_"
)
_NO_LIST = re.compile(
    r"^(architectures|depths|block_types|_block_types|attention_types|mrope_section|mtp_.*|torch_dtype)$|_token_ids?$|"
    r"_tokens$|^(out|_out|neck|summary|vision)_|label|_indices$|_ranges?$|_scales?$|_mean$|_std$|^conv_|^tdnn_"
)
#: What a tower lends to others, by the numbers of its layers.
HOOKS = ("deepstack_visual_indexes", "out_indices", "out_features", "_out_indices")


@dataclass(frozen=True)
class Residue(Fixed):
    """One layer in every few is different, and which is not known: a layer must keep its place among the few."""

    def read(self, section: Section, layers: int) -> list[str]:
        """The place of every layer."""
        period = section.get(self.keys[0])
        if isinstance(period, str):
            return [f"{i % len(period)}{' last' if i == layers - 1 else ''} of {period}" for i in range(layers)]
        if type(period) is not int or period < 2:
            return [""] * layers
        return [f"{i % period} of {period}" for i in range(layers)]


@dataclass(frozen=True)
class Size(Rule):
    """A value of each layer, in a list or the same for all."""

    @property
    def key(self) -> str:
        """The key."""
        return self.keys[0]

    def lists(self) -> tuple[str, ...]:
        """The key."""
        return self.keys

    def read(self, section: Section, layers: int) -> list[str]:
        """The values, as JSON."""
        value = section.get(self.key)
        if isinstance(value, list) and is_list(self.key, value, layers, section):
            return [plain(v) for v in value[:layers]]
        return [plain(value)] * layers

    def write(self, section: Section, wanted: Sequence[str]) -> Changes | None:
        """The list, where the section has the key."""

        return {self.key: [json.loads(w) for w in wanted]} if section.get(self.key) is not None else None


@dataclass(frozen=True)
class Scalar(Size):
    """A value that layers of different models differ in, and that cannot be told layer by layer."""

    def write(self, section: Section, wanted: Sequence[str]) -> Changes | None:
        """Nothing can be written."""
        del section, wanted
        return None


@dataclass(frozen=True)
class Overrides(Rule):
    """`per_layer_config` of transformers 5: what single layers have instead of the values for all."""

    def read(self, section: Section, layers: int) -> list[str]:
        """The overrides of every layer, as JSON; where there is no such key the family decides."""
        told = section.get(self.keys[0])
        if told is None:
            return [""] * layers
        if not isinstance(told, dict) or not all(str(k).isdecimal() for k in told):
            raise SutureError(f"config.json: expected overrides by layer for `{self.keys[0]}`, found {told!r}")
        by_number = {int(k): v for k, v in told.items()}
        if any(k >= layers for k in by_number):
            raise SutureError(f"config.json: `{self.keys[0]}` names layer {max(by_number)}, and there are {layers}")
        return [plain(by_number.get(i, {})) for i in range(layers)]

    def write(self, section: Section, wanted: Sequence[str]) -> Changes | None:
        """The overrides by the new numbers."""

        if section.get(self.keys[0]) is None or "" in wanted:
            return None
        some = {i: json.loads(w) for i, w in enumerate(wanted) if w != "{}"}
        width = len(str(max(some, default=0)))
        return {self.keys[0]: {str(i).zfill(width): v for i, v in some.items()}}


def is_list(key: str, value: Any, layers: int, section: Section) -> bool:
    """Whether a value has one entry for every layer, rather than as many by chance."""

    if not isinstance(value, list) or not value or key in INDEXES or _NO_LIST.search(key):
        return False
    return len(value) == layers or (key in LISTS and 0 < len(value) - layers == extra(section))


def is_index(key: str, value: Any, layers: int) -> bool:
    """Whether a value lists some layers by their numbers."""
    if not isinstance(value, list) or any(type(v) is not int for v in value) or key in HOOKS:
        return False
    if key in INDEXES:
        return True
    ascending = value == sorted(set(value)) and all(0 <= v < layers for v in value)
    return bool(value) and ascending and len(value) != layers and speaks(key) and not _NO_LIST.search(key)


def is_period(key: str, value: Any) -> bool:
    """Whether a value is a number of which every so manieth layer is different."""
    if key == "sliding_window_pattern" and isinstance(value, str) and value:
        return True
    named = key in PERIODS or (bool(_PERIOD.search(key)) and bool(re.search("layer|attn|attention|moe|block", key)))
    return named and type(value) is int and value > 1


def speaks(key: str) -> bool:
    """Whether a key speaks of layers, by its name."""
    words = set(re.split(r"[_\W]+", key))
    about = {"layer", "layers", "block", "blocks", "depth", "depths", "idx", "idxs", "indexes", "indices"}
    return bool(words & about) and not _NEUTRAL.search(key)


def by_names(section: Section, layers: int, claimed: frozenset[str]) -> list[Rule]:
    """Rules for a family that is in no table, of the keys that it has."""
    rules: list[Rule] = []
    if isinstance(section.get("layer_types"), list) and "layer_types" not in claimed:
        rules.append(Listed("attention", ("layer_types",), TYPES, SPELLED))
    for key, value in section.items():
        if key in claimed or value is None:
            continue
        if key in LETTERS and isinstance(value, str) and len(value) == layers:
            rules.append(Letters(key, (key,)))
        elif key in FIRSTS and type(value) is int:
            rules.append(First(key, (key,)))
        elif key in LASTS and type(value) is int:
            rules.append(Last("shares" if "shared" in key else key, (key,)))
        elif is_period(key, value):
            rules.append(Residue(key, (key,)))
        elif key == "max_window_layers" and section.get("use_sliding_window") and type(value) is int:
            rules.append(First(key, (key,), before="full", after="sliding"))
    return rules


def by_shape(section: Section, layers: int, claimed: frozenset[str]) -> list[Rule]:
    """Rules for lists with one entry a layer or with numbers of layers, in any family."""
    rules: list[Rule] = []
    for key, value in section.items():
        if key in claimed:
            continue
        if key == "per_layer_config" and value is not None:
            rules.append(Overrides(key, (key,)))
        elif key in INDEXES and is_index(key, value, layers):
            rules.append(Members(key, (key,), "in", "", ()))
        elif key in LISTS and is_list(key, value, layers, section):
            rules.append(Size(key, (key,)))
    return rules
