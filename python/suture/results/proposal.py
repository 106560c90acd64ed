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


class Evidence(TypedDict):
    """Where languages share and where they part, by curves of similarity beside what trainings changed."""

    file: str
    #: The model whose curves these are, the language that others are compared with, and these.
    model: str
    pivot: str
    languages: list[str]
    #: Of each layer how near translations are above wrong pairs, mean of before and behind it and of languages.
    curve: list[float]
    #: Layers where languages share: the curve is in its upper half there.
    shared: list[bool]
    #: What is to be known of it: that the curve is flat and says nothing.
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
    #: Curves of similarity that the choices go by too, if any were given.
    evidence: Evidence | None
