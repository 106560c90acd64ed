"""A cluster of several nodes on this machine, models to merge on it, and workers that come to harm."""

from __future__ import annotations

import atexit
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

import suture
from suture.surgery.cluster_worker import Worker

from ..support.checkpoints import encode, write_checkpoint

#: Eight shards of an output.
SHARD = 4_000_000


def models(folder: Path) -> dict[str, Any]:
    """A base, two tunes of it of 32 MB each, and the config of a merge that reads them several times."""
    rng = np.random.default_rng(0)
    base = {f"model.layers.{i}.mlp.up_proj.weight": rng.normal(size=(1024, 1000)) for i in range(16)}
    for name in ("base", "one", "two"):
        own = {k: encode(v if name == "base" else v + rng.normal(0, 0.01, v.shape), "F16") for k, v in base.items()}
        write_checkpoint(folder / name, own)
    tunes = [{"model": str(folder / n), "parameters": {"weight": 0.5, "density": 0.4}} for n in ("one", "two")]
    return {"merge_method": "ties", "base_model": str(folder / "base"), "models": tunes, "dtype": "float16"}


def merge(config: dict[str, Any], out: Path, ray: str | None = "auto", **how: Any) -> suture.Report:
    """Merge in eight shards, on the cluster or here."""
    return suture.merge(config, out, settings=suture.Settings(shard_size=SHARD, ray=ray, **how))


class Shuffled(Worker):
    """Takes its time, so that parts end in any order."""

    def make(self, i: int, round: int | None) -> dict[str, Any]:
        told = super().make(i, round)
        time.sleep(random.Random(i).random())
        return told


class Tidy(Worker):
    """Leaves a mark when its process ends as processes do."""

    def __init__(self, folder: str, settings: suture.Settings, threads: int) -> None:
        super().__init__(folder, settings, threads)
        atexit.register((Path(folder).parent / f"ended-{os.getpid()}").touch)


class _Once(Worker):
    """Does something to itself in the middle of a part, and leaves a mark so that it does not do it again."""

    part, times = 2, 1
    _now = 0

    def make(self, i: int, round: int | None) -> dict[str, Any]:
        self._now = i
        told = super().make(i, round)
        # A fast machine makes a part between two ticks: then it comes to harm before it says so.
        self._come_to(0)
        return told

    def _tick(self, done: int, total: int) -> None:
        super()._tick(done, total)
        if 0 < done < total:
            self._come_to(done)

    def _come_to(self, done: int) -> None:
        marks = len(list(Path(self._folder).parent.glob("mark-*")))
        if self._now == self.part and marks < self.times:
            (Path(self._folder).parent / f"mark-{marks}").write_text(f"{os.getpid()} {done}")
            self.harm()

    def harm(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Killed(_Once):
    """Its process is killed in the middle of part 2."""


class KilledAlways(_Once):
    """Its process is killed each time that part 2 is made."""

    times = 1000


class Stuck(_Once):
    """Waits in the middle of part 2, as a node that hangs."""

    def harm(self) -> None:
        time.sleep(600)


class Broken(Worker):
    """Cannot write, the first time."""

    def make(self, i: int, round: int | None) -> dict[str, Any]:
        mark = Path(self._folder).parent / "mark"
        if i == 2 and not mark.exists():
            mark.write_text("")
            return {"failed": "OSError: Stale file handle"}
        return super().make(i, round)
