"""An output in a store, made on the nodes of a Ray cluster: each sends the shards that it makes, no folder is shared.

Every shard is a part. What is said of those that are there lies in the store, as of a run of one process, which goes on
after a run of a cluster, and the other way round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from suture import _core, escape, temporary
from suture.errors import SutureError, UsageError
from suture.results.parts import Manifest
from suture.settings import Progress, Settings
from suture.store.target import Target
from suture.surgery import parts_folder as at
from suture.surgery.cluster_drive import Driver
from suture.surgery.cluster_nodes import able, check, connected
from suture.surgery.cluster_worker import Worker
from suture.surgery.copied import Copies
from suture.surgery.job import Job
from suture.surgery.parts import drop, make
from suture.surgery.parts_job import Parts


class StoreWorker(Worker):
    """Makes parts in a folder of its own, and sends them."""

    def __init__(self, files: dict[str, bytes], url: str, settings: Settings, threads: int) -> None:
        folder = temporary.made("part") / ".out.suture-parts"
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        escape.stands_for(str(at.out_of(folder)), url)
        super().__init__(str(folder), settings, threads)
        self._url = url
        self._copies: Copies | None = None

    def _made(self, parts: Parts, i: int, round: int | None) -> Manifest:
        # Here, where what is wrong is told as of a part.
        target = Target(self._url)
        copies = self._copies = self._copies or Copies(target, parts.plan)
        plan = parts.job["plan"]
        if (made := copies.put(parts, i, self._tick)) is not None:
            target.keep_part(plan, i, made)
            return made
        made = make(parts, parts.plan, i, self._settings, self._tick)
        target.send(plan, {**made, "warnings": [*made["warnings"], *copies.told]}, parts.shards_of(made))
        drop(parts, made)
        return made


@dataclass
class StoreDriver(Driver):
    """Gives out parts that go to a store.

    Attributes:
        url: of the output.
        there: the parts that are in the store.
    """

    url: str = ""
    there: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Have the job sent to each node once."""
        super().__post_init__()
        job = self.parts.folder / at.JOB
        files = {f"{at.JOB}/{p.relative_to(job)}": p.read_bytes() for p in job.rglob("*") if p.is_file()}
        self._files = self.ray.put(files)

    def _actor(self, threads: int) -> tuple[type[Worker], tuple[Any, ...]]:
        return StoreWorker, (self._files, self.url, self.settings, threads)

    def _is_there(self, i: int, round: int | None) -> bool:
        return i in self.there


def refuse_rounds(plan: _core.Plan, shards: int) -> None:
    """Refuse a method that counts over several shards: what scans have found nodes would have to share.

    Raises:
        UsageError: if it is one.
    """
    if shards > 1 and _core.settle_parts(plan, shards)[1]:
        message = "what its method counts lies in several shards; give a folder that the nodes share, or leave ray out"
        raise UsageError(f"ray: {message}", at="ray")


def made_by(
    job: Job,
    target: Target,
    own: Parts,
    known: dict[int, Manifest],
    begin: Callable[[], None],
    progress: Progress | None,
) -> tuple[list[Manifest], list[str]]:
    """Have a cluster make all parts but the `known` ones; returns what is said of all, and what is to be told.

    `begin` is called once there are nodes, before the first shard comes.

    Raises:
        SutureError: as :func:`suture.surgery.cluster.run`.
    """
    with connected(job.settings.ray or "") as ray:
        nodes, told = able(ray, job.settings)
        nodes, silent = check(ray, nodes, None)
        begin()
        driver = StoreDriver(ray, own, job.settings, nodes, None, progress, url=target.url, there=set(known))
        try:
            driver.phase(None)
        finally:
            driver.stop()
    made = []
    for i in range(1, own.count + 1):
        found = known.get(i) or cast("Manifest | None", target.part(job.plan.hash, i))
        if found is None:
            raise SutureError(f"{target.url}: what is known of part {i} is gone; run this again", target.url)
        made.append(found)
    return made, [*told, *silent, *driver.told]
