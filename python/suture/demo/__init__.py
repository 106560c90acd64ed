"""Layer swapping on three small models that come with the wheel: what `suture demo` runs."""

from __future__ import annotations

from suture.demo.experiment import LANGUAGES, MODELS, NAMES, Experiment

__all__ = ["LANGUAGES", "MODELS", "NAMES", "Experiment"]
