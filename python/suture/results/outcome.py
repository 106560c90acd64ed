"""What `suture demo` finds out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """What a model can do.

    Attributes:
        name: what the model is.
        made: how it was made, as a user would type it; empty for the three that were trained.
        scores: share of the test's problems answered exactly, by language.
    """

    name: str
    made: str
    scores: Mapping[str, float]
