"""Shards of an output in a store that the store puts together by itself: all in them is moved as it lies there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import cache
from typing import cast

from suture import _core
from suture.results.parts import Manifest
from suture.settings import size
from suture.store.copies import MOST_PARTS, Piece, RefusedError, can_copy, copied, is_copy, parts_of, put
from suture.store.folders import object_at
from suture.store.target import Target
from suture.surgery import parts_folder as at
from suture.surgery.parts_job import Parts

_COUNTS = ("tensors_resumed", "bytes_shared", "files_mapped", "files_direct", "files_pread")


class Copies:
    """The shards of a plan that the store can put together, and of what.

    A shard counts if all of its tensors lie in objects of the store, and half of its bytes or more need not be sent.

    Attributes:
        told: what is to be told, once the store has refused.
    """

    def __init__(self, target: Target, plan: _core.Plan) -> None:
        self._target, self._plan = target, plan
        self._refused = False
        self.told: list[str] = []
        self._of = cache(self._find)

    def parts(self, shard: int) -> list[list[Piece]] | None:
        """The parts of the upload of a shard, from 0; None if the store does not put it together."""
        return None if self._refused else self._of(shard)

    def _find(self, shard: int) -> list[list[Piece]] | None:
        found = self._plan.in_place(shard)
        if found is None:
            return None
        header, tensors = found
        pieces: list[Piece] = [header]
        for _, path, start, length in tensors:
            of = object_at(path)
            if of is None or not can_copy(of, self._target):
                return None
            pieces.append((of, start, start + length))
        made = parts_of(pieces)
        whole = len(header) + sum(length for *_, length in tensors)
        return made if 2 * copied(made) >= whole and len(made) <= MOST_PARTS else None

    def bytes(self, shards: int) -> int:
        """How much of so many shards the store can copy."""
        return sum(copied(self.parts(i) or []) for i in range(shards))

    def put(self, own: Parts, i: int, progress: Callable[[int, int], None] | None) -> Manifest | None:
        """Have the store put the shard of part `i` (from 1) together; None if it does not, which is told.

        Raises:
            SutureError: if an input has changed, or cannot be read.
        """
        made, found = self.parts(i - 1), self._plan.in_place(i - 1)
        if made is None or found is None:
            return None
        seen, shard, began = own.inputs(self._plan), own.job["shards"][i - 1], time.monotonic()
        lock, done = threading.Lock(), 0

        def count(n: int) -> None:
            nonlocal done
            with lock:
                done += 2 * n
                if progress is not None:
                    progress(done, 2 * shard["bytes"])

        try:
            fetched = put(self._target, shard["file"], made, own.job["plan"], count)
        except RefusedError as e:
            much = sum(copied(self.parts(j) or []) for j in range(i - 1, own.count))
            self._refused = True
            self.told.append(f"copied: {size(much)} that the store could copy are fetched and sent: {e}")
            return None
        requests = sum(isinstance(piece, tuple) for part in made if not is_copy(part) for piece in part)
        said = {
            **{key: own.job[key] for key in ("schema", "suture", "plan", "parts")},
            "part": i,
            "host": at.host(),
            "inputs": seen,
            "seconds": time.monotonic() - began,
            "folder": "",
            "shards": [shard],
            # Nobody here has seen their bytes.
            "tensors": [{"tensor": number, "digest": None, "inputs": [None]} for number, *_ in found[1]],
            "scales": {},
            "warnings": [],
            "run": {
                **dict.fromkeys(_COUNTS, 0),
                "cold_reads": [],
                "fetched": {"bytes": fetched, "requests": requests, "again": 0},
                "copied": {"bytes": copied(made), "requests": sum(map(is_copy, made))},
            },
        }
        return cast("Manifest", said)
