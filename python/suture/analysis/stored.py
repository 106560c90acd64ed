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
#: How what stands beside a table or a head and has a number for each token ends.
_BESIDE = ("lm_head.bias", "embed_out.bias", "final_logits_bias", "predictions.bias", "predictions.decoder.bias",
           "lm_head.decoder.bias", "lm_loss.bias", "generator_lm_head.bias", "vocab_projector.bias",
           "pred_layer.proj.bias", "embed_tokens_per_layer.weight")  # fmt: skip
#: Tables of places may be as long by chance.
_PLACES = ("position", "pos_emb", "wpe")
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

    They are those that a row plan changes: known by their names, or outside the layers and as long as the embedding,
    where nothing in a layer is that long.
    """
    infos = [checkpoint.info(name) for name in checkpoint.names]
    inputs = set(checkpoint._core.tables())
    rows = next((info.shape[0] for info in infos if info.name in inputs and info.shape), None)
    in_layers = {info.name for info in infos if _core.layer_of(info.name) is not None}
    by_length = rows is not None and not any(rows in info.shape for info in infos if info.name in in_layers)
    found = []
    for info in infos:
        known = info.name in inputs or _core.is_vocabulary(info.name) or info.name.endswith(_BESIDE)
        alike = by_length and info.name not in in_layers and rows in info.shape[:2]
        if known or (alike and not any(part in info.name for part in _PLACES)):
            plain = len(info.shape) == 2 and info.shape[0] != 1
            role = (
                "embedding" if info.name in inputs else "head" if plain and _core.is_vocabulary(info.name) else "beside"
            )
            found.append(Stored(checkpoint, info.name, info.dtype, info.shape, role))
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
