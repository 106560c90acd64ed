"""Which tokens of two vocabularies stand for the same text: their sequences warped onto each other, and counted.

Dynamic time warping over the two tokenisations of each line, the cost of a pair being the edit distance of its tokens
without marks of word starts (FuseLLM, FuseChat).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from suture.errors import SutureError
from suture.vocab.segmenter import batches, lines_of, segmenter
from suture.vocab.tokenmap import fuzz, shown
from suture.vocab.tokens import Vocabulary

#: A line of more characters is cut at spaces: the work grows with the square.
_LONGEST = 4096
#: So many lines are segmented at a time.
_TOGETHER = 256


def counted(of: Vocabulary, to: Vocabulary, texts: Iterable[Path]) -> dict[int, dict[int, int]]:
    """For each token of `of` the tokens of `to` that it stands beside in texts, and how often.

    Raises:
        UsageError: if the extra ``vocab`` is not installed, or a folder has no tokenizer.json.
        SutureError: if a text cannot be read or is no UTF-8, or there is nothing in any.
    """
    own, theirs = segmenter(of.folder), segmenter(to.folder)
    distances, levenshtein = fuzz()
    shapes = [_Shown(of), _Shown(to)]
    found: dict[int, dict[int, int]] = {}
    paths = list(texts)
    for lines in batches(_parts(lines_of(paths)), _TOGETHER):
        both = [t.encode_batch(list(lines), add_special_tokens=False) for t in (own, theirs)]
        for left, right in zip(*both, strict=True):
            if left.ids and right.ids:
                costs = distances(
                    [shapes[0][n] for n in left.ids], [shapes[1][n] for n in right.ids], scorer=levenshtein.distance,
                    dtype=np.int32,
                )  # fmt: skip
                for i, j in path_of(costs):
                    counts = found.setdefault(left.ids[i], {})
                    counts[right.ids[j]] = counts.get(right.ids[j], 0) + 1
    if not found:
        raise SutureError(f"{', '.join(map(str, paths))}: no text in it to count tokens in", paths[0])
    return found


def path_of(costs: NDArray[np.int32]) -> list[tuple[int, int]]:
    """The cheapest way through a matrix of costs from its first corner to its last, steps aside, down or both.

    Of ways that cost the same it goes both as late as it can, seen from the end first: then down, then aside.
    """
    total = np.empty(costs.shape, dtype=np.int64)
    total[0] = np.cumsum(costs[0])
    for i in range(1, len(costs)):
        above = total[i - 1]
        enter = np.minimum(above, np.concatenate([above[:1], above[:-1]]))
        along = np.cumsum(costs[i], dtype=np.int64)
        # Entered at k and gone aside to j: the costs from k to j.
        total[i] = along + np.minimum.accumulate(enter - (along - costs[i]))
    i, j = costs.shape[0] - 1, costs.shape[1] - 1
    steps = [(i, j)]
    while i or j:
        if i and j and total[i - 1, j - 1] <= min(total[i - 1, j], total[i, j - 1]):
            i, j = i - 1, j - 1
        elif i and (not j or total[i - 1, j] <= total[i, j - 1]):
            i -= 1
        else:
            j -= 1
        steps.append((i, j))
    return steps[::-1]


class _Shown(dict[int, str]):
    """The text of tokens, without marks, as it is needed."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def __missing__(self, number: int) -> str:
        names, key = self._vocabulary.names, self._vocabulary.key(number)
        self[number] = names[number] if key.role else shown(key, mark="")
        return self[number]


def _parts(lines: Iterator[str]) -> Iterator[str]:
    """Lines that are not empty, long ones in parts."""
    for line in lines:
        while len(line) > _LONGEST:
            cut = line.rfind(" ", 1, _LONGEST)
            cut = cut if cut > 0 else _LONGEST
            yield line[:cut]
            line = line[cut:]
        if line:
            yield line
