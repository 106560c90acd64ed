"""What a call on resident models did."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

#: Counts the writes of this process into resident models.
_versions = itertools.count(1)


@dataclass(frozen=True)
class Report:
    """What was done.

    Attributes:
        method: the method, or ``swap``.
        computed: names of the tensors that were computed.
        moved: names of those that came from another tensor as they are.
        kept: names of those that stayed what they were.
        extra_bytes: working memory that the torch forms take at most beside the models; what kernels gather for exact
            cuts is not in it.
        block: elements that were worked on at a time.
        weight_version: a number that grows with every write of this process: what a serving engine may call the
            weights.
        warnings: what the caller should know.
        digests: SHA-256 of each tensor's bytes, by name, if asked for.
    """

    method: str
    computed: tuple[str, ...]
    moved: tuple[str, ...]
    kept: tuple[str, ...]
    extra_bytes: int
    block: int
    weight_version: int
    warnings: tuple[str, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        """A line: names are as many as the model has tensors."""
        parts = {"computed": self.computed, "moved": self.moved, "kept": self.kept}
        told = ", ".join(f"{len(names)} {word}" for word, names in parts.items() if names)
        warned = "".join(f"; {warning}" for warning in self.warnings)
        return f"<Report {self.method}: {told or 'no'} tensors, weights {self.weight_version}{warned}>"

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of all tensors that were touched."""
        return (*self.computed, *self.moved)


def next_version() -> int:
    """The number of the next write."""
    return next(_versions)


def digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's bytes in the order of its elements. Waits for the device."""
    row = tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu()
    return hashlib.sha256(memoryview(row.numpy())).hexdigest()
