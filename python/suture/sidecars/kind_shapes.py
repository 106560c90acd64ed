"""Rules and families that several model types have in common."""

from __future__ import annotations

from collections.abc import Mapping

from suture.sidecars.kind_rules import FirstOf, Fixed, Listed, Members, Rule, Section, number
from suture.sidecars.kind_special import QWEN_MLP, LastFull, muse_rope, window_from, zamba_types
from suture.sidecars.kind_words import (
    Family,
    attention,
    edge,
    every,
    first_fixed,
    fixed,
    from_the_end,
    mlp,
    number_of_all,
    number_of_layer,
    reads,
)

SLIDING_6 = attention(every(6, "sliding_window_pattern"))
ALTERNATING = attention(every(2))
LOCAL = {"sliding": "local", "full": "global"}
NOPE = {"full": "none"}
ZAMBA = attention(
    Fixed("attention", ("attn_layer_period", "attn_layer_offset"), lambda s, n: zamba_types(s, n)),
    key="layers_block_type",
)
ZAMBA2_DEFAULT = (
    ["linear"]
    + (["linear"] * 5 + ["hybrid"]) * 7
    + ["linear"] * 4
    + ["hybrid"]
    + ["linear"] * 3
    + ["hybrid"]
    + ["linear"] * 2
)
ZAMBA2 = attention(fixed(lambda _: ZAMBA2_DEFAULT), key="layers_block_type", cut=True)


def muse(base: float, *more: Rule) -> Family:
    """Muse, with its base of rope where none is told."""
    theta = Listed("rope", ("layer_rope_theta",), {0: "none"})
    rope = FirstOf("rope", ways=(theta, Fixed("rope", schedule=muse_rope(base))))
    return Family((rope, attention(fixed(from_the_end(4, "full", "sliding"))), *more))


GEMMA4 = LastFull("attention", ("layer_types",), attention(every(6)))
VISION_WINDOWS = Family(
    (attention(fixed(lambda n: ["full" if (i + 1) % 4 == 0 or i == n - 1 else "window" for i in range(n)])),)
)
QWEN3_NEXT = attention(every(4, "full_attention_interval", "full", "linear"))
MLP_AFTER_1 = mlp(first_fixed(1))
T5 = Family((edge("relative_attention_num_buckets"),))
GPT2 = Family(
    (number_of_layer("scale_attn_by_inverse_layer_idx", when=reads("scale_attn_by_inverse_layer_idx", False)),)
)
GEMMA3 = Family((SLIDING_6,), LOCAL, ("_sliding_window_pattern",))
QWEN2 = Family((attention(window_from()),))
QWEN_MOE = Family((QWEN_MLP,), idle=("max_window_layers",))
QFORMER = Family((every(2, "cross_attention_frequency", "cross", "full", 0),))


def windowed(*full: int, key: str = "global_attn_indexes") -> Family:
    """Towers with windows in all layers but those listed."""
    return Family((Members("attention", (key,), "full", "window", full),))


def staggered(section: Section, layer: int) -> str:
    """PEGASUS-X: blocks begin half a block later in every other layer of the encoder."""
    return "staggered" if layer % 2 and section.get("stagger_local_blocks", True) else "blocks"


def evolla_adapters(section: Section, layers: int) -> list[str]:
    """Evolla: an adapter after one layer in every few, so that there are as many as told."""
    step = max(layers // number(section, "aligner_num_add_layers", 8, 1), 1)
    return ["yes" if (i + 1) % step == 0 else "" for i in range(layers)]


_SAM, _QWEN_VISION = windowed(2, 5, 8, 11), windowed(7, 15, 23, 31, key="fullatt_block_indexes")
#: Towers and encoders beside a language model.
TOWERS: Mapping[str, Family] = {
    **dict.fromkeys(("blip_2_qformer", "instructblip_qformer", "instructblipvideo_qformer"), QFORMER),
    **dict.fromkeys(("muse_glimmer_vision", "muse_spark_vision"), VISION_WINDOWS),
    **dict.fromkeys(
        (
            "deepseek_ocr2_sam_vision_model", "got_ocr2_vision", "pp_chart2table_vision", "pp_formulanet_vision",
            "sam_hq_vision_model", "sam_vision_model", "slanext_vision", "unlimited_ocr_sam_vision_model",
        ),
        _SAM,
    ),
    **dict.fromkeys(("qwen2_5_vl_vision", "qwen2_5_omni_vision_encoder", "exaone4_5_vision"), _QWEN_VISION),
    **dict.fromkeys(("fun_asr_nano_encoder", "granite_speech5_encoder"), Family((number_of_all("num_hidden_layers"),))),
    "EvollaModel": Family((Fixed("adapter", ("aligner_num_add_layers",), evolla_adapters),)),
    "pegasus_x/encoder": Family(
        (Fixed("attention", ("stagger_local_blocks",), lambda s, n: [staggered(s, i) for i in range(n)]),)
    ),
    "qwen2_5_omni_dit": Family(
        (
            Members("ahead", ("look_ahead_layers",), "yes", "", (10,)),
            Members("backward", ("look_backward_layers",), "yes", "", (0, 20)),
        )
    ),
    "sam3_lite_text_text_model": Family((number_of_all("use_repmixer_blocks"),)),
    "sam3_vit_model": windowed(7, 15, 23, 31),
}  # fmt: skip
