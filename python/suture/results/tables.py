"""What stands beside outputs.json: how outputs of a set lie to their experts, and where a plan sends languages."""

from __future__ import annotations

from typing import Any, TypedDict


class Towards(TypedDict):
    """How an output lies to an expert. A figure that JSON cannot write is text (`inf`)."""

    expert: str
    #: The length of their difference.
    distance: float | str | None
    #: The same as a share of the length of the expert's own change; nothing if it changed nothing, or without a base.
    relative_distance: float | str | None
    #: The cosine of both changes of the base; nothing if one of them changed nothing, or without a base.
    cosine: float | str | None


class Compared(TypedDict):
    """An output of a set, and how it lies to the base and to every expert."""

    output: str
    merge_method: str
    #: What the paper of the twelve methods calls it; of others the method.
    title: str
    #: How many tensors stand for the figures towards the experts: those that the output, the base and all experts have
    #: in one shape and of a dtype that is computed on.
    tensors: int
    #: The length of the output's change of the base; nothing without a base.
    l2: float | str | None
    #: The same as a share of the base's length.
    relative_l2: float | str | None
    towards: list[Towards]


class AllOf(TypedDict):
    """What a set of models says that several methods merged (all_of.json)."""

    schema: int
    base: str | None
    experts: list[str]
    outputs: list[Compared]
    #: Those of the twelve methods that were not run, and why.
    left_out: dict[str, str]


class Served(TypedDict):
    """A model that a plan of groups makes or keeps: `parameters` of its own are those that are none of the base's."""

    name: str
    parameters: int
    own: int


class Count(TypedDict):
    """Models, and their parameters, what they share of a base counted once."""

    models: int
    parameters: int


class Sizes(TypedDict):
    """How large all experts are, and what is served in their place."""

    #: The parameters of the base; nothing without one.
    base: int | None
    experts: Count
    served: Count
    #: What is served, one by one.
    models: list[Served]


class Place(TypedDict, total=False):
    """Where a model lies, from the folder of the table; a path that is not UTF-8 is ``{"bytes": HEX}``."""

    path: Any
    #: The adapters on top of it, each a path and what its change is multiplied by.
    adapters: list[dict[str, Any]]
    #: What it is called, if not by its folder.
    name: str


class Routed(TypedDict):
    """Where a language goes: an output, or where that is nothing, its own expert."""

    group: str
    output: str | None
    model: Place


class Routing(TypedDict):
    """Where a plan of groups sends each language, by direction (routing.json)."""

    schema: int
    groups: dict[str, list[str]]
    routes: dict[str, dict[str, Routed]]
    sizes: Sizes
