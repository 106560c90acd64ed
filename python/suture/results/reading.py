"""What the verbs that only read return."""

from __future__ import annotations

from typing import Any, TypedDict

from suture.results.masks import MaskCheck

#: A row of figures: what it is of (`name`, `layer`, `module`, ...) and a value for each of the metrics. A figure that
#: JSON cannot write is text (`inf`, `NaN`); where nothing can be computed on it is nothing.
Row = dict[str, Any]


class Metric(TypedDict):
    """A figure of a comparison."""

    #: Its key in every row.
    name: str
    #: What it is, in a line.
    summary: str
    #: True if it can be below zero.
    signed: bool
    #: True if the smallest values tell most.
    ascending: bool
    #: True if it takes `spread`; then it is there for tensors, modules, layers and the total alone.
    spread: bool


class Ancestry(TypedDict):
    """Whether a model looks tuned from the base: ``related``, ``doubtful``, ``strangers`` or ``unknown``."""

    cosine: float | None
    relative_l2: float | None
    verdict: str


class _Rolled(TypedDict):
    total: Row
    modules: list[Row]
    layers: list[Row]
    cells: list[Row]
    tensors: list[Row]


class _Parts(TypedDict, total=False):
    heads: list[Row]
    neurons: list[Row]
    tokens: list[Row]
    vocabularies: list[Row]
    #: What became of what a mask freezes and trains.
    mask: MaskCheck


class Uncomputed(TypedDict):
    """Tensors of a dtype that is not computed on, compared by their bytes: how many, and how many changed."""

    tensors: int
    elements: int
    tensors_changed: int
    elements_changed: int
    dtypes: list[str]


class Tuned(_Rolled, _Parts):
    """A fine-tune compared with the base."""

    tuned: str
    label: str
    ancestry: Ancestry
    uncomputed: Uncomputed
    only_base: list[str]
    only_tuned: list[str]
    reshaped: list[str]
    #: The layer of each name in these three.
    lost: dict[str, str]


class Pair(_Rolled):
    """How the changes of two fine-tunes, by their labels, relate."""

    a: str
    b: str


class Counted(TypedDict):
    """How many layers config.json says a stack has, and the key that says so."""

    key: str
    layers: int


class Stack(TypedDict):
    """A stack of layers.

    `name` is what options and rows call it by, `prefix` what its tensors' names begin with, `role` what it is for;
    layers are counted from `first` on in names. Exactly one is `main`, or none if nothing tells which is meant.
    """

    name: str
    prefix: str
    role: str
    first: int
    layers: int
    elements: int
    main: bool
    #: Query heads and key/value heads, as far as config.json tells.
    heads: list[int] | None
    counted: Counted | None


class Comparison(TypedDict):
    """What :func:`suture.diff` returns."""

    schema: int
    base: str
    #: The base's; rows name layers of the main one by number (`3`), of others with the stack (`encoder:3`).
    stacks: list[Stack]
    #: What was passed over in the files.
    warnings: list[str]
    metrics: list[Metric]
    models: list[Tuned]
    pairs: list[Pair]


class _Tensor(TypedDict):
    name: str
    dtype: str
    shape: list[int]
    nbytes: int
    shard: str


class Tensor(_Tensor, total=False):
    """A tensor as its header has it; its figures, where asked for, are nothing if its dtype does not compute."""

    stats: dict[str, Any] | None
    #: What a quantised weight is stored as, such as `fp8 128x128`.
    form: str


class File(TypedDict):
    """A file of a checkpoint."""

    path: str
    bytes: int


class DtypeSum(TypedDict):
    """How much of a checkpoint has a dtype."""

    tensors: int
    elements: int
    bytes: int


class Inspection(TypedDict):
    """What :func:`suture.inspect` returns."""

    schema: int
    path: str
    bytes: int
    files: list[File]
    stacks: list[Stack]
    #: Whether the head is the embedding, as far as config.json tells.
    tied: bool | None
    #: Tensors that are quantised weights, or come with one.
    quantised: int
    #: What quantised weights are stored as, and how many of each.
    forms: dict[str, int]
    #: Why they are not decoded, where they are not.
    refused: str | None
    tensors: list[Tensor]
    #: What was passed over in the files.
    warnings: list[str]
    dtypes: dict[str, DtypeSum]
    config: dict[str, Any] | None
    #: What all this makes of it, in sentences.
    verdict: list[str]


class Verification(TypedDict):
    """What :func:`suture.verify` returns: how much was compared, and which tensors and other files differ."""

    schema: int
    tensors: int
    bytes: int
    #: How many of the tensors were not compared: a store has copied them by itself, so that no digest is known.
    unknown: int
    differing: list[str]
    files: list[str]


class _Parameter(TypedDict):
    name: str
    summary: str
    per_input: bool
    default: Any
    kind: dict[str, Any]


#: The spec of a method has keys that are words of Python (`class`): the functional form.
Spec = TypedDict(
    "Spec",
    {
        "name": str,
        "summary": str,
        "formula": str,
        "paper": str,
        "departs": str,
        "parameters": list[_Parameter],
        "base": str,
        "inputs": list[int],
        "class": str,
        "reads": int,
        "homogeneous": bool,
    },
)
