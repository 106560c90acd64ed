"""Recipes: from a YAML config or a dict to the JSON that the core compiles."""

from suture.recipe.config import Config, check_values, load
from suture.recipe.made import made_names, with_made

__all__ = ["Config", "check_values", "load", "made_names", "with_made"]
