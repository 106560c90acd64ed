"""Parts of an output: how a plan is divided, and what is said of a part that was made."""

from __future__ import annotations

from typing import Any, TypedDict


class Division(TypedDict):
    """What one part reads and writes; one without shards has nothing to do."""

    #: The files that it writes.
    shards: list[str]
    tensors: int
    #: Each input once for every pass its method makes at most.
    read_bytes: int
    write_bytes: int
    #: The files that it reads, each with its model in front.
    inputs: list[str]


class MadeShard(TypedDict):
    """A file of tensors that a part has made."""

    file: str
    bytes: int
    header_bytes: int
    #: The digest of its header.
    header: str


class _Manifest(TypedDict):
    schema: int
    suture: str
    #: The hash of the plan.
    plan: str
    #: Which part, from 1.
    part: int
    #: Of how many.
    parts: int
    #: The machine that made it.
    host: str
    seconds: float
    #: Every input file, with what tells it from others.
    inputs: list[dict[str, Any]]


class Manifest(_Manifest, total=False):
    """What is said of a part: of one that was scanned `round` and `found`, of one that was made all else."""

    round: int
    found: str
    #: The folder, among the parts', that its shards lie in.
    folder: str
    shards: list[MadeShard]
    #: Lines of the journal: the number of each tensor in the plan, its digest, those of its inputs.
    tensors: list[dict[str, Any]]
    scales: dict[str, dict[str, float]]
    run: dict[str, Any]
    warnings: list[str]


class Settlement(TypedDict):
    """What `suture settle` found: how many rounds there were, and whether another is to come."""

    schema: int
    rounds: int
    wanted: bool


class PartMade(TypedDict):
    """Of an output that was made in parts: which part was made where, and how long it took."""

    part: int
    host: str
    seconds: float
    shards: list[str]


class ClusterNode(TypedDict):
    """A node of a cluster that has made parts."""

    #: The name of its host; with some of its id where several nodes are on one host.
    node: str
    threads: int


class ClusterPart(TypedDict):
    """Which node has made a part, at which try, and what became of those before."""

    part: int
    node: str
    seconds: float
    tries: int
    errors: list[str]


class Cluster(TypedDict):
    """How a cluster has made an output; parts that were made otherwise are not in it."""

    #: The version of Ray.
    ray: str
    nodes: list[ClusterNode]
    made: list[ClusterPart]


class Turn(TypedDict):
    """What a node of a cluster would make, if all nodes were as fast."""

    node: str
    threads: int
    #: The numbers of its parts, from 1.
    parts: list[int]
    #: Each input once for every pass its method makes at most.
    read_bytes: int
    write_bytes: int
    #: By the model of docs/scale.md; null where a rate is not known.
    seconds: float | None


class Estimated(TypedDict):
    """What a number of machines would take, by the model of docs/scale.md."""

    machines: int
    parts: int
    #: What the machine reads and writes that takes longest.
    read_bytes: int
    write_bytes: int
    seconds: float
    #: What it waits for: ``read``, ``compute``, ``write``, ``network`` or ``storage``.
    bound: str


class Estimate(TypedDict):
    """What a merge would take, and by which rates."""

    #: Of one machine, in bytes a second and seconds; null for no bound.
    rates: dict[str, float | None]
    #: Which of them were measured on this machine.
    measured: list[str]
    #: The share of what is read that is not read again.
    once: float
    machines: list[Estimated]


class _Outlook(TypedDict):
    schema: int
    title: str
    #: The hash.
    plan: str
    tensors: int
    #: Each input once for every pass its method makes at most.
    read_bytes: int
    write_bytes: int
    #: What each shard reads and writes.
    shards: list[Division]
    warnings: list[str]


class Outlook(_Outlook, total=False):
    """What `suture plan` tells of a merge; the first three with `--parts`, the last with `--estimate`."""

    parts: list[Division]
    #: Whether rounds come first: what the method counts lies in several parts.
    rounds: bool
    #: The commands that make it, in their order; those of parts in any.
    commands: list[str]
    estimate: Estimate
