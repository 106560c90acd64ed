"""What two vocabularies share, and whether rows of one model can stand in the other's tables."""

from __future__ import annotations

from collections import Counter
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np

from suture.analysis.neighbours import SAMPLE, common_neighbours
from suture.analysis.stored import Stored, embedding, tables
from suture.analysis.vocab_inspect import kind_of, opened, sizes_of, vocabulary_of
from suture.errors import UsageError
from suture.results.vocabulary import (
    DigitCuts,
    Digits,
    Exchange,
    Misses,
    Neighbours,
    ScriptOverlap,
    SharedTokens,
    VocabComparison,
)
from suture.sidecars.gguf import folder_of
from suture.vocab.digits import cuts, scheme
from suture.vocab.fertility import unknown_of
from suture.vocab.overlap import Miss, Overlap, near_misses, nearest, overlap, scripts_of, shown
from suture.vocab.same import differing
from suture.vocab.segmenter import segmenter
from suture.vocab.tables import Table
from suture.vocab.tokens import Vocabulary

#: Examples that are told of each kind.
_TOLD = 5


def compare(
    a: str | PathLike[str],
    b: str | PathLike[str],
    *,
    neighbours: int = 0,
    sample: int = SAMPLE,
    misses: int = 20,
    seed: int = 0,
) -> VocabComparison:
    """Compare the vocabularies of two models, or of tokenizers alone.

    Args:
        a: the first.
        b: the second.
        neighbours: how many nearest tokens to compare, of the embeddings; 0 for none, then no weights are read.
        sample: most tokens whose neighbours are looked for.
        misses: how many of the tokens that only the first has, and that differ by more than case and word start, to
            find the nearest of the second for; they are drawn by `seed`. It takes the package rapidfuzz.
        seed: of both draws.

    Returns:
        What both share, by script and role; near misses; how numbers are cut; common neighbours; and whether rows can
        be exchanged: see :class:`suture.results.vocabulary.VocabComparison`.

    Raises:
        UsageError: if one has no tokenizer that can be read, a package is missing, or an option is out of range.
        SutureError: if a file is not sound.
    """
    for name, value, least in (("neighbours", neighbours, 0), ("sample", sample, 1), ("misses", misses, 0)):
        if value < least:
            raise UsageError(f"{name}: expected a number from {least} on, found {value}", at=name)
    checkpoints = [opened(one) for one in (a, b)]
    folders = [Path(m) if c is None else folder_of(c.folder) for m, c in zip((a, b), checkpoints, strict=True)]
    first, second = (vocabulary_of(folder) for folder in folders)
    stored = [[] if c is None else tables(c) for c in checkpoints]
    shared = overlap(first, second)
    scripts = scripts_of(first)
    warnings = [text for c in checkpoints if c is not None for text in c._core.warnings]
    digits = _digits(first, second, warnings)
    unlike = differing(first, second)
    near: Neighbours | None = None
    if neighbours:
        if None in checkpoints:
            raise UsageError("neighbours: needs the weights of both models", at="neighbours")
        both = (embedding(checkpoints[0]).table(), embedding(checkpoints[1]).table())  # type: ignore[arg-type]
        near = _neighbours(both, first, shared, scripts, (neighbours, sample, seed))
    exchange = _exchange(first, second, shared, stored, unlike)
    return {
        "schema": 1,
        "a": fspath(a),
        "b": fspath(b),
        "kinds": [kind_of(first), kind_of(second)],
        "sizes": [sizes_of(v, own) for v, own in zip((first, second), stored, strict=True)],
        "shared": _shared(first, second, shared),
        "roles": [
            {"role": role, "a": first.roles.get(role), "b": second.roles.get(role)}
            for role in dict.fromkeys([*first.roles, *second.roles])
        ],
        "scripts": _scripts(scripts, scripts_of(second), shared),
        "misses": _misses(first, second, shared, misses, seed),
        "digits": digits,
        "differing": unlike,
        "neighbours": near,
        "exchange": exchange,
        "warnings": warnings,
    }


def _shared(a: Vocabulary, b: Vocabulary, shared: Overlap) -> SharedTokens:
    n, counts = len(shared.pairs), shared.counts
    return {
        "tokens": n,
        "special": counts["special"],
        "exact": counts["exact"],
        "byte": counts["byte"],
        "text": sum(a.names[one] == b.names[other] for one, other in shared.pairs.items()),
        "number": shared.same_number,
        "share_a": n / len(a.ids),
        "share_b": n / len(b.ids),
        "jaccard": n / (len(a.ids) + len(b.ids) - n),
    }


def _scripts(a: dict[int, str], b: dict[int, str], shared: Overlap) -> list[ScriptOverlap]:
    own, theirs = Counter(a.values()), Counter(b.values())
    common = Counter(a[n] for n in shared.pairs)
    order = sorted({*own, *theirs}, key=lambda s: (-own[s] - theirs[s], s))
    return [{"script": s, "a": own[s], "b": theirs[s], "shared": common[s]} for s in order]


