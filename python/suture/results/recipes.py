"""What `suture diff --recipes` finds out: where two outputs come from, compared."""

from __future__ import annotations

from typing import Any, TypedDict


class Source(TypedDict):
    """Where a tensor of an output comes from."""

    #: `copy`, `move`, or the method that computed it.
    action: str
    #: Model and tensor of every input, the base first.
    inputs: list[list[str]]


class Moved(TypedDict):
    """A tensor that comes from elsewhere in the other output."""

    tensor: str
    one: Source
    other: Source


class Key(TypedDict):
    """A key of the recipe that differs; nothing stands where one of the two lacks it."""

    at: str
    one: Any
    other: Any


class RecipeComparison(TypedDict):
    """What :func:`suture.diff_recipes` returns."""

    schema: int
    one: str
    other: str
    #: How many tensors both outputs have.
    shared: int
    only_one: list[str]
    only_other: list[str]
    #: Tensors of another dtype or shape.
    retyped: list[str]
    #: Tensors from another model or tensor, or by another action.
    elsewhere: list[Moved]
    #: Tensors that come from the same places by the same action and have other bytes; empty for plans.
    other_bytes: list[str]
    #: Inputs of the same model and tensor whose bytes are others: the models changed in between.
    changed_inputs: list[str]
    #: Keys below `parameters`, and the other keys.
    parameters: list[Key]
    keys: list[Key]
