"""Architectures of experts that dense models can become: what their tensors are called, and what their configs say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from suture.errors import SutureError

#: The matrices of a dense layer of Llama's kind.
DENSE = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Target:
    """An architecture of experts.

    Attributes:
        name: what configs call it: ``mixtral``.
        kind: `model_type` in config.json.
        of: the `model_type` of the dense models that become one.
        architecture: the class, in config.json.
        router: the router, inside a layer.
        expert: an expert's matrix, inside a layer, by number and matrix.
        names: its three matrices, as :data:`DENSE` has them.
        config: its own keys of config.json, of numbers of experts, of those a token goes to, of their width, the
            dense layers, and the width of what all tokens go through.
        partly: whether single layers can stay dense.
        shared: what all tokens go through, inside a layer; None where there is no such thing.
        shared_gate: the gate of that, if it has one.
    """

    name: str
    kind: str
    of: tuple[str, ...]
    architecture: str
    router: str
    expert: str
    names: tuple[str, str, str]
    config: Callable[[int, int, int, list[int], int], dict[str, Any]]
    partly: bool
    shared: str | None = None
    shared_gate: str | None = None

    def matrices(self, expert: int) -> list[str]:
        """The names of an expert's gate, up and down, inside a layer."""
        return [self.expert.format(expert) + f".{name}.weight" for name in self.names]


def _qwen(experts: int, chosen: int, width: int, dense: list[int], shared: int) -> dict[str, Any]:
    own = {"num_experts": experts, "num_experts_per_tok": chosen, "moe_intermediate_size": width}
    return {
        **own,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": dense,
        "output_router_logits": False,
    }


def _qwen2(experts: int, chosen: int, width: int, dense: list[int], shared: int) -> dict[str, Any]:
    return _qwen(experts, chosen, width, dense, shared) | {"shared_expert_intermediate_size": shared}


def _mixtral(experts: int, chosen: int, width: int, dense: list[int], shared: int) -> dict[str, Any]:
    return {"num_local_experts": experts, "num_experts_per_tok": chosen, "output_router_logits": False}


def _deepseek(experts: int, chosen: int, width: int, dense: list[int], shared: int) -> dict[str, Any]:
    return {
        "n_routed_experts": experts, "num_experts_per_tok": chosen, "n_shared_experts": 1 if shared else None,
        "moe_intermediate_size": width, "first_k_dense_replace": len(dense), "moe_layer_freq": 1,
        "scoring_func": "softmax", "norm_topk_prob": True, "aux_loss_alpha": 0.001, "seq_aux": True,
        "auto_map": {
            "AutoConfig": "deepseek-ai/deepseek-moe-16b-base--configuration_deepseek.DeepseekConfig",
            "AutoModelForCausalLM": "deepseek-ai/deepseek-moe-16b-base--modeling_deepseek.DeepseekForCausalLM",
        },
    }  # fmt: skip


TARGETS = (
    Target(
        "mixtral", "mixtral", ("llama", "mistral"), "MixtralForCausalLM", "block_sparse_moe.gate.weight",
        "block_sparse_moe.experts.{}", ("w1", "w3", "w2"), _mixtral, partly=False,
    ),
    Target(
        "qwen", "qwen2_moe", ("qwen2",), "Qwen2MoeForCausalLM", "mlp.gate.weight", "mlp.experts.{}", DENSE, _qwen2,
        partly=True, shared="mlp.shared_expert", shared_gate="mlp.shared_expert_gate.weight",
    ),
    Target(
        "qwen3", "qwen3_moe", ("qwen3",), "Qwen3MoeForCausalLM", "mlp.gate.weight", "mlp.experts.{}", DENSE, _qwen,
        partly=True,
    ),
    Target(
        "deepseek", "deepseek", ("llama", "mistral"), "DeepseekForCausalLM", "mlp.gate.weight", "mlp.experts.{}", DENSE,
        _deepseek, partly=False, shared="mlp.shared_experts",
    ),
)  # fmt: skip

#: Keys of a dense config that an architecture of experts does not know.
_GONE = ("pretraining_tp", "mlp_bias", "auto_map")


def target_of(config: Mapping[str, Any], asked: str | None, shared: bool, where: str) -> Target:
    """The architecture that a dense model of this config becomes, by its beginning if one was `asked` for.

    Raises:
        SutureError: if there is none, or not with something that all tokens go through.
    """
    kind = config.get("model_type")
    fit = [t for t in TARGETS if kind in t.of]
    if not fit:
        known = ", ".join(sorted({k for t in TARGETS for k in t.of}))
        raise SutureError(f"{where}: is `{kind}`, of which no model of experts is made; these are: {known}", where)
    named = [t for t in fit if asked is None or t.name == asked] or [t for t in fit if t.name.startswith(str(asked))]
    if not named:
        message = f"architecture: `{asked}` is not made of `{kind}`; it becomes {' or '.join(t.name for t in fit)}"
        raise SutureError(f"{where}: {message}", where)
    able = [t for t in named if not shared or t.shared is not None]
    if not able:
        raise SutureError(f"{where}: shared_experts: {named[0].name} has none; leave them out", where)
    target = able[0]
    biased = [key for key in ("attention_bias", "mlp_bias") if config.get(key)]
    if biased and target.name != "qwen":
        raise SutureError(f"{where}: has `{biased[0]}`, and {target.name} has no such biases", where)
    return target


def config_of(
    target: Target, config: Mapping[str, Any], experts: int, chosen: int, dense: Sequence[int], shared: int
) -> dict[str, Any]:
    """The config of the model of experts that a dense model of `config` becomes."""
    out = {k: v for k, v in config.items() if k not in _GONE}
    if target.name == "mixtral" and config.get("model_type") == "llama":
        out = {k: v for k, v in out.items() if k != "attention_bias"} | {"sliding_window": None}
    own = target.config(experts, chosen, int(config["intermediate_size"]), list(dense), shared)
    return out | {"model_type": target.kind, "architectures": [target.architecture]} | own
