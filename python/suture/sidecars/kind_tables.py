"""Which keys tell what a layer is, for each model family: facts of transformers' configurations, as a table.

A family that is not here is read by the keys it has (`kinds.rules_of`).
"""

from __future__ import annotations

from collections.abc import Mapping

from suture.sidecars.kind_rules import Cycle, Every, First, FirstOf, Fixed, Letters, Listed, Members, Offset, number
from suture.sidecars.kind_shapes import (
    ALTERNATING,
    GEMMA3,
    GEMMA4,
    GPT2,
    LOCAL,
    MLP_AFTER_1,
    NOPE,
    QWEN2,
    QWEN3_NEXT,
    QWEN_MOE,
    T5,
    TOWERS,
    ZAMBA,
    ZAMBA2,
    muse,
)
from suture.sidecars.kind_special import (
    INDEXERS,
    LETTERS,
    LLAMA4_ROPE,
    MINIMAX,
    QWEN_MLP,
    SMOLLM3_ROPE,
    ErnieRange,
    Flags,
    GroupedTypes,
    Kimi,
    LastFull,
    Scaled,
    cohere2_moe_types,
    deepseek_v4_types,
    dense_and_step,
    indexed,
    llama4_types,
    minimax_decay,
    qwen2_moe_types,
    smollm3_types,
    sparse_of,
    step3_experts,
    ultrabert_types,
    window_from,
)
from suture.sidecars.kind_words import (
    INDEXED,
    SPELLED,
    TYPES,
    Family,
    attention,
    edge,
    every,
    every_layer,
    first_dense,
    first_fixed,
    fixed,
    full_between,
    mlp,
    number_of_all,
    number_of_layer,
    ordinals,
    reads,
    shared_last,
)

