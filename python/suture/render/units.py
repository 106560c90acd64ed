"""Numbers as people read them."""

from __future__ import annotations


def size(n: float) -> str:
    """Bytes with a unit of 1000, three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            break
        n /= 1000
    else:
        unit = "TB"
    return f"{n:.0f} {unit}" if unit == "B" else f"{n:.3g} {unit}"


def figure(value: float | str) -> str:
    """A metric with three digits."""
    number = float(value)
    return "0" if number == 0 else f"{number:.3g}"


def plural(n: int, noun: str) -> str:
    """`n` and its noun."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")
