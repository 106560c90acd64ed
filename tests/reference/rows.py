"""NumPy oracle: the table of each model for the tokens of an output, from the published rules, a token at a time.

The rules: own row if the model has the token and nothing is forced; else the source the config names; else the row of
the only model that has it; else the base's; else the mean of those that have it; nobody has it: zeros. A number beyond
a model's table counts as absent. Rows of padding are the mean of the table's tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float64]


def tables(
    names: Sequence[str | None],
    vocabularies: Sequence[Mapping[str, int]],
    given: Sequence[Table],
    base: int | None,
    asked: Mapping[str, tuple[Table | None, bool]],
    rows: int,
) -> list[Table]:
    """The new tables.

    Args:
        names: the output's tokens, by number; None for a number without one.
        vocabularies: for each model its tokens.
        given: for each model its table.
        base: the place of the base, if it is one of them.
        asked: for tokens of the config the row they are from, if it says so, and whether it is forced.
        rows: of the new tables.
    """
    return [_table(m, names, vocabularies, given, base, asked, rows) for m in range(len(given))]


def _table(m: int, names: Any, vocabularies: Any, given: Any, base: Any, asked: Any, rows: int) -> Table:
    made = np.zeros((rows, given[0].shape[1]))
    real = []
    for i, name in enumerate(names):
        if name is None:
            continue
        real.append(i)
        have = {
            k: given[k][v[name]] for k, v in enumerate(vocabularies) if name in v and v[name] < len(given[k])
        }  # fmt: skip
        row, forced = asked.get(name, (None, False))
        if m in have and not forced:
            made[i] = have[m]
        elif row is not None:
            made[i] = row
        elif len(have) == 1:
            made[i] = next(iter(have.values()))
        elif base in have:
            made[i] = have[base]
        elif have:
            made[i] = sum(have.values()) / len(have)
    padding = np.ones(rows, dtype=bool)
    padding[real] = False
    made[padding] = made[real].mean(axis=0)
    return made


def applied(segments: Sequence[Any], given: Sequence[Table]) -> Table:
    """The table that segments describe."""
    parts: list[Table] = []
    padding = np.zeros(0, dtype=bool)
    width = given[0].shape[1]
    for segment in segments:
        if isinstance(segment, list):
            count, model, row = segment
            assert row >= 0
            assert row + count <= len(given[model])
            parts.append(given[model][row : row + count])
        elif "mean" in segment:
            parts.append(np.mean([given[m][row] for m, row in segment["mean"]], axis=0)[None])
        else:
            parts.append(np.zeros((segment.get("zero", 0) + segment.get("pad", 0), width)))
        padding = np.append(padding, np.full(len(parts[-1]), not isinstance(segment, list) and "pad" in segment))
    made = np.concatenate(parts)
    made[padding] = made[~padding].mean(axis=0)
    return made
