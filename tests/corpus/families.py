"""The corpus: every family of models that the tests go over, and those that were left out."""

from __future__ import annotations

from . import decoders, encoders, hybrids, multimodal, perception, seq2seq
from .facts import Family

FAMILIES: tuple[Family, ...] = (
    *decoders.FAMILIES,
    *hybrids.FAMILIES,
    *encoders.FAMILIES,
    *seq2seq.FAMILIES,
    *multimodal.FAMILIES,
    *perception.FAMILIES,
)
BY_NAME = {family.name: family for family in FAMILIES}

#: Families that were tried with transformers 5.20.2, and why they are not here.
LEFT_OUT = {
    "dbrx": "its config for attention has no rope_theta any more, so that the model cannot be built",
    "esm": "save_pretrained writes a tensor named `esm.encoder.layer.*.attention...`, with the asterisk",
    "kimi_linear": "8 million parameters in its linear attention, whatever the hidden size",
}
