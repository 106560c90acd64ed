"""Models of one and of several stacks, a handful of tiny tensors each: what laws of anatomy are tried on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoints import Raw, encode, write_checkpoint

Shapes = Mapping[str, tuple[int, ...]]

#: What is in a layer, if a stack says nothing else.
LAYER: Shapes = {"self_attn.q_proj.weight": (6, 5), "mlp.up_proj.weight": (7, 5), "norm.weight": (5,)}


@dataclass(frozen=True)
class Stack:
    """A stack of layers, by what stands before their numbers."""

    prefix: str
    layers: int
    inside: Shapes = field(default_factory=lambda: LAYER)
    #: What is in a layer of each of the lists that are one stack together; then `prefix` is what is before them.
    lists: Mapping[str, Shapes] = field(default_factory=dict)
    #: The number in names of its first layer.
    first: int = 0

    def names(self, layer: int) -> dict[str, tuple[int, ...]]:
        """The tensors of a layer, counted from 0."""
        number = self.first + layer
        if self.lists:
            listed = ((f"{self.prefix}{a}.{number}.", inside) for a, inside in self.lists.items())
            return {before + name: shape for before, inside in listed for name, shape in inside.items()}
        return {f"{self.prefix}{number}.{name}": shape for name, shape in self.inside.items()}


@dataclass(frozen=True)
class Model:
    """An architecture: its stacks, the main one's prefix, and what is in no stack.

    `outside` is outside all stacks; `owned` stands outside the numbers but belongs to a stack that is not the main one.
    """

    stacks: tuple[Stack, ...]
    main: str | None
    outside: tuple[str, ...] = ()
    owned: tuple[str, ...] = ()
    config: Mapping[str, Any] | None = None

    def stack(self, prefix: str, first: int = 0) -> Stack:
        """The stack of a prefix."""
        return next(s for s in self.stacks if s.prefix == prefix and (s.first > 0) == (first > 0))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """All tensors."""
        found: dict[str, tuple[int, ...]] = {}
        for stack in self.stacks:
            for layer in range(stack.layers):
                found |= stack.names(layer)
        return found | dict.fromkeys((*self.outside, *self.owned), (5, 4))


def tensors(model: Model, seed: int) -> dict[str, Raw]:
    """Random values, of which no two models have any alike."""
    rng = np.random.default_rng(seed)
    return {name: encode(rng.normal(1, 0.2, shape), "F32") for name, shape in model.shapes.items()}


def write(folder: Path, model: Model, seed: int, **how: Any) -> Path:
    """A checkpoint of this architecture, with its config."""
    return write_checkpoint(folder, tensors(model, seed), config=model.config, **how)


HEAD = ("lm_head.weight",)
MODELS: dict[str, Model] = {
    "llama": Model(
        (Stack("model.layers.", 4),),
        "model.layers.",
        ("model.embed_tokens.weight", "model.norm.weight", *HEAD),
        config={"model_type": "llama", "num_hidden_layers": 4},
    ),
    "no config": Model((Stack("model.layers.", 3),), "model.layers.", ("model.embed_tokens.weight",)),
    "gpt-2": Model(
        (Stack("transformer.h.", 3),),
        "transformer.h.",
        ("transformer.wte.weight", "transformer.ln_f.weight"),
        config={"model_type": "gpt2", "n_layer": 3},
    ),
    "llava, old names": Model(
        (Stack("vision_tower.vision_model.encoder.layers.", 5), Stack("language_model.model.layers.", 4)),
        "language_model.model.layers.",
        (
            "language_model.model.embed_tokens.weight",
            "language_model.model.norm.weight",
            "language_model.lm_head.weight",
        ),
        (
            "vision_tower.vision_model.embeddings.patch_embedding.weight",
            "vision_tower.vision_model.post_layernorm.weight",
        ),
        {
            "model_type": "llava",
            "text_config": {"model_type": "llama", "num_hidden_layers": 4},
            "vision_config": {"num_hidden_layers": 5},
        },
    ),
    "llava, new names": Model(
        (Stack("model.vision_tower.vision_model.encoder.layers.", 5), Stack("model.language_model.layers.", 4)),
        "model.language_model.layers.",
        ("model.language_model.embed_tokens.weight", "model.language_model.norm.weight", *HEAD),
        ("model.vision_tower.vision_model.embeddings.patch_embedding.weight",),
        {
            "model_type": "llava",
            "text_config": {"model_type": "llama", "num_hidden_layers": 4},
            "vision_config": {"num_hidden_layers": 5},
        },
    ),
    "qwen2-vl": Model(
        (Stack("visual.blocks.", 2), Stack("model.layers.", 3)),
        "model.layers.",
        ("model.embed_tokens.weight", "model.norm.weight", *HEAD),
        ("visual.patch_embed.proj.weight", "visual.merger.ln_q.weight"),
        {"model_type": "qwen2_vl", "num_hidden_layers": 3, "vision_config": {"depth": 2}},
    ),
    "towers as long as the language model": Model(
        (Stack("vision_model.encoder.layers.", 3), Stack("language_model.model.layers.", 3)),
        "language_model.model.layers.",
        ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"),
        ("vision_model.embeddings.patch_embedding.weight",),
        {"llm_config": {"num_hidden_layers": 3}, "vision_config": {"num_hidden_layers": 3}},
    ),
    "t5": Model(
        (Stack("encoder.block.", 4), Stack("decoder.block.", 2)),
        "decoder.block.",
        ("shared.weight", "decoder.final_layer_norm.weight", *HEAD),
        ("encoder.final_layer_norm.weight",),
        {"model_type": "t5", "num_layers": 4, "num_decoder_layers": 2, "is_encoder_decoder": True},
    ),
    "t5 without a config": Model(
        (Stack("encoder.block.", 3), Stack("decoder.block.", 3)),
        "decoder.block.",
        ("shared.weight", "decoder.final_layer_norm.weight", *HEAD),
        ("encoder.final_layer_norm.weight",),
    ),
    "bart": Model(
        (Stack("model.encoder.layers.", 3), Stack("model.decoder.layers.", 2)),
        "model.decoder.layers.",
        ("model.shared.weight", "model.decoder.embed_positions.weight", *HEAD),
        ("model.encoder.embed_positions.weight", "model.encoder.layernorm_embedding.weight"),
        {
            "model_type": "bart",
            "encoder_layers": 3,
            "decoder_layers": 2,
            "num_hidden_layers": 3,
            "is_encoder_decoder": True,
        },
    ),
    "whisper": Model(
        (Stack("model.encoder.layers.", 3), Stack("model.decoder.layers.", 3)),
        "model.decoder.layers.",
        ("model.decoder.embed_tokens.weight", "model.decoder.layer_norm.weight", "proj_out.weight"),
        ("model.encoder.conv1.weight", "model.encoder.embed_positions.weight"),
        {
            "model_type": "whisper",
            "encoder_layers": 3,
            "decoder_layers": 3,
            "num_hidden_layers": 3,
            "is_encoder_decoder": True,
        },
    ),
    "bert": Model(
        (Stack("bert.encoder.layer.", 3),),
        "bert.encoder.layer.",
        ("bert.embeddings.word_embeddings.weight", "bert.pooler.dense.weight"),
        config={"model_type": "bert", "num_hidden_layers": 3},
    ),
    "clip": Model(
        (Stack("vision_model.encoder.layers.", 4), Stack("text_model.encoder.layers.", 3)),
        "text_model.encoder.layers.",
        ("text_model.embeddings.token_embedding.weight", "text_model.final_layer_norm.weight"),
        ("vision_model.embeddings.patch_embedding.weight",),
        {
            "model_type": "clip",
            "text_config": {"num_hidden_layers": 3},
            "vision_config": {"num_hidden_layers": 4},
        },
    ),
    "open_clip": Model(
        (Stack("visual.transformer.resblocks.", 3), Stack("transformer.resblocks.", 2)),
        "transformer.resblocks.",
        ("token_embedding.weight", "ln_final.weight"),
        ("visual.conv1.weight", "visual.ln_post.weight"),
    ),
    "flux": Model((Stack("double_blocks.", 2), Stack("single_blocks.", 3)), None, ("img_in.weight", "final.weight")),
    "flux, diffusers": Model(
        (Stack("transformer_blocks.", 2), Stack("single_transformer_blocks.", 3)),
        "transformer_blocks.",
        ("context_in.weight", "norm_out.weight"),
        config={"_class_name": "FluxTransformer2DModel", "num_layers": 2, "num_single_layers": 3},
    ),
    "sd3": Model(
        (Stack("model.diffusion_model.joint_blocks.", 3),),
        "model.diffusion_model.joint_blocks.",
        ("model.diffusion_model.x_in.proj.weight",),
    ),
    "blk": Model((Stack("blk.", 3),), "blk.", ("token_embd.weight", "output.weight")),
    "xlm": Model(
        (
            Stack(
                "transformer.",
                3,
                lists={
                    "attentions": {"q_lin.weight": (6, 5), "out_lin.weight": (5, 6)},
                    "ffns": {"lin1.weight": (7, 5), "lin2.weight": (5, 7)},
                    "layer_norm1": {"weight": (5,)},
                    "layer_norm2": {"weight": (5,)},
                },
            ),
        ),
        "transformer.",
        ("transformer.embeddings.weight", "pred_layer.proj.weight"),
        config={"model_type": "xlm", "n_layers": 3},
    ),
    "stages": Model(
        (Stack("encoder.stages.", 3, {"layers.0.dwconv.weight": (5, 5), "layers.1.dwconv.weight": (5, 5)}),),
        "encoder.stages.",
        ("embeddings.patch_embeddings.weight", "layernorm.weight"),
    ),
    "next-token prediction": Model(
        (
            Stack("model.layers.", 3),
            Stack("model.layers.", 1, {**LAYER, "eh_proj.weight": (5, 10), "enorm.weight": (5,)}, first=3),
        ),
        "model.layers.",
        ("model.embed_tokens.weight", "model.norm.weight", *HEAD),
        config={"model_type": "deepseek_v3", "num_hidden_layers": 3, "num_nextn_predict_layers": 1},
    ),
    "next-token prediction apart": Model(
        (Stack("model.layers.", 3), Stack("mtp.layers.", 1)),
        "model.layers.",
        ("model.embed_tokens.weight", "model.norm.weight", *HEAD),
        ("mtp.fc.weight",),
        {"model_type": "qwen3_next", "num_hidden_layers": 3},
    ),
    "two of a kind": Model((Stack("a.layers.", 3), Stack("b.layers.", 3)), None, ("x.weight",)),
    "encoder alone": Model(
        (Stack("encoder.block.", 3),),
        "encoder.block.",
        ("shared.weight",),
        config={"model_type": "t5", "num_layers": 3},
    ),
}
SEVERAL = [name for name, model in MODELS.items() if len(model.stacks) > 1]
DECIDED = [name for name, model in MODELS.items() if model.main is not None]
UNDECIDED = [name for name, model in MODELS.items() if model.main is None]
#: A model and the prefix of one of its stacks.
EVERY = [(name, i) for name, model in MODELS.items() for i in range(len(model.stacks))]
