"""Models of images and of speech, without a language model."""

from __future__ import annotations

from typing import Any

from .encoders import bert_like
from .facts import Attention, Cut, Family, Part, Stacking, count, same, separate, uncut
from .multimodal import DEEPER, TOWER

VIT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 8,
    "patch_size": 4,
}
TEXT: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WAVE: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": [8, 8],
    "conv_kernel": [10, 3],
    "conv_stride": [5, 2],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_prob": 0.0,
}
RESNET: dict[str, Any] = {
    "model_type": "resnet",
    "embedding_size": 4,
    "hidden_sizes": [4, 8],
    "depths": [1, 1],
    "out_features": ["stage2"],
}
VIT_ATTENTION = bert_like("attention.attention.", "*")
WAVE_ATTENTION = separate(4, at="attention.", out="out_proj")
#: Of two towers either could be called the main one; here it is that of text.
TWO = ("text_model.encoder.layers.",)

FAMILIES = (
    Family(
        "vit", "ViTConfig", "ViTForImageClassification", VIT, ("vit.encoder.layer.",), same("full"), VIT_ATTENTION,
        count(), inside=("vit.layers.",), tied=None, inputs="image",
    ),
    Family(
        "vit_mae", "ViTMAEConfig", "ViTMAEForPreTraining",
        {
            **VIT, "decoder_num_attention_heads": 2, "decoder_hidden_size": 16, "decoder_num_hidden_layers": 2,
            "decoder_intermediate_size": 24,
        },
        ("vit.encoder.layer.",), same("full"), VIT_ATTENTION, count(), {"decoder.decoder_encoder.layer.": 2},
        inside=("vit.layers.",), tied=None, inputs="masked image",
    ),
    Family(
        "dinov2", "Dinov2Config", "Dinov2ForImageClassification",
        {**{k: v for k, v in VIT.items() if k != "intermediate_size"}, "mlp_ratio": 2}, ("dinov2.encoder.layer.",),
        same("full"), VIT_ATTENTION, count(), tied=None, inputs="image",
    ),
    # Each layer has biases of relative positions, a column for each head.
    Family(
        "beit", "BeitConfig", "BeitForImageClassification", {**VIT, "use_relative_position_bias": True},
        ("beit.encoder.layer.",), same("full"),
        Attention((4, 4), Cut.SEPARATE, (Part("attention.attention.[qkv]*[ye].*"),
            Part("*relative_position_bias_table", axis=1), Part("attention.output.dense.weight", axis=1))),
        count(), inside=("beit.layers.",), tied=None, inputs="image",
    ),
    Family(
        "clip", "CLIPConfig", "CLIPModel", {"text_config": TEXT, "vision_config": TOWER, "projection_dim": 16}, TWO,
        same("full"), separate(4, out="out_proj"), DEEPER, {"vision_model.encoder.layers.": 3}, tied=None,
        inputs="captioned image", equals=True,
    ),
    Family(
        "siglip", "SiglipConfig", "SiglipModel",
        {"text_config": {**TEXT, "projection_size": 16, "pad_token_id": 0}, "vision_config": TOWER}, TWO, same("full"),
        separate(4, out="out_proj"), DEEPER, {"vision_model.encoder.layers.": 3}, tied=None, inputs="captioned image",
        equals=True,
    ),
    # What is numbered are stages: two blocks each, the second stage twice as wide.
    Family(
        "swin", "SwinConfig", "SwinForImageClassification",
        {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
        ("swin.encoder.layers.",), ("stage of two blocks, then merged", "stage of two blocks, twice as wide"),
        uncut("each stage has its own number of heads"),
        Stacking(why_not="a stage cannot follow one of its own width"), tied=None, inputs="large image",
    ),
    Family(
        "detr", "DetrConfig", "DetrForObjectDetection",
        {
            "d_model": 32, "encoder_layers": 3, "decoder_layers": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
            "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_queries": 4, "use_timm_backbone": False,
            "use_pretrained_backbone": False, "backbone": None, "backbone_config": RESNET,
        },
        ("model.decoder.layers.",), same("full, cross"), separate(4, at="*_attn.", out="out_proj"),
        count("decoder_layers"), {"model.encoder.layers.": 3}, tied=None, inputs="photo",
    ),
    Family(
        "wav2vec2", "Wav2Vec2Config", "Wav2Vec2ForCTC", WAVE, ("wav2vec2.encoder.layers.",), same("full"),
        WAVE_ATTENTION, count(), tied=None, inputs="wave",
    ),
    Family(
        "hubert", "HubertConfig", "HubertForCTC", WAVE, ("hubert.encoder.layers.",), same("full"), WAVE_ATTENTION,
        count(), tied=None, inputs="wave",
    ),
    # The first layer holds the biases of relative positions, which all layers use; each has a gate for them.
    Family(
        "wavlm", "WavLMConfig", "WavLMForCTC", {**WAVE, "num_buckets": 8, "max_bucket_distance": 16},
        ("wavlm.encoder.layers.",), ("full, biases of positions", "full", "full", "full"),
        separate(4, at="attention.", out="out_proj", more=(Part("attention.gru_rel_pos_const", axis=1),
            Part("attention.rel_attn_embed.weight", axis=1)), alike=False),
        count(), tied=None, inputs="wave",
    ),
    Family(
        "parakeet", "ParakeetCTCConfig", "ParakeetForCTC",
        {
            "vocab_size": 32, "encoder_config": {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
            "intermediate_size": 48, "conv_kernel_size": 3, "subsampling_conv_channels": 8, "num_mel_bins": 16},
        },
        ("encoder.layers.",), same("full beside conv"),
        separate(4, more=(Part("self_attn.relative_k_proj.weight"), Part("self_attn.bias_?"))),
        count("encoder_config.num_hidden_layers"), tied=None, inputs="mel",
    ),
)  # fmt: skip
