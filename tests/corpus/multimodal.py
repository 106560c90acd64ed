"""Language models that see or hear. The language model is the main stack."""

from __future__ import annotations

from typing import Any

from .decoders import GQA, TINY, TINY_8
from .encoders import BERT, bert_like
from .facts import EACH, INDEX, Attention, Cut, Family, Part, Stacking, count, same, separate
from .inputs import IMAGE

#: A tiny tower of vision: 3 layers.
TOWER: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
OPT: dict[str, Any] = {
    "model_type": "opt",
    "vocab_size": 96,
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "word_embed_proj_dim": 32,
}
QFORMER: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "encoder_hidden_size": 16,
    "cross_attention_frequency": 2,
}
BLIP2: dict[str, Any] = {
    "text_config": OPT,
    "vision_config": TOWER,
    "qformer_config": QFORMER,
    "num_query_tokens": 4,
    "image_token_index": IMAGE,
}
MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
QWEN_TOKENS: dict[str, Any] = {
    "image_token_id": IMAGE,
    "video_token_id": 91,
    "vision_start_token_id": 92,
    "vision_end_token_id": 93,
}
QWEN_TOWER: dict[str, Any] = {
    "depth": 3,
    "num_heads": 2,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}

LLAVA = ("language_model.model.layers.",)
INSIDE = ("model.language_model.layers.",)
VISION = {"vision_tower.encoder.layers.": 3}
DEEPER = count("text_config.num_hidden_layers")
TYPES = Stacking({"text_config.num_hidden_layers": "count", "text_config.layer_types": EACH})

