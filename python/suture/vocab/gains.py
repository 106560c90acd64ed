"""How loud new rows are: their length in the model against that of the donor's rows, and what is too loud.

A donor can hold rows that are short there and whose weights make a long row in another model ("breaker tokens", arXiv
2601.00065). The gain of a row is the ratio of its two lengths, over the median of that ratio for the tokens that both
models have: 1 is what the models' scales explain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suture.vocab.mixes import Mixes, products
from suture.vocab.stored import Table, lengths

#: The scale of two models is told by so many common tokens at most.
_SAMPLE = 20_000
#: So many of the loudest are named.
_NAMED = 5


@dataclass(frozen=True)
class Gains:
    """The gains of mixes, in their order.

    Attributes:
        scale: the median ratio of lengths, model over donor, of tokens that both have.
        gain: float64 [mixes]: NaN where the donor's row is zeros.
        norm: float64 [mixes]: the lengths of the new rows.
    """

    scale: float
    gain: NDArray[np.float64] = field(repr=False)
    norm: NDArray[np.float64] = field(repr=False)

    def figures(self, where: str, names: Sequence[str | None], mixes: Mixes) -> dict[str, Any]:
        """As JSON: quantiles, and the loudest tokens."""
        order = np.argsort(np.nan_to_num(-self.gain, nan=0.0), kind="stable")[:_NAMED]
        loudest = [{"token": names[mixes.at[i]], "gain": float(self.gain[i])} for i in order if self.gain[i] > 0]
        name = f"{where}_gain"
        return {f"{name}_scale": self.scale, **quantiles(name, self.gain), f"{name}_loudest": loudest}


def quantiles(name: str, values: NDArray[np.float64]) -> dict[str, float]:
    """Median, 99 % and largest of numbers, without NaN, by names that begin with `name`; nothing of none."""
    known = values[~np.isnan(values)]
    if not len(known):
        return {}
    median, high, most = np.quantile(known, [0.5, 0.99, 1.0])
    return {f"{name}_median": float(median), f"{name}_p99": float(high), f"{name}_max": float(most)}


def gains_of(mixes: Mixes, base: Table, donor: Table, common: tuple[NDArray[np.int64], NDArray[np.int64]]) -> Gains:
    """The gain of each mix.

    Args:
        mixes: rows to be, of rows of `base`; their numbers are rows of `donor`.
        base: the model's table.
        donor: the donor's.
        common: rows of `base` and of `donor` of the tokens that both have.
    """
    step = max(-(-len(common[0]) // _SAMPLE), 1)
    own, theirs = lengths(base, common[0][::step]), lengths(donor, common[1][::step])
    ratio = own[theirs > 0] / theirs[theirs > 0]
    scale = float(np.median(ratio)) if len(ratio) else 1.0
    norm = np.empty(len(mixes))
    for part, rows in products(mixes, base):
        norm[part] = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    before = lengths(donor, mixes.at)
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.where(before > 0, norm / before / (scale or 1.0), np.nan)
    return Gains(scale, gain, norm)


def limited(mixes: Mixes, gains: Gains, most: float, how: str) -> tuple[Mixes, Gains, int]:
    """Mixes none of which is louder than allowed: scaled down (``cap``) or left out (``reject``); and how many."""
    over = gains.gain > most
    count = int(over.sum())
    if not count:
        return mixes, gains, 0
    if how == "reject":
        kept = np.flatnonzero(~over)
        return mixes.taken(kept), Gains(gains.scale, gains.gain[kept], gains.norm[kept]), count
    factors = np.where(over, most / np.where(over, gains.gain, 1.0), 1.0)
    capped = Gains(gains.scale, np.where(over, most, gains.gain), gains.norm * factors)
    return mixes.scaled(factors), capped, count


def told_of(figures: Mapping[str, Any], where: str, what: str, loud: float = 10.0) -> list[str]:
    """A warning of rows that are far louder than the models' scales explain."""
    if figures.get(f"{where}_gain_max", 0.0) <= loud:
        return []
    first = figures[f"{where}_gain_loudest"][0]
    return [
        f"{what}: `{first['token']}` is {first['gain']:.3g} times as long as the donor's row explains; rows that are "
        "inert in a donor and loud in a model are an attack that is known: --max-gain caps them"
    ]