def _misses(a: Vocabulary, b: Vocabulary, shared: Overlap, sample: int, seed: int) -> Misses:
    """What the second nearly has."""
    found = list(near_misses(a, b, shared))
    counts = Counter(miss.what for miss in found)
    known = {miss.one for miss in found}
    rest = [n for n in a.names if n not in shared.pairs and n not in known and a.kind(n) == "normal"]
    if len(rest) > sample:
        drawn = np.random.default_rng(seed).choice(len(rest), sample, replace=False)
        rest = [rest[i] for i in sorted(drawn.tolist())]
    far = nearest(a, b, rest) if rest else []
    told = [miss for what in counts for miss in [m for m in found if m.what == what][:_TOLD]]

    def example(miss: Miss) -> dict[str, Any]:
        edits = miss.what if isinstance(miss.what, int) else None
        differs = "edits" if edits is not None else miss.what
        return {"a": shown(a, miss.one), "b": shown(b, miss.other), "differs": differs, "edits": edits}

    examples = [example(miss) for miss in (*told, *sorted(far, key=lambda m: (int(m.what), m.one)))]
    return {
        "tokens": len(a.ids) - len(shared.pairs),
        "word_start": counts["word start"],
        "case": counts["case"],
        "both": counts["both"],
        "examples": examples,  # type: ignore[typeddict-item]
    }


def _digits(a: Vocabulary, b: Vocabulary, warnings: list[str]) -> Digits:
    """How both cut numbers; a difference is told, since rows that are moved then lose what arithmetic hangs on."""
    found: list[DigitCuts | None] = []
    for vocabulary in (a, b):
        try:
            parts, known = cuts(segmenter(vocabulary.folder), unknown_of(vocabulary))
            found.append({"scheme": scheme(parts) if known else "unknown", "cuts": parts})
        except UsageError as e:
            warnings.append(f"{e}; how it cuts numbers is not known")
            found.append(None)
    first, second = found
    if first is None or second is None:
        return {"a": first, "b": second, "same": None}
    other = next((n for n in reversed(first["cuts"]) if first["cuts"][n] != second["cuts"][n]), None)
    if other is not None:
        parts_a, parts_b = " ".join(first["cuts"][other]), " ".join(second["cuts"][other])
        warnings.append(
            f"numbers are cut otherwise: {other} is {parts_a} in {a.folder} ({first['scheme']}), {parts_b} in "
            f"{b.folder} ({second['scheme']}); arithmetic suffers where rows are moved from one to the other"
        )
    return {"a": first, "b": second, "same": other is None}


def _neighbours(
    both: tuple[Table, Table],
    a: Vocabulary,
    shared: Overlap,
    scripts: dict[int, str],
    how: tuple[int, int, int],
) -> Neighbours:
    k, sample, seed = how
    there = [
        (one, other)
        for one, other in shared.pairs.items()
        if one < both[0].rows and other < both[1].rows and a.kind(one) != "special"
    ]
    rows = np.array(there, dtype=np.int64).reshape(-1, 2)
    named = [scripts[one] for one, _ in there]
    return common_neighbours(both, (rows[:, 0], rows[:, 1]), named, k, sample=sample, seed=seed)


def _exchange(a: Vocabulary, b: Vocabulary, shared: Overlap, stored: list[list[Stored]], unlike: list[str]) -> Exchange:
    """Whether rows of one can stand in the other's table."""
    widths = [next((t.width for t in own if t.role == "embedding"), None) for own in stored]
    answer, because = _answer(a, b, shared)
    if answer in ("same", "extended", "renumbered") and unlike:
        because.append(f"text is cut otherwise all the same: {', '.join(unlike)} of tokenizer.json differ")
    fits = None if None in widths else widths[0] == widths[1]
    if fits is False:
        because.append(f"rows are {widths[0]:,} and {widths[1]:,} wide: none can be moved as it is")
    rows = [next((t.rows for t in own if t.role == "embedding"), None) for own in stored]
    if answer == "same" and None not in rows and rows[0] != rows[1]:
        because.append(f"tables have {rows[0]:,} and {rows[1]:,} rows; what is behind the tokens is padding")
    return {"answer": answer, "fits": fits, "because": because, "widths": widths}


def _answer(a: Vocabulary, b: Vocabulary, shared: Overlap) -> tuple[str, list[str]]:
    n, size_a, size_b = len(shared.pairs), len(a.ids), len(b.ids)
    if not n:
        return "none", ["no token is shared"]
    other = n - shared.same_number
    if n == size_a == size_b and not other:
        return "same", ["the tokens are the same and have the same numbers"]
    if n == size_a == size_b:
        return "renumbered", [f"the tokens are the same, but {other:,} have other numbers"]
    if n == min(size_a, size_b) and not other:
        more, less, by = (a, b, size_a - n) if size_a > size_b else (b, a, size_b - n)
        return "extended", [f"{more.folder} has all tokens of {less.folder} under their numbers, and {by:,} more"]
    share = f"{100 * n / size_a:.1f} % and {100 * n / size_b:.1f} %"
    return "overlap", [f"{n:,} tokens are shared, {share}; rows of others must be made"]
