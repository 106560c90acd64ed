"""One object of a store, in the state in which it was found: its bytes by ranges."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Any

from suture.errors import SutureError
from suture.store import failures
from suture.store.client import endpoint_of, library
from suture.store.kept import used

#: How often a range is asked for that breaks off or comes short, besides what obstore tries by itself; and seconds.
_TRIES = 6
_PAUSE = 0.2
_LONGEST_PAUSE = 5.0
REPLACED = "was replaced while it was read; run this again once nobody writes to it"


@dataclass(frozen=True)
class Object:
    """An object in one state.

    Attributes:
        store: obstore's client.
        path: where it lies there.
        url: what it is called.
        size: bytes.
        etag: what tells its states apart; empty if nothing does.
        pinned: whether `etag` is the store's own, and not the time of change.
        fixed: whether what `path` names never changes, so that answers are not held against `etag`.
    """

    store: Any
    path: str
    url: str
    size: int
    etag: str
    pinned: bool
    fixed: bool = False

    @classmethod
    def of(cls, store: Any, path: str, url: str, meta: Any) -> Object:
        """The object that `meta` tells of, as obstore has it."""
        etag, pinned = state(meta)
        return cls(store, path, url, int(meta["size"]), etag, pinned)

    def fetch(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop`, all of them, from where ranges are kept or the store.

        Raises:
            SutureError: if they are not to be had, in words without the URL, or the object has changed.
        """
        kept = used()
        if kept is None or not self.etag:
            return self._fetched(start, stop)
        # Two endpoints may have a bucket of the same name.
        url = f"{self.url} {endpoint_of(self.store)}"
        return kept.range(url, self.etag, start, stop, lambda: self._fetched(start, stop))

    def _fetched(self, start: int, stop: int) -> bytes:
        """The bytes from the store.

        Raises:
            SutureError: if they are not to be had, in words without the URL, or the object has changed.
        """
        options: dict[str, Any] = {"range": (start, stop)}
        if self.pinned and not self.fixed and not self.etag.startswith("W/"):
            options["if_match"] = self.etag
        problem = ""
        for attempt in range(_TRIES):
            if attempt:
                pause = min(_LONGEST_PAUSE, _PAUSE * 2**attempt)
                time.sleep(pause * random.uniform(0.5, 1))
            try:
                answer = library().get(self.store, self.path, options=options)
                now = state(answer.meta)[0]
                if (now != self.etag and not self.fixed) or int(answer.meta["size"]) != self.size:
                    raise SutureError(REPLACED)
                found = answer.bytes()
            except SutureError:
                raise
            except Exception as e:
                problem = failures.words(e, self.url.partition(":")[0])
                if failures.is_final(e):
                    raise SutureError(problem) from None
                continue
            if len(found) == stop - start:
                return bytes(found.to_bytes())
            problem = f"asked for {stop - start} bytes, the store sent {len(found)}"
        raise SutureError(f"{problem} (tried {_TRIES} times)")

    def check(self) -> None:
        """Ask whether it is still in its state.

        Raises:
            SutureError: if it is not, or does not answer.
        """
        try:
            now = library().head(self.store, self.path)
        except Exception as e:
            raise failures.told(e, self.url) from None
        if state(now)[0] != self.etag or int(now["size"]) != self.size:
            raise SutureError(f"{self.url}: {REPLACED}", self.url)

    def whole(self) -> bytes:
        """All its bytes.

        Raises:
            SutureError: as :meth:`fetch`, with the URL.
        """
        if not self.size:
            return b""
        try:
            return b"".join(self.fetch(at, min(at + _PIECE, self.size)) for at in range(0, self.size, _PIECE))
        except SutureError as e:
            raise SutureError(f"{self.url}: {e}", self.url) from None


_PIECE = 16 << 20


def state(meta: Any) -> tuple[str, bool]:
    """What tells the states of an object apart, and whether that is the store's own tag."""
    etag = meta.get("e_tag")
    if etag:
        return str(etag), True
    changed = meta.get("last_modified")
    return ("" if changed is None or changed.year < 1980 else f"changed {changed.isoformat()}"), False
