"""Decoders of text, all of whose layers attend."""

from __future__ import annotations

from typing import Any

from .facts import COUNT, EACH, INDEX, Attention, Cut, Family, Part, Stacking, count, same, separate, uncut

#: A tiny model in the words of Llama's config: 4 layers, 4 heads that share 2 for keys and values.
TINY: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
#: The same without shared heads, for configs that do not know them.
TINY_MHA = {k: v for k, v in TINY.items() if k != "num_key_value_heads"}
#: The same with heads of 8.
TINY_8 = {**TINY, "head_dim": 8}
#: The same with low-rank attention, which makes keys and values for every head.
TINY_MLA: dict[str, Any] = {
    **TINY,
    "num_key_value_heads": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 12,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
}
#: In the words of GPT-2's.
TINY_GPT: dict[str, Any] = {"vocab_size": 96, "n_positions": 64, "n_embd": 32, "n_layer": 4, "n_head": 4}

LAYERS = ("model.layers.",)
H = ("transformer.h.",)
GQA = separate(4, 2)
MHA = separate(4)
#: Windows in turn, as a list in the config.
TYPES = count(layer_types=EACH)
#: A norm over all heads at once: each has its stretch of the weights, though they are normed together.
WIDE_NORM = separate(4, 2, more=(Part("self_attn.[qk]_norm.weight"),))
LOW_RANK = uncut("low-rank projections that heads share", (4, 4))
CONV1D = Attention(
    (4, 4), Cut.CONV1D, (Part("attn.c_attn.weight", axis=1, segments=3), Part("attn.c_attn.bias", segments=3),
                         Part("attn.c_proj.weight")),
)  # fmt: skip


def fused(cut: Cut, name: str, out: str, kv: int = 4, segments: int | tuple[int, ...] = 1, blocks: int = 1,
          alike: bool = True) -> Attention:  # fmt: skip
    """Rows of one projection and columns of the output projection."""
    parts = (Part(f"{name}.*", segments=segments, blocks=blocks), Part(f"{out}.weight", axis=1))
    return Attention((4, kv), cut, parts, alike=alike)


