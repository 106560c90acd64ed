"""How a tokenizer cuts numbers: digit by digit, in threes, or as it has learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: Numbers of different lengths.
PROBES = ("7", "42", "365", "2024", "65536", "1234567")


def cuts(segmenter: Any, unknown: int | None = None) -> tuple[dict[str, list[str]], bool]:
    """The parts that each of `PROBES` is cut into; and whether all can be written, without the token `unknown`."""
    found, known = {}, True
    for probe in PROBES:
        encoded = segmenter.encode(probe, add_special_tokens=False)
        known &= bool(encoded.ids) and unknown not in encoded.ids
        offsets = encoded.offsets
        # A space before the number has none of its characters, or the first, which comes again.
        starts = sorted({start for start, end in offsets if end > start} | {0})
        found[probe] = [probe[a:b] for a, b in zip(starts, [*starts[1:], len(probe)], strict=True)]
    return found, known


def scheme(found: dict[str, list[str]]) -> str:
    """What the cuts look like: ``single digits``, ``threes from the left``, ``threes from the right``, ``whole`` or
    ``learned``.
    """
    schemes: dict[str, Callable[[int], list[int]]] = {
        "single digits": lambda n: [1] * n,
        "threes from the left": lambda n: [3] * (n // 3) + [n % 3] * (n % 3 > 0),
        "threes from the right": lambda n: [n % 3] * (n % 3 > 0) + [3] * (n // 3),
        "whole": lambda n: [n],
    }
    for name, lengths in schemes.items():
        if all([len(part) for part in parts] == lengths(len(probe)) for probe, parts in found.items()):
            return name
    return "learned"
