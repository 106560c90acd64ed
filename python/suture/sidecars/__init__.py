"""The files beside the weights: config.json kept true, tokenizer and templates carried over, adapters, the card."""

from suture.sidecars.adapter import adapter_config
from suture.sidecars.attention import head_counts, layer_types, same_heads
from suture.sidecars.card import model_card
from suture.sidecars.carried import carried_over
from suture.sidecars.tokenizer import token_names

__all__ = [
    "adapter_config",
    "carried_over",
    "head_counts",
    "layer_types",
    "model_card",
    "same_heads",
    "token_names",
]
