"""What a run takes for a device beside the CPU: shares of the memory, and the device itself."""

from __future__ import annotations

import bisect
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from suture import _core
from suture.errors import UsageError
from suture.results.surgery import Budget
from suture.settings import Settings

#: Bytes of a buffer at most and at least: large copies reach the full speed of the bus.
_ROOM, _SMALL = 32 << 20, 1 << 16
#: Buffers of all tensors that are on their way: two and one to write from, for each of three.
_BUFFERS = 9


@dataclass(frozen=True)
class Shares:
    """How the memory is divided.

    Attributes:
        engine: bytes for the engine; None for no bound.
        room: bytes of a buffer.
        device: bytes on the device; None for what is free there.
    """

    engine: int | None
    room: int
    device: int | None


def shares(settings: Settings) -> Shares:
    """The shares of a run's memory: on a device's way at most an eighth; on ``torch-cpu`` half for its tensors."""
    memory, device = settings.memory_bytes, settings.device_bytes
    if settings.device == "cpu":
        return Shares(memory, 0, None)
    room = _ROOM if memory is None else max(min(memory // (8 * _BUFFERS), _ROOM) // 4096 * 4096, _SMALL)
    engine = None if memory is None else max(memory - _BUFFERS * room, 1)
    if settings.device == "torch-cpu":
        if engine is not None:
            device = min(device or engine, engine // 2)
            engine -= device
        elif device is None:
            device = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return Shares(engine, room, device)


def budget(plans: Sequence[_core.Plan], settings: Settings) -> Budget:
    """What runs of these plans side by side take of memory.

    Raises:
        UsageError: if the memory is too little, with what would do.
    """
    own = shares(settings)
    try:
        found = cast(Budget, json.loads(_budget(plans, settings, own)))
    except UsageError:
        if own.engine is None or settings.device == "cpu":
            raise
        least = _least(plans, settings)
        raise UsageError(
            f"memory: {settings.memory} is too little for this plan with --device {settings.device}; the smallest that "
            f"works is {least} MiB",
            at="memory",
        ) from None
    here = own.device or 0 if settings.device == "torch-cpu" else 0
    return {**found, "peak_bytes": found["peak_bytes"] + _BUFFERS * own.room + here}


def _budget(plans: Sequence[_core.Plan], settings: Settings, own: Shares) -> str:
    return _core.budget_json(list(plans), settings.thread_count, own.engine, settings.chunk_elements)


def _least(plans: Sequence[_core.Plan], settings: Settings) -> int:
    """The fewest MiB of memory that suffice."""

    def enough(mebibytes: int) -> bool:
        try:
            tried = replace(settings, memory=mebibytes << 20)
            _budget(plans, tried, shares(tried))
        except UsageError:
            return False
        return True

    return bisect.bisect_left(range(1 << 30), True, lo=1, key=enough)


def check(settings: Settings) -> None:
    """Refuse a device that is not there.

    Raises:
        UsageError: if there is no torch, or no such device.
    """
    if settings.device != "cpu":
        _torch(settings).device_of(settings.device)


def opened(settings: Settings, plans: Sequence[_core.Plan]) -> Any:
    """What computes the tensors of these plans; None for the CPU."""
    if settings.device == "cpu":
        return None
    own = shares(settings)
    return _torch(settings).TorchDevice(settings.device, plans, own.room, own.device)


def _torch(settings: Settings) -> Any:
    try:
        from suture.torch import device
    except UsageError as e:
        raise UsageError(f"device: `{settings.device}` needs PyTorch: {e}", at="device") from None
    return device
