"""Recipes: from a YAML config or a dict to the JSON that the core compiles."""

from suture.recipe.config import OUTPUTS, Config, check_values, documents, is_plan, load, merges
from suture.recipe.models import (
    adapters_of,
    as_json,
    made_names,
    verb_of,
    with_made,
    with_models,
    with_names,
    with_places,
)

__all__ = [
    "OUTPUTS",
    "Config",
    "adapters_of",
    "as_json",
    "check_values",
    "documents",
    "is_plan",
    "load",
    "made_names",
    "merges",
    "verb_of",
    "with_made",
    "with_models",
    "with_names",
    "with_places",
]
