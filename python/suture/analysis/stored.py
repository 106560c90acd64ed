"""What of a model has a row for each token, and bytes of tensors by blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from suture import _core
from suture.checkpoint import Checkpoint
from suture.errors import SutureError
from suture.vocab.tables import Table

#: Elements of a tensor that are read at a time.
_BLOCK = 2**22
#: How files of weights end.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
_ROLES = ("embedding", "head", "beside")


@dataclass(frozen=True)
class Stored:
    """A tensor with a row for each token.

    Attributes:
        checkpoint: the model.
        name: the tensor.
        dtype: its dtype, as safetensors names it.
        shape: its shape; ``[rows, width]`` of embeddings and heads.
        role: ``embedding``, ``head`` or ``beside`` (biases, embeddings per layer).
    """

    checkpoint: Checkpoint
    name: str
    dtype: str
    shape: tuple[int, ...]
    role: str

    @property
    def rows(self) -> int:
        """How many rows it has; a bias of shape ``[1, rows]`` has its rows in the second place."""
        return self.shape[1] if len(self.shape) == 2 and self.shape[0] == 1 else self.shape[0]

    @property
    def width(self) -> int:
        """Elements of a row."""
        return math.prod(self.shape[1:])

    def table(self) -> Table:
        """Its rows as numbers.

        Raises:
            SutureError: if its dtype is none that is computed on, such as one of quantised weights.
        """
        return Table(self.checkpoint._core, self.name)


def tables(checkpoint: Checkpoint) -> list[Stored]:
    """The tensors of a model with a row for each token, embeddings first, then heads, then what stands beside them.

    They are those that a row plan changes.
    """
    inputs = set(checkpoint._core.tables())
    found = []
    for name in checkpoint._core.of_tokens():
        info = checkpoint.info(name)
        matrix = len(info.shape) == 2 and info.shape[0] != 1
        role = "embedding" if name in inputs else "head" if matrix and _core.is_vocabulary(name) else "beside"
        found.append(Stored(checkpoint, name, info.dtype, info.shape, role))
    return sorted(found, key=lambda t: (_ROLES.index(t.role), t.name))


def embedding(checkpoint: Checkpoint) -> Stored:
    """The first embedding of a model.

    Raises:
        SutureError: if it has none.
    """
    found = next((t for t in tables(checkpoint) if t.role == "embedding"), None)
    if found is None:
        message = "has no table of tokens; expected one such as `model.embed_tokens.weight`"
        raise SutureError(f"{checkpoint.path}: {message}", checkpoint.path)
    return found


def has_weights(model: Path) -> bool:
    """Whether a path is of a model, and not of a tokenizer alone."""
    return not model.is_dir() or any(one.name.endswith(_WEIGHTS) for one in model.iterdir())


def raw(checkpoint: Checkpoint, name: str) -> Iterator[bytes]:
    """The bytes of a tensor, 4,194,304 elements at a time.

    Raises:
        SutureError: if it cannot be read.
    """
    elements = math.prod(checkpoint.info(name).shape)
    for start in range(0, elements, _BLOCK):
        yield checkpoint._core.read(name, start, min(start + _BLOCK, elements))
