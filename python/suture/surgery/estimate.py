"""A model of the time that a merge takes on several machines.

A machine takes its parts one after the other, and each takes as long as the slowest of three that go on at once::

    part    = max(read / disk_read, counted / compute, write / disk_write)
    machine = headers + the sum over its parts
    phase   = max(the machine that takes longest, all bytes read and written / storage)
    time    = start + phase (with rounds twice, the first without writing) + finish

`read` are the bytes of its inputs once: what a method reads again it finds in memory. `counted` has them once for every
pass, by which `compute` is measured too. A network takes the place of a disk that is faster than it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from suture.results.parts import Division, Estimated
from suture.surgery.schedule import assigned


@dataclass(frozen=True)
class Rates:
    """What a machine can do, in bytes and seconds.

    Attributes:
        disk_read: bytes a second that it reads, from where the models lie.
        disk_write: bytes a second that it writes, to where the output goes.
        compute: bytes a second that its threads compute on, those that are read again counted again.
        start: seconds until it begins.
        headers: seconds that it takes to read the plan and all headers.
        finish: seconds that it takes to put the parts together.
        network: bytes a second between it and both, each way; None if they are its own.
        storage: bytes a second of all machines together; None for no bound.
    """

    disk_read: float
    disk_write: float
    compute: float
    start: float
    headers: float
    finish: float
    network: float | None = None
    storage: float | None = None


#: What bounds a part.
_BOUNDS = ("read", "compute", "write")


def of_part(part: Division, rates: Rates, once: float, speed: float = 1.0, *, scan: bool = False) -> dict[str, float]:
    """The seconds that a part takes, by what takes them: to read, to compute, to write; the longest counts.

    Args:
        part: what it reads and writes.
        rates: what its machine can do.
        once: the share of what is read that is not read again.
        speed: how fast it computes, as a multiple.
        scan: of a round, which writes nothing.
    """
    link = rates.network if rates.network is not None else float("inf")
    return {
        "read": part["read_bytes"] * once / min(rates.disk_read, link),
        "compute": part["read_bytes"] / (rates.compute * speed),
        "write": 0.0 if scan else part["write_bytes"] / min(rates.disk_write, link),
    }


def seconds_of(
    parts: Sequence[Division], rates: Rates, once: float, speed: float = 1.0, *, scan: bool = False
) -> float:
    """The seconds that a machine takes for parts, one after the other; of one without shards nothing."""
    times = [of_part(part, rates, once, speed, scan=scan) for part in parts if part["shards"]]
    return rates.headers + sum(max(time.values()) for time in times) if times else 0.0


def estimate(parts: Sequence[Division], machines: int, rates: Rates, once: float, rounds: int = 0) -> Estimated:
    """What `machines` of the same kind take for `parts`.

    Args:
        parts: the parts.
        machines: how many there are.
        rates: what each can do.
        once: the share of what is read that is not read again.
        rounds: how many rounds come first.
    """
    costs = [seconds_of([part], rates, once) for part in parts]
    turns = [[parts[i] for i in turn] for turn in assigned(costs, machines)]
    moved = {False: 0.0, True: 0.0}
    for part in parts:
        moved[True] += part["read_bytes"] * once
        moved[False] += part["read_bytes"] * once + part["write_bytes"]
    phases = []
    for scan in [True] * rounds + [False]:
        longest = max(seconds_of(turn, rates, once, scan=scan) for turn in turns)
        phases.append((longest, moved[scan] / rates.storage if rates.storage is not None else 0.0))
    worst = max(turns, key=lambda turn: seconds_of(turn, rates, once))
    takes = [of_part(part, rates, once) for part in worst]
    sums = {bound: sum(time[bound] for time in takes) for bound in _BOUNDS}
    bound = max(_BOUNDS, key=lambda name: sums[name])
    if phases[-1][1] > phases[-1][0]:
        bound = "storage"
    elif rates.network is not None and bound != "compute":
        disk = rates.disk_read if bound == "read" else rates.disk_write
        bound = "network" if rates.network < disk else bound
    return {
        "machines": machines,
        "parts": len(parts),
        "read_bytes": round(sum(part["read_bytes"] for part in worst) * once),
        "write_bytes": sum(part["write_bytes"] for part in worst),
        "seconds": rates.start + sum(max(phase) for phase in phases) + rates.finish,
        "bound": bound,
    }


def once_of(models: Sequence[Mapping[str, int]], read_bytes: int) -> float:
    """The share of what a plan reads that it does not read again: methods go over a tensor several times."""
    return min(1.0, sum(model["bytes"] for model in models) / read_bytes) if read_bytes else 1.0
