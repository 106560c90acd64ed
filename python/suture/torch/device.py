"""What computes the tensors of a plan for ``--device``: torch's forms and kernels, below the core's engine.

The engine reads, checks, digests and writes; here a tensor's operands come in pieces through pinned buffers on one
stream, the tensor is computed on a second, and its bytes go back on a third. A few tensors are on their way at a time.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from suture import _core
from suture.errors import SutureError, UsageError
from suture.torch.forms import Params
from suture.torch.models import TORCH, Resident
from suture.torch.planned import Planned, Work
from suture.torch.resident import BLOCK_CPU, BLOCK_GPU, Runner, execute, extra_bytes

#: Tensors that are on their way to a device, on it or on their way back at a time.
SLOTS_GPU, SLOTS_CPU = 3, 2


def device_of(name: str) -> torch.device:
    """The device that is called so.

    Raises:
        UsageError: if there is none, or it cannot compute merges.
    """
    if name == "torch-cpu":
        return torch.device("cpu")
    if name == "mps":
        raise UsageError("device: MPS has no float64, which merges need; leave --device out", at="device")
    kind, _, number = name.partition(":")
    if kind != "cuda" or (number and not number.isdecimal()):
        raise UsageError(f"device: expected cpu, cuda, cuda:N or torch-cpu, found `{name}`", at="device")
    if not torch.cuda.is_available():
        raise UsageError(
            f"device: this PyTorch ({torch.__version__}) finds no CUDA device; leave --device out", at="device"
        )
    many = torch.cuda.device_count()
    if int(number or 0) >= many:
        raise UsageError(f"device: expected cuda:0 to cuda:{many - 1}, found `{name}`", at="device")
    return torch.device("cuda", int(number) if number else torch.cuda.current_device())


@dataclass(frozen=True)
class _Streams:
    """The ways to a device, on it, and back."""

    there: Any
    on: Any
    back: Any


class TorchDevice:
    """Computes whole tensors of plans; what the core calls, from several threads.

    Args:
        name: as :func:`device_of` takes it.
        plans: of the outputs that are made together.
        room: bytes of a buffer.
        memory: bytes that may be used on the device; None for nine tenths of what is free there.

    Attributes:
        name: what reports call it.
        slots: tensors that are on their way at a time.
    """

    def __init__(self, name: str, plans: Sequence[_core.Plan], room: int, memory: int | None) -> None:
        self.device = device_of(name)
        self.name = name if self.device.type == "cpu" else f"{self.device}"
        gpu = self.device.type == "cuda"
        self.slots = SLOTS_GPU if gpu else SLOTS_CPU
        self.room, self.block = room, BLOCK_GPU if gpu else BLOCK_CPU
        self.streams = None
        if gpu:
            with torch.cuda.device(self.device):
                self.streams = _Streams(*(torch.cuda.Stream() for _ in range(3)))
                memory = int(torch.cuda.mem_get_info()[0] * 0.9) if memory is None else memory
        self.memory = memory
        self._works = [_works(json.loads(plan.to_json())) for plan in plans]
        self._free = threading.Condition()
        self._used = 0

    def takes(self, output: int, tensor: int) -> bool:
        """Whether there is a form for a tensor, and memory; what is not taken the CPU computes."""
        work = self._works[output].get(tensor)
        return work is not None and (self.memory is None or self.need(work) <= self.memory)

    def need(self, work: Work) -> int:
        """Bytes that a tensor takes on the device at most."""
        operands = len(work.sources) + (work.base is not None)
        stored = 8 * work.elements * (operands + 1)
        return stored + extra_bytes(_planned(work), min(self.block, work.elements))

    def work(self, output: int, tensor: int) -> Work:
        """What becomes of a tensor."""
        return self._works[output][tensor]

    def reserve(self, size: int) -> None:
        """Waits until so many bytes are free."""
        with self._free:
            self._free.wait_for(lambda: self._used == 0 or self.memory is None or self._used + size <= self.memory)
            self._used += size

    def release(self, size: int) -> None:
        """Has so many bytes free again."""
        with self._free:
            self._used -= size
            self._free.notify_all()

    def slot(self) -> Slot:
        """A tensor's way there and back."""
        return Slot(self)


