"""A model that knows its tokens in another script too: TransMI (Liu et al., arXiv 2405.09913)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from suture.errors import UsageError
from suture.sidecars.tokenizer import TOKENIZER_FILES
from suture.vocab.grown import Grown, names_of, vocabulary_of
from suture.vocab.keys import SPACE
from suture.vocab.loaded import tokenizer_of
from suture.vocab.moves import NewToken
from suture.vocab.pieces import NORMAL, parsed
from suture.vocab.reach import changes, unreachable
from suture.vocab.rewrite import rewritten
from suture.vocab.romanised import listed, of_scripts, table_in, uroman
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
    """The plan of a model whose Unigram tokenizer has its pieces in another script too.

    The other forms that are no tokens yet join behind the pieces, in the order of their scores, so that tokens behind
    these (``<mask>``, language codes) move. A form of several pieces has their best score and that piece's row
    (``max``), their worst (``min``), or the mean of their scores and rows (``mean``).

    Args:
        folder: the model.
        rows: how many rows its tables have.
        table: a file of tokens and their forms; by uroman without it.
        mode: one of `MODES`.
        only: the tokens that are given other forms, if not all.
        scripts: the scripts whose tokens are; ``!Latin`` for all others.
        texts: files of text, to count what becomes of their lines.

    Raises:
        UsageError: if the tokenizer is no Unigram one, an option is wrong, or there is nothing to add.
        SutureError: if a file is not sound.
    """
    if mode not in MODES:
        raise UsageError(f"mode: expected one of {', '.join(MODES)}, found `{mode}`", at="mode")
    vocabulary = vocabulary_of(folder, rows)
    scores = _scores(vocabulary)
    apart = _apart(folder)
    all_pieces = {n: vocabulary.names[n] for n in range(len(scores)) if _is_piece(vocabulary, n, apart)}
    pieces = all_pieces
    for chosen, keep in ((only, listed_by(vocabulary)), (scripts, of_scripts)):
        if chosen is not None:
            pieces = keep(pieces, chosen)
    romanise = None if table is not None else uroman()
    forms = _forms(pieces, all_pieces, vocabulary, table, romanise)
    sources, counts = _sources(forms, vocabulary)
    if not sources:
        raise UsageError(f"{folder}: none of {len(pieces):,} pieces has another form that is no token yet")
    new = _scored(sources, scores, mode)
    # Behind the last piece: special tokens and codes stand there.
    end = max(all_pieces) + 1
    added = len(new)
    moved = {number: number + added * (number >= end) for number in range(rows)}
    joins = {end + i: NewToken(form, "normal", score) for i, (form, score) in enumerate(new)}
    files = rewritten(vocabulary, {n: moved[n] for n in vocabulary.names}, new=joins)
    grown = Grown(vocabulary, rows)
    grown.own(0, end)
    for form, _ in new:
        _row(grown, vocabulary, sources[form], scores, mode)
    grown.own(end, rows)
    kind, reasons, why = grown.kinds()
    names = names_of(vocabulary, rows)
    names[end:end] = [form for form, _ in new]
    figures, told = _counted(folder, files.written, [form for form, _ in new], texts, romanise)
    shared = [own for own in sources.values() if len(own) > 1]
    figures = {
        "pieces": len(pieces),
        **counts,
        "new": added,
        "shared": len(shared),
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


def listed_by(vocabulary: Vocabulary) -> Callable[[Mapping[int, str], Sequence[str]], dict[int, str]]:
    """What keeps the pieces that a user lists."""
    return lambda pieces, tokens: listed(pieces, tokens, vocabulary)


def _scores(vocabulary: Vocabulary) -> list[float]:
    """The score of each piece.

    Raises:
        UsageError: if the tokenizer has none.
    """
    if vocabulary.form != "Unigram" or vocabulary.whole is None:
        merges = "; BPE makes a token by merges alone" if vocabulary.form == "BPE" else ""
        message = f"its tokenizer is {vocabulary.form}, and only a Unigram one can be given pieces by a score{merges}"
        raise UsageError(f"{vocabulary.folder}: {message}")
    return [float(score) for _, score in vocabulary.whole["model"]["vocab"]]


def _apart(folder: Path) -> frozenset[str]:
    """Tokens that a SentencePiece file beside tokenizer.json has as something else than pieces of text."""
    files = [folder / name for name in TOKENIZER_FILES if name.endswith((".model", ".spm"))]
    protos = [parsed(path) for path in files if path.is_file()]
    return frozenset(piece.piece for proto in protos for piece in proto.pieces if piece.type != NORMAL)


def _is_piece(vocabulary: Vocabulary, number: int, apart: frozenset[str]) -> bool:
    """Whether a token is a piece of text, by its type: no special one, no byte, not the unknown one."""
    unknown, text = (vocabulary.whole or {})["model"].get("unk_id"), vocabulary.names.get(number)
    return number != unknown and text is not None and text not in apart and vocabulary.kind(number) == "normal"


def _forms(
    pieces: Mapping[int, str],
    all_pieces: Mapping[int, str],
    vocabulary: Vocabulary,
    table: Path | None,
    romanise: Callable[[str], str] | None,
) -> dict[int, list[str]]:
    """The other forms of each piece."""
    if table is not None:
        found = table_in(table, vocabulary)
        if (wrong := next((n for n in found if n not in all_pieces), None)) is not None:
            raise UsageError(f"{table}: `{vocabulary.names[wrong]:.40}` is no piece of text", at="map")
        return {n: own for n, own in found.items() if n in pieces}
    if romanise is None:
        return {}
    # The mark of a space is no letter, and all that is ASCII beside it stays.
    changing = {n: text for n, text in pieces.items() if not text.replace(SPACE, "").isascii()}
    return {n: [romanise(text)] for n, text in changing.items()}


def _sources(forms: Mapping[int, Sequence[str]], vocabulary: Vocabulary) -> tuple[dict[str, list[int]], dict[str, int]]:
    """The pieces of each new form, ascending; and how many forms are none, and why."""
    sources: dict[str, list[int]] = {}
    counts = {"changed": 0, "empty": 0, "with_space": 0, "already": 0}
    for number in sorted(forms):
        for form in forms[number]:
            counts["changed"] += form != vocabulary.names[number]
            if not form.replace(SPACE, "").strip():
                counts["empty"] += 1
            elif any(c.isspace() for c in form) or SPACE in form[1:]:
                # Text is cut at spaces before it is cut into pieces.
                counts["with_space"] += 1
            elif form in vocabulary.ids:
                counts["already"] += form != vocabulary.names[number]
            else:
                sources.setdefault(form, []).append(number)
    return sources, counts


def _scored(sources: Mapping[str, Sequence[int]], scores: Sequence[float], mode: str) -> list[tuple[str, float]]:
    """The new pieces with their scores, the best first."""
    of: dict[str, Callable[[list[float]], float]] = {
        "max": max, "min": min, "mean": lambda own: float(np.mean(np.array(own))),
    }  # fmt: skip
    found = {form: of[mode]([scores[n] for n in own]) for form, own in sources.items()}
    return sorted(found.items(), key=lambda pair: (-pair[1], sources[pair[0]][0], pair[0]))


def _row(grown: Grown, vocabulary: Vocabulary, own: Sequence[int], scores: Sequence[float], mode: str) -> None:
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
    behind = [text for number, text in vocabulary.names.items() if number >= end]
    if behind:
        told.append(f"{named(behind)} moved by {added:,}")
    return told
