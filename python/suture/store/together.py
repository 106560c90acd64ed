"""Requests side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_MOST = 16
_NAME = "suture-store"


def side_by_side(call: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """What `call` gives for each item, in their order; the first thing that it raises is raised at once."""

    def answer(item: T) -> R:
        try:
            return call(item)
        except BaseException as e:
            if type(e).__name__ == "PanicException":
                # A fault of the library's, which would pass by those who tell errors in one line.
                raise RuntimeError(f"its library failed: {e}") from None
            raise

    threads = ThreadPoolExecutor(_MOST, thread_name_prefix=_NAME)
    try:
        return list(threads.map(answer, items))
    finally:
        # A request in flight cannot be called back: who is interrupted does not wait for it.
        threads.shutdown(wait=False, cancel_futures=True)


def aside(call: Callable[[], R]) -> R:
    """What `call` gives, called by another thread: what waits for a store in this one would not hear of Ctrl-C."""
    return side_by_side(lambda _: call(), [None])[0]


def in_flight() -> bool:
    """Whether a request is still waited for by a thread."""
    return any(thread.name.startswith(_NAME) for thread in threading.enumerate())
