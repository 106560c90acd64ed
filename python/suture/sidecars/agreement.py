"""Whether the configs of models whose layers come together agree in what these layers rely on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from suture.errors import SutureError
from suture.sidecars.files import inside
from suture.sidecars.kind_keys import is_period, speaks
from suture.sidecars.kinds import Kind, kinds

Config = Mapping[str, Any]

#: What layers rely on, by the names that families have for it: told where it differs.
_TOLD = {
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
#: What makes layers of one model meaningless in another: other functions, other places of norms, other parts of a head.
_BREAKS = {
    "activation": ("hidden_activation", "hidden_act", "activation_function", "activation", "feed_forward_proj", "afn"),
    "head_dim": ("head_dim", "d_kv", "attention_head_size"),
    "part of a head that is rotated": ("partial_rotary_factor", "rotary_pct", "rotary_dim", "rope_pct"),
    "place of the norms": ("do_layer_norm_before", "post_layer_norm", "normalize_before", "post_norm", "prenorm"),
    "parallel blocks": ("use_parallel_residual", "parallel_attn", "parallel_residual"),
    "norms of queries and keys": ("use_qk_norm", "qk_layernorm", "qk_norm"),
    "kind of positions": ("position_embedding_type", "alibi"),
}
#: Names of one activation.
_ALIKE = {"silu": "silu", "swish": "silu", "swiglu": "silu"}


def disagreements(
    folders: Sequence[Path], configs: Mapping[int, Config | None], change: Mapping[str, Any], *, mixed: bool = False
) -> list[str]:
    """What the configs of a plan's models say otherwise than the one that the output's comes from.

    Args:
        folders: the models.
        configs: the config of each by its number, if it has one.
        change: what the plan says of configs.
        mixed: go on where layers of one would be meaningless in the other, and tell.

    Raises:
        SutureError: if they would be, and `mixed` is not given.
    """
    lender = change["from"]
    told: list[str] = []
    for model, counted in enumerate(change["of"]):
        own, other = (_section(configs.get(m), change["of"][m]) for m in (lender, model))
        if model == lender or counted is None or own is None or other is None:
            continue
        breaking = _differing(own, other, _BREAKS)
        broken = [text for mine, theirs, text in breaking if not _same_function(mine, theirs)]
        if not change["stacks"]:
            broken += _other_kinds(configs, change["of"], lender, model)
        soft = [text for mine, theirs, text in breaking if _same_function(mine, theirs)]
        soft += [text for _, _, text in _differing(own, other, _TOLD)]
        if broken:
            message = (
                f"{folders[model]}: its layers mean something else than those of {folders[lender]}, by config.json: "
                f"{'; '.join([*broken, *soft])}"
            )
            if not mixed:
                raise SutureError(f"{message}; --allow-mixed goes on", folders[model])
            told.append(message)
        elif soft:
            told.append(f"{folders[model]}: config.json differs from that of {folders[lender]}: {'; '.join(soft)}")
    return told


def _section(config: Config | None, counted: Mapping[str, Any] | None) -> Config | None:
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


def _differing(own: Config, other: Config, table: Mapping[str, Sequence[str]]) -> list[tuple[Any, Any, str]]:
    """Where both say something, and not the same: both values, and a text."""
    found = []
    for what, names in table.items():
        (_, mine), (key, theirs) = (
            next(((n, c[n]) for n in names if c.get(n) is not None), ("", None)) for c in (own, other)
        )
        if mine is not None and theirs is not None and not _equal(mine, theirs):
            label = key if key == what else f"{what} (`{key}`)"
            found.append((mine, theirs, f"{label} is {theirs!r}, not {mine!r}"))
    return found


def _equal(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, str) and isinstance(theirs, str):
        return _ALIKE.get(mine, mine) == _ALIKE.get(theirs, theirs)
    return bool(mine == theirs)


def _same_function(mine: Any, theirs: Any) -> bool:
    """Whether two activations are one function, computed otherwise: all forms of GELU are."""
    return isinstance(mine, str) and isinstance(theirs, str) and "gelu" in mine and "gelu" in theirs


def _other_kinds(configs: Mapping[int, Config | None], of: Sequence[Any], lender: int, model: int) -> list[str]:
    """The first layer that is of another kind in both models."""
    own, other = (_kinds(configs[m], of[m]) for m in (lender, model))
    if own is None or other is None or len(own) != len(other):
        return []
    for layer, (mine, theirs) in enumerate(zip(own, other, strict=True)):
        names = [f.name for f in fields(Kind) if getattr(mine, f.name) != getattr(theirs, f.name)]
        # Windows and sizes are told by their own keys, or by the shapes.
        names = [n for n in names if n not in ("window", "sizes")]
        if names:
            told = ", ".join(f"{n} {getattr(theirs, n)!r}, not {getattr(mine, n)!r}" for n in names)
            keys = _differing_keys(*(_section(configs[m], of[m]) or {} for m in (lender, model)))
            by = f", by {keys}" if keys else ""
            return [f"layer {layer} is of another kind ({told}{by})"]
    return []


def _differing_keys(own: Config, other: Config) -> str:
    """The keys that speak of layers and differ."""
    keys = {k: v for k, v in {**own, **other}.items() if own.get(k) != other.get(k)}
    return ", ".join(f"`{k}`" for k, v in keys.items() if isinstance(v, list) or is_period(k, v) or speaks(k))


def _kinds(config: Config | None, counted: Any) -> list[Kind] | None:
    if config is None or counted is None or counted["key"] is None:
        return None
    path, _, key = counted["key"].rpartition(".")
    section = inside(dict(config), path)
    try:
        return kinds(section, section[key], key, model_type=str(config.get("model_type", "")))
    except (SutureError, TypeError):
        # What makes no sense is told when it is to be rewritten.
        return None
