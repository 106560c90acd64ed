"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Iterable


def size(n: float) -> str:
    """Bytes with a unit of 1000, three digits."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while n >= 999.5 and len(units) > 1:
        n /= 1000
        units.pop(0)
    return f"{n:.3g} {units[0]}"


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
