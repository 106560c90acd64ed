"""Trim: a vocabulary without what texts do not use (BiStil, arXiv 2306.02379, keeps what either of two languages uses).

No line of the texts is segmented otherwise, as long as no token that they use leaves. For that more than these must
stay: what BPE makes on its way to them, what WordPiece tries before it gives a word up, the scores that a Unigram
tokenizer sets the unknown token's by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suture.errors import SutureError, UsageError
from suture.vocab.lines import checked
from suture.vocab.needed import REASONS, Needed, needed
from suture.vocab.numbered import Segmenter
from suture.vocab.rewrite import rewritten
from suture.vocab.rowplan import CLASSES, PAD, RowPlan, Rows
from suture.vocab.tokens import Vocabulary
from suture.vocab.trim_asked import CHARACTERS, MODES, Asked, Kept
from suture.vocab.trim_told import figures, told
from suture.vocab.usage import Compared, Other, Used, aside, compared, used
from suture.vocab.write import Files

__all__ = ["Asked", "plan"]


def plan(own: Vocabulary, rows: int, asked: Asked, *, step: Callable[[int], None] = lambda n: None) -> RowPlan:
    """Plan a trim: segment the texts, choose what stays, write the tokenizer, and segment them again with it.

    Args:
        own: the vocabulary of the model.
        rows: how many rows its tables have.
        asked: what is asked.
        step: called with the bytes of each batch that was segmented; texts are 2.1 times.

    Raises:
        UsageError: if a text is empty, an option is wrong, or the model has no tokenizer.json.
        SutureError: if the library numbers the tokens otherwise, tokens have no rows, or a line whose tokens all stay
            is segmented otherwise.
    """
    _check(own, rows, asked)
    path = own.folder / "tokenizer.json"
    model: Mapping[str, Any] = (own.whole or {})["model"]

    def old() -> Segmenter:
        return Segmenter(path.read_bytes(), own.ids, own.added, path)

    # One tokenizer is held at a time: one of 250,000 tokens takes 300 MiB while it is loaded.
    unknown = own.ids.get(model.get("unk_token") or "") if own.form == "WordPiece" else None
    looks_up = own.form == "BPE" and bool(model.get("ignore_merges"))
    found = used(old(), asked.texts, own.size, unknown=unknown, looks_up=looks_up, step=step)
    need = needed(own, rows, asked.characters)
    kept = _kept(own, need, found, found.counts + found.aside, asked)
    files = rewritten(own, _tokens(own, kept))
    stays = kept.why[: own.size] >= 0
    result = compared(_segmenter(own, kept, files), old, stays, asked.texts, found, step)
    _judge(result, own, asked)
    blind = _kept(own, need, found, found.counts, asked)
    other = _segmenter(own, blind, rewritten(own, _tokens(own, blind)))
    tried = aside(other, asked.texts, found, step)
    return _row_plan(own, rows, asked, found, need, kept, files, result, tried)


def _check(own: Vocabulary, rows: int, asked: Asked) -> None:
    """Refuse what cannot be done, before texts are read."""
    at = str(own.folder)
    if own.whole is None:
        how = "have transformers save it: AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        raise UsageError(f"{at}: has no tokenizer.json, which a trim segments text with; {how}", at=at)
    if beyond := [text for text, number in own.ids.items() if number >= rows]:
        message = f"`{beyond[0]:.40}` is token {own.ids[beyond[0]]}, but the tables have {rows:,} rows"
        raise SutureError(f"{at}: {message}", own.folder)
    if not any(asked.texts.values()):
        raise UsageError("text: expected at least one file; give --text FILE", at="text")
    if not 0 <= asked.min_share < 1:
        raise UsageError(f"min_share: expected a share from 0 to below 1, found {asked.min_share}", at="min_share")
    for name, choices in (("mode", MODES), ("characters", CHARACTERS)):
        if getattr(asked, name) not in choices:
            raise UsageError(f"{name}: expected {' or '.join(choices)}, found `{getattr(asked, name)}`", at=name)
    for files in asked.texts.values():
        for path in files:
            checked(path)
    if asked.pad_to < 1:
        raise UsageError(f"pad_to: expected a number from 1 on, found {asked.pad_to}", at="pad_to")


def _kept(own: Vocabulary, need: Needed, found: Used, counts: NDArray[np.int64], asked: Asked) -> Kept:
    """What stays for the uses that were counted."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    enough = ((counts > 0) & (shares >= asked.min_share)).any(axis=0)
    named = np.zeros(need.rows, dtype=bool)
    named[list(own.names)] = True
    return Kept(need.reasons_of(enough, found, asked.mode), named)


def _tokens(own: Vocabulary, kept: Kept) -> dict[int, int]:
    return {old: new for old, new in kept.moved.items() if old in own.names}


def _segmenter(own: Vocabulary, kept: Kept, files: Files) -> Other:
    """The tokenizer that is written, from its bytes, and the old number of each of its tokens."""
    path = own.folder / "tokenizer.json"
    data = dict(files.written).get(path.name) or path.read_bytes()
    moved = _tokens(own, kept)
    ids = {text: moved[old] for text, old in own.ids.items() if old in moved}
    added = {moved[old]: token for old, token in own.added.items()}
    return Segmenter(data, ids, added, path), kept.numbers.astype(np.int32)


def _judge(result: Compared, own: Vocabulary, asked: Asked) -> None:
    """Refuse a trim that is not what it should be.

    Raises:
        SutureError: if a line is segmented otherwise whose tokens are all there.
    """
    if result.broken is None:
        return
    path, line, text = result.broken
    advice = "try --mode closure" if own.form == "BPE" and asked.mode == "exact" else "report it"
    message = f"would be segmented otherwise, though all its tokens stay; {advice}: `{text:.60}`"
    raise SutureError(f"{path}:{line}: {message}", path)


def _row_plan(
    own: Vocabulary,
    rows: int,
    asked: Asked,
    found: Used,
    need: Needed,
    kept: Kept,
    files: Files,
    result: Compared,
    tried: list[tuple[int, int]],
) -> RowPlan:
    numbers = kept.numbers
    padding = -len(numbers) % asked.pad_to
    source = np.concatenate([np.zeros(len(numbers), np.int64), np.full(padding, PAD, np.int64)])
    classes = list(CLASSES)
    kind = np.concatenate(
        [np.full(len(numbers), classes.index("kept")), np.full(padding, classes.index("padding"))]
    ).astype(np.int8)
    why = np.concatenate([kept.why[numbers], np.full(padding, len(REASONS))]).astype(np.int32)
    return RowPlan(
        verb="trim",
        options=asked.options(),
        models=[own.folder],
        names=[own.names.get(int(old)) for old in numbers],
        table=Rows(source, np.concatenate([numbers, np.zeros(padding, np.int64)])),
        kind=kind,
        reasons=[*REASONS, "a row behind the last token"],
        why=why,
        moved=kept.moved,
        written=files.written,
        copied=files.copied,
        undo=False,
        told=[*files.told, *told(own, asked, found, result, tried)],
        figures=figures(own, rows, asked, found, kept, result, tried),
    )
