"""A row plan: where every row of a model's new vocabulary is from, ``E' = P E``, and the tokenizer that goes with it.

Planners, a module each, make one; `suture.surgery.rows` carries it out. A row that is one stored row is copied as
bytes. A mixed row is summed in float64, in the order of its entries, and rounded once to the table's dtype.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: In the place of a model: a mix of rows, zeros, a row that is no token (the mean of all rows that are).
MIX, ZERO, PAD = -1, -2, -3

#: Options that are files and folders.
_PLACES = ("base", "from", "helper", "map", "source_vectors", "table", "texts", "vectors")

#: What a row is, and how that is told.
CLASSES: Mapping[str, str] = {
    "kept": "the model's own row of the same token",
    "special": "a special token, matched by its role",
    "exact": "the row of a token with the same bytes",
    "byte": "the row of a single byte",
    "fuzzy": "the row of a token that differs by case or word start alone",
    "copied": "a copy of another token's row",
    "mixed": "a mix of rows that were named, or of all that stand for it",
    "approximated": "a mix of rows by weights that a method computed",
    "fallback": "what a method gives where it finds nothing: the mean of its pieces, or of all rows",
    "donor": "the donor's own row",
    "padding": "a row behind the last token",
}


@dataclass(frozen=True)
class Rows:
    """The rows of a table, each from one stored row or a mix of several.

    Attributes:
        source: int64 [rows]: the place in `RowPlan.models` of the model that the row is from; or `MIX`, `ZERO`, `PAD`.
        row: int64 [rows]: its row there; of a mix the number of the mix; else 0.
        starts: int64 [mixes + 1]: where the entries of each mix begin in `index` and `weight`.
        index: int64 [entries]: rows of the first model's table, ascending within a mix.
        weight: float64 [entries]: the weights; they need not sum to 1.
        noise: float64 [mixes]: standard deviation of what is drawn and added, as a share of the root mean square of the
            mixed row; 0 nearly always.
    """

    source: NDArray[np.int64]
    row: NDArray[np.int64]
    starts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    index: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    weight: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    noise: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def copies(cls, row: NDArray[np.int64], source: int = 0) -> Rows:
        """Rows of one model's table as they are."""
        return cls(np.full(len(row), source, dtype=np.int64), np.asarray(row, dtype=np.int64))


@dataclass(frozen=True)
class RowPlan:
    """What a planner gives.

    Attributes:
        verb: the verb of `suture vocab` that made it.
        options: what it was asked, as JSON.
        models: folders of the models that rows are from; the first is the one that is rewritten, whose other tensors
            are copied as they are.
        names: the text of each token of the output, by its number; None where a number has no token.
        table: the rows of the embeddings, and of heads and biases if `head` is None. Rows behind `names` are padding.
        head: the rows of heads and their biases, where they are others.
        kind: int8 [rows]: the class of each row, its place in `CLASSES`.
        reasons: texts, and `why` int32 [rows] the place in them of each row's reason.
        moved: the new number of each token of the first model that the output still has, by its old number. Numbers
            in config.json and generation_config.json follow it.
        roles: numbers in the output by role (``bos``, ``eos``, ``pad``, ...), for config keys whose token is gone or
            new.
        written: files of the output's tokenizer, with their bytes.
        copied: files of it that are copied, with their source.
        undo: whether all rows of the first model's tables are in the output as bytes, so that the model can be had
            back.
        told: what the user should know.
        figures: numbers for the report, as JSON: what the verb counts.
    """

    verb: str
    options: Mapping[str, Any]
    models: Sequence[Path]
    names: Sequence[str | None] = field(repr=False)
    table: Rows = field(repr=False)
    kind: NDArray[np.int8] = field(repr=False)
    reasons: Sequence[str] = field(repr=False)
    why: NDArray[np.int32] = field(repr=False)
    moved: Mapping[int, int] = field(repr=False)
    written: Sequence[tuple[str, bytes]] = field(repr=False)
    copied: Sequence[tuple[str, str]] = field(repr=False)
    head: Rows | None = field(default=None, repr=False)
    roles: Mapping[str, int] = field(default_factory=dict)
    undo: bool = False
    told: Sequence[str] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many rows the output's tables have."""
        return len(self.table.source)

    @property
    def asked(self) -> dict[str, Any]:
        """The options, with files and folders by their names alone: what is written tells nothing of a machine."""
        return {key: _named(value) if key in _PLACES else value for key, value in self.options.items()}

    def counts(self) -> dict[str, int]:
        """How many rows are of each class; they add up to the rows."""
        found = np.bincount(self.kind, minlength=len(CLASSES))
        return {name: int(n) for name, n in zip(CLASSES, found, strict=True) if n}

    def problem(self) -> str | None:
        """What does not fit together in it; None if all does."""
        rows, names = self.rows, len(self.names)
        if len(self.kind) != rows or len(self.why) != rows or names > rows:
            return f"{rows:,} rows have {len(self.kind):,} classes, {len(self.why):,} reasons and {names:,} tokens"
        if rows and not (self.why.min() >= 0 and self.why.max() < len(self.reasons)):
            return "a row has a reason that there is not"
        for where in (self.table, self.head):
            if where is not None and (problem := _problem(where, rows, len(self.models))) is not None:
                return problem
        if any(old < 0 or not 0 <= new < names for old, new in self.moved.items()):
            return "a token moves to a number that there is not"
        if any(not 0 <= number < rows for number in self.roles.values()):
            return "a role has a number that there is not"
        return None


def _named(value: Any) -> Any:
    if isinstance(value, Mapping):
        made: dict[str, list[Any]] = {}
        for key, files in value.items():
            # Two files of one name, each a language of its own.
            made.setdefault(Path(key).name, []).extend(_named(files))
        return made
    if isinstance(value, list | tuple):
        return [_named(one) for one in value]
    return Path(value).name if isinstance(value, str) else value


def _problem(rows: Rows, count: int, models: int) -> str | None:
    """What does not fit together in the rows of a table."""
    mixes = len(rows.starts) - 1
    if len(rows.source) != count or len(rows.row) != count:
        return f"tables have {len(rows.source):,} and {count:,} rows"
    if mixes < 0 or rows.starts[0] != 0 or (np.diff(rows.starts) < 0).any() or rows.starts[-1] != len(rows.index):
        return "its mixes do not lie one after the other"
    if len(rows.weight) != len(rows.index) or len(rows.noise) not in (0, mixes):
        return "its mixes have rows without weights"
    if not np.isfinite(rows.weight).all() or not np.isfinite(rows.noise).all():
        return "its mixes have weights that are no numbers"
    if (rows.noise < 0).any():
        return "its mixes have noise below 0"
    if len(rows.index) and rows.index.min() < 0:
        return "its mixes have rows below 0"
    mixed = rows.row[rows.source == MIX]
    stored = rows.source >= 0
    if len(mixed) and not (mixed.min() >= 0 and mixed.max() < mixes):
        return "a row is a mix that there is not"
    if (rows.source < PAD).any() or (rows.source >= models).any() or (rows.row[stored] < 0).any():
        return "a row is from a model that there is not"
    return None
