"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Iterable

from suture.settings import size as size


def duration(seconds: float) -> str:
    """A time in seconds, minutes or hours."""
    for unit, most in (("s", 100.0), ("min", 6000.0)):
        if seconds < most:
            return f"{seconds / {'s': 1, 'min': 60}[unit]:.3g} {unit}"
    return f"{seconds / 3600:.3g} h"


def figure(value: float | str | None) -> str:
    """A metric with three digits; a dash where there is none."""
    if value is None:
        return "-"
    number = float(value)
    return "0" if number == 0 else f"{number:.3g}"


def plural(n: int, noun: str) -> str:
    """`n` and its noun."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def ranges(numbers: Iterable[int], separator: str = ",") -> str:
    """Numbers as options list them: ``0-4,30``."""
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and runs[-1][1] == n - 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return separator.join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
