"""What no key of a GGUF file says of a model, and readers take to be as it is in the models that were published."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from suture.errors import SutureError

_SLIDING, _FULL = "sliding_attention", "full_attention"
#: Of how many layers the last sees everything.
_PATTERNS = {"gemma2": 2, "gemma3_text": 6}
#: The models whose queries are scaled by hidden_size / heads, by their number of layers; else it is the size of a head.
_WIDE = {"gemma2": 46, "gemma3_text": 62}


def positions(config: Mapping[str, Any], kind: str = _FULL) -> dict[str, Any]:
    """How positions are scaled, of one kind of layers where each kind has its own; `rope_theta` may be among it."""
    found = config.get("rope_parameters")
    found = found if isinstance(found, Mapping) else config.get("rope_scaling")
    found = found if isinstance(found, Mapping) else {}
    inner = found.get(kind)
    return dict(inner if isinstance(inner, Mapping) else found)


def is_plain_yarn(scaling: Mapping[str, Any]) -> bool:
    """Whether positions scaled by YaRN are scaled by what all readers take, where a key could say otherwise."""
    usual = {
        "beta_fast": 32,
        "beta_slow": 1,
        "attention_factor": 0.1 * math.log(float(scaling["factor"])) + 1.0,
        "truncate": True,
        "mscale": scaling.get("mscale_all_dim"),
    }
    said = {key: value for key, value in scaling.items() if key in usual and value is not None}
    return all(value == usual[key] or math.isclose(value, usual[key] or 0, rel_tol=1e-6) for key, value in said.items())


def refuse_unsaid(config: Mapping[str, Any], kind: str, head: int) -> None:
    """Refuse a model that readers would compute otherwise than its config says.

    Args:
        config: its config.json.
        kind: its `model_type`.
        head: the size of a head.

    Raises:
        SutureError: naming the key, what is expected and what is found.
    """

    def must(key: str, found: Any, *expected: Any) -> None:
        if found is not None and found not in expected:
            wanted = " or ".join(map(repr, expected))
            message = f"config.json: `{key}`: expected {wanted}, which readers of GGUF take it to be, found {found!r}"
            raise SutureError(f"{message}; such a model cannot be written as GGUF")

    must("partial_rotary_factor", config.get("partial_rotary_factor"), 1, 1.0)
    must("partial_rotary_factor", positions(config).get("partial_rotary_factor"), 1, 1.0)
    if kind not in _PATTERNS:
        must("hidden_act", config.get("hidden_act"), "silu", "swish")
        return
    must("hidden_activation", config.get("hidden_activation"), "gelu_pytorch_tanh", "gelu_new")
    must("use_bidirectional_attention", config.get("use_bidirectional_attention"), False)
    layers, every = config["num_hidden_layers"], _PATTERNS[kind]
    usual = config["hidden_size"] // config["num_attention_heads"] if layers == _WIDE[kind] else head
    must("query_pre_attn_scalar", config.get("query_pre_attn_scalar", 256), usual)
    pattern = [_SLIDING if (i + 1) % every else _FULL for i in range(layers)]
    if config.get("layer_types") not in (None, pattern):
        must("layer_types", "another order", f"{_FULL} in every {every}th layer alone")
    if config.get("layer_types") is None and kind == "gemma3_text":
        of = [config.get(key) for key in ("sliding_window_pattern", "_sliding_window_pattern")]
        must("sliding_window_pattern", next((n for n in of if n is not None), None), every)
    if kind == "gemma2":
        for key in ("attn_logit_softcapping", "final_logit_softcapping"):
            if key in config and config[key] is None:
                raise SutureError(f"config.json: `{key}`: expected a number, found null; readers of GGUF bound logits")
        return
    must("attn_logit_softcapping", config.get("attn_logit_softcapping"), None)
    both = config.get("rope_parameters")
    local = positions(config, _SLIDING) if isinstance(both, Mapping) and _SLIDING in both else {}
    must("rope_local_base_freq", local.get("rope_theta", config.get("rope_local_base_freq")), 10000)
    must("rope_parameters.sliding_attention.rope_type", local.get("rope_type"), "default")
