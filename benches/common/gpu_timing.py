"""Times on a device: by its events and by the clock, the copy bandwidth, memory, and what the device is."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import numpy as np
import torch

from common.facts import cpu_model, output_of
from common.places import HERE, MIB

COPY_BYTES_GPU, COPY_BYTES_CPU, COPY_REPS = 2 << 30, 64 << 20, 20
QUERY = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,temperature.gpu,power.draw,memory.total"


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()


@dataclass
class Times:
    """Milliseconds: of the first call, which compiles, and of every later one."""

    first: float
    wall: list[float] = field(default_factory=list)
    events: list[float] = field(default_factory=list)
    extra_mib: float | None = None
    #: Whether there was no call but the first.
    alone: bool = False

    def median(self) -> float:
        return float(np.median(self.wall))

    def percentile(self, share: float) -> float:
        return float(np.percentile(self.wall, share))

    def by_events(self) -> float | None:
        return float(np.median(self.events)) if self.events else None


def once(device: torch.device, call: Callable[[], Any]) -> tuple[float, float | None]:
    """Wall clock around the call and the wait for the device, and the time between two events; milliseconds."""
    synchronize(device)
    if device.type != "cuda":
        begun = time.perf_counter()
        call()
        return (time.perf_counter() - begun) * 1e3, None
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begun = time.perf_counter()
    start.record()
    call()
    end.record()
    torch.cuda.synchronize(device)
    return (time.perf_counter() - begun) * 1e3, float(start.elapsed_time(end))


#: Seconds that the first call may take on a GPU, where kernels are compiled in it, before it is repeated no more.
COMPILING = 30.0


def measure(
    device: torch.device,
    call: Callable[[], Any],
    reps: int,
    seconds: float,
    before: Callable[[], None] = lambda: None,
) -> Times:
    """Times of a call: once to warm up, then `reps` times, or fewer (one at least) once `seconds` are over.

    Where the first call alone takes longer than `COMPILING`, it stands for all. `before` runs before each, untimed.
    """
    extra = 0.0

    def timed() -> tuple[float, float | None]:
        nonlocal extra
        before()
        synchronize(device)
        if device.type != "cuda":
            return once(device, call)
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        found = once(device, call)
        extra = max(extra, (torch.cuda.max_memory_allocated(device) - held) / MIB)
        return found

    began = time.perf_counter()
    taken = [timed()]
    compiled = time.perf_counter()
    longest = max(seconds, COMPILING if device.type == "cuda" else 0.0)
    while len(taken) <= reps and compiled - began < longest and time.perf_counter() - compiled < seconds:
        taken.append(timed())
    kept = taken[1:] or taken
    return Times(
        taken[0][0],
        [wall for wall, _ in kept],
        [events for _, events in kept if events is not None],
        extra if device.type == "cuda" else None,
        alone=len(taken) == 1,
    )


@dataclass(frozen=True)
class Bandwidth:
    bytes: int
    ms: list[float]
    gb_per_s: float


def copy_bandwidth(device: torch.device) -> Bandwidth:
    """Of a large copy on the device: bytes read and bytes written over the median time."""
    size = COPY_BYTES_GPU if device.type == "cuda" else COPY_BYTES_CPU
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    times = measure(device, lambda: target.copy_(source), COPY_REPS, 10.0)
    ms = times.events or times.wall
    return Bandwidth(size, ms, 2 * size / float(np.median(ms)) / 1e6)


def card(device: torch.device) -> dict[str, str] | None:
    """What the card's own tool says of it now; asked, never set."""
    if device.type != "cuda":
        return None
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader", f"--id={device.index or 0}"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(zip(QUERY.split(","), (value.strip() for value in told.strip().split(",")), strict=False))


def version_of(module: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(module)
    except PackageNotFoundError:
        return None


def facts(device: torch.device) -> dict[str, Any]:
    packages = ("suture", "torch", "triton", "mergekit", "numpy", "safetensors", "pydantic")
    properties = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": properties.name if properties else cpu_model(),
        "capability": f"{properties.major}.{properties.minor}" if properties else None,
        "multiprocessors": properties.multi_processor_count if properties else None,
        "memory_gib": round(properties.total_memory / (1 << 30), 1) if properties else None,
        "cuda": torch.version.cuda if properties else None,
        "card_at_start": card(device),
        "cpu": cpu_model(),
        "threads": torch.get_num_threads(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {name: version_of(name) for name in packages},
        "torch": torch.__version__,
        "commit": output_of("git", "-C", str(HERE), "describe", "--always", "--dirty"),
    }


def busy(call: Callable[[], Any], device: torch.device) -> dict[str, Any]:
    """One call under torch's profiler: how long kernels ran, how many there were, and which took the most."""
    from torch.profiler import ProfilerActivity, profile

    synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        call()
        synchronize(device)
    found = [(str(e.key), float(e.self_device_time_total) / 1e3, int(e.count)) for e in profiler.key_averages()]
    kernels = sorted((e for e in found if e[1] > 0), key=lambda e: -e[1])
    return {
        "busy_ms": sum(ms for _, ms, _ in kernels),
        "kernels": sum(count for _, _, count in kernels),
        "most": [{"kernel": name[:120], "ms": ms, "count": count} for name, ms, count in kernels[:8]],
    }
