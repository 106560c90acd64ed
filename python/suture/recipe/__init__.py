"""Recipes: from a YAML config or a dict to the JSON that the core compiles."""

from suture.recipe.config import Config, load

__all__ = ["Config", "load"]
