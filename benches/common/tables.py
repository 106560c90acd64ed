"""Numbers and tables for people."""

from __future__ import annotations

from collections.abc import Sequence


def number(value: float | None, digits: int = 2, unit: str = "") -> str:
    return "-" if value is None else f"{value:.{digits}f}{unit}"


def against(value: float | None, target: float | None, at_most: bool) -> str:
    if value is None or target is None:
        return number(value)
    met = value <= target if at_most else value >= target
    return f"{value:.2f} {'<=' if at_most else '>='} {target:g} {'ok' if met else 'MISSED'}"


def show(table: Sequence[Sequence[str]]) -> None:
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def markdown(table: Sequence[Sequence[str]]) -> str:
    head, *lines = table
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines))


def show_markdown(table: Sequence[Sequence[str]]) -> None:
    print(markdown(table))
