"""What a delta says of itself."""

from __future__ import annotations

from typing import TypedDict


class DeltaModel(TypedDict):
    """A model that a delta is of: its name, the digest of all its tensors, their bytes."""

    name: str
    digest: str
    bytes: int


class StoredTensor(TypedDict):
    """A tensor as it was when the delta was taken; `sample` is a digest of some of its bytes."""

    dtype: str
    shape: list[int]
    digest: str
    sample: str | None


class DeltaEntry(TypedDict, total=False):
    """A tensor of both models, and how its change is kept."""

    name: str
    #: ``same`` (there is none), ``left`` (it is not kept), ``xor``, ``sparse``, ``bits``, ``lowrank``, ``whole``, or
    #: ``gone``.
    kept: str
    #: The delta's tensors that keep it, by what they are.
    parts: dict[str, str]
    turned: bool
    base: StoredTensor | None
    #: Nothing where it is the base's.
    tuned: StoredTensor | None
    #: ``changed`` elements, ``norm`` of the change, ``rank``, relative ``error`` of what is kept, its ``energy`` (of
    #: random elements there is none), ``scale``.
    figures: dict[str, float]


class DeltaRecord(TypedDict):
    """What a delta says of itself (delta.json)."""

    format: str
    version: int
    form: str
    exact: bool
    base: DeltaModel
    tuned: DeltaModel
    files: list[str]
    figures: dict[str, float]
    tensors: list[DeltaEntry]


class DeltaInfo(DeltaRecord):
    """What a delta is."""

    schema: int
    path: str
    #: Bytes of its files of tensors.
    bytes: int