FAMILIES = (
    Family("llama", "LlamaConfig", "LlamaForCausalLM", TINY, LAYERS, same("full"), GQA, count()),
    Family(
        "mistral", "MistralConfig", "MistralForCausalLM", {**TINY, "sliding_window": 4}, LAYERS, same("sliding"), GQA,
        count(),
    ),
    Family(
        "ministral", "MinistralConfig", "MinistralForCausalLM",
        {**TINY_8, "sliding_window": 4, "layer_types": ["full_attention", "sliding_attention"] * 2}, LAYERS,
        ("full", "sliding") * 2, GQA, TYPES,
    ),
    Family(
        "qwen2", "Qwen2Config", "Qwen2ForCausalLM",
        {**TINY, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}, LAYERS,
        ("full", "full", "sliding", "sliding"), GQA, TYPES,
    ),
    Family("qwen3", "Qwen3Config", "Qwen3ForCausalLM", TINY_8, LAYERS, same("full"), GQA, TYPES),
    Family("gemma", "GemmaConfig", "GemmaForCausalLM", TINY_8, LAYERS, same("full"), GQA, count(), tied=True),
    Family(
        "gemma2", "Gemma2Config", "Gemma2ForCausalLM", {**TINY_8, "sliding_window": 4}, LAYERS,
        ("sliding", "full") * 2, GQA, TYPES, tied=True,
    ),
    Family(
        "gemma3", "Gemma3TextConfig", "Gemma3ForCausalLM",
        {
            **TINY_8, "sliding_window": 4, "layer_types": ["sliding_attention", "sliding_attention", "full_attention",
            "sliding_attention"],
        },
        LAYERS, ("sliding", "sliding", "full", "sliding"), GQA, TYPES, tied=True,
    ),
    # The last two layers have no keys and values of their own: those of the first two serve them.
    Family(
        "gemma3n", "Gemma3nTextConfig", "Gemma3nForCausalLM",
        {
            **TINY_8, "vocab_size_per_layer_input": 96, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 2,
            "laurel_rank": 4, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"] * 2,
            "activation_sparsity_pattern": [0.0] * 4,
        },
        LAYERS, ("sliding", "full", "sliding, without keys", "full, without keys"), separate(4, 2, alike=False),
        Stacking(why_not="the last layers take keys and values from earlier ones, and tables have a part for each"),
        tied=True,
    ),
    Family("phi", "PhiConfig", "PhiForCausalLM", TINY, LAYERS, same("full"), separate(4, 2, out="dense"), count()),
    Family(
        "phi3", "Phi3Config", "Phi3ForCausalLM", TINY, LAYERS, same("full"),
        fused(Cut.STACKED, "self_attn.qkv_proj", "self_attn.o_proj", 2, (4, 2, 2)), count(),
    ),
    Family("gpt2", "GPT2Config", "GPT2LMHeadModel", TINY_GPT, H, same("full"), CONV1D, count("n_layer"), tied=True),
    Family(
        "openai_gpt", "OpenAIGPTConfig", "OpenAIGPTLMHeadModel", TINY_GPT, H, same("full"), CONV1D, count("n_layer"),
        tied=True,
    ),
    Family(
        "gptj", "GPTJConfig", "GPTJForCausalLM", {**TINY_GPT, "rotary_dim": 4}, H, same("full"),
        separate(4, at="attn.", out="out_proj"), count("n_layer"),
    ),
    Family(
        "gpt_neox", "GPTNeoXConfig", "GPTNeoXForCausalLM", TINY_MHA, ("gpt_neox.layers.",), same("full"),
        fused(Cut.PER_HEAD, "attention.query_key_value", "attention.dense", blocks=4, segments=3), count(),
    ),
    Family(
        "gpt_neo", "GPTNeoConfig", "GPTNeoForCausalLM",
        {
            "vocab_size": 96, "hidden_size": 32, "num_layers": 4, "num_heads": 4, "intermediate_size": 48,
            "max_position_embeddings": 64, "window_size": 4, "attention_types": [[["global", "local"], 2]],
        },
        H, ("full", "sliding") * 2, separate(4, at="attn.attention.", out="out_proj"),
        Stacking({"num_layers": COUNT, "attention_layers": EACH,
            "attention_types": lambda order, _: [[["local" if i % 2 else "global" for i in order], 1]]}),
        tied=True,
    ),
    Family(
        "gpt_bigcode", "GPTBigCodeConfig", "GPTBigCodeForCausalLM", TINY_GPT, H, same("full"),
        fused(Cut.STACKED, "attn.c_attn", "attn.c_proj", 1, (4, 1, 1)), count("n_layer"), tied=True,
    ),
    Family(
        "opt", "OPTConfig", "OPTForCausalLM",
        {
            "vocab_size": 96, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
            "max_position_embeddings": 64, "word_embed_proj_dim": 32,
        },
        ("model.decoder.layers.",), same("full"), separate(4, out="out_proj"), count(), tied=True,
    ),
    Family(
        "xglm", "XGLMConfig", "XGLMForCausalLM",
        {
            "vocab_size": 96, "d_model": 32, "ffn_dim": 48, "num_layers": 4, "attention_heads": 4,
            "max_position_embeddings": 64,
        },
        LAYERS, same("full"), separate(4, out="out_proj"), count("num_layers"), tied=True,
    ),
    Family(
        "biogpt", "BioGptConfig", "BioGptForCausalLM", TINY_MHA, ("biogpt.layers.",), same("full"),
        separate(4, out="out_proj"), count(), tied=True,
    ),
    Family(
        "bloom", "BloomConfig", "BloomForCausalLM", {"vocab_size": 96, "hidden_size": 32, "n_layer": 4, "n_head": 4},
        H, same("full, alibi"),
        fused(Cut.PER_HEAD, "self_attention.query_key_value", "self_attention.dense", blocks=4, segments=3,
            alike=False),
        count("n_layer"), tied=True,
    ),
    Family(
        "mpt", "MptConfig", "MptForCausalLM",
        {"vocab_size": 96, "d_model": 32, "n_heads": 4, "n_layers": 4, "max_seq_len": 64, "expansion_ratio": 2},
        ("transformer.blocks.",), same("full, alibi"),
        fused(Cut.STACKED, "attn.Wqkv", "attn.out_proj", segments=3, alike=False), count("n_layers"), tied=True,
    ),
    Family(
        "falcon_7b", "FalconConfig", "FalconForCausalLM",
        {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}, H, same("full"),
        fused(Cut.STACKED, "self_attention.query_key_value", "self_attention.dense", 1, (4, 1, 1)), count(), tied=True,
    ),
    Family(
        "falcon_40b", "FalconConfig", "FalconForCausalLM",
        {
            "vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_kv_heads": 2,
            "new_decoder_architecture": True,
        },
        H, same("full"),
        fused(Cut.PER_GROUP, "self_attention.query_key_value", "self_attention.dense", 2, blocks=2, segments=(2, 1,
            1)),
        count(), tied=True,
    ),
    # Eight heads in four blocks of two: within a block q, v, k lie one above the other.
    Family(
        "codegen", "CodeGenConfig", "CodeGenForCausalLM", {**TINY_GPT, "n_ctx": 64, "n_head": 8, "rotary_dim": 4}, H,
        same("full"),
        Attention((8, 8), Cut.PER_GROUP, (Part("attn.qkv_proj.weight", segments=3, blocks=4),
            Part("attn.out_proj.weight", axis=1))),
        count("n_layer"),
    ),
    Family("stablelm", "StableLmConfig", "StableLmForCausalLM", TINY, LAYERS, same("full"), GQA, count()),
    Family(
        "persimmon", "PersimmonConfig", "PersimmonForCausalLM", TINY_MHA, LAYERS, same("full"),
        fused(Cut.PER_HEAD, "self_attn.query_key_value", "self_attn.dense", blocks=4, segments=3), count(),
    ),
    Family(
        "olmo2", "Olmo2Config", "Olmo2ForCausalLM", TINY, LAYERS, same("full"),
        WIDE_NORM, count(),
    ),
    Family("cohere", "CohereConfig", "CohereForCausalLM", TINY, LAYERS, same("full"), GQA, count(), tied=True),
    # Windows with RoPE, three in four; the fourth sees everything and has no positions.
    Family(
        "cohere2", "Cohere2Config", "Cohere2ForCausalLM", {**TINY, "sliding_window": 4}, LAYERS,
        ("sliding, rope",) * 3 + ("full, nope",), GQA, TYPES, tied=True,
    ),
    Family(
        "starcoder2", "Starcoder2Config", "Starcoder2ForCausalLM", TINY, LAYERS, same("full"), GQA, count(), tied=True,
    ),
    Family("granite", "GraniteConfig", "GraniteForCausalLM", TINY, LAYERS, same("full"), GQA, count()),
    Family("nemotron", "NemotronConfig", "NemotronForCausalLM", TINY, LAYERS, same("full"), GQA, count()),
    Family("glm4", "Glm4Config", "Glm4ForCausalLM", TINY_8, LAYERS, same("full"), GQA, count()),
    Family(
        "smollm3", "SmolLM3Config", "SmolLM3ForCausalLM", {**TINY, "no_rope_layer_interval": 2}, LAYERS,
        ("full, rope", "full, nope") * 2, GQA, count(layer_types=EACH, no_rope_layers=EACH), tied=True,
    ),
    Family(
        "exaone4", "Exaone4Config", "Exaone4ForCausalLM", {**TINY, "sliding_window": 4, "sliding_window_pattern": 4},
        LAYERS, ("sliding, rope",) * 3 + ("full, nope",), GQA, TYPES,
    ),
    # Residuals are scaled by scale_depth over the root of the number of layers; each layer is to keep its scale.
    Family(
        "minicpm3", "MiniCPM3Config", "MiniCPM3ForCausalLM", TINY_MLA, LAYERS, same("full"), LOW_RANK,
        count(scale_depth=lambda order, old: old * (len(order) / len(set(order))) ** 0.5), tied=True,
    ),
    # Mixtures of experts. In memory transformers 5 holds the experts of a layer in one tensor.
    Family(
        "mixtral", "MixtralConfig", "MixtralForCausalLM", {**TINY, "num_local_experts": 4}, LAYERS,
        same("full, experts"), GQA, count(), stored="an expert at a time: block_sparse_moe.experts.N.w1",
    ),
    # Every second layer has experts; in another order the dense ones are listed.
    Family(
        "qwen2_moe", "Qwen2MoeConfig", "Qwen2MoeForCausalLM",
        {
            **TINY, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24, "num_experts": 4,
            "num_experts_per_tok": 2, "decoder_sparse_step": 2,
        },
        LAYERS, ("full, dense", "full, experts") * 2, GQA,
        count(layer_types=EACH, decoder_sparse_step=lambda order, _: 1, mlp_only_layers=lambda order, _: [i for i,
            layer in enumerate(order) if layer % 2 == 0]),
        stored="an expert at a time",
    ),
    Family(
        "qwen3_moe", "Qwen3MoeConfig", "Qwen3MoeForCausalLM",
        {**TINY_8, "moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2, "mlp_only_layers": [1]},
        LAYERS, ("full, experts", "full, dense", "full, experts", "full, experts"), GQA, count(mlp_only_layers=INDEX),
        stored="an expert at a time",
    ),
    Family(
        "olmoe", "OlmoeConfig", "OlmoeForCausalLM", {**TINY, "num_experts": 4, "num_experts_per_tok": 2}, LAYERS,
        same("full, experts"), WIDE_NORM, count(), stored="an expert at a time",
    ),
    Family(
        "granitemoe", "GraniteMoeConfig", "GraniteMoeForCausalLM",
        {**TINY, "num_local_experts": 4, "num_experts_per_tok": 2}, LAYERS, same("full, experts"), GQA, count(),
        stored="experts in 3-D tensors: block_sparse_moe.input_linear",
    ),
    Family(
        "deepseek_v2", "DeepseekV2Config", "DeepseekV2ForCausalLM",
        {
            **TINY_MLA, "moe_intermediate_size": 24, "n_routed_experts": 4, "n_shared_experts": 1,
            "num_experts_per_tok": 2, "first_k_dense_replace": 1,
        },
        LAYERS, ("full, dense",) + ("full, experts",) * 3, LOW_RANK, count(), stored="an expert at a time",
    ),
    Family(
        "deepseek_v3", "DeepseekV3Config", "DeepseekV3ForCausalLM",
        {
            **TINY_MLA, "moe_intermediate_size": 24, "n_routed_experts": 4, "n_shared_experts": 1,
            "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 2,
        },
        LAYERS, ("full, dense",) * 2 + ("full, experts",) * 2, LOW_RANK,
        Stacking(why_not="first_k_dense_replace can only say that the first layers are dense"),
        stored="an expert at a time",
    ),
    # Published checkpoints hold a block that predicts the token after the next, as if it were one more layer.
    Family(
        "deepseek_v3_mtp", "DeepseekV3Config", "DeepseekV3ForCausalLM",
        {
            **TINY_MLA, "moe_intermediate_size": 24, "n_routed_experts": 4, "n_shared_experts": 1,
            "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1,
            "num_nextn_predict_layers": 1,
        },
        LAYERS, ("full, dense",) + ("full, experts",) * 3, LOW_RANK,
        Stacking({"num_hidden_layers": COUNT}, refusable=True),
        stored="an expert at a time; the predicting block as layer 4", predicting=1,
        copies={
            "model.layers.3.": "model.layers.4.", "model.embed_tokens.": "model.layers.4.embed_tokens.",
            "model.norm.": "model.layers.4.enorm.", "model.layers.4.enorm.": "model.layers.4.hnorm.",
            "model.layers.3.self_attn.o_proj.": "model.layers.4.eh_proj.",
            "model.layers.4.hnorm.": "model.layers.4.shared_head.norm.", "lm_head.": "model.layers.4.shared_head.head.",
        },
    ),
    Family(
        "glm4_moe", "Glm4MoeConfig", "Glm4MoeForCausalLM",
        {
            **TINY_8, "moe_intermediate_size": 24, "n_routed_experts": 4, "n_shared_experts": 1,
            "num_experts_per_tok": 2, "first_k_dense_replace": 1,
        },
        LAYERS, ("full, dense",) + ("full, experts",) * 3, GQA, count(), stored="an expert at a time",
    ),
    # The fourth value of each head's attention is a sink, a number of its own.
    Family(
        "gpt_oss", "GptOssConfig", "GptOssForCausalLM",
        {**TINY_8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 4}, LAYERS,
        ("sliding, experts", "full, experts") * 2, separate(4, 2, more=(Part("self_attn.sinks"),)), TYPES,
        stored="experts in 3-D tensors, gate and up interleaved",
    ),
    Family(
        "llama4", "Llama4TextConfig", "Llama4ForCausalLM",
        {
            **TINY_8, "intermediate_size_mlp": 48, "num_local_experts": 4, "interleave_moe_layer_step": 2,
            "attention_chunk_size": 4,
        },
        LAYERS, ("chunked, rope, dense", "chunked, rope, experts", "chunked, rope, dense", "full, nope, experts"), GQA,
        count(layer_types=EACH, no_rope_layers=EACH, moe_layers=INDEX), stored="experts in 3-D tensors",
    ),
)  # fmt: skip
