"""Stacks of layers by the names that people give them."""

from __future__ import annotations

from collections.abc import Sequence

from suture.errors import SutureError, UsageError
from suture.results.reading import Stack

#: Stacks that are listed at most.
_LISTED = 8


def stack_called(whose: str, stacks: Sequence[Stack], named: str | None, hint: str) -> Stack:
    """The stack that is called so: by its name, its prefix, or a word that only its prefix, or its role, holds.

    Args:
        whose: the model, for messages.
        stacks: its stacks.
        named: what the stack is called; None, or nothing, for the main one.
        hint: what to do where nothing tells which is meant.

    Raises:
        SutureError: if there are no layers at all.
        UsageError: if no stack, or several, are called so.
    """
    if not stacks:
        raise SutureError(f"{whose}: no tensor name holds a layer number, so it has no layers", whose)
    there = ", ".join(f"`{s['name']}` ({s['layers']} layers)" for s in stacks[:_LISTED])
    there += f" and {len(stacks) - _LISTED:,} more" if len(stacks) > _LISTED else ""
    if not named:
        main = next((s for s in stacks if s["main"]), None)
        if main is None:
            raise UsageError(f"{whose} has several stacks of layers: {there}; {hint}", at="stack")
        return main
    exact = [s for s in stacks if s["name"] == named or s["prefix"].rstrip(".") == named.rstrip(".")]
    holding = exact or [s for s in stacks if named in s["prefix"].split(".")]
    holding = holding or [s for s in stacks if named in (s["role"], *s["role"].split(" "))]
    if not holding:
        raise UsageError(f"{whose} has no stack of layers called `{named}`; it has {there}", at="stack")
    if len(holding) > 1 and not exact:
        raise UsageError(f"{whose} has several stacks with `{named}` in their names: {there}", at="stack")
    return holding[0]
