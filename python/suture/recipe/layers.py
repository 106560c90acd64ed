"""Layers and heads as callers give them, and as recipes have them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from suture.errors import UsageError


def numbers(listed: str | Iterable[int] | None) -> str | list[int] | None:
    """Layers or heads as a recipe has them.

    Raises:
        UsageError: if they are none of what they may be.
    """
    if listed is None or isinstance(listed, str):
        return listed
    if not isinstance(listed, Iterable):
        raise UsageError(f"expected layers or heads as text (`0-4,30`) or a list of numbers, found {listed!r}")
    return sorted(listed)


def of_stack(stack: str | None, *listed: str | Iterable[int] | None) -> tuple[str | None, list[Any]]:
    """The stack, and lists of layers without it: ``encoder:0-3,encoder:5`` names it too.

    Raises:
        UsageError: if two stacks are named, or only some of the layers have one.
    """
    parts = [p for given in listed if isinstance(given, str) for p in given.split(",")]
    named = {p.rpartition(":")[0].strip() for p in parts}
    if named - {""}:
        if stack is not None:
            named = {stack if n == "" else n for n in named} | {stack}
        if len(named) > 1:
            told = ", ".join(f"`{p.strip()}`" for p in parts)
            raise UsageError(f"layers of one stack are swapped at a time, and each is named with it; found {told}")
        stack = named.pop()
    return stack, [_bare(given) for given in listed]


def _bare(listed: str | Iterable[int] | None) -> str | Iterable[int] | None:
    """Layers without the name of their stack."""
    return ",".join(p.rpartition(":")[2] for p in listed.split(",")) if isinstance(listed, str) else listed
