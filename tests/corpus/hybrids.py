"""Models without attention, or with something else beside it."""

from __future__ import annotations

from typing import Any

from .decoders import GQA, LAYERS, TINY, TINY_8, WIDE_NORM
from .facts import EACH, INDEX, Family, Stacking, count, same, separate, uncut

NO_HEADS = "no attention: a state space"
MAMBA2: dict[str, Any] = {
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 4,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
}
STATES: dict[str, Any] = {"vocab_size": 96, "hidden_size": 32, "state_size": 4, "num_hidden_layers": 4}

FAMILIES = (
    Family(
        "jamba", "JambaConfig", "JambaForCausalLM",
        {
            **TINY, "attn_layer_period": 4, "attn_layer_offset": 2, "expert_layer_period": 2, "expert_layer_offset": 1,
            "num_experts": 4, "num_experts_per_tok": 2, "mamba_d_state": 4, "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
        },
        LAYERS, ("mamba, dense", "mamba, experts", "full, dense", "mamba, experts"), separate(4, 2, layer=2),
        Stacking(why_not="attn_layer_period and expert_layer_period can only say what repeats"),
        stored="an expert at a time",
    ),
    # A head's rows of q_proj are its query and its gate.
    Family(
        "qwen3_next", "Qwen3NextConfig", "Qwen3NextForCausalLM",
        {
            **TINY_8, "moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2,
            "shared_expert_intermediate_size": 24, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
            "linear_key_head_dim": 8, "linear_value_head_dim": 8,
        },
        LAYERS, ("linear, experts",) * 3 + ("full, experts",), separate(4, 2, layer=3), count(layer_types=EACH),
        stored="an expert at a time",
    ),
    # Published checkpoints hold a block that predicts the token after the next, in a module of its own.
    Family(
        "qwen3_next_mtp", "Qwen3NextConfig", "Qwen3NextForCausalLM",
        {
            **TINY_8, "moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2,
            "shared_expert_intermediate_size": 24, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
            "linear_key_head_dim": 8, "linear_value_head_dim": 8,
        },
        LAYERS, ("linear, experts",) * 3 + ("full, experts",), separate(4, 2, layer=3), count(layer_types=EACH),
        {"mtp.layers.": 1}, stored="an expert at a time",
        copies={
            "model.layers.3.": "mtp.layers.0.", "model.norm.": "mtp.norm.", "mtp.norm.": "mtp.pre_fc_norm_hidden.",
            "model.layers.3.self_attn.o_proj.": "mtp.fc.",
        },
    ),
    Family(
        "olmo_hybrid", "OlmoHybridConfig", "OlmoHybridForCausalLM",
        {
            **TINY, "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8,
            "linear_value_head_dim": 16,
        },
        LAYERS, ("linear",) * 3 + ("full",), separate(4, 2, more=WIDE_NORM.parts[2:], layer=3),
        count(layer_types=EACH),
    ),
    # The decays are stored here; a checkpoint without them would get others for layers in other places.
    Family(
        "minimax", "MiniMaxConfig", "MiniMaxForCausalLM", {**TINY_8, "num_local_experts": 4, "block_size": 4}, LAYERS,
        ("full, experts", "linear, experts") * 2, GQA,
        Stacking({"num_hidden_layers": "count", "layer_types": EACH}, refusable=True),
        stored="an expert at a time; the decay of each linear layer, which depends on its number",
    ),
    Family(
        "zamba", "ZambaConfig", "ZambaForCausalLM",
        {
            **TINY, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"], "mamba_d_state": 4,
            "mamba_dt_rank": 4, "n_mamba_heads": 2, "use_mamba_kernels": False, "attention_head_dim": 16,
        },
        LAYERS, ("mamba", "mamba, shared full, stored here", "mamba", "mamba, shared full"),
        separate(4, 2, at="shared_transf.self_attn.", layer=1),
        Stacking({"num_hidden_layers": "count", "layers_block_type": EACH}, refusable=True), tied=True,
        stored="the block that hybrid layers share in the first of them",
    ),
    Family(
        "zamba2", "Zamba2Config", "Zamba2ForCausalLM",
        {
            **TINY, "mamba_d_state": 4, "mamba_headdim": 16, "n_mamba_heads": 4, "mamba_ngroups": 1,
            "num_mem_blocks": 1, "use_mem_rope": True, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
            "adapter_rank": 4, "chunk_size": 8,
        },
        LAYERS, ("mamba", "mamba, shared full, stored here", "mamba", "mamba, shared full"),
        separate(4, 2, at="shared_transformer.self_attn.", layer=1),
        Stacking(why_not="the shared block has adapters for the number of layers that share it"), tied=True,
        stored="the block that hybrid layers share in the first of them",
    ),
    Family(
        "bamba", "BambaConfig", "BambaForCausalLM", {**TINY, **MAMBA2, "attn_layer_indices": [1, 3]}, LAYERS,
        ("mamba", "full") * 2, separate(4, 2, layer=1), count(attn_layer_indices=INDEX),
    ),
    # Every layer has both, side by side; the heads of its attention are its own.
    Family(
        "falcon_h1", "FalconH1Config", "FalconH1ForCausalLM", {**TINY_8, **MAMBA2, "mamba_d_ssm": 64}, LAYERS,
        same("full beside mamba"), GQA, count(),
    ),
    Family(
        "lfm2", "Lfm2Config", "Lfm2ForCausalLM", {**TINY, "full_attn_idxs": [1, 3], "block_auto_adjust_ff_dim": False},
        LAYERS, ("conv", "full") * 2, separate(4, 2, out="out_proj", layer=1),
        count(layer_types=EACH, full_attn_idxs=INDEX), tied=True,
    ),
    Family(
        "granitemoehybrid", "GraniteMoeHybridConfig", "GraniteMoeHybridForCausalLM",
        {
            **TINY, **MAMBA2, "num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 24,
            "layer_types": ["mamba", "attention"] * 2,
        },
        LAYERS, ("mamba, experts", "full, experts") * 2, separate(4, 2, layer=1), count(layer_types=EACH),
        stored="experts in 3-D tensors",
    ),
    # A layer is one block: attention, or a feed-forward, or Mamba. In memory it is `model.layers.`.
    Family(
        "nemotron_h", "NemotronHConfig", "NemotronHForCausalLM",
        {
            **{k: v for k, v in TINY_8.items() if k != "num_hidden_layers"}, "layers_block_type": ["mamba",
            "attention", "mlp", "moe"], "mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 4, "n_groups": 1,
            "chunk_size": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
            "moe_shared_expert_intermediate_size": 24, "n_group": 1, "topk_group": 1,
        },
        ("backbone.layers.",), ("mamba", "full", "dense", "experts"), separate(4, 2, at="mixer.", layer=1),
        Stacking({"layers_block_type": EACH}), inside=("model.layers.",), stored="an expert at a time",
    ),
    # The pattern of three repeats over the layers, and happens to fit the order of the test.
    Family(
        "recurrent_gemma", "RecurrentGemmaConfig", "RecurrentGemmaForCausalLM",
        {
            **TINY_8, "lru_width": 32, "attention_window_size": 8, "block_types": ["recurrent", "recurrent",
            "attention"],
        },
        LAYERS, ("recurrent", "recurrent", "sliding", "recurrent"), separate(4, 2, at="temporal_block.", layer=2),
        Stacking({"num_hidden_layers": "count"}, refusable=True), tied=True,
    ),
    Family(
        "mamba", "MambaConfig", "MambaForCausalLM", {**STATES, "time_step_rank": 4}, ("backbone.layers.",),
        same("mamba"), uncut(NO_HEADS), count(), tied=True,
    ),
    Family(
        "falcon_mamba", "FalconMambaConfig", "FalconMambaForCausalLM", {**STATES, "time_step_rank": 4},
        ("backbone.layers.",), same("mamba"), uncut(NO_HEADS), count(), tied=True,
    ),
    Family(
        "mamba2", "Mamba2Config", "Mamba2ForCausalLM",
        {**STATES, "num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 8}, ("backbone.layers.",),
        same("mamba"), uncut(NO_HEADS), count(),
    ),
    Family(
        "rwkv", "RwkvConfig", "RwkvForCausalLM",
        {
            "vocab_size": 96, "context_length": 64, "hidden_size": 32, "num_hidden_layers": 4,
            "attention_hidden_size": 32, "intermediate_size": 48,
        },
        ("rwkv.blocks.",), ("recurrent, after a norm", "recurrent", "recurrent", "recurrent"),
        uncut("a recurrence over channels, without heads"), count(),
    ),
    Family(
        "xlstm", "xLSTMConfig", "xLSTMForCausalLM",
        {"vocab_size": 96, "hidden_size": 32, "num_blocks": 4, "num_heads": 2, "chunk_size": 8, "use_cache": False},
        ("backbone.blocks.",), same("recurrent"), uncut("a recurrence, with gates over all heads"), count("num_blocks"),
    ),
)  # fmt: skip
