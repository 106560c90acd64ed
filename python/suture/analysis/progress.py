"""Progress as the core counts it."""

from __future__ import annotations

from collections.abc import Callable

from suture.settings import Progress


def scaled(progress: Progress | None, total: int) -> Callable[[int], None] | None:
    """A callable for the bytes done, as the core wants it."""
    return None if progress is None else lambda done: progress(min(done, total), total)
