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


def size(n: float) -> str:
    """Bytes with a unit of 1000, three digits."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while n >= 999.5 and len(units) > 1:
        n /= 1000
        units.pop(0)
    return f"{n:.3g} {units[0]}"


#: What a checkpoint can be written as, whatever it is stored as.
TO = ("bf16", "f16", "f32", "fp8", "mxfp4", "gguf:q8_0")
#: Those of them that are quantised.
FORMS = TO[3:]


@dataclass(frozen=True)
class Settings:
    """Settings shared by every verb.

    Attributes:
        memory: most anonymous memory to use, such as ``"256MiB"``; ``None`` sets no bound but stays small anyway.
        threads: threads that compute; ``None`` for one per core this process may use.
        io: ``auto``, ``mmap``, ``pread`` or ``direct``.
        to: what weights are written as, whatever they are stored as: ``bf16``, ``f16`` or ``f32``, and all other
            floats with them; or ``fp8`` or ``mxfp4``, quantised, and what
            stays plain as it is; or ``gguf:q8_0``, a GGUF file. ``None`` leaves it to the verb:
            merges and copies decode, swaps move what is stored.
        dtype: dtype of every float tensor written, such as ``"bfloat16"``; ``None`` keeps the recipe's or inputs'.
        config_json: a config.json for GGUF models, for what their files lack; None rebuilds it of their metadata.
        tokenizer_json: a tokenizer.json, or a folder with a tokenizer's files, likewise.
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
        part: make only a part of the output, such as ``"3/16"``, the third of sixteen, in a folder beside it that
            several machines may share; :func:`suture.finish` puts the parts together.
        ray: make the output in parts on the nodes of a Ray cluster: its address, ``"auto"`` for one that runs on this
            machine, ``"local"`` for a new one, or ``""`` for what Ray finds; `threads` and `memory` are then of each
            node.
        round: with `part`, scan for this round, from 1, and make nothing: where a method counts over more than a part.
    """

    memory: str | int | None = None
    threads: int | None = None
    io: str = "auto"
    dtype: str | None = None
    to: str | None = None
    config_json: str | None = None
    tokenizer_json: str | None = None
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
    part: str | None = None
    round: int | None = None
    ray: str | None = None

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
        if self.to is not None and self.to not in TO:
            raise UsageError(f"to: expected {', '.join(TO[:-1])} or {TO[-1]}, found `{self.to}`", at="to")
        if self.to is not None and self.dtype is not None:
            raise UsageError(
                f"to: `{self.to}` is what the output is written as; leave dtype `{self.dtype}` out", at="to"
            )
        if self.one_file and self.shard_size is not None:
            raise UsageError(f"shard_size: `{self.to}` is written as one file; leave it out", at="shard_size")
        if not 0 <= self.seed < 2**64:
            raise UsageError(f"seed: expected a number from 0 to 2**64 - 1, found {self.seed}", at="seed")
        if not re.fullmatch(r"cpu|cuda(:\d+)?|mps|torch-cpu", self.device):
            raise UsageError(f"device: expected cpu, cuda, cuda:N or torch-cpu, found `{self.device}`", at="device")
        if self.device_memory is not None and self.device == "cpu":
            raise UsageError(
                "device_memory: there is no device but the CPU; give a device, or memory", at="device_memory"
            )
        if self.part is not None and not re.fullmatch(r"\d{1,6}/[1-9]\d{0,5}", self.part):
            raise UsageError(
                f"part: expected the number of a part and of all, such as 3/16, found `{self.part}`", at="part"
            )
        i, n = self.parts_asked or (1, 1)
        if not 1 <= i <= n:
            raise UsageError(f"part: expected 1/{n} to {n}/{n}, found `{self.part}`", at="part")
        if self.round is not None and (self.part is None or self.round < 1):
            problem = (
                "goes with a part, such as 3/16" if self.part is None else f"expected 1 or more, found {self.round}"
            )
            raise UsageError(f"round: {problem}", at="round")
        if self.ray is not None:
            self._check_ray(self.ray)
        for name in ("memory", "shard_size", "chunk", "device_memory"):
            if getattr(self, name) is not None:
                parse_size(getattr(self, name), name)

    def _check_ray(self, address: str) -> None:
        if self.part is not None:
            raise UsageError("ray: makes all parts; leave part out", at="ray")
        if address.startswith("ray://"):
            message = "Ray's client is not for this; run on a node of the cluster, as `ray job submit` does"
            raise UsageError(f"ray: {message}, and give auto", at="ray")
        if address not in ("", "auto", "local") and not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[\w.-]+):\d{1,5}", address):
            message = f"expected auto, local or an address such as 10.0.0.1:6379, found `{address}`"
            raise UsageError(f"ray: {message}; without an address --ray stands at the end", at="ray")
        if re.fullmatch(r"cuda:\d+", self.device):
            raise UsageError(f"device: Ray gives each node its GPU; give cuda, not {self.device}", at="device")

    def refuse_those_of_merges(self) -> None:
        """Check that nothing is asked for that only merges do.

        Raises:
            UsageError: if it is, with its name.
        """
        plain = Settings()
        for name in ("vocab", "missing", "routers_from", "experts", "ignore_unknown"):
            if getattr(self, name) != getattr(plain, name):
                raise UsageError(f"{name}: only merges do that; leave it out", at=name)

    def refuse_parts(self, why: str) -> None:
        """Check that neither a part of an output is asked for nor a cluster, which makes parts.

        Raises:
            UsageError: if one is, with `why` there is none.
        """
        for name in ("part", "ray"):
            if getattr(self, name) is not None:
                raise UsageError(f"{name}: {why}; leave it out", at=name)

    @property
    def parts_asked(self) -> tuple[int, int] | None:
        """The number of the part that is to be made, from 1, and of all; None for the whole."""
        if self.part is None:
            return None
        i, n = self.part.split("/")
        return int(i), int(n)

    @property
    def one_file(self) -> bool:
        """Whether tensors are written as one file, however large."""
        return self.to is not None and self.to.startswith("gguf:")

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
