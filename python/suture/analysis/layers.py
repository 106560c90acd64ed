"""Which layers a training was to change, and whether it did."""

from __future__ import annotations

import re
from os import PathLike

from suture import _core
from suture.checkpoint import Checkpoint
from suture.errors import SutureError, UsageError
from suture.results import Comparison


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
        lost = [n for key in ("reshaped", "only_base", "only_tuned") for n in model[key]]
        names += [n for n in lost if (_core.layer_of(n) in layers) == inside]
        if names:
            told = ", ".join(sorted(layers, key=lambda x: int(x) if x.isdigit() else 10**9)).replace("-", "outside")
            which = f"layers {told}" if inside else f"anything but layers {told}"
            more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
            message = f"{model['tuned']}: expected {which} unchanged, found changes in {', '.join(names[:5])}{more}"
            raise SutureError(message, model["tuned"], names[0])


def listed_layers(base: str | PathLike[str], text: str) -> set[str]:
    """The layers of a list such as ``0-4,30,outside``; ``outside``, as ``-``, is all that is in no layer.

    Raises:
        UsageError: if it cannot be read or names layers that `base` does not have.
    """
    stack = Checkpoint(base).describe()["stack"]
    count = stack["layers"] if stack else 0
    listed: set[str] = set()
    for part in text.split(","):
        if part.strip() == "outside":
            listed.add("-")
            continue
        numbers = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if numbers is None or int(numbers[2] or numbers[1]) < int(numbers[1]):
            raise UsageError(f"expected layers such as 0-4,30 or outside, found `{part.strip()}`")
        first, last = int(numbers[1]), int(numbers[2] or numbers[1])
        if last >= count:
            raise UsageError(f"layer {last} does not exist; {base} has {count}, numbered from 0")
        listed.update(map(str, range(first, last + 1)))
    return listed