FAMILIES = (
    Family(
        "llava", "LlavaConfig", "LlavaForConditionalGeneration",
        {
            "text_config": {**TINY, "model_type": "llama"}, "vision_config": {**TOWER,
            "model_type": "clip_vision_model", "projection_dim": 16}, "image_token_id": IMAGE, "image_seq_length": 4,
        },
        LLAVA, same("full"), GQA, DEEPER, VISION, INSIDE, inputs="image and text",
    ),
    Family(
        "qwen2_vl", "Qwen2VLConfig", "Qwen2VLForConditionalGeneration",
        {
            "text_config": {**TINY, "rope_parameters": MROPE}, "vision_config": {**QWEN_TOWER, "embed_dim": 16,
            "hidden_size": 32, "mlp_ratio": 2}, **QWEN_TOKENS,
        },
        ("model.layers.",), same("full"), GQA, TYPES, {"visual.blocks.": 3}, INSIDE,
    ),
    Family(
        "qwen2_5_vl", "Qwen2_5_VLConfig", "Qwen2_5_VLForConditionalGeneration",
        {
            "text_config": {**TINY, "rope_parameters": MROPE}, "vision_config": {**QWEN_TOWER, "hidden_size": 16,
            "out_hidden_size": 32, "intermediate_size": 24, "fullatt_block_indexes": [1], "window_size": 16},
            **QWEN_TOKENS,
        },
        ("model.layers.",), same("full"), GQA, TYPES, {"visual.blocks.": 3}, INSIDE,
    ),
    # Two layers of the tower give their features to the first layers of the language model.
    Family(
        "qwen3_vl", "Qwen3VLConfig", "Qwen3VLForConditionalGeneration",
        {
            "text_config": {**TINY_8, "rope_parameters": {**MROPE, "mrope_section": [2, 1, 1]}},
            "vision_config": {**QWEN_TOWER, "hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 24,
            "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}, **QWEN_TOKENS,
        },
        INSIDE, same("full"), GQA, DEEPER, {"model.visual.blocks.": 3},
    ),
    Family(
        "gemma3_vision", "Gemma3Config", "Gemma3ForConditionalGeneration",
        {
            "text_config": {**TINY_8, "sliding_window": 4, "layer_types": ["sliding_attention", "sliding_attention",
            "full_attention", "sliding_attention"]}, "vision_config": TOWER, "mm_tokens_per_image": 4,
            "image_token_index": IMAGE, "boi_token_index": 91, "eoi_token_index": 92,
        },
        LLAVA, ("sliding", "sliding", "full", "sliding"), GQA, TYPES, VISION, INSIDE, tied=True,
    ),
    Family(
        "paligemma", "PaliGemmaConfig", "PaliGemmaForConditionalGeneration",
        {
            "text_config": {**TINY_8, "model_type": "gemma"}, "vision_config": {**TOWER,
            "model_type": "siglip_vision_model", "projection_dim": 32, "vision_use_head": False},
            "image_token_index": IMAGE, "projection_dim": 32,
        },
        LLAVA, same("full"), GQA, DEEPER, VISION, INSIDE, tied=True, inputs="image and text",
    ),
    Family(
        "mistral3", "Mistral3Config", "Mistral3ForConditionalGeneration",
        {
            "text_config": {**TINY_8, "model_type": "mistral"}, "vision_config": {**TOWER, "model_type": "pixtral"},
            "image_token_index": IMAGE, "spatial_merge_size": 2,
        },
        LLAVA, same("full"), GQA, DEEPER, {"vision_tower.transformer.layers.": 3}, INSIDE, tied=True,
    ),
    Family(
        "internvl", "InternVLConfig", "InternVLForConditionalGeneration",
        {
            "text_config": {**TINY, "model_type": "qwen2"}, "vision_config": {**TOWER, "image_size": [8, 8],
            "patch_size": [4, 4]}, "image_token_id": IMAGE, "image_seq_length": 1, "downsample_ratio": 0.5,
        },
        LLAVA, same("full"), GQA, TYPES, {"vision_tower.encoder.layer.": 3}, INSIDE, tied=True,
    ),
    Family(
        "idefics3", "Idefics3Config", "Idefics3ForConditionalGeneration",
        {
            "text_config": {**TINY, "model_type": "llama"}, "vision_config": TOWER, "image_token_id": IMAGE,
            "scale_factor": 2,
        },
        ("model.text_model.layers.",), same("full"), GQA, DEEPER, {"model.vision_model.encoder.layers.": 3},
    ),
    Family(
        "smolvlm", "SmolVLMConfig", "SmolVLMForConditionalGeneration",
        {
            "text_config": {**TINY, "model_type": "llama"}, "vision_config": TOWER, "image_token_id": IMAGE,
            "scale_factor": 2,
        },
        ("model.text_model.layers.",), same("full"), GQA, DEEPER, {"model.vision_model.encoder.layers.": 3},
    ),
    # Two layers attend to the image and not to the text.
    Family(
        "mllama", "MllamaConfig", "MllamaForConditionalGeneration",
        {
            "text_config": {**TINY, "cross_attention_layers": [1, 3], "rope_parameters": {"rope_type": "default",
            "rope_theta": 10000.0}}, "vision_config": {"hidden_size": 16, "intermediate_size": 24,
            "num_hidden_layers": 3, "num_global_layers": 2, "attention_heads": 2, "image_size": 8, "patch_size": 4,
            "intermediate_layers_indices": [0, 1], "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
            "max_num_tiles": 2, "vision_output_dim": 48}, "image_token_index": IMAGE,
        },
        LLAVA, ("full", "cross") * 2, GQA,
        Stacking({"text_config.num_hidden_layers": "count", "text_config.cross_attention_layers": INDEX}),
        {"vision_model.transformer.layers.": 3, "vision_model.global_transformer.layers.": 2}, INSIDE,
        inputs="tiles and text",
    ),
    Family(
        "llama4_vision", "Llama4Config", "Llama4ForConditionalGeneration",
        {
            "text_config": {**TINY_8, "intermediate_size_mlp": 48, "num_local_experts": 4,
            "interleave_moe_layer_step": 2, "attention_chunk_size": 4}, "vision_config": {"hidden_size": 16,
            "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 8,
            "patch_size": 4, "vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32,
            "pixel_shuffle_ratio": 0.5}, "image_token_index": IMAGE, "boi_token_index": 91, "eoi_token_index": 92,
        },
        LLAVA, ("chunked, rope, dense", "chunked, rope, experts", "chunked, rope, dense", "full, nope, experts"), GQA,
        Stacking({"text_config.num_hidden_layers": "count", "text_config.layer_types": EACH,
            "text_config.no_rope_layers": EACH, "text_config.moe_layers": INDEX}),
        {"vision_model.model.layers.": 3}, stored="experts in 3-D tensors",
    ),
    Family(
        "blip_2", "Blip2Config", "Blip2ForConditionalGeneration", BLIP2, ("language_model.model.decoder.layers.",),
        same("full"), separate(4, out="out_proj"), DEEPER,
        {"vision_model.encoder.layers.": 3, "qformer.encoder.layer.": 2}, tied=True, inputs="image and text",
    ),
    Family(
        "instructblip", "InstructBlipConfig", "InstructBlipForConditionalGeneration", BLIP2,
        ("language_model.model.decoder.layers.",), same("full"), separate(4, out="out_proj"), DEEPER,
        {"vision_model.encoder.layers.": 3, "qformer.encoder.layer.": 2}, tied=True, inputs="image, text and question",
    ),
    Family(
        "git", "GitConfig", "GitForCausalLM", {**BERT, "vision_config": TOWER, "bos_token_id": 1, "eos_token_id": 2},
        ("git.encoder.layer.",), same("full"), bert_like(), count(),
        {"git.image_encoder.vision_model.encoder.layers.": 3}, inputs="captioned image",
    ),
    Family(
        "blip", "BlipConfig", "BlipForConditionalGeneration",
        {
            "text_config": {**BERT, "encoder_hidden_size": 16, "bos_token_id": 1, "eos_token_id": 2, "sep_token_id": 2,
            "pad_token_id": 0}, "vision_config": TOWER, "projection_dim": 16, "image_text_hidden_size": 16,
        },
        ("text_decoder.bert.encoder.layer.",), same("full, cross"),
        Attention((4, 4), Cut.SEPARATE, (Part("*attention.self.*"), Part("*attention.output.dense.weight", axis=1))),
        DEEPER, {"vision_model.encoder.layers.": 3}, tied=None, inputs="captioned image",
    ),
    Family(
        "qwen2_audio", "Qwen2AudioConfig", "Qwen2AudioForConditionalGeneration",
        {
            "text_config": {**TINY, "model_type": "qwen2"}, "audio_config": {"num_mel_bins": 8, "encoder_layers": 3,
            "encoder_attention_heads": 2, "encoder_ffn_dim": 24, "d_model": 16, "max_source_positions": 16,
            "model_type": "qwen2_audio_encoder"}, "audio_token_index": IMAGE,
        },
        ("language_model.model.model.layers.",), same("full"), GQA, TYPES, {"audio_tower.layers.": 3}, INSIDE,
    ),
)  # fmt: skip
