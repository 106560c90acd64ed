"""Whether two models have the same trunk: all tensors without rows of tokens, by their hashes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b

from suture import _core
from suture.analysis.stored import raw, tables
from suture.checkpoint import Checkpoint


@dataclass(frozen=True)
class Trunk:
    """How the trunk of one model lies to that of another.

    Attributes:
        tensors: how many of its tensors were compared.
        bytes: theirs.
        hash: the hash of all of them: BLAKE2b of 128 bits over the name and the hash of each, in the order of names.
        differing: those of another hash, dtype or shape in the other, and those in layers that it lacks.
        alone: those outside layers that the other lacks.
    """

    tensors: int
    bytes: int
    hash: str
    differing: Sequence[str]
    alone: Sequence[str]


def compared(model: Checkpoint, other: Checkpoint, threads: int) -> Trunk:
    """Read the trunk of both models once, 4,194,304 elements a thread held, and compare the hashes of their tensors.

    Raises:
        SutureError: if a file cannot be read.
    """
    of_tokens = {table.name for table in tables(model)}
    names = sorted(name for name in model.names if name not in of_tokens)
    there = {name: other._core.counterpart(name) for name in names}
    paired = [name for name in names if there[name] is not None]
    lost = [name for name in names if there[name] is None]
    in_layers = [name for name in lost if _core.layer_of(name) is not None]

    def both(name: str) -> tuple[bytes, bytes | None]:
        twin = there[name]
        assert twin is not None
        one, two = model.info(name), other.info(twin)
        if (one.dtype, one.shape) != (two.dtype, two.shape):
            return hashed(model, name), None
        return hashed(model, name), hashed(other, twin)

    with ThreadPoolExecutor(threads) as pool:
        found = dict(zip(paired, pool.map(both, paired), strict=True))
    whole = blake2b(digest_size=16)
    for name, (own, _) in found.items():
        whole.update(name.encode() + b"\0" + own)
    differing = sorted([*in_layers, *(name for name, (own, their) in found.items() if own != their)])
    size = sum(model.info(name).nbytes for name in paired)
    alone = [name for name in lost if name not in set(in_layers)]
    return Trunk(len(paired) + len(in_layers), size, whole.hexdigest(), differing, alone)


def hashed(checkpoint: Checkpoint, name: str) -> bytes:
    """The hash of a tensor's bytes, BLAKE2b of 128 bits."""
    found = blake2b(digest_size=16)
    for block in raw(checkpoint, name):
        found.update(block)
    return found.digest()
