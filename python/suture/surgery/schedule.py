"""Which machine makes which part: how many parts there are, and in what order they are given out."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

#: Parts for each machine: a few, so that one that is slow or lost holds up little; more cost a start each.
PER_MACHINE = 4


def how_many(shards: int, machines: int) -> int:
    """Into how many parts an output of `shards` shards is divided for `machines`: a few each, none without a shard."""
    return max(1, min(shards, machines * PER_MACHINE))


def longest_first(costs: Sequence[float]) -> list[int]:
    """The numbers of parts (from 0) in the order that they are given out in: what takes longest first, then as they
    stand.
    """
    return sorted(range(len(costs)), key=lambda i: (-costs[i], i))


def assigned(costs: Sequence[float], machines: int) -> list[list[int]]:
    """The parts (from 0) of each machine, if each takes the next as soon as it is free and all are as fast.

    Args:
        costs: what each part takes, in any unit.
        machines: how many there are.
    """
    found: list[list[int]] = [[] for _ in range(machines)]
    free = [(0.0, machine) for machine in range(machines)]
    for part in longest_first(costs):
        at, machine = heapq.heappop(free)
        found[machine].append(part)
        heapq.heappush(free, (at + costs[part], machine))
    return found
