"""What layers rely on besides their weights, as configs tell: rope, norms, activations, kinds of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from suture.errors import SutureError
from suture.sidecars.files import inside
from suture.sidecars.kind_keys import is_period, speaks
from suture.sidecars.kinds import Kind, kinds

Config = Mapping[str, Any]

#: What layers rely on, by the names that families have for it: told where it differs.
TOLD = {
    "rope_theta": ("rope_theta", "rotary_emb_base", "rope_base"),
    "rope_scaling": ("rope_scaling",),
    "norm epsilon": (
        "rms_norm_eps",
        "layer_norm_eps",
        "layer_norm_epsilon",
        "norm_epsilon",
        "norm_eps",
        "layernorm_eps",
    ),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "query_pre_attn_scalar": ("query_pre_attn_scalar",),
    "attention_multiplier": ("attention_multiplier",),
    "residual_multiplier": ("residual_multiplier",),
    "embedding_multiplier": ("embedding_multiplier",),
    "logit_scale": ("logit_scale",),
    "sliding_window": ("sliding_window",),
}
#: How many heads there are: tensors of the same shapes are cut otherwise.
HEADS = {
    "attention heads": ("num_attention_heads", "n_head", "num_heads", "n_heads", "decoder_attention_heads"),
    "heads of keys and values": ("num_key_value_heads", "n_head_kv", "num_kv_heads", "n_kv_heads", "num_query_groups"),
}
#: What makes layers of one model meaningless in another: other functions, other places of norms, other parts of a head.
BREAKS = {
    "activation": ("hidden_activation", "hidden_act", "activation_function", "activation", "feed_forward_proj", "afn"),
    **HEADS,
    "head_dim": ("head_dim", "d_kv", "attention_head_size"),
    "part of a head that is rotated": ("partial_rotary_factor", "rotary_pct", "rotary_dim", "rope_pct"),
    "place of the norms": ("do_layer_norm_before", "post_layer_norm", "normalize_before", "post_norm", "prenorm"),
    "parallel blocks": ("use_parallel_residual", "parallel_attn", "parallel_residual"),
    "norms of queries and keys": ("use_qk_norm", "qk_layernorm", "qk_norm"),
    "kind of positions": ("position_embedding_type", "alibi"),
}
#: Of these nothing is a value too.
_OR_NONE = frozenset({"rope_scaling"})
#: Names of one activation.
_ALIKE = {"silu": "silu", "swish": "silu", "swiglu": "silu"}


def section_of(config: Config | None, counted: Mapping[str, Any] | None) -> Config | None:
    """The part of a config that counts the layers, with what the whole says where the part says nothing."""
    if config is None or counted is None:
        return None
    found = inside(dict(config), (counted["key"] or "").rpartition(".")[0])
    if not isinstance(found, dict):
        return None
    section = {**found}
    rope = section.get("rope_parameters")
    if isinstance(rope, dict) and "rope_theta" in rope:
        section.setdefault("rope_theta", rope["rope_theta"])
    return section


def differing(own: Config, other: Config, table: Mapping[str, Sequence[str]]) -> list[tuple[Any, Any, str]]:
    """Where both say something, and not the same: both values, and a text."""
    found = []
    for what, names in table.items():
        (_, mine), (key, theirs) = (said(c, names) for c in (own, other))
        # To scale no positions is a way to have them.
        whole = what in _OR_NONE and (mine is not None or theirs is not None)
        if (whole or (mine is not None and theirs is not None)) and not equal(mine, theirs):
            key = key or names[0]
            label = key if key == what else f"{what} (`{key}`)"
            found.append((mine, theirs, f"{label} is {theirs!r}, not {mine!r}"))
    return found


def said(section: Config, names: Sequence[str]) -> tuple[str, Any]:
    """The first of these keys that says something, and what; an empty key and nothing where none does."""
    return next(((n, section[n]) for n in names if section.get(n) is not None), ("", None))


def equal(mine: Any, theirs: Any) -> bool:
    """Whether two values are one, whatever they are called."""
    if isinstance(mine, str) and isinstance(theirs, str):
        return _ALIKE.get(mine, mine) == _ALIKE.get(theirs, theirs)
    return bool(mine == theirs)


def other_quantisation(own: Config | None, other: Config | None) -> list[str]:
    """What two configs say otherwise of how weights are quantised; which modules are not does not count."""
    mine, theirs = (_quantisation(c) for c in (own, other))
    if mine == theirs:
        return []
    if mine is None or theirs is None:
        return ["`quantization_config` is in one of them alone"]
    keys = [k for k in {**mine, **theirs} if mine.get(k) != theirs.get(k)]
    return [f"`quantization_config.{k}` is {theirs.get(k)!r}, not {mine.get(k)!r}" for k in keys]


def _quantisation(config: Config | None) -> Config | None:
    found = (config or {}).get("quantization_config")
    if not isinstance(found, dict):
        return None
    # Lists name modules, and these keys say how a quantiser worked, not what it wrote.
    idle = ("dataset", "tokenizer", "batch_size", "model_seqlen", "use_exllama", "exllama_config", "max_input_length")
    return {k: v for k, v in found.items() if k not in idle and not isinstance(v, list) and v is not None}


def same_function(mine: Any, theirs: Any) -> bool:
    """Whether two activations are one function, computed otherwise: all forms of GELU are."""
    return isinstance(mine, str) and isinstance(theirs, str) and "gelu" in mine and "gelu" in theirs


def other_kinds(configs: Mapping[int, Config | None], of: Sequence[Any], lender: int, model: int) -> list[str]:
    """The first layer that is of another kind in both models."""
    own, other = (kinds_of(configs[m], of[m]) for m in (lender, model))
    if own is None or other is None or len(own) != len(other):
        return []
    keys = _differing_keys(*(section_of(configs[m], of[m]) or {} for m in (lender, model)))
    return other_kind([(layer, *pair) for layer, pair in enumerate(zip(own, other, strict=True))], keys)


def merged_kinds(configs: Mapping[int, Config | None], stack: Mapping[str, Any], model: int) -> list[str]:
    """The same of layers that slices merge, which may be others of each model."""
    keys = {m: {"key": key, "layers": 0} for m, key in stack["keys"]}
    known = {m: kinds_of(configs.get(m), keys.get(m)) for m in {model, *(m for m, _ in stack["layers"])}}
    pairs = []
    for i, m, layer in stack["merged"]:
        lead, there = stack["layers"][i]
        own, other = known[lead], known[model]
        if m == model and own is not None and other is not None and there < len(own) and layer < len(other):
            pairs.append((layer, own[there], other[layer]))
    return other_kind(pairs, "")


def other_kind(pairs: Sequence[tuple[int, Kind, Kind]], keys: str) -> list[str]:
    """The first layer, by its number in the second model, that is of another kind than in the first."""
    for layer, mine, theirs in pairs:
        names = [f.name for f in fields(Kind) if getattr(mine, f.name) != getattr(theirs, f.name)]
        # Windows and sizes are told by their own keys, or by the shapes.
        names = [n for n in names if n not in ("window", "sizes")]
        if names:
            told = ", ".join(f"{n} {getattr(theirs, n)!r}, not {getattr(mine, n)!r}" for n in names)
            by = f", by {keys}" if keys else ""
            return [f"layer {layer} is of another kind ({told}{by})"]
    return []


def _differing_keys(own: Config, other: Config) -> str:
    """The keys that speak of layers and differ."""
    keys = {k: v for k, v in {**own, **other}.items() if own.get(k) != other.get(k)}
    return ", ".join(f"`{k}`" for k, v in keys.items() if isinstance(v, list) or is_period(k, v) or speaks(k))


def kinds_of(config: Config | None, counted: Any) -> list[Kind] | None:
    """What each layer is; None where the config does not tell."""
    if config is None or counted is None or counted["key"] is None:
        return None
    path, _, key = counted["key"].rpartition(".")
    section = inside(dict(config), path)
    try:
        return kinds(section, section[key], key, model_type=str(config.get("model_type", "")))
    except (SutureError, TypeError, KeyError):
        # What makes no sense is told when it is to be rewritten.
        return None
