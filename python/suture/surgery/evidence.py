"""Curves of similarity as evidence for a swap: where languages share layers, and where they part."""

from __future__ import annotations

import json
import math
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from suture.errors import MALFORMED, SutureError, UsageError
from suture.results.proposal import Evidence

#: A curve that rises by less says nothing of where languages share.
FLAT = 0.01


def read_evidence(file: str | PathLike[str], base: str | PathLike[str], layers: int) -> Evidence:
    """What ``suture text similarity --json`` found, as evidence.

    The figure of a layer is the mean over languages, and over its two sides, of how far the cosine of translations is
    above that of wrong pairs. Languages share a layer whose figure is above the middle of the least and the largest.
    That outer layers are a language's own, and middle ones shared, is what layer swapping goes by (arXiv 2410.01335);
    to read it off such a curve, and the threshold, are ours.

    Args:
        file: the JSON.
        base: the model whose curves count, if there are several in the file.
        layers: how many layers the stack has.

    Raises:
        UsageError: if there is no such file, or several models and none is the base.
        SutureError: if it is no such JSON, or of a model with another number of layers.
    """
    path = Path(file)
    try:
        said: Any = json.loads(path.read_text(encoding="utf-8"))
        models = [m["path"] for m in said["models"]]
        model = fspath(base) if fspath(base) in models else models[0]
        if len(models) > 1 and model != fspath(base):
            raise UsageError(
                f"{path}: has curves of {', '.join(models)}, and none of {fspath(base)}; give those of one"
            )
        rows = [row for row in said["layers"] if row["model"] == model]
        languages = list(dict.fromkeys(str(row["language"]) for row in rows))
        above = {(str(row["language"]), int(row["layer"])): float(row["above"]) for row in rows}
        found = max(layer for _, layer in above)
        curves = [[above[language, i] for i in range(found + 1)] for language in languages]
        pivot = str(said["pivot"])
        if not all(math.isfinite(v) for curve in curves for v in curve):
            raise ValueError
    except OSError as e:
        raise UsageError(
            f"`{path}`: cannot read: {e.strerror}; expected the JSON of `suture text similarity`"
        ) from None
    except MALFORMED:
        raise SutureError(f"{path}: is not what `suture text similarity --json` prints", path) from None
    if found != layers:
        raise SutureError(f"{path}: is of a model of {found} layers, and {fspath(base)} has {layers}; make it of the "
                          f"base, by `suture text similarity {fspath(base)} --json`", path)  # fmt: skip
    mean = [sum(curve[i] for curve in curves) / len(curves) for i in range(layers + 1)]
    curve = [(mean[i] + mean[i + 1]) / 2 for i in range(layers)]
    low, high = min(curve), max(curve)
    flat = high - low < FLAT
    return {
        "file": fspath(file),
        "model": model,
        "pivot": pivot,
        "languages": languages,
        "curve": curve,
        "shared": [not flat and v > (low + high) / 2 for v in curve],
        "told": f"the curve is flat ({low:.4f} to {high:.4f}), and says nothing of where languages share"
        if flat
        else None,
    }
