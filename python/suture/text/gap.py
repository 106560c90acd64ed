"""The script barrier: texts against their romanisation, by layer (TransliCo)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path

from suture.errors import SutureError, UsageError
from suture.results.text import CountedLanguage, RunModel, ScriptGap, ScriptLayer
from suture.text.corpus import TAB, Given, texts
from suture.text.model import Running, open_model
from suture.text.similar import counted
from suture.text.states import POOLS, by_language, nearness
from suture.vocab.romanised import uroman
from suture.vocab.segmenter import lines_of


def script_gap(
    *models: str | PathLike[str],
    text: Given | Sequence[Given] | Mapping[str, Given],
    romanise: str | PathLike[str] = "uroman",
    pool: str = "mean",
    lines: int | None = None,
    running: Running | None = None,
) -> ScriptGap:
    """How far a text is from its own romanisation in a model, by layer (TransliCo, arXiv 2401.06620, contrasts the two
    at layer 8, by the mean of the tokens' states).

    The gap is 1 less the mean cosine of a line and its romanisation; its baseline is the same of wrong pairs. A text of
    ASCII is its own romanisation, and has a gap of 0.

    Args:
        models: models, such as before and after ``suture vocab transliterate``.
        text: texts, a language a file; two lines at least.
        romanise: ``uroman``, or a file of lines and their other form with a tab between.
        pool: as for :func:`suture.text.similarity`.
        lines: take so many lines at most.
        running: how models are run.

    Returns:
        Figures of each model, language and layer; see :class:`suture.results.text.ScriptGap`.

    Raises:
        UsageError: if an extra is not installed (`text`, for uroman `vocab`), or an argument is wrong.
        SutureError: if a line has no other form in the file, or a file or a model is not sound.
    """
    if not models:
        raise UsageError("expected a model, found none", at="models")
    if pool not in POOLS:
        raise UsageError(f"pool: expected one of {', '.join(POOLS)}, found `{pool}`", at="pool")
    given = texts(text, lines)
    forms = {one.language: _romanised(one.lines, one.file, romanise) for one in given}
    told: list[RunModel] = []
    languages: list[CountedLanguage] = []
    layers: list[ScriptLayer] = []
    warnings: list[str] = []
    for path in models:
        model = open_model(path, running or Running())
        told.append(model.told())
        for one in given:
            if len(one.lines) < 2:
                raise UsageError(f"{one.file}: has one line; expected two or more, so that wrong pairs are a baseline")
            both = {one.language: one.lines, f"{one.language} romanised": forms[one.language]}
            kept = []
            for language, states, counts in by_language(model, both, one.language, [pool]):
                kept.append(states[pool])
                languages.append({"model": model.path, "language": language, "pool": pool, "tokens": counts["tokens"],
                                  "cut": counts["cut"], "unknown": counts["unknown"]})  # fmt: skip
            same = sum(a == b for a, b in zip(one.lines, forms[one.language], strict=True))
            for number, (a, b) in enumerate(zip(*kept, strict=True)):
                near = nearness(a, b)
                layers.append({
                    "model": model.path, "language": one.language, "layer": number,
                    "gap": 0.0 if same == len(one.lines) else 1 - near["cosine"], "baseline": 1 - near["baseline"],
                    "mexa": near["mexa"], "mexa_chance": near["mexa_chance"], "unchanged": same / len(one.lines),
                })  # fmt: skip
        warnings += counted(model.path, languages)
    return {"schema": 1, "models": told, "romanised_by": fspath(romanise), "languages": languages, "layers": layers,
            "warnings": warnings}  # fmt: skip


def _romanised(lines: Sequence[str], file: str, by: str | PathLike[str]) -> list[str]:
    if by == "uroman":
        romanised = uroman()
        return [romanised(line) for line in lines]
    path = Path(by)
    table: dict[str, str] = {}
    for number, line in enumerate(lines_of([path]), 1):
        if not line.strip():
            continue
        source, tab, form = line.partition(TAB)
        if not tab or not form.strip():
            raise SutureError(f"{path}: line {number}: expected a text and its romanisation with a tab between", path)
        table[source.strip()] = form.strip()
    found = []
    for line in lines:
        if line.strip() not in table and not line.isascii():
            raise SutureError(f"{path}: has no romanisation of `{line:.40}` ({file}); add a line for it", path)
        found.append(table.get(line.strip(), line))
    return found