class Slot:
    """A tensor's way to the device and back; used by one thread."""

    def __init__(self, device: TorchDevice) -> None:
        self._own = device
        pin = device.streams is not None
        self._rooms = [torch.empty(device.room, dtype=torch.uint8, pin_memory=pin) for _ in range(2)]
        self._left: list[Any] = [None, None]
        self._turn = 0
        self._reserved = 0
        self._operands: list[Tensor] = []
        self._out: Tensor | None = None
        self._work: Work | None = None

    def _on(self, which: str) -> Any:
        streams = self._own.streams
        return torch.cuda.stream(getattr(streams, which) if streams else None)

    def begin(self, output: int, tensor: int, dtypes: Sequence[str], keys: Sequence[int]) -> None:
        """Makes room on the device for a tensor whose operands have these dtypes."""
        work = replace(self._own.work(output, tensor), drawn=tuple(keys))
        self._reserved = self._own.need(work)
        self._own.reserve(self._reserved)
        try:
            with self._on("there"):
                self._operands = [self._empty(work, TORCH[dtype]) for dtype in dtypes]
            with self._on("on"):
                self._out = self._empty(work, TORCH[work.dtype])
        except torch.OutOfMemoryError:
            raise self._full(work) from None
        self._work = work

    def _empty(self, work: Work, dtype: torch.dtype) -> Tensor:
        return torch.empty(work.shape, dtype=dtype, device=self._own.device)

    def _full(self, work: Work) -> SutureError:
        need = self._own.need(work)
        return SutureError(
            f"tensor `{work.name}`: {self._own.name} is out of memory; another process has it, or the limit is too "
            f"high: it takes {need >> 20} MiB; give a lower --device-memory",
            tensor=work.name,
        )

    def room(self) -> tuple[int, int]:
        """The address and size of a buffer that nothing reads any more."""
        self._turn = 1 - self._turn
        if self._left[self._turn] is not None:
            self._left[self._turn].synchronize()
            self._left[self._turn] = None
        room = self._rooms[self._turn]
        return room.data_ptr(), room.numel()

    def put(self, operand: int, at: int, length: int) -> None:
        """Sends the first bytes of the buffer to an operand."""
        with self._on("there"):
            target = _bytes(self._operands[operand])[at : at + length]
            target.copy_(self._rooms[self._turn][:length], non_blocking=True)
            self._left[self._turn] = self._mark()

    def _mark(self) -> Any:
        if self._own.streams is None:
            return None
        event = torch.cuda.Event()
        event.record()
        return event

    def compute(self) -> None:
        """Computes the tensor; its bytes can be had as soon as the device has done so."""
        work, out = self._work, self._out
        assert work is not None
        assert out is not None
        views = [view for view in (work.base, *work.sources) if view is not None]
        models = [
            Resident(str(label), {work.name: tensor}, {}, None, False)
            for (label, _), tensor in zip(views, self._operands, strict=True)
        ]
        runner = Runner(_planned(work), models, {work.name: out}, self._own.block)
        streams = self._own.streams
        if streams is not None:
            streams.on.wait_stream(streams.there)
        try:
            with self._on("on"):
                execute(runner)
        except torch.OutOfMemoryError:
            raise self._full(work) from None
        if streams is not None:
            # What is computed is complete before its memory goes to another tensor's operands.
            streams.on.synchronize()
        self._operands = []

    def get(self, at: int, most: int) -> tuple[int, int]:
        """The address and number of bytes of the result from `at` on."""
        assert self._out is not None
        address, size = self.room()
        length = min(size, most)
        with self._on("back"):
            self._rooms[self._turn][:length].copy_(_bytes(self._out)[at : at + length], non_blocking=True)
            event = self._mark()
        if event is not None:
            event.synchronize()
        return address, length

    def end(self) -> None:
        """The tensor is done, or has failed."""
        self._out = self._work = None
        self._operands = []
        self._own.release(self._reserved)
        self._reserved = 0


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.view(-1).view(torch.uint8)


def _planned(work: Work) -> Planned:
    return Planned((work,), (), "", ())


def _works(told: Any) -> dict[int, Work]:
    """The computed tensors of a plan, by number, operands by names of their own; the core asks for none of a group."""
    found: dict[int, Work] = {}
    interned: dict[str, Params] = {}
    for i, t in enumerate(told["tensors"]):
        # What is read by itself does not go over: these the CPU computes.
        if t["action"] != "merge" or t.get("apart"):
            continue
        params = interned.setdefault(json.dumps(t["params"]), Params.of(t["params"]))
        sources = tuple((f"input {n}", t["name"]) for n in range(len(t["inputs"])))
        base = None if t["base"] is None else ("base", t["name"])
        found[i] = Work(t["name"], t["dtype"], tuple(t["shape"]), sources, t["method"], params, base)
    return found
