"""Giving out the parts of an output to the nodes of a Ray cluster, and looking after who makes them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from suture.errors import SutureError, UsageError
from suture.results.parts import Cluster, ClusterNode, ClusterPart
from suture.settings import Progress, Settings
from suture.surgery import parts_folder as at
from suture.surgery.cluster_nodes import Node, check, gpus, nodes_of, on, reason
from suture.surgery.cluster_worker import Worker
from suture.surgery.parts import stands
from suture.surgery.parts_job import Parts
from suture.surgery.schedule import longest_first

#: How often a part is tried, and how many workers a node may lose one after the other before it is left alone.
TRIES, DEATHS = 3, 4
#: Seconds between two looks at what the workers have done, and between two looks for nodes that are new.
TICK, LOOK = 0.5, 10.0
#: Seconds that workers are given to end by themselves.
FAREWELL = 3.0
#: Seconds until the cluster must have had room for one worker.
PATIENCE = 300.0

#: The class of the workers.
WORKER: type[Worker] = Worker


@dataclass
class _Seat:
    """A node, its worker, and what that does."""

    node: Node
    worker: Any = None
    #: What it was asked last: to begin (`part` is None) or to make a part.
    asked: Any = None
    part: int | None = None
    #: Whether it has begun.
    ready: bool = False
    #: How far it is: a question on its way.
    poll: Any = None
    deaths: int = 0


@dataclass
class Driver:
    """Gives out parts, and looks after who makes them."""

    ray: Any
    parts: Parts
    settings: Settings
    nodes: Sequence[Node]
    #: A folder that all nodes must see.
    shared: Path | None
    progress: Progress | None
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin where an earlier run has stopped."""
        found = at.read(self.parts.folder / at.CLUSTER) or {}
        #: What the report will say, of an earlier run of the same too: by part, and by name of the node.
        self.rows: dict[int, ClusterPart] = {row["part"]: row for row in found.get("made", ())}
        self.used: dict[str, ClusterNode] = {node["node"]: node for node in found.get("nodes", ())}
        self.has_made = False
        #: Workers begin when there is something to do.
        self.seats: list[_Seat] = []
        self.done: dict[int, int] = {}
        self.before, self.shown, self.looked = 0, 0, time.monotonic()
        own = self.parts.divide()
        self.cost = [part["read_bytes"] + part["write_bytes"] for part in own]

    def phase(self, round: int | None) -> None:
        """Have every part scanned for a round, or made.

        Raises:
            SutureError: as `run`.
        """
        waiting = [i + 1 for i in longest_first(self.cost) if not self._is_there(i + 1, round)]
        self.done = {}
        if round is None:
            self.done = {i: cost for i, cost in enumerate(self.cost, 1) if i not in waiting}
        tries: dict[int, list[str]] = {i: [] for i in waiting}
        avoid: dict[int, set[str]] = {i: set() for i in waiting}
        patient = time.monotonic() + PATIENCE
        if waiting and not self.seats:
            self.seats = [self._seat(node) for node in self.nodes]
        while waiting or any(seat.part is not None for seat in self.seats):
            self._look_for_nodes()
            for seat in self.seats:
                if seat.asked is None and (part := self._next(seat, waiting, avoid)) is not None:
                    waiting.remove(part)
                    seat.part, seat.asked = part, seat.worker.make.remote(part, round)
            asked = {seat.asked: seat for seat in self.seats if seat.asked is not None}
            if not any(seat.ready for seat in self.seats) and time.monotonic() > patient:
                raise SutureError(
                    f"no node of the cluster had room for a worker in {PATIENCE:.0f} s; `ray status` tells"
                )
            answered, _ = self.ray.wait(list(asked), num_returns=1, timeout=TICK)
            for ref in answered:
                seat, part = asked[ref], asked[ref].part
                seat.asked, seat.part = None, None
                error = self._answer(ref, seat, part, tries, round)
                if error is not None and part is not None:
                    tries[part].append(f"{seat.node.name}: {error}")
                    avoid[part].add(seat.node.id)
                    self.done.pop(part, None)
                    self.told.append(f"part {part} is tried again: on {seat.node.name} {error}")
                    if len(tries[part]) >= TRIES:
                        last = f"part {part} of {self.parts.count} has failed {TRIES} times, last on {tries[part][-1]}"
                        raise SutureError(f"{self.parts.out}: {last}; the same command goes on")
                    waiting.insert(0, part)
            self._tell()
        self.before += sum(self.done.values()) if round is not None else 0

    def _answer(
        self, ref: Any, seat: _Seat, part: int | None, tries: dict[int, list[str]], number: int | None
    ) -> str | None:
        """Take what a worker says; returns why its part must be tried again.

        Raises:
            SutureError: if it is the user's to see to.
        """
        try:
            told = self.ray.get(ref)
        except self.ray.exceptions.RayTaskError:
            # A bug of ours: it says that it is one.
            raise
        except self.ray.exceptions.RayError as e:
            return self._lost(seat, reason(e))
        if part is None:
            seat.ready = True
            return None
        if "failed" in told:
            return str(told["failed"])
        if "refused" in told:
            message, path, tensor, key = told["refused"]
            kind = UsageError if told["usage"] else SutureError
            raise kind(f"part {part} on {seat.node.name}: {message}", path, tensor, key)
        seat.deaths = 0
        self.done[part] = self.cost[part - 1] if number is None else self.done.get(part, 0)
        if number is None:
            row: ClusterPart = {
                "part": part,
                "node": seat.node.name,
                "seconds": round(told["seconds"], 3),
                "tries": len(tries[part]) + 1,
                "errors": tries[part],
            }
            self.rows[part], self.has_made = row, True
            self.used[seat.node.name] = {"node": seat.node.name, "threads": seat.node.threads}
        return None

    def _lost(self, seat: _Seat, why: str) -> str:
        """A worker is gone: another takes its seat, unless the node is gone too, or has lost too many."""
        self._kill(seat)
        seat.deaths += 1
        alive = {node["NodeID"] for node in self.ray.nodes() if node["Alive"]}
        if seat.node.id in alive and seat.deaths < DEATHS:
            fresh = self._seat(seat.node)
            fresh.deaths = seat.deaths
            self.seats[self.seats.index(seat)] = fresh
            return f"the worker was lost ({why})"
        self.seats.remove(seat)
        what = "the node was lost" if seat.node.id not in alive else f"the node has lost {seat.deaths} workers"
        self.told.append(f"node {seat.node.name} makes no more parts: {what} ({why})")
        if not self.seats:
            self._look_for_nodes(now=True)
        if not self.seats:
            raise SutureError(f"{self.parts.out}: no node is left: {self.told[-1]}; the same command goes on")
        return f"{what} ({why})"

    def _next(self, seat: _Seat, waiting: Sequence[int], avoid: dict[int, set[str]]) -> int | None:
        """The part that a node makes next: one that has not failed there, if another node is there for the others."""
        fresh = next((part for part in waiting if seat.node.id not in avoid[part]), None)
        others = {other.node.id for other in self.seats}
        return fresh if fresh is not None else next((part for part in waiting if others <= avoid[part]), None)

    def _is_there(self, i: int, round: int | None) -> bool:
        if round is not None:
            return (self.parts.folder / f"round-{round}-part-{i}.json").exists()
        made = self.parts.manifest(i)
        return made is not None and stands(self.parts, made)

    def _seat(self, node: Node) -> _Seat:
        """A worker on a node, which takes its threads and its memory there."""
        take = {"num_cpus": node.threads, "num_gpus": gpus(self.settings), "max_concurrency": 2, "max_restarts": 0}
        if self.settings.memory_bytes is not None:
            take["memory"] = self.settings.memory_bytes
        kind, given = self._actor(node.threads)
        worker = self.ray.remote(kind).options(**take, scheduling_strategy=on(self.ray, node)).remote(*given)
        return _Seat(node, worker, worker.ready.remote())

    def _actor(self, threads: int) -> tuple[type[Worker], tuple[Any, ...]]:
        """The class of a worker, and what it is made with."""
        return WORKER, (str(self.parts.folder.absolute()), self.settings, threads)

    def _look_for_nodes(self, now: bool = False) -> None:
        """Take in nodes that have come since."""
        if not now and time.monotonic() < self.looked + LOOK:
            return
        self.looked = time.monotonic()
        known = {node.id for node in self.nodes}
        new = [node for node in nodes_of(self.ray, self.settings)[0] if node.id not in known]
        for node in new:
            self.nodes = [*self.nodes, node]
            try:
                check(self.ray, [node], self.shared)
            except SutureError as e:
                self.told.append(f"{e}: it makes no part")
                continue
            self.seats.append(self._seat(node))

    def _tell(self) -> None:
        """Ask who is at work how far it is, and show the sum."""
        if self.progress is None:
            return
        for seat in self.seats:
            if seat.poll is not None and self.ray.wait([seat.poll], timeout=0)[0]:
                try:
                    done = self.ray.get(seat.poll)
                    if seat.part is not None:
                        self.done[seat.part] = min(int(done), self.cost[seat.part - 1])
                except self.ray.exceptions.RayError:
                    # Who makes the part is told.
                    pass
                seat.poll = None
            if seat.poll is None and seat.part is not None:
                seat.poll = seat.worker.done.remote()
        total = sum(self.cost)
        self.shown = max(self.shown, min(self.before + sum(self.done.values()), total))
        self.progress(self.shown, total)

    def stop(self) -> None:
        """End all workers, and keep in the folder who has made what."""
        with suppress(self.ray.exceptions.RayError, RuntimeError):
            # Who has nothing to do ends by itself, and takes along what it has under TMPDIR.
            ended = [seat.worker.__ray_terminate__.remote() for seat in self.seats if seat.ready and seat.part is None]
            if ended:
                self.ray.wait(ended, num_returns=len(ended), timeout=FAREWELL)
        for seat in self.seats:
            self._kill(seat)
        if not self.has_made:
            return
        said: Cluster = {
            "ray": str(self.ray.__version__),
            "nodes": [self.used[name] for name in sorted(self.used)],
            "made": [self.rows[i] for i in sorted(self.rows)],
        }
        about = {"schema": 1, **{key: self.parts.job[key] for key in ("suture", "plan", "parts")}}
        at.put(self.parts.folder / at.CLUSTER, json.dumps({**about, **said}))

    def _kill(self, seat: _Seat) -> None:
        with suppress(self.ray.exceptions.RayError, RuntimeError):
            self.ray.kill(seat.worker, no_restart=True)
