"""A model that knows its tokens in another script too: TransMI (Liu et al., arXiv 2405.09913)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from suture.errors import UsageError
from suture.vocab.derived import Derived
from suture.vocab.grown import Grown, names_of, vocabulary_of
from suture.vocab.loaded import tokenizer_of
from suture.vocab.moves import NewToken
from suture.vocab.piece_forms import forms_of, pieces_of, sources_of
from suture.vocab.reach import changes, unreachable
from suture.vocab.rewrite import rewritten
from suture.vocab.romanised import listed, of_scripts, uroman
from suture.vocab.rowplan import RowPlan
from suture.vocab.segmenter import lines_of, segmenter
from suture.vocab.tokens import Vocabulary
from suture.vocab.told import named

MODES = ("max", "min", "mean")
#: So many are named in a report.
_NAMED = 100


def transliterate(
    folder: Path,
    rows: int,
    *,
    table: Path | None = None,
    mode: str = "max",
    only: Sequence[str] | None = None,
    scripts: Sequence[str] | None = None,
    texts: Sequence[Path] = (),
) -> RowPlan:
    """The plan of a model whose tokenizer has its pieces in another script too.

    The other forms that are no tokens yet join behind the pieces, in the order of their scores, so that tokens behind
    these (``<mask>``, language codes) move. A form of several pieces has their best score and that piece's row
    (``max``), their worst (``min``), or the mean of their scores and rows (``mean``).

    Those are the paper's, of Unigram tokenizers. In BPE, of which it says nothing, a piece's score is how early it is
    made, and a form joins if two tokens make it: by merges behind all others.

    Args:
        folder: the model.
        rows: how many rows its tables have.
        table: a file of tokens and their forms; by uroman without it.
        mode: one of `MODES`.
        only: the tokens that are given other forms, if not all.
        scripts: the scripts whose tokens are; ``!Latin`` for all others.
        texts: files of text, to count what becomes of their lines.

    Raises:
        UsageError: if the tokenizer can have no pieces, an option is wrong, or there is nothing to add.
        SutureError: if a file is not sound.
    """
    if mode not in MODES:
        raise UsageError(f"mode: expected one of {', '.join(MODES)}, found `{mode}`", at="mode")
    vocabulary = vocabulary_of(folder, rows)
    pieces = pieces_of(vocabulary)
    chosen = dict(pieces.texts)
    if only is not None:
        chosen = listed(chosen, only, vocabulary)
    if scripts is not None:
        chosen = of_scripts(chosen, scripts)
    romanise = None if table is not None else uroman()
    sources, counts = sources_of(forms_of(pieces, chosen, table, romanise), pieces)
    derived = Derived(pieces.model, sources) if vocabulary.form == "BPE" else None
    if derived is not None:
        counts["no_merge"] = len(derived.lost)
        sources = {form: own for form, own in sources.items() if form not in set(derived.lost)}
    if not sources:
        raise UsageError(f"{folder}: none of {len(chosen):,} pieces has another form that can join and is no token yet")
    new = _scored(sources, pieces.scores, mode)
    end, added = pieces.end, len(new)
    moved = {number: number + added * (number >= end) for number in range(rows)}
    joins = {end + i: NewToken(form, "normal", score) for i, (form, score) in enumerate(new)}
    if derived is not None:
        places = {form: pieces.lowest - 1 - i for i, form in enumerate(derived.kept)}
        joins = {at: replace(token, score=places[token.text]) for at, token in joins.items()}
    merges = None if derived is None else derived.merges
    files = rewritten(vocabulary, {n: moved[n] for n in vocabulary.names}, new=joins, merges=merges)
    grown = Grown(vocabulary, rows)
    grown.own(0, end)
    for form, _ in new:
        _row(grown, sources[form], pieces.scores, mode)
    grown.own(end, rows)
    kind, reasons, why = grown.kinds()
    names = names_of(vocabulary, rows)
    names[end:end] = [form for form, _ in new]
    figures, told = _counted(folder, files.written, [form for form, _ in new], texts, romanise)
    figures = {
        "pieces": len(chosen),
        **counts,
        "new": added,
        "shared": sum(len(own) > 1 for own in sources.values()),
        "most_sources": max(map(len, sources.values())),
        "moved": sum(number >= end for number in vocabulary.names),
        **figures,
    }
    return RowPlan(
        verb="transliterate",
        options={
            "map": "uroman" if table is None else str(table),
            "mode": mode,
            "only": None if only is None else list(only),
            "scripts": None if scripts is None else list(scripts),
        },
        models=[folder],
        names=names,
        table=grown.table(),
        kind=kind,
        reasons=reasons,
        why=why,
        moved=moved,
        written=files.written,
        copied=files.copied,
        undo=True,
        told=[*_told(vocabulary, figures, end, added), *told, *files.told],
        figures=figures,
    )


def _scored(sources: Mapping[str, Sequence[int]], scores: Mapping[int, float], mode: str) -> list[tuple[str, float]]:
    """The new pieces with their scores, the best first."""
    of: dict[str, Callable[[list[float]], float]] = {
        "max": max, "min": min, "mean": lambda own: float(np.mean(np.array(own))),
    }  # fmt: skip
    found = {form: of[mode]([scores[n] for n in own]) for form, own in sources.items()}
    return sorted(found.items(), key=lambda pair: (-pair[1], sources[pair[0]][0], pair[0]))


def _row(grown: Grown, own: Sequence[int], scores: Mapping[int, float], mode: str) -> None:
    """The row of a new piece."""
    if len(own) == 1:
        grown.copy(own[0], "copied", "the row of the one piece of this form")
    elif mode == "mean":
        grown.mixed(grown.mix(own, [1 / len(own)] * len(own)), "mixed", "the mean of the pieces of this form")
    else:
        best = (max if mode == "max" else min)(own, key=lambda n: (scores[n], -n if mode == "max" else n))
        which = "best" if mode == "max" else "worst"
        grown.copy(best, "copied", f"the row of the piece of the {which} score of this form")


def _counted(
    folder: Path,
    written: Iterable[tuple[str, bytes]],
    new: Sequence[str],
    texts: Sequence[Path],
    romanise: Callable[[str], str] | None,
) -> tuple[dict[str, Any], list[str]]:
    """What the tokenizer makes of the new pieces, and of text."""
    old = segmenter(folder)
    made = tokenizer_of(dict(written)["tokenizer.json"], folder / "tokenizer.json")
    lost = unreachable(made, new)
    figures: dict[str, Any] = {"unreachable": len(lost), "unreachable_first": lost[:_NAMED]}
    told = []
    if lost:
        told.append(f"no text is cut into {named(lost)}: others are better for theirs, or the normaliser changes it")
    if texts:
        found = changes(old, made, new, lines_of(texts), romanise)
        figures["text"] = found.as_data()
        for kind, what in (("ascii", "ASCII lines"), ("other", "other lines")):
            told.append(f"{found.changed[kind]:,} of {found.lines[kind]:,} {what} are now cut into other tokens")
        ways = [f"{len(found.fired):,} in the text"]
        if found.formed:
            ways.append(f"{len(found.fired_formed):,} in {found.formed:,} romanised lines of it")
        told.append(f"of {len(new):,} new pieces there are {', '.join(ways)}")
    return figures, told


def _told(vocabulary: Vocabulary, figures: Mapping[str, Any], end: int, added: int) -> list[str]:
    told = []
    if none := figures["empty"] + figures["with_space"]:
        told.append(f"{none:,} forms are empty or hold a space, and are left out")
    if none := figures.get("no_merge"):
        told.append(f"{none:,} forms are left out: no two tokens make them")
    behind = [text for number, text in vocabulary.names.items() if number >= end]
    if behind:
        told.append(f"{named(behind)} moved by {added:,}")
    return told
