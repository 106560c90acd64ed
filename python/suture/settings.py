"""How work is done: memory, threads, I/O, shards. Only the dtype and the seed decide what a tensor becomes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass

from suture.errors import UsageError

#: Called with the bytes done and the bytes in all, a few times a second.
Progress = Callable[[int, int], None]

_UNITS = {
    "": 1,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "KI": 2**10,
    "MI": 2**20,
    "GI": 2**30,
    "TI": 2**40,
}


def parse_size(text: str | int, name: str) -> int:
    """Bytes of a size such as ``256MiB``, ``5GB`` or ``1048576``; units of 1000 without ``i``, of 1024 with it.

    Raises:
        UsageError: if `text` is not a size above zero.
    """
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([KMGT]?I?)B?\s*", str(text).upper())
    size = int(float(match[1]) * _UNITS.get(match[2], 0)) if match else 0
    if not 0 < size < 2**63:
        raise UsageError(f"{name}: expected a size such as 256MiB or 5GB, found `{text}`", at=name)
    return size


@dataclass(frozen=True)
class Settings:
    """Settings shared by every verb.

    Attributes:
        memory: most anonymous memory to use, such as ``"256MiB"``; ``None`` sets no bound but stays small anyway.
        threads: threads that compute; ``None`` for one per core this process may use.
        io: ``auto``, ``mmap``, ``pread`` or ``direct``.
        dtype: dtype of every float tensor written, such as ``"bfloat16"``; ``None`` keeps the recipe's or inputs'.
        shard_size: most bytes of tensors in a shard, such as ``"5GB"``; ``None`` for 5 GB, or the recipient's shards
            in a swap.
        nan: ``error`` to fail on NaN and infinities before they are written, ``allow`` to let them pass.
        overwrite: replace an existing output.
        chunk: bytes (as f32) read at a time, such as ``"4MiB"``; changes no byte of the output.
        seed: seed of random methods.
        allow_mixed: go on where configs say that layers of one model mean something else in another, and tell.
        ignore_unknown: pass over keys and parameters of a config that nobody knows, and tell.
        model_card: write a README.md that says what the output was made from.
        missing: what to do about a tensor that a model of a merge lacks: ``error``; ``base``, whose tensor then stands
            for it; or ``skip`` that model. None leaves it to the config.
        routers_from: the model that the routers of experts come from in a merge; None merges them as all else.
        experts: how the output of a merge stores experts: ``packed`` in one tensor, ``apart``, or ``as-base``; None
            leaves it to the config.
        vocab: what to do where tables of tokens have different numbers of rows and no tokenizer is asked for:
            ``error``, take as many as the ``base`` has, ``crop`` to the shortest, or ``pad`` to the longest.
        device: what computes: ``cpu``, or with torch ``cuda``, ``cuda:1`` and so on, or ``torch-cpu``.
        device_memory: most memory to use on that device, such as ``"8GiB"``; ``None`` for nine tenths of what is free.
    """

    memory: str | int | None = None
    threads: int | None = None
    io: str = "auto"
    dtype: str | None = None
    shard_size: str | int | None = None
    nan: str = "error"
    overwrite: bool = False
    chunk: str | int | None = None
    seed: int = 0
    model_card: bool = False
    allow_mixed: bool = False
    ignore_unknown: bool = False
    vocab: str = "error"
    missing: str | None = None
    routers_from: str | None = None
    experts: str | None = None
    device: str = "cpu"
    device_memory: str | int | None = None

    def __post_init__(self) -> None:
        """Check everything that can be checked without a plan."""
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise UsageError(f"threads: expected a number from 1 to 1024, found {self.threads}", at="threads")
        if self.nan not in ("error", "allow"):
            raise UsageError(f"nan: expected error or allow, found `{self.nan}`", at="nan")
        if self.io not in ("auto", "mmap", "pread", "direct"):
            raise UsageError(f"io: expected auto, mmap, pread or direct, found `{self.io}`", at="io")
        if self.vocab not in ("error", "base", "crop", "pad"):
            raise UsageError(f"vocab: expected error, base, crop or pad, found `{self.vocab}`", at="vocab")
        if self.missing not in (None, "error", "base", "skip"):
            raise UsageError(f"missing: expected error, base or skip, found `{self.missing}`", at="missing")
        if self.experts not in (None, "packed", "apart", "as-base"):
            raise UsageError(f"experts: expected packed, apart or as-base, found `{self.experts}`", at="experts")
        if not 0 <= self.seed < 2**64:
            raise UsageError(f"seed: expected a number from 0 to 2**64 - 1, found {self.seed}", at="seed")
        if not re.fullmatch(r"cpu|cuda(:\d+)?|mps|torch-cpu", self.device):
            raise UsageError(f"device: expected cpu, cuda, cuda:N or torch-cpu, found `{self.device}`", at="device")
        if self.device_memory is not None and self.device == "cpu":
            raise UsageError(
                "device_memory: there is no device but the CPU; give a device, or memory", at="device_memory"
            )
        for name in ("memory", "shard_size", "chunk", "device_memory"):
            if getattr(self, name) is not None:
                parse_size(getattr(self, name), name)

    def refuse_those_of_merges(self) -> None:
        """Check that nothing is asked for that only merges do.

        Raises:
            UsageError: if it is, with its name.
        """
        plain = Settings()
        for name in ("vocab", "missing", "routers_from", "experts", "ignore_unknown"):
            if getattr(self, name) != getattr(plain, name):
                raise UsageError(f"{name}: only merges do that; leave it out", at=name)

    @property
    def thread_count(self) -> int:
        """Threads that compute."""
        if self.threads is not None:
            return self.threads
        # Not every system tells which cores this process may use.
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    @property
    def memory_bytes(self) -> int | None:
        """The memory bound in bytes."""
        return None if self.memory is None else parse_size(self.memory, "memory")

    @property
    def device_bytes(self) -> int | None:
        """The bound on a device's memory in bytes."""
        return None if self.device_memory is None else parse_size(self.device_memory, "device_memory")

    @property
    def shard_bytes(self) -> int | None:
        """The shard size in bytes."""
        return None if self.shard_size is None else parse_size(self.shard_size, "shard_size")

    @property
    def chunk_elements(self) -> int | None:
        """Elements read at a time."""
        return None if self.chunk is None else max(parse_size(self.chunk, "chunk") // 4, 1)
