"""Which layers a training was to change, and whether it did."""

from __future__ import annotations

import json
import re
from os import PathLike

from suture.checkpoint import Checkpoint
from suture.errors import SutureError, UsageError
from suture.results import Comparison
from suture.results.reading import Stack
from suture.results.stacks import stack_called


def frozen(found: Comparison, layers: set[str]) -> None:
    """Check that a training left these layers alone.

    Args:
        found: what :func:`diff` found.
        layers: layers as :func:`listed_layers` reads them.

    Raises:
        SutureError: if a tensor of theirs changed, with the names.
    """
    _complain(found, layers, inside=True)


def moved(found: Comparison, layers: set[str]) -> None:
    """Check that a training changed nothing but these layers; as :func:`frozen`."""
    _complain(found, layers, inside=False)


def _complain(found: Comparison, layers: set[str], *, inside: bool) -> None:
    for model in found["models"]:
        # Values count, not how they are stored.
        names = [t["name"] for t in model["tensors"] if t["changed"] > 0 and (t["layer"] in layers) == inside]
        # What cannot be compared cannot be called unchanged.
        names += [name for name, layer in model["lost"].items() if (layer in layers) == inside]
        if names:
            told = ", ".join(_sorted(layers))
            which = f"layer{'s' if len(layers) > 1 else ''} {told}"
            which = which if inside else f"anything but {which}"
            more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
            message = f"{model['tuned']}: expected {which} unchanged, found changes in {', '.join(names[:5])}{more}"
            raise SutureError(message, model["tuned"], names[0])


def _sorted(layers: set[str]) -> list[str]:
    """Layers as they are read: those of the main stack, those of others, what is outside."""

    def key(layer: str) -> tuple[bool, str, int]:
        stack, _, number = layer.rpartition(":")
        return (layer == "-", stack, int(number) if number.isdecimal() else 0)

    return ["outside" if layer == "-" else layer for layer in sorted(layers, key=key)]


def listed_layers(base: str | PathLike[str], text: str) -> set[str]:
    """The layers of a list such as ``0-4,30,encoder:0-3,vision,outside``, as rows of a comparison name them.

    Bare numbers are layers of the main stack, the name of a stack is all of its layers; ``outside``, as ``-``, is what
    is in no layer.

    Raises:
        UsageError: if it cannot be read or names layers that `base` does not have.
    """
    checkpoint = Checkpoint.plain(base)
    stacks: list[Stack] = json.loads(checkpoint._core.stacks_json())
    listed: set[str] = set()
    for part in text.split(","):
        if part.strip() == "outside":
            listed.add("-")
            continue
        named, _, span = part.rpartition(":")
        if re.fullmatch(r"[\s\d-]*", span) is None:
            named, span = part, "all"
        numbers = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", span)
        if span != "all" and (numbers is None or int(numbers[2] or numbers[1]) < int(numbers[1])):
            raise UsageError(f"expected layers such as 0-4,30, encoder:0-3, encoder or outside, found `{part.strip()}`")
        hint = f"name one, such as {stacks[0]['name']}:0-3" if stacks else ""
        stack = stack_called(str(base), stacks, named.strip(), hint)
        first, last = (0, stack["layers"] - 1) if numbers is None else (int(numbers[1]), int(numbers[2] or numbers[1]))
        if last >= stack["layers"]:
            of = f" in `{stack['name']}`" if len(stacks) > 1 else ""
            raise UsageError(f"layer {last} does not exist; {base} has {stack['layers']}{of}, numbered from 0")
        head = "" if stack["main"] else f"{stack['name']}:"
        listed.update(f"{head}{layer}" for layer in range(first, last + 1))
    return listed
