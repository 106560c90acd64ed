"""The files beside the weights: config.json kept true, tokenizer and templates carried over, adapters, the card."""

from suture.sidecars.adapter import adapter_config
from suture.sidecars.card import model_card
from suture.sidecars.carried import Beside, carried_over
from suture.sidecars.tokenizer import token_names

__all__ = [
    "Beside",
    "adapter_config",
    "carried_over",
    "model_card",
    "token_names",
]
