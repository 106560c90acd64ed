"""What runs on a node of a Ray cluster: an actor that makes parts, one at a time. Tensors never leave it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from suture.errors import SutureError, UsageError
from suture.results.parts import Manifest
from suture.settings import Settings
from suture.surgery.parts import make
from suture.surgery.parts_job import Parts, opened


class Worker:
    """Makes parts of the job in a folder; two of its methods run at once, so that it can be asked how far it is."""

    def __init__(self, folder: str, settings: Settings, threads: int) -> None:
        self._folder = folder
        self._settings = replace(settings, ray=None, threads=threads)
        self._done = 0
        self._parts: Parts | None = None

    def ready(self) -> None:
        """Answer, once it runs."""

    def make(self, i: int, round: int | None) -> dict[str, Any]:
        """Make part `i`, or scan it for a round.

        Returns:
            the machine's name and the seconds it took (`host`, `seconds`); or what was wrong: `refused`, the
            arguments of the exception and whether it is one of usage, or `failed`, for which another try may help.
        """
        self._done = 0
        try:
            # Plan and headers are read once: who opens a file asks whether it is still the same.
            parts = self._parts = self._parts or opened(self._folder)
            made = self._made(parts, i, round)
        except SutureError as e:
            told = (str(e), None if e.path is None else str(e.path), e.tensor, e.at)
            return {"refused": told, "usage": isinstance(e, UsageError)}
        except (OSError, MemoryError) as e:
            return {"failed": f"{type(e).__name__}: {e}"}
        return {"host": made["host"], "seconds": made["seconds"]}

    def _made(self, parts: Parts, i: int, round: int | None) -> Manifest:
        return make(parts, parts.plan, i, self._settings, self._tick, round)

    def done(self) -> int:
        """The bytes that are done of the part that is being made."""
        return self._done

    def _tick(self, done: int, _total: int) -> None:
        self._done = done