FAMILIES: Mapping[str, Family] = {
    **TOWERS,
    "afmoe": Family((attention(every(4, "global_attn_every_n_layers")), first_dense(1, "num_dense_layers")), NOPE),
    "axk1": Family((mlp(Fixed("mlp", ("first_k_dense_replace", "moe_layer_freq"), dense_and_step)),)),
    "axk2": Family(
        (
            mlp(Fixed("mlp", ("first_k_dense_replace", "moe_layer_freq"), dense_and_step)),
            attention(every_layer("indexed")),
        )
    ),
    "bailing_hybrid": Family((attention(every(6, "layer_group_size", "full", "linear")), mlp(first_dense(2)))),
    "bamba": Family((Members("attention", ("attn_layer_indices",)),)),
    "beam": Family(
        (attention(fixed(full_between(6, last=True))), mlp(first_fixed(3)), number_of_layer("num_hidden_layers")), NOPE
    ),
    "cohere2": Family((attention(every(4, "sliding_window_pattern")),), NOPE),
    "cohere2_moe": Family(
        (
            mlp(first_dense(0)),
            attention(
                Fixed(
                    "attention",
                    ("first_k_dense_replace", "prefix_dense_sliding_window_pattern", "sliding_window_pattern"),
                    cohere2_moe_types,
                )
            ),
        ),
        NOPE,
    ),
    "cohere_compass_text": Family((attention(every_layer("full")),)),
    "cwm": Family((attention(every(4, phase=0)),)),
    "decision_transformer": GPT2,
    "deepseek_ocr2_encoder": QWEN2,
    "deepseek_v2": Family((first_dense(0),)),
    "deepseek_v3": Family((first_dense(3),)),
    "deepseek_v32": Family((mlp(first_dense(3)), attention(every_layer("indexed")))),
    "deepseek_v4": Family(
        (
            attention(Fixed("attention", ("compress_ratios",), deepseek_v4_types), cut=True),
            FirstOf(
                "mlp",
                ways=(
                    Listed("mlp", ("mlp_layer_types",), {"moe": "experts", "hash_moe": "hashed"}, cut=True),
                    First("mlp", ("num_hash_layers",), 3, "hashed"),
                ),
            ),
        )
    ),
    "diffllama": Family((number_of_layer("num_hidden_layers"),)),
    "diffusion_gemma_text": Family((GEMMA4,), LOCAL),
    "dots1": Family((first_dense(0), attention(window_from(always=True)))),
    "embedding_gemma2_text": Family(
        (
            LastFull(
                "attention", ("layer_types", "sliding_window_pattern"), attention(every(6, "sliding_window_pattern"))
            ),
            number_of_all("hidden_size_per_layer_input", when=reads("hidden_size_per_layer_input", 512)),
        ),
        LOCAL,
    ),
    "ernie4_5_moe": Family(
        (ErnieRange("mlp", ("moe_layer_start_index", "moe_layer_end_index", "moe_layer_interval")),)
    ),
    "ernie4_5_vl_moe_text": Family((MLP_AFTER_1,)),
    "esmc": Family((number_of_all("num_hidden_layers"),)),
    "exaone4": Family((attention(LETTERS),), NOPE),
    "exaone_moe": Family((attention(LETTERS), mlp(first_dense(1))), NOPE),
    "falcon_h1": Family((every_layer("hybrid"),)),
    "falcon_mamba": Family((every_layer("linear"),)),
    "gemma2": Family((ALTERNATING,)),
    "gemma3_text": GEMMA3,
    "gemma3n_text": Family(
        (
            attention(every(5)),
            shared_last(15, even_all=False),
            FirstOf(
                "activation_sparsity_pattern",
                ways=(
                    Listed("activation_sparsity_pattern", ("activation_sparsity_pattern",)),
                    fixed(
                        lambda n: ["0.95" if n > 10 and i < 10 else "0.0" for i in range(n)],
                        aspect="activation_sparsity_pattern",
                    ),
                ),
            ),
            number_of_all("hidden_size_per_layer_input", when=reads("hidden_size_per_layer_input", 256)),
        ),
        LOCAL,
    ),
    "gemma4_text": Family(
        (
            GEMMA4,
            shared_last(0, even_all=True),
            number_of_all("hidden_size_per_layer_input", when=reads("hidden_size_per_layer_input", 256)),
        ),
        LOCAL,
    ),
    "gemma4_unified_text": Family((GEMMA4, shared_last(0, even_all=True)), LOCAL),
    "glm4_moe": Family((first_dense(1),)),
    "glm4_moe_lite": Family((MLP_AFTER_1,), idle=("first_k_dense_replace",)),
    "glm4v_moe_text": Family((first_dense(1),)),
    "glm5_next_text": Family(
        (mlp(first_fixed(3)), attention(every(4, None, "indexed", "linear"), names=INDEXED), INDEXERS)
    ),
    "glm_moe_dsa": Family((mlp(first_dense(3)), attention(every_layer("indexed")), INDEXERS)),
    "gpt2": GPT2,
    "gpt_neo": Family(
        (
            FirstOf(
                "attention",
                ways=(Listed("attention", ("attention_layers",)), GroupedTypes("attention", ("attention_types",))),
            ),
        )
    ),
    "gpt_neox_japanese": Family((edge("num_hidden_layers", last=True),)),
    "gpt_oss": Family((ALTERNATING,)),
    "granite_swa": Family((attention(every(4, phase=0)),)),
    "granitemoe_swa": Family((attention(every(4, phase=0)),)),
    "granitemoehybrid": Family(
        (
            FirstOf(
                "attention",
                ways=(Listed("attention", ("layers_block_type", "layer_types"), TYPES, SPELLED), every_layer("linear")),
            ),
        )
    ),
    "hrm_text": Family((number_of_all("num_layers_per_stack"),)),
    "hunyuan_v1_moe": Family(),
    "hy_v3": Family((MLP_AFTER_1,)),
    "hy_v4": Family(
        (
            MLP_AFTER_1,
            attention(every_layer("indexed")),
            indexed(
                fixed(lambda n: ["" if i == 0 or (i - 1) % 4 == 0 else "shared" for i in range(n)], aspect="shares")
            ),
        )
    ),
    "idefics": Family(
        (
            Fixed(
                "place",
                ("cross_layer_interval",),
                lambda s, n: [
                    f"before it comes gated cross-attention {i // number(s, 'cross_layer_interval', 1, 1)}"
                    if i % number(s, "cross_layer_interval", 1, 1) == 0
                    else ""
                    for i in range(n)
                ],
            ),
        )
    ),
    "imagegpt": GPT2,
    "inkling_text": Family(
        (
            attention(
                Members("attention", ("local_layer_ids",), "hybrid_sliding", "hybrid"),
                every(6, None, "hybrid", "hybrid_sliding"),
            ),
            mlp(First("mlp", ("dense_mlp_idx",), 0)),
        )
    ),
    "jamba": Family(
        (
            Offset("attention", ("attn_layer_period", "attn_layer_offset"), 8, 4),
            Offset("mlp", ("expert_layer_period", "expert_layer_offset"), 2, 1, "experts", "dense"),
        )
    ),
    "kimi_linear": Family(
        (
            attention(
                Kimi("attention", ("linear_attn_config",)),
                fixed(lambda n: ["full" if i and i % 4 == 0 else "linear" for i in range(n)]),
            ),
            mlp(first_dense(1)),
        )
    ),
    "kolibri1": Family((attention(every(5)),), NOPE),
    "laguna": Family((attention(every_layer("full")), MLP_AFTER_1)),
    "lfm2": Family((attention(Members("attention", ("full_attn_idxs",), "full", "conv", None)),)),
    "lfm2_moe": Family((attention(every_layer("full")), first_dense(2, "num_dense_layers"))),
    "llama4_text": Family(
        (
            LLAMA4_ROPE,
            attention(Fixed("attention", schedule=llama4_types)),
            FirstOf(
                "mlp",
                ways=(
                    Members("mlp", ("moe_layers",), "experts", "dense"),
                    every(1, "interleave_moe_layer_step", "experts", "dense", aspect="mlp"),
                ),
            ),
        )
    ),
    "longt5": T5,
    "mamba": Family((every_layer("linear"),)),
    "mamba2": Family((every_layer("linear"),)),
    "mellum": Family((attention(every_layer("full")), mlp(fixed(lambda n: ["experts"] * n, aspect="mlp")))),
    "mimo_v2_flash": Family((attention(fixed(full_between(6, first=True))), MLP_AFTER_1), LOCAL),
    "minicpm": Family((Scaled("residual", ("scale_depth",), 1.0),)),
    "minicpm3": Family((Scaled("residual", ("scale_depth",), 1.4),)),
    "minimax": Family((MINIMAX, Fixed("place", ("num_hidden_layers",), minimax_decay))),
    "minimax_m3_vl_text": Family(
        (
            attention(
                Flags("attention", ("sparse_attention_freq",), "sparse_attention_config", "sparse", "full"),
                every_layer("full"),
            ),
            mlp(Flags("mlp", ("moe_layer_freq",)), fixed(lambda n: ["experts"] * n, aspect="mlp")),
        )
    ),
    "ministral": Family(
        (
            attention(
                Fixed(
                    "attention",
                    schedule=lambda s, n: ["full" if s.get("sliding_window", 4096) is None else "sliding"] * n,
                )
            ),
        )
    ),
    "mistral4": Family((first_dense(0),)),
    "mllama_text_model": Family(
        (Members("attention", ("cross_attention_layers",), "cross", "full", (3, 8, 13, 18, 23, 28, 33, 38)),)
    ),
    "modernbert": Family(
        (attention(every(3, "global_attn_every_n_layers", phase=0)), edge("num_hidden_layers")), LOCAL
    ),
    "modernbert-decoder": Family(
        (attention(every(3, "global_attn_every_n_layers", phase=0)), edge("num_hidden_layers")), LOCAL
    ),
    "mt5": T5,
    "muse_glimmer_assistant": Family((attention(every_layer("sliding")),)),
    "muse_glimmer_text": muse(10000.0),
    "qwen3_omni_moe_talker_code_predictor": Family((attention(window_from(always=True)),)),
    "muse_spark_text": muse(500000.0, mlp(fixed(lambda n: ["experts"] * n, aspect="mlp"))),
    "nemotron_h": Family(
        (
            FirstOf(
                "attention",
                ways=(
                    Listed("attention", ("layers_block_type", "layer_types"), TYPES, SPELLED),
                    Letters(
                        "attention", ("hybrid_override_pattern",), {"M": "linear", "E": "moe", "*": "full", "-": "mlp"}
                    ),
                    fixed(lambda _: ["linear", "moe", "full", "mlp"]),
                ),
            ),
        )
    ),
    "neomme": Family(
        (
            attention(fixed(full_between(6, last=True))),
            number_of_all("layer_types"),
            Scaled("residual", ("residual_multiplier",), None, divided=False),
        )
    ),
    "nllb-moe/encoder": Family((Every("mlp", ("encoder_sparse_step",), 4, "experts", "dense", 1, "dense"),)),
    "nllb-moe/decoder": Family((Every("mlp", ("decoder_sparse_step",), 4, "experts", "dense", 1, "dense"),)),
    "olmo3": Family((attention(every(4)),)),
    "olmo_hybrid": Family(
        (attention(fixed(lambda n: ["full" if i % 4 == 3 or (n < 4 and i == n - 1) else "linear" for i in range(n)])),)
    ),
    "openelm": Family(
        (
            number_of_all(
                "qkv_multipliers",
                "ffn_multipliers",
                when=lambda s: any(
                    isinstance(s.get(k), list) and len(s[k]) == 2 for k in ("qkv_multipliers", "ffn_multipliers")
                ),
            ),
        )
    ),
    "hymba": Family((number_of_all("kv_reuse_group", "global_attn_idx", "conv_dim"),)),
    "phi3small": Family((every(1, "dense_attention_every_n_layers", "full", "sparse"),)),
    "pix2struct_text_model": T5,
    "pop2piano": T5,
    "qwen2": QWEN2,
    "qwen2_5_omni_talker": QWEN2,
    "qwen2_5_omni_text": QWEN2,
    "qwen2_5_vl_text": QWEN2,
    "qwen2_moe": Family((QWEN_MLP, attention(Fixed("attention", ("max_window_layers",), qwen2_moe_types)))),
    "qwen2_vl_text": QWEN2,
    "qwen3": QWEN2,
    "qwen3_5_moe_text": Family((QWEN3_NEXT,)),
    "qwen3_5_text": Family((QWEN3_NEXT,)),
    "qwen3_moe": QWEN_MOE,
    "qwen3_next": Family((QWEN3_NEXT, QWEN_MLP)),
    "qwen3_omni_moe_talker_text": QWEN_MOE,
    "qwen3_omni_moe_text": QWEN_MOE,
    "qwen3_vl_moe_text": QWEN_MOE,
    "qwen4_exp_text": Family(
        (
            attention(every(4, "full_attention_interval", "indexed", "linear"), names=INDEXED),
            Members("ple", ("ple_layer_ids",), "yes", "", base=1),
        )
    ),
    "recurrent_gemma": Family(
        (
            Cycle(
                "attention",
                ("block_types", "_block_types"),
                ("recurrent", "recurrent", "attention"),
                {"attention": "sliding"},
            ),
        )
    ),
    "reformer": Family((Listed("attention", ("attn_layers",)),)),
    "rwkv": Family((edge("num_hidden_layers"),)),
    "smollm3": Family((SMOLLM3_ROPE, attention(Fixed("attention", schedule=smollm3_types)))),
    "step3p5": Family((attention(every_layer("full")), mlp(Fixed("mlp", ("moe_layers_enum",), step3_experts)))),
    "switch_transformers/encoder": Family(
        (Fixed("mlp", ("num_sparse_encoder_layers",), sparse_of("num_sparse_encoder_layers")), *T5.rules)
    ),
    "switch_transformers/decoder": Family(
        (Fixed("mlp", ("num_sparse_decoder_layers",), sparse_of("num_sparse_decoder_layers")), *T5.rules)
    ),
    "t5": T5,
    "t5_gemma_module": Family((ALTERNATING,)),
    "t5gemma2_decoder": GEMMA3,
    "t5gemma2_text": GEMMA3,
    "udop": T5,
    "ultrabert": Family((attention(Fixed("attention", ("attention_windows",), ultrabert_types)),), LOCAL),
    "unlimited_ocr_text": Family(
        (
            attention(
                Fixed(
                    "attention",
                    schedule=lambda s, n: ["full" if s.get("sliding_window", 128) is None else "reference_sliding"] * n,
                )
            ),
            mlp(first_dense(1)),
        )
    ),
    "vaultgemma": Family((ALTERNATING,)),
    "wavlm": Family((edge("num_buckets"),)),
    "zamba": Family((ZAMBA, ordinals(ZAMBA, "hybrid", "layers_block_type"))),
    "zamba2": Family((ZAMBA2, ordinals(ZAMBA2, "hybrid", "layers_block_type", "num_mem_blocks"))),
    # The router of the first layer has no states of an earlier one to add.
    "zaya": Family((attention(every_layer("hybrid")), edge("num_hidden_layers"))),
}
