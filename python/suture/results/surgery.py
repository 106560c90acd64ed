"""The plan and the report of a verb that writes: one shape, before and after.

A dry run has the keys of `Told`, `Shared` and `Planned`; a finished run, and its suture.json, those of `Told`, `Shared`
and `Done`; a config with several outputs, and its outputs.json, those of `Told` and `Outputs`.
"""

from __future__ import annotations

from typing import Any, TypedDict

from suture.results.parts import Cluster, PartMade, Turn
from suture.results.proposal import Proposal


class InputFile(TypedDict, total=False):
    """A file of a model.

    `bytes` stands in a report, `identity` (device, inode, size, time of change) in a plan; `url` and `etag` in a
    report, of an object of a store.
    """

    file: str
    header: str
    bytes: int
    url: str
    etag: str
    identity: dict[str, int]


class Applied(TypedDict):
    """An adapter that is folded into a model, and what its change is multiplied by."""

    path: str | dict[str, str]
    weight: float


class Model(TypedDict, total=False):
    """A model that is read; `tensors` and `bytes` stand in a plan.

    A plan has its whole `path`, a report says no more than the name: where it lay is nobody else's business. A path
    that is not UTF-8 is ``{"bytes": HEX}``.
    """

    label: str
    path: str | dict[str, str]
    #: Of a plan: the adapters in it, and what it is called if not by its folder.
    adapters: list[Applied]
    name: str | None
    #: Whether its quantised weights are decoded, as far as they can be.
    decoded: bool
    files: list[InputFile]
    tensors: int
    bytes: int


class Unused(TypedDict):
    """An input tensor that is in no output."""

    model: str
    tensor: str
    reason: str


class Encode(TypedDict):
    """How what is computed becomes a tensor that is part of a quantised weight."""

    #: ``fp8``, ``mxfp4`` or ``gguf:q8_0``.
    form: str
    #: ``codes``, ``scales``, or ``plain`` for values as F32.
    part: str
    #: Dimensions of the weight.
    shape: list[int]
    #: Its name where it is plain.
    weight: str
    #: What is done on the way into a GGUF file: ``nothing``, ``more`` (1 is added), or ``{"turns": heads}``.
    change: str | dict[str, int]


class _PlannedTensor(TypedDict):
    name: str
    dtype: str
    shape: list[int]
    shard: int
    offset: int
    action: str
    #: Each is a model and a tensor, or what a view is made of; `places` finds these in it.
    inputs: list[Any]


class _Computed(TypedDict, total=False):
    method: str
    params: dict[str, Any]
    base: Any
    group: int
    #: Of a tensor that is part of a quantised weight, how it comes of what is computed.
    encode: Encode


#: The key paths of a computed tensor's parameters.
_From = TypedDict("_From", {"from": dict[str, list[str | None]]}, total=False)


class PlannedTensor(_PlannedTensor, _Computed, _From):
    """An output tensor of a plan."""


#: Model, tensor and digest of every input; no digest where only a part of a tensor was taken.
_Taken = TypedDict("_Taken", {"from": list[list[str | None]]})


class _Found(TypedDict, total=False):
    found: dict[str, float]
    #: What computed it, if not what computed the others.
    backend: str


class DoneTensor(_Taken, _Found):
    """An output tensor of a report; `found` if its method has something to say."""

    dtype: str
    shape: list[int]
    action: str
    #: None of one that a store has copied by itself.
    digest: str | None


class Shard(TypedDict, total=False):
    """A file of tensors that will be written."""

    file: str
    bytes: int
    header_bytes: int
    #: What the file will say of itself.
    metadata: dict[str, str]


class Budget(TypedDict):
    """What a run takes of memory at most, and the elements it reads at a time."""

    chunk_elements: int
    peak_bytes: int


class Told(TypedDict):
    """What the user should know, in any of the three."""

    warnings: list[str]


class Shared(TypedDict, total=False):
    """What a plan and a report have in common."""

    #: The number of this shape; other keys may come with it, none of these changes its meaning.
    schema: int
    suture: str
    title: str
    recipe: dict[str, Any]
    #: The hash; nothing if the plan needs what another document makes first.
    plan: str | None
    models: list[Model]
    #: What is done, in a few lines for people: a title and a text each.
    notes: list[list[str]]
    unused: list[Unused]
    #: A plan lists them (`PlannedTensor`), a report maps their names to what was done (`DoneTensor`);
    #: `suture.Report.tensors` is the same for both.
    tensors: Any


class Planned(TypedDict, total=False):
    """What only a plan says."""

    hash: str | None
    read_bytes: int
    write_bytes: int
    shards: list[Shard]
    groups: list[str]
    config: dict[str, Any]
    budget: Budget
    #: The rows that models of other vocabularies give, by model.
    vocabulary: dict[str, Any] | None
    sidecars: list[str]
    #: With `ray`: who would make which part.
    schedule: list[Turn]
    proposal: Proposal


class ColdRates(TypedDict):
    """What was measured of a device with cold files, in bytes a second: around the page cache and through it."""

    direct: int
    cached: int


class _OfParts(TypedDict, total=False):
    #: Of an output that was made in parts: which part was made where.
    parts: list[PartMade]


class Fetched(TypedDict):
    """What was fetched from stores, for all outputs that were made together."""

    bytes: int
    requests: int
    #: How often what was late was asked for again.
    again: int


class Copied(TypedDict):
    """What a store has copied by itself, of its own objects into the output."""

    bytes: int
    requests: int


class Remote(TypedDict, total=False):
    """What a run of models in stores says."""

    fetched: Fetched
    copied: Copied


class Run(_OfParts, Remote):
    """How a run went: nothing in it changes a byte of the output."""

    tensors_resumed: int
    bytes_shared: int
    #: How many files were read in which way.
    files_mapped: int
    files_direct: int
    files_pread: int
    #: With `--io auto` what decided between them, by device.
    cold_reads: list[ColdRates]


class Done(TypedDict, total=False):
    """What only a finished run can say."""

    digest: str
    run: Run
    #: What computed: ``cpu``, ``torch-cpu``, ``cuda:0``.
    backend: str
    files: list[str]
    #: Digests of the files beside the tensors.
    beside: dict[str, str]
    #: Of an output that a cluster has made: which node made which part.
    cluster: Cluster
    #: With `larv`: by how much the changes of a layer (``model.layers.3``) are scaled, by layer and model.
    scales: dict[str, dict[str, float]]


class Outputs(TypedDict, total=False):
    """What a config with several outputs says: the title of each, by its name."""

    schema: int
    outputs: dict[str, str]


def places(view: Any) -> list[tuple[str, str]]:
    """Model and tensor of everything that an input of a plan is made of."""
    if isinstance(view, list) and len(view) == 2 and all(isinstance(part, str) for part in view):
        return [(view[0], view[1])]
    inner = view.values() if isinstance(view, dict) else view if isinstance(view, list) else ()
    return list(dict.fromkeys(place for part in inner for place in places(part)))


class Surgery(Told, Shared, Planned, Done, Outputs):
    """A plan or a report."""
