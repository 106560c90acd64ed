"""What a user is told of a trim."""

from __future__ import annotations

from typing import Any

import numpy as np

from suture.escape import printable
from suture.vocab.needed import REASONS
from suture.vocab.tokens import Vocabulary
from suture.vocab.trim_asked import Asked, Kept
from suture.vocab.usage import Compared, Used

#: With fewer lines left aside a share of them says little.
_FEW = 20


def told(own: Vocabulary, asked: Asked, found: Used, result: Compared, tried: list[tuple[int, int]]) -> list[str]:
    """The warnings of a trim."""
    lines, changed = sum(found.lines), sum(result.changed)
    said = []
    if changed and result.first is not None:
        path, line, text = result.first
        why = f"tokens with a share below {asked.min_share:g} left; the first is {path}:{line}"
        said.append(f"{changed:,} of {lines:,} lines are segmented otherwise, as {why}: `{printable(text[:60])}`")
    said.append(_aside(tried))
    if own.whole is not None and asked.characters == "used" and own.marks != "bytes":
        said.append("characters that the texts lack have left; other text has more unknown tokens, or more bytes")
    return said


def _aside(tried: list[tuple[int, int]]) -> str:
    seen, wrong = (sum(pair[i] for pair in tried) for i in (0, 1))
    if seen < _FEW:
        return "other text can be segmented otherwise; the texts are too short to tell how much of it"
    share = f"{wrong:,} of {seen:,} lines ({100 * wrong / seen:.1f} %)"
    return f"other text can be segmented otherwise: {share} were, by a trim that had not seen them"


def figures(
    own: Vocabulary, rows: int, asked: Asked, found: Used, kept: Kept, result: Compared, tried: list[tuple[int, int]]
) -> dict[str, Any]:
    """What a trim counts, as JSON.

    ``rows`` and ``kept``: of the tables and of them what stays. ``reasons``: how many stay for each reason, which add
    up to ``kept``. ``dropped_used``: tokens that the texts use and that leave for their share. Of each text ``lines``,
    ``tokens``, ``distinct``, ``changed`` lines, ``aside``: lines that were left aside, and ``aside_changed``: those of
    them that a trim without them segments otherwise.
    """
    counts = found.counts + found.aside
    stays = kept.why[: own.size] >= 0
    texts = {
        name: {
            "lines": found.lines[i],
            "tokens": int(counts[i].sum()),
            "distinct": int((counts[i] > 0).sum()),
            "changed": result.changed[i],
            "aside": tried[i][0],
            "aside_changed": tried[i][1],
        }
        for i, name in enumerate(asked.texts)
    }
    reasons = np.bincount(kept.why[kept.why >= 0], minlength=len(REASONS))
    return {
        "rows": rows,
        "tokens": len(own.ids),
        "kept": len(kept.numbers),
        "reasons": {reason: int(n) for reason, n in zip(REASONS, reasons, strict=True) if n},
        "dropped_used": int(((counts > 0).any(axis=0) & ~stays).sum()),
        "lines": sum(found.lines),
        "changed": sum(result.changed),
        "texts": texts,
    }
