"""Candidates made in folders: each worker goes on with the folder of one that was judged, and writes what differs."""

from __future__ import annotations

import os
import shutil
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from suture.errors import SutureError
from suture.results.report import Report
from suture.searching.judge import Command, judged
from suture.searching.state import Candidate
from suture.settings import Settings
from suture.surgery.job import Job
from suture.surgery.merge import job_of

#: Where candidates lie while they are judged, in a folder beside the state.
_MARK = ".suture-search"


class StoppedError(Exception):
    """The search ends while a candidate is made."""


class Maker(Protocol):
    """Makes candidates and has them judged.

    Attributes:
        kept_bytes: bytes of candidates that did not have to be written, since the one before had them.
    """

    kept_bytes: int

    def begin(self) -> None:
        """Get ready."""

    def end(self) -> None:
        """Leave nothing behind."""

    def stop(self) -> None:
        """Let whatever is made or judged end soon."""

    def one(self, number: int, generation: int, genes: list[float], config: dict[str, Any]) -> Candidate:
        """Make a candidate and judge it."""

    def best(self, config: dict[str, Any]) -> None:
        """The search has come to its end with this as the best."""


@dataclass(frozen=True)
class _Standing:
    """A candidate that was judged and lies there still."""

    place: Path
    job: Job
    report: Report


@dataclass
class Folders:
    """Candidates as checkpoints, each in a folder of its own.

    Attributes:
        folder: where these are.
        settings: how merges are done.
        judge: who judges.
        keep: whether candidates stay.
        kept: where, if so.
    """

    folder: Path
    settings: Settings
    judge: Callable[[Path], float]
    keep: bool
    kept: Path
    kept_bytes: int = 0
    _stopped: threading.Event = field(default_factory=threading.Event)
    _standing: list[_Standing] = field(default_factory=list)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> None:
        """Make the folder, empty of what an earlier run left.

        Raises:
            SutureError: if there is one that no search made.
        """
        if self.folder.exists() and not (self.folder / _MARK).exists():
            raise SutureError(
                f"{self.folder}: is in the way of candidates, and no search made it; move it", self.folder
            )
        self.end()
        self.folder.mkdir(parents=True)
        (self.folder / _MARK).touch()

    def end(self) -> None:
        """Remove the folder, the mark last: if that is cut short, the next run knows it again."""
        self._standing.clear()
        if not self.folder.is_dir():
            return
        for entry in self.folder.iterdir():
            if entry.name != _MARK:
                shutil.rmtree(entry, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def stop(self) -> None:
        """Let whatever is made or judged end soon."""
        self._stopped.set()
        if isinstance(self.judge, Command):
            self.judge.stop()

    def best(self, config: dict[str, Any]) -> None:
        """Nothing: best.yml says how it is made."""

    def one(self, number: int, generation: int, genes: list[float], config: dict[str, Any]) -> Candidate:
        """Make a candidate and judge it.

        Raises:
            SutureError: if it cannot be made.
        """
        # No evaluator's output ends in a number because it ends in this.
        place = self.folder / f"c{number:06}"
        stays = False
        began = time.monotonic()
        try:
            standing = self._make(config, place)
            made = time.monotonic()
            score, failure = judged(self.judge, place)
            took = time.monotonic() - made
            if self._stopped.is_set():
                raise StoppedError
            if self.keep:
                self.kept.mkdir(exist_ok=True)
                shutil.rmtree(self.kept / place.name[1:], ignore_errors=True)
                shutil.move(place, self.kept / place.name[1:])
            elif stays := _free(place):
                self._standing.append(standing)
            return Candidate(number, generation, genes, score, failure, made - began, took)
        finally:
            if not stays:
                shutil.rmtree(place, ignore_errors=True)

    def _make(self, config: dict[str, Any], place: Path) -> _Standing:
        """Write a candidate, on top of one that lies there if there is one: what both are made of alike stays."""
        job = job_of(config, self.settings)
        shutil.rmtree(place, ignore_errors=True)
        with self._guard:
            before = self._standing.pop() if self._standing else None
        if before is not None:
            try:
                kept = job.take_up(before.job, before.report, before.place, place)
            finally:
                # Without anything in common it stays where it was.
                shutil.rmtree(before.place, ignore_errors=True)
            with self._guard:
                self.kept_bytes += kept
        return _Standing(place, job, job.run(place, self._watch))

    def _watch(self, done: int, total: int) -> None:
        if self._stopped.is_set():
            raise StoppedError


def _free(place: Path) -> bool:
    """Whether nobody has a hold of a candidate's files, so that they may become another's.

    Files with other names, links, and what this process has mapped or open (a callable may go on with tensors that it
    has loaded) are somebody's; where that cannot be told, all are.
    """
    if not place.is_dir() or place.is_symlink():
        return False
    try:
        for folder, folders, files in os.walk(place):
            for name in (*folders, *files):
                found = os.lstat(os.path.join(folder, name))
                if not stat.S_ISDIR(found.st_mode) and not (stat.S_ISREG(found.st_mode) and found.st_nlink == 1):
                    return False
        inside = os.fsencode(place.resolve()) + b"/"
        if inside.replace(b"\n", b"\\012") in Path("/proc/self/maps").read_bytes():
            return False
        return not any(_leads(fd, inside) for fd in os.listdir("/proc/self/fd"))
    except OSError:
        return False


def _leads(fd: str, inside: bytes) -> bool:
    try:
        return os.fsencode(os.readlink(f"/proc/self/fd/{fd}")).startswith(inside)
    except FileNotFoundError:
        # That of the listing itself.
        return False
