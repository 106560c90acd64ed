"""Encoders with decoders, of text and of speech. The decoder, which has more, is the main stack."""

from __future__ import annotations

from typing import Any

from .decoders import TINY_8
from .facts import EACH, Attention, Cut, Family, Part, Stacking, count, same, separate

T5: dict[str, Any] = {
    "vocab_size": 96,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 3,
    "num_decoder_layers": 4,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
BART: dict[str, Any] = {
    "vocab_size": 96,
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
WHISPER = {k: v for k, v in BART.items() if k != "max_position_embeddings"}
SPEECHT5 = {k: v for k, v in WHISPER.items() if k != "d_model"}

#: The first block holds the biases of relative positions, a column for each head, which all blocks use.
T5_KINDS = ("full, cross, biases of positions",) + ("full, cross",) * 3
SWITCH_KINDS = (
    "full, cross, dense, biases of positions",
    "full, cross, experts",
    "full, cross, dense",
    "full, cross, experts",
)
T5_ATTENTION = Attention(
    (4, 4), Cut.SEPARATE,
    (Part("layer.*Attention.[qkv].weight"), Part("layer.*Attention.o.weight", axis=1),
     Part("layer.*relative_attention_bias.weight", axis=1)),
    alike=False,
)  # fmt: skip
CROSS = separate(4, at="*_attn.", out="out_proj")
DECODER = ("model.decoder.layers.",)
ENCODER = {"model.encoder.layers.": 3}


def _bart(name: str, config: str, model: str) -> Family:
    depth = count("decoder_layers")
    return Family(
        name, config, model, BART, DECODER, same("full, cross"), CROSS, depth, ENCODER, tied=True, inputs="pair"
    )


FAMILIES = (
    Family(
        "t5", "T5Config", "T5ForConditionalGeneration", T5, ("decoder.block.",), T5_KINDS, T5_ATTENTION,
        count("num_decoder_layers"), {"encoder.block.": 3}, tied=True, inputs="pair",
    ),
    Family(
        "mt5", "MT5Config", "MT5ForConditionalGeneration", T5, ("decoder.block.",), T5_KINDS, T5_ATTENTION,
        count("num_decoder_layers"), {"encoder.block.": 3}, tied=True, inputs="pair",
    ),
    Family(
        "switch_transformers", "SwitchTransformersConfig", "SwitchTransformersForConditionalGeneration",
        {
            **T5, "num_layers": 4, "num_experts": 4, "num_sparse_encoder_layers": 2, "num_sparse_decoder_layers": 2,
            "expert_capacity": 32,
        },
        ("decoder.block.",), SWITCH_KINDS, T5_ATTENTION,
        Stacking(why_not="num_sparse_decoder_layers can only say every how many layers there are experts"),
        {"encoder.block.": 4}, tied=True, inputs="pair",
    ),
    Family(
        "t5gemma", "T5GemmaConfig", "T5GemmaForConditionalGeneration",
        {"encoder": {**TINY_8, "sliding_window": 4}, "decoder": {**TINY_8, "sliding_window": 4}, "vocab_size": 96},
        DECODER, ("sliding, cross", "full, cross") * 2, separate(4, 2, at="*_attn."),
        Stacking({"decoder.num_hidden_layers": "count", "decoder.layer_types": EACH}), {"model.encoder.layers.": 4},
        tied=True, inputs="pair",
    ),
    _bart("bart", "BartConfig", "BartForConditionalGeneration"),
    _bart("mbart", "MBartConfig", "MBartForConditionalGeneration"),
    _bart("m2m_100", "M2M100Config", "M2M100ForConditionalGeneration"),
    _bart("marian", "MarianConfig", "MarianMTModel"),
    _bart("pegasus", "PegasusConfig", "PegasusForConditionalGeneration"),
    Family(
        "whisper", "WhisperConfig", "WhisperForConditionalGeneration",
        {**WHISPER, "num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 64}, DECODER,
        same("full, cross"), CROSS, count("decoder_layers"), ENCODER, tied=True, inputs="speech and text",
    ),
    Family(
        "speecht5", "SpeechT5Config", "SpeechT5ForSpeechToText",
        {
            **SPEECHT5, "hidden_size": 32, "conv_dim": [8, 8], "conv_kernel": [10, 3], "conv_stride": [5, 2],
            "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
        },
        ("speecht5.decoder.wrapped_decoder.layers.",), same("full, cross"), CROSS, count("decoder_layers"),
        {"speecht5.encoder.wrapped_encoder.layers.": 3}, tied=True, inputs="wave and text",
    ),
    # Beside its encoder of text and its decoder there is a codec, whose lists of modules are no stack.
    Family(
        "musicgen", "MusicgenConfig", "MusicgenForConditionalGeneration",
        {
            "text_encoder": {"model_type": "t5", "vocab_size": 96, "d_model": 16, "d_kv": 8, "d_ff": 24,
            "num_layers": 2, "num_heads": 2}, "audio_encoder": {"model_type": "encodec", "sampling_rate": 800,
            "hidden_size": 8, "num_filters": 2, "num_residual_layers": 1, "upsampling_ratios": [4, 2],
            "codebook_size": 16, "codebook_dim": 8, "num_lstm_layers": 1, "target_bandwidths": [1.5]},
            "decoder": {"vocab_size": 16, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 4,
            "num_attention_heads": 4, "num_codebooks": 2, "max_position_embeddings": 64, "pad_token_id": 16,
            "bos_token_id": 16},
        },
        ("decoder.model.decoder.layers.",), same("full, cross"), CROSS, count("decoder.num_hidden_layers"),
        {"text_encoder.encoder.block.": 2}, tied=None, inputs="codes",
    ),
)  # fmt: skip
