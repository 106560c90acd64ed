"""What the tests of `suture.diff` share: pairs to compare, and its rows held against the oracle."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import suture

from ..reference import delta
from .checkpoints import Raw, write_file

RELATIVE = 1e-6
COUNTS = ("elements", "changed", "unchanged", "flipped", "nonfinite", "nonfinite_base", "nonfinite_tuned")
PAIR = ("cosine", "both", "agree")
SECTIONS = ("tensors", "modules", "layers", "cells")
LABELS = ("name", "tensor", "layer", "module", "head", "group", "first", "last", "row", "token")


def run(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command line, as a user starts it."""
    command = [sys.executable, "-m", "suture", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=cwd)


def compare(folder: Path, base: Mapping[str, Raw], *tuned: Mapping[str, Raw], **options: Any) -> dict[str, Any]:
    """`diff` of single files."""
    folder.mkdir(exist_ok=True)
    first = write_file(folder / "base.safetensors", base)
    others = [write_file(folder / f"tuned-{n}.safetensors", tensors) for n, tensors in enumerate(tuned, 1)]
    found: Any = suture.diff(first, *others, **options)
    assert isinstance(found, dict)
    return found


def only(found: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a report that is of its only fine-tune."""
    (model,) = found["models"]
    return dict(model)


def by_name(model: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A model's tensors, or those of a pair, by name."""
    rows = {row["name"]: row for row in model["tensors"]}
    assert len(rows) == len(model["tensors"])
    return rows


def label(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a row is about, without its figures."""
    return tuple(row[part] for part in LABELS if part in row)


def computed_total(model: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of the whole, its counts without what is compared by its bytes alone."""
    total, left = dict(model["total"]), model["uncomputed"]
    elements = total["elements"] - left["elements"]
    changed = round(total["changed"] * total["elements"]) - left["elements_changed"]
    shares = {"changed": changed / elements, "unchanged": (elements - changed) / elements} if elements else {}
    return total | {"elements": elements} | shares


def agrees(row: Mapping[str, Any], base: NDArray[Any], tuned: NDArray[Any]) -> None:
    """Sums within 1e-6 relative (the signed mean relative to the mean size, the cosine to 1), counts exactly."""
    for name, value in delta.row(base, tuned).items():
        if name in COUNTS:
            assert row[name] == value, name
        elif name == "mean":
            assert abs(row[name] - value) <= RELATIVE * float(row["mean_abs"]), name
        elif name == "cosine":
            assert abs(row[name] - value) <= RELATIVE, name
        else:
            assert float(row[name]) == pytest.approx(value, rel=RELATIVE, abs=0), name


#: The Gini coefficient of changes that go over many magnitudes, and of changes that lie in a few bins of 0.1 %.
GINI = 1e-6
GINI_IN_FEW_BINS = 2e-4


def agrees_in_spread(
    row: Mapping[str, Any],
    base: NDArray[Any],
    tuned: NDArray[Any],
    above: Sequence[str] = delta.THRESHOLDS,
    *,
    gini: float = GINI,
) -> None:
    """Quantiles and shares as sorting gives them; the Gini coefficient within what is promised, absolute."""
    wanted = delta.spread(base, tuned, above)
    assert set(wanted) <= set(row)
    for name, value in wanted.items():
        if name == "gini":
            assert abs(row[name] - value) <= gini
        elif name.startswith("above_"):
            assert row[name] == value, name
        else:
            assert row[name] == pytest.approx(value, rel=RELATIVE, abs=0), name


def agrees_as_pair(row: Mapping[str, Any], base: NDArray[Any], a: NDArray[Any], b: NDArray[Any]) -> None:
    """The cosine of two changes within 1e-6 absolute, counts exactly."""
    wanted = delta.pair(base, a, b)
    assert row["elements"] == wanted["elements"]
    assert abs(row["cosine"] - wanted["cosine"]) <= 1e-6
    assert (row["both"], row["agree"]) == (wanted["both"], wanted["agree"])


def tune(shape: tuple[int, ...], seed: int, scale: float = 1.0) -> tuple[NDArray[Any], NDArray[Any]]:
    """A tensor and its fine-tune: some elements equal, some with the other sign, some zero on one side."""
    rng = np.random.default_rng([seed, *shape])
    base = rng.normal(0, 0.02, shape).astype(np.float32) * np.float32(scale)
    tuned = base + rng.normal(0, 2e-3, shape).astype(np.float32) * np.float32(scale)
    kind = rng.integers(0, 10, shape)
    tuned = np.where(kind == 0, base, np.where(kind == 1, -base, tuned))
    return np.where(kind == 2, np.float32(0), base), np.where(kind == 3, np.float32(-0.0), tuned)


def joined(pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Pairs of tensors laid end to end, side by side."""
    base, tuned = zip(*pairs, strict=True)
    return laid(base), laid(tuned)


def laid(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Tensors laid end to end."""
    return np.concatenate([part.ravel() for part in parts])
