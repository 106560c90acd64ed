"""What `suture compat` finds out."""

from __future__ import annotations

from typing import TypedDict


class Finding(TypedDict):
    """Something that models were compared in."""

    what: str
    #: `same`, `differs`, or `blocks` where merging or swapping fails over it.
    status: str
    #: What it is in each model, in their order.
    values: list[str]
    #: Which of `merge` and `swap` fail over it, with the models as they are.
    blocks: list[str]
    #: What it is about, in a clause; empty where the values say it all.
    told: str
    #: What to do about it, in a clause; empty where nothing need be done.
    remedy: str


class Answer(TypedDict):
    """Whether something can be done: `yes`, `warnings` (yes, and there is something to know) or `no`; and why."""

    answer: str
    because: list[str]


class Compatibility(TypedDict):
    """What :func:`suture.compat` returns."""

    schema: int
    #: The models as they were named, the first of which the others are compared with.
    models: list[str]
    #: A short name for each.
    labels: list[str]
    rows: list[Finding]
    #: Whether all of them can be merged as they are.
    merge: Answer
    #: Whether layers of each of the others can be put into the first.
    swap: Answer
    #: What was passed over in the files.
    warnings: list[str]
