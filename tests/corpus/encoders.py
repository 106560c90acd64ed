"""Encoders of text."""

from __future__ import annotations

from typing import Any

from .decoders import GQA, LAYERS, TINY, fused
from .facts import COUNT, EACH, Attention, Cut, Family, Part, Stacking, count, same, separate, uncut

BERT: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
XLM: dict[str, Any] = {
    "vocab_size": 96,
    "emb_dim": 32,
    "n_layers": 4,
    "n_heads": 4,
    "max_position_embeddings": 64,
}
#: XLM and FlauBERT have four lists of modules, each with an entry for every layer.
SPREAD = ("transformer.attentions.", "transformer.layer_norm1.", "transformer.ffns.", "transformer.layer_norm2.")
SPREAD_ATTENTION = Attention((4, 4), Cut.SEPARATE, (Part("[qkv]_lin.*"), Part("out_lin.weight", axis=1)))


def bert_like(at: str = "attention.self.", names: str = "*", out: str = "attention.output.dense") -> Attention:
    """Projections and the output projection in two modules."""
    return Attention((4, 4), Cut.SEPARATE, (Part(f"{at}{names}.*"), Part(f"{out}.weight", axis=1)))


FAMILIES = (
    Family(
        "bert", "BertConfig", "BertForMaskedLM", BERT, ("bert.encoder.layer.",), same("full"), bert_like(), count(),
        tied=True,
    ),
    Family(
        "roberta", "RobertaConfig", "RobertaForMaskedLM", BERT, ("roberta.encoder.layer.",), same("full"), bert_like(),
        count(), tied=True,
    ),
    Family(
        "xlm_roberta", "XLMRobertaConfig", "XLMRobertaForMaskedLM", BERT, ("roberta.encoder.layer.",), same("full"),
        bert_like(), count(), tied=True,
    ),
    Family(
        "electra", "ElectraConfig", "ElectraForPreTraining", {**BERT, "embedding_size": 16},
        ("electra.encoder.layer.",), same("full"), bert_like(), count(), tied=None,
    ),
    Family(
        "distilbert", "DistilBertConfig", "DistilBertForMaskedLM",
        {"vocab_size": 96, "dim": 32, "hidden_dim": 48, "n_layers": 4, "n_heads": 4, "max_position_embeddings": 64},
        ("distilbert.transformer.layer.",), same("full"),
        separate(4, at="attention.", names="[qkv]_lin", out="out_lin"), count("n_layers"), tied=True,
    ),
    # Positions go through the key and query projections too, so that these hold all there is of a head.
    Family(
        "deberta_v2", "DebertaV2Config", "DebertaV2ForMaskedLM",
        {
            **BERT, "relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"],
            "share_att_key": True, "norm_rel_ebd": "layer_norm", "conv_kernel_size": 3,
        },
        ("deberta.encoder.layer.",), same("full"), bert_like(names="*_proj"), count(), tied=True,
    ),
    Family(
        "deberta", "DebertaConfig", "DebertaForMaskedLM",
        {**BERT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "max_relative_positions": 16},
        ("deberta.encoder.layer.",), same("full"),
        Attention((4, 4), Cut.PER_HEAD, (Part("attention.self.in_proj.weight", segments=3, blocks=4),
            Part("attention.self.[qv]_bias"), Part("attention.self.pos_*proj.*"), Part("attention.output.dense.weight",
            axis=1))),
        count(), tied=True,
    ),
    Family(
        "modernbert", "ModernBertConfig", "ModernBertForMaskedLM",
        {
            **BERT, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2,
            "local_attention": 4,
        },
        LAYERS, ("full, without its first norm", "sliding", "sliding", "full"),
        fused(Cut.STACKED, "attn.Wqkv", "attn.Wo", segments=3), count(layer_types=EACH), tied=True,
    ),
    Family(
        "nomic_bert", "NomicBertConfig", "NomicBertForMaskedLM", BERT, ("nomic_bert.encoder.layers.",), same("full"),
        fused(Cut.STACKED, "attn.Wqkv", "attn.out_proj", segments=3), count(), inside=("nomic_bert.layers.",),
        tied=True,
    ),
    Family("eurobert", "EuroBertConfig", "EuroBertForMaskedLM", TINY, LAYERS, same("full"), GQA, count()),
    # Its table of relative positions has a bias for each head and stands outside the layers.
    Family(
        "mpnet", "MPNetConfig", "MPNetForMaskedLM", BERT, ("mpnet.encoder.layer.",), same("full"),
        separate(4, at="attention.attn.", names="[qkv]", out="o", alike=False), count(), tied=True,
    ),
    Family(
        "xlm", "XLMConfig", "XLMWithLMHeadModel", XLM, SPREAD, same("full"), SPREAD_ATTENTION,
        Stacking({"n_layers": COUNT}, refusable=True), tied=True, stored="the layers in four lists of modules",
    ),
    Family(
        "flaubert", "FlaubertConfig", "FlaubertWithLMHeadModel", XLM, SPREAD, same("full"), SPREAD_ATTENTION,
        Stacking({"n_layers": COUNT}, refusable=True), tied=True, stored="the layers in four lists of modules",
    ),
    # Published ALBERTs have one group, that is one set of weights for all layers; this one has four.
    Family(
        "albert", "AlbertConfig", "AlbertForMaskedLM", {**BERT, "embedding_size": 16, "num_hidden_groups": 4},
        ("albert.encoder.albert_layer_groups.",), same("full"),
        bert_like("albert_layers.0.attention.", "[qkv]*[ey]", "albert_layers.0.attention.dense"),
        Stacking({"num_hidden_layers": COUNT, "num_hidden_groups": COUNT}, refusable=True), tied=True,
    ),
    # Projections have three dimensions: the model's, heads, a head's.
    Family(
        "xlnet", "XLNetConfig", "XLNetLMHeadModel",
        {"vocab_size": 96, "d_model": 32, "n_layer": 4, "n_head": 4, "d_inner": 48}, ("transformer.layer.",),
        same("full"),
        Attention((4, 4), Cut.AXIS, (Part("rel_attn.[qkvor]", axis=1), Part("rel_attn.r_?_bias"),
            Part("rel_attn.seg_embed", axis=1))),
        count("n_layer"), tied=True, inputs="two sentences",
    ),
    # Blocks of layers, each at half the length of the one before; then two layers more.
    Family(
        "funnel", "FunnelConfig", "FunnelForMaskedLM",
        {"vocab_size": 96, "block_sizes": [2, 2], "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 48},
        ("funnel.encoder.blocks.",), ("two layers", "two layers at half the length"),
        uncut("heads are those of the layers inside a block", (4, 4)),
        Stacking(why_not="the number of blocks is that of the poolings"), others={"funnel.decoder.layers.": 2},
        tied=True,
    ),
)  # fmt: skip
