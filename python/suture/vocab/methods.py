"""The methods of a transplant: what each makes of what it is asked, and what it needs for that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suture.errors import UsageError
from suture.vocab.gains import quantiles
from suture.vocab.matching import KIND, roles_of
from suture.vocab.mixes import Mixes
from suture.vocab.stored import Table, lengths
from suture.vocab.transplant import Ask, Found, Model

METHODS = ("overlap", "subwords", "omp", "clp", "nearest", "sparsemax", "alignment")
#: So many of the tokens that a method fits worst are named.
_NAMED = 5


@dataclass(frozen=True)
class Omp:
    """`suture.vocab.omp`, in the space of the embeddings, and in that of the head where it has one of its own."""

    k: int = 64
    tolerance: float = 1e-12
    reference: bool = False

    def __call__(self, ask: Ask) -> Found:
        """Rows of all missing tokens that are not zeros in the donor."""
        from suture.vocab.omp import DEPENDENT, pursue

        if ask.donor.embed is None:
            raise UsageError(f"method: omp compares rows of a donor, and {ask.donor.folder} is a tokenizer alone")
        _needs_anchors(ask, "omp")

        def solved(donor: Table, where: str) -> tuple[Mixes, dict[str, Any]]:
            targets = ask.missing[lengths(donor, ask.missing) > 0]
            found = pursue(
                donor, targets, ask.anchors, self.k, tolerance=self.tolerance, normalised=not self.reference,
                dependent=DEPENDENT, budget=ask.budget,
            )  # fmt: skip
            names = ask.donor.vocabulary.names
            worst = np.argsort(-found.residual, kind="stable")[:_NAMED]
            fits = [{"token": names[targets[i]], "residual": float(found.residual[i])} for i in worst]
            figures = {
                **quantiles(f"{where}_residual", found.residual),
                **quantiles(f"{where}_l1", found.mixes.sizes()),
                f"{where}_dropped": found.dropped,
                f"{where}_residual_worst": fits,
            }
            return found.mixes.renamed(targets, ask.places), figures

        table, figures = solved(ask.donor.embed, "table")
        head = None
        if ask.model.head is not None:
            head, more = solved(ask.donor.head or ask.donor.embed, "head")
            figures |= more
        return Found(table, head, [f"a sum of at most {self.k} rows (OMP)"], figures=figures)


@dataclass(frozen=True)
class Clp:
    """`suture.vocab.clp`: the same mixes for embeddings and head."""

    helper: Model
    top_k: int | None = None
    reference: bool = False
    most: int = 2**28

    def __call__(self, ask: Ask) -> Found:
        """Rows of all missing tokens that are like any other."""
        from suture.vocab.clp import weigh

        if self.helper.embed is None:
            raise UsageError(
                f"helper: {self.helper.folder} is a tokenizer alone; clp needs a model with the new tokenizer",
                at="helper",
            )
        theirs = self.helper.vocabulary.ids
        other = next((t for t, n in ask.donor.vocabulary.ids.items() if theirs.get(t) != n), None)
        if other is not None:
            here = "no such token" if other not in theirs else f"number {theirs[other]}"
            raise UsageError(
                f"helper: {self.helper.folder} has another tokenizer than {ask.donor.folder}: `{other:.40}` is "
                f"number {ask.donor.vocabulary.ids[other]} there, here {here}",
                at="helper",
            )
        _needs_anchors(ask, "clp")
        # An entry takes 16 bytes.
        most = min(self.most, ask.budget // 16)
        found = weigh(
            self.helper.embed, ask.missing, ask.anchors, top_k=self.top_k, reference=self.reference, most=most
        )
        figures = {**quantiles("table_l1", found.sizes()), "entries": len(found.index)}
        return Found(found.renamed(ask.missing, ask.places), None, [_of("cosines in the helper")], figures=figures)


@dataclass(frozen=True)
class Nearest:
    """WECHSEL, see `suture.vocab.neighbours`: rows of the old tokens whose vectors are nearest."""

    vectors: Path
    source_vectors: Path | None = None
    k: int = 10
    temperature: float = 0.1
    reference: bool = False

    def __call__(self, ask: Ask) -> Found:
        """Rows of missing tokens that have a vector; as published, of all that are not special."""
        from suture.vocab.neighbours import nearest
        from suture.vocab.vectors import read_vectors

        new = read_vectors(self.vectors)
        old = new if self.source_vectors is None else read_vectors(self.source_vectors)
        if new.table.width != old.table.width:
            message = f"vectors of {new.table.width} numbers, {old.table.width} in {old.path}; expected one space"
            raise UsageError(f"{new.path}: {message}", at="source_vectors")
        rows, theirs = new.of(ask.donor.vocabulary), old.of(ask.model.vocabulary)
        wanted = ask.missing
        if self.reference:
            named = np.array(sorted(ask.donor.vocabulary.names), dtype=np.int64)
            wanted = named[ask.matches.kind[named] != KIND["special"]]
        targets = wanted[rows[wanted] >= 0]
        normal = [n for n in ask.model.vocabulary.names if not ask.model.vocabulary.key(n).role]
        anchors = np.array(normal, dtype=np.int64)
        anchors = anchors[theirs[anchors] >= 0]
        found = nearest(
            new.table, rows[targets], old.table, theirs[anchors], k=self.k, temperature=self.temperature
        ).renamed(targets, anchors)
        return Found(found, None, [_of(f"the {self.k} nearest vectors")], figures=_covered(wanted, targets))


@dataclass(frozen=True)
class Sparsemax:
    """FOCUS, see `suture.vocab.neighbours`: rows of the common tokens whose vectors are near."""

    vectors: Path

    def __call__(self, ask: Ask) -> Found:
        """Rows of missing tokens that have a vector."""
        from suture.vocab.neighbours import sparse
        from suture.vocab.vectors import read_vectors

        _needs_anchors(ask, "sparsemax")
        vectors = read_vectors(self.vectors)
        rows = vectors.of(ask.donor.vocabulary)
        targets = ask.missing[rows[ask.missing] >= 0]
        have = rows[ask.anchors] >= 0
        if not have.any():
            raise UsageError(f"{self.vectors}: has no vector of a token that both models have", at="vectors")
        found = sparse(vectors.table, rows[targets], rows[ask.anchors[have]])
        found = found.renamed(targets, ask.places[have])
        figures = {**_covered(ask.missing, targets), **quantiles("support", found.counts.astype(np.float64))}
        return Found(found, None, [_of("vectors of common tokens (sparsemax)")], figures=figures)


@dataclass(frozen=True)
class Alignment:
    """Trans-tokenization, see `suture.vocab.alignment`: of all tokens but special ones, common ones too."""

    table: Path
    units: str = "tokens"
    min_count: float = 1.0
    smooth: bool = True

    def __call__(self, ask: Ask) -> Found:
        """Rows of all tokens with counts, or with counts that others lend them."""
        from suture.vocab import alignment
        from suture.vocab.respell import speller

        old, new = ask.model.vocabulary, ask.donor.vocabulary
        if self.units == "words":
            both = alignment.words_in(speller(old, whole_only=True)), alignment.words_in(speller(new, whole_only=True))
        else:
            both = alignment.tokens_in(old, self.table), alignment.tokens_in(new, self.table)
        found = alignment.read_table(self.table, *both, min_count=self.min_count)
        keys = {number: new.key(number) for number in new.names}
        kept = {n for n in new.names if ask.matches.kind[n] == KIND["special"]}
        counts = {n: own for n, own in found.counts.items() if n not in kept}
        tabled = len(counts)
        for number in ask.matches.of("kept", "exact", "byte", "fuzzy").tolist():
            own = counts.setdefault(number, {})
            same = int(ask.matches.old[number])
            own[same] = own.get(same, 0.0) + 1.0
        if self.smooth:
            _add_numbers(ask, counts)
            spelt = {
                n: (b" " if key.starts else b"") + key.content
                for n, key in keys.items()
                if not key.role and not key.byte and n not in kept
            }
            lent = alignment.smooth(counts, spelt)
        else:
            lent = {}
        last = _last_resorts(ask, counts, lent) if self.smooth else {}
        every = [*counts.items(), *lent.items(), *last.items()]
        parts = [
            (np.array(list(own), dtype=np.int64), np.array(list(own.values())) / sum(own.values())) for _, own in every
        ]
        mixes = Mixes.of(np.array([n for n, _ in every], dtype=np.int64), parts)
        reasons = [_of("counts of the table"), _of("counts of tokens that hold it or are in it"), "a role like its own"]
        why = np.array([0 if n in counts else 1 if n in lent else 2 for n in mixes.at.tolist()], dtype=np.int64)
        figures = {
            "pairs": found.pairs,
            "rare": found.rare,
            "unknown": found.unknown,
            "from_table": tabled,
            "smoothed": len(lent),
            "rest": len(new.names) - len(kept | set(mixes.at.tolist())),
        }
        return Found(mixes, None, reasons, why, figures)


def _add_numbers(ask: Ask, counts: dict[int, dict[int, float]]) -> None:
    """A count for each number of up to four digits: with the first token that the model cuts it into."""
    from suture.vocab.respell import speller

    pieces = None
    for number in ask.missing.tolist():
        key = ask.donor.vocabulary.key(number)
        if not key.role and not key.byte and key.content.isdigit() and len(key.content) <= 4:
            pieces = pieces or speller(ask.model.vocabulary)
            if own := pieces(key.starts, key.content):
                held = counts.setdefault(number, {})
                held[own[0]] = held.get(own[0], 0.0) + 1.0


def _last_resorts(
    ask: Ask, counts: dict[int, dict[int, float]], lent: dict[int, dict[int, float]]
) -> dict[int, dict[int, float]]:
    """A special token whose role the model does not have: a mask is as padding, all else as the unknown."""
    theirs = roles_of(ask.model.vocabulary)
    found = {}
    for role, number in roles_of(ask.donor.vocabulary).items():
        like = theirs.get("pad", theirs.get("unk")) if role == "mask" else theirs.get("unk")
        if not ask.matches.matched[number] and number not in counts and number not in lent and like is not None:
            found[number] = {like: 1.0}
    return found


def _needs_anchors(ask: Ask, method: str) -> None:
    if not len(ask.anchors):
        raise UsageError(
            f"method: {ask.model.folder} and {ask.donor.folder} have no token in common, of whose rows {method} makes "
            "those that are missing; take subwords, or alignment with a table"
        )


def _of(what: str) -> str:
    return f"a mix of rows by {what}"


def _covered(wanted: NDArray[np.int64], targets: Sequence[int] | NDArray[np.int64]) -> dict[str, int]:
    return {"wanted": len(wanted), "with_vectors": len(targets)}
