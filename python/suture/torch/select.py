"""Exact selection by magnitude: the k-th largest by a radix histogram, the lowest index first among equals.

The bits of |x| order as |x| does. One pass counts the high 16 of the 31 bits, one the low 15 inside the bin that the
k-th falls in. Nothing is sorted but rows, and nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

BINS = 1 << 16
LOW = 15

#: For every block of a pass the keys (int32, not negative, ordered as what they stand for) of several series.
Keys = Callable[[], Iterator[Sequence[Tensor]]]


def magnitude(x: Tensor) -> Tensor:
    """The bits of |x|, int32: they order as the magnitudes do."""
    return x.view(torch.int32) & 0x7FFFFFFF


@dataclass
class Cut:
    """What is kept of a series: what is above the threshold, and so many of what equals it."""

    #: The k-th largest key.
    threshold: Tensor
    #: Elements equal to the threshold that are kept, the first in index order.
    ties: Tensor
    #: Those met so far.
    seen: Tensor

    @classmethod
    def at(cls, threshold: Tensor, ties: Tensor) -> Cut:
        """A cut of which nothing has been met yet."""
        return cls(threshold, ties, torch.zeros_like(ties))

    def fresh(self) -> Cut:
        """The same cut, of which nothing has been met yet."""
        return Cut.at(self.threshold, self.ties)

    def rewind(self) -> None:
        """Forgets what has been met."""
        self.seen = torch.zeros_like(self.ties)

    def keeps(self, keys: Tensor) -> Tensor:
        """Which of the next elements of the series are kept."""
        equal = keys == self.threshold
        rank = equal.cumsum(0) + self.seen
        kept = (keys > self.threshold) | (equal & (rank <= self.ties))
        self.seen = self.seen + equal.sum()
        return kept

    def value(self) -> Tensor:
        """The threshold as the float32 whose bits it is."""
        return self.threshold.view(torch.float32)


def _count(bins: Tensor, into: Tensor) -> None:
    into.scatter_add_(0, bins, torch.ones_like(bins))


def _kth_bin(counts: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """The bin that the k-th largest (from 1) is in, and how many lie in higher bins."""
    from_top = counts.flip(0).cumsum(0)
    place = (from_top < k).sum()
    above = torch.where(place > 0, from_top[(place - 1).clamp(min=0)], 0)
    return (len(counts) - 1 - place).clamp(min=0), above


Rank: TypeAlias = "int | Tensor"


def cuts(keys: Keys, ranks: Sequence[Sequence[Rank]], device: torch.device) -> list[list[Cut]]:
    """For every series the cuts that keep its `k` largest, for each of its `k`; 0 keeps nothing.

    Two passes over the keys.
    """

    def zeros(bins: int) -> Tensor:
        return torch.zeros(bins, dtype=torch.int64, device=device)

    wanted = [[torch.as_tensor(k, dtype=torch.int64, device=device) for k in own] for own in ranks]
    high = [zeros(BINS) for _ in wanted]
    for series in keys():
        for own, counts, ks in zip(series, high, wanted, strict=True):
            if ks:
                _count((own >> LOW).long(), counts)
    bins = [[_kth_bin(counts, k) for k in ks] for counts, ks in zip(high, wanted, strict=True)]
    low = [[zeros(1 << LOW) for _ in ks] for ks in wanted]
    for series in keys():
        for own, places, each in zip(series, bins, low, strict=True):
            for (place, _), counts in zip(places, each, strict=True):
                # What is in another bin is counted in one more, which is dropped: boolean indexing would wait for the
                # device.
                inside = torch.where((own >> LOW) == place, (own & ((1 << LOW) - 1)).long(), 1 << LOW)
                spare = torch.cat([counts, counts[:1] * 0])
                _count(inside, spare)
                counts.copy_(spare[:-1])
    found = []
    for places, each, ks in zip(bins, low, wanted, strict=True):
        own_cuts = []
        for (place, above), counts, k in zip(places, each, ks, strict=True):
            rest, below = _kth_bin(counts, k - above)
            threshold = torch.where(k > 0, (place << LOW) | rest, 0x7FFFFFFF).to(torch.int32)
            own_cuts.append(Cut.at(threshold, torch.where(k > 0, k - above - below, 0)))
        found.append(own_cuts)
    return found


def ranks(keys: Tensor) -> Tensor:
    """Each element's place in its row (the last dimension) in descending order, the lowest index first among equals."""
    order = keys.argsort(dim=-1, descending=True, stable=True)
    places = torch.arange(keys.shape[-1], device=keys.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, places)
