"""Which layers to swap, and why."""

from __future__ import annotations

from typing import TypedDict


class Score(TypedDict):
    """A layer, or a block of one: each model's share of its own change, and what follows."""

    layer: int
    block: str | None
    into: float
    donor: float
    difference: float
    margin: float
    choice: str


class Edges(TypedDict):
    """The second proposal: bottom and top layers, and the undecided ones beside them."""

    bottom: int
    top: int
    transition_bottom: int
    transition_top: int
    gain: float
    #: What is to be known of it: that it gains next to nothing, or takes every layer.
    told: str | None


class Proposal(TypedDict):
    """What :func:`suture.propose` returns.

    `layers` holds the choice of each layer, or by module a choice for each of its blocks.
    """

    schema: int
    base: str
    into: str
    donor: str
    #: Whose layers these are.
    stack: str
    by: str
    tau: float
    alpha: float
    scores: list[Score]
    layers: list[str] | list[dict[str, str]]
    modules: dict[str, list[str]]
    #: Layers that neither model changed, or of which nothing can be scored.
    silent: list[int]
    edges: Edges
