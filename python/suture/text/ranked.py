"""Languages ranked by how near a model's states are to those of one language: Language Ranker, beside MEXA."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike

import numpy as np

from suture.errors import UsageError
from suture.results.text import CountedLanguage, Ranked, Ranking
from suture.text.corpus import Given, parallel
from suture.text.model import Running, open_model
from suture.text.similar import counted
from suture.text.states import by_language, check_pivot, nearness


def rank(
    model: str | PathLike[str],
    *,
    parallel_text: Given | Sequence[Given] | Mapping[str, Given],
    pivot: str = "en",
    layers: str | Iterable[int] | None = None,
    lines: int | None = None,
    running: Running | None = None,
) -> Ranking:
    """Languages by their similarity to a pivot (Language Ranker, arXiv 2404.11553): the cosine of the last token's
    states of translations, averaged over pairs and over layers.

    Which layers the paper's single figure averages its code does not say: here all but the embedding, or `layers`. The
    cosine of last tokens is inflated where all states are alike, so `above` has the wrong pairs' taken off, and MEXA of
    position-weighted means, over the same layers, stands beside it: its mean and its largest.

    Args:
        model: the model.
        parallel_text: translations, as for :func:`suture.text.similarity`.
        pivot: the language that the others are compared with.
        layers: the layers that are averaged, such as ``"8-16"``, counted from 1 behind the embedding; None for all.
        lines: take so many sentences at most.
        running: how the model is run.

    Returns:
        The languages, the nearest first; see :class:`suture.results.text.Ranking`.

    Raises:
        UsageError, SutureError: as :func:`suture.text.similarity`; and UsageError for layers that are not there.
    """
    text = parallel(parallel_text, lines)
    check_pivot(text.lines, pivot)
    layers = layers if layers is None or isinstance(layers, str) else list(layers)
    _picked(layers, None)
    opened = open_model(model, running or Running())
    picked = _picked(layers, len(opened.layers))
    first = None
    found: list[Ranked] = []
    languages: list[CountedLanguage] = []
    for language, states, counts in by_language(opened, text.lines, pivot, ["last", "weighted"]):
        languages.append({"model": opened.path, "language": language, "pool": "last", "tokens": counts["tokens"],
                          "cut": counts["cut"], "unknown": counts["unknown"]})  # fmt: skip
        if first is None:
            first = states
            continue
        last = [nearness(first["last"][i], states["last"][i]) for i in picked]
        mexa = [nearness(first["weighted"][i], states["weighted"][i])["mexa"] for i in picked]
        found.append({
            "rank": 0,
            "language": language,
            "score": float(np.mean([one["cosine"] for one in last])),
            "baseline": float(np.mean([one["baseline"] for one in last])),
            "above": float(np.mean([one["above"] for one in last])),
            "mexa": float(np.mean(mexa)),
            "mexa_max": float(np.max(mexa)),
            "mexa_chance": 1 / (2 * len(text) - 1),
            "by_layer": [one["cosine"] for one in last],
        })  # fmt: skip
    found.sort(key=lambda one: (-one["score"], one["language"]))
    for place, one in enumerate(found, 1):
        one["rank"] = place
    return {
        "schema": 1,
        "model": opened.told(),
        "pivot": pivot,
        "sentences": len(text),
        "left_out": text.left_out,
        "layers": picked,
        "languages": found,
        "warnings": counted(opened.path, languages),
    }


def _picked(layers: str | Iterable[int] | None, count: int | None) -> list[int]:
    """The layers that are asked for; of no `count` only whether they may be some."""
    if layers is None or layers == "all":
        return list(range(1, (count or 0) + 1))
    if isinstance(layers, str):
        found = re.findall(r"(\d+)(?:-(\d+))?", layers.replace(" ", ""))
        if not re.fullmatch(r"\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*", layers.replace(" ", "")):
            raise UsageError(f"layers: expected numbers and ranges such as 8-16,20, found `{layers}`", at="layers")
        listed = [n for a, b in found for n in range(int(a), int(b or a) + 1)]
    else:
        listed = [int(n) for n in layers]
    listed = list(dict.fromkeys(listed))
    if not listed:
        raise UsageError("layers: expected some, found none", at="layers")
    if count is not None and (wrong := [n for n in listed if not 1 <= n <= count]):
        raise UsageError(f"layers: no layer {wrong[0]}; expected layers from 1 to {count}", at="layers")
    return listed
