"""What new pieces do to a Unigram tokenizer: which can be reached at all, and which lines are cut otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from suture.vocab.keys import SPACE
from suture.vocab.segmenter import batches

#: So many lines are brought to the other form and segmented.
MOST = 10_000


@dataclass
class Changes:
    """What text becomes.

    Attributes:
        lines: how many lines are ASCII, and how many are not.
        changed: how many of either are cut into other tokens than before.
        fired: new pieces in text as it is.
        formed: lines that were brought to the other form.
        fired_formed: new pieces in those.
    """

    lines: dict[str, int] = field(default_factory=lambda: {"ascii": 0, "other": 0})
    changed: dict[str, int] = field(default_factory=lambda: {"ascii": 0, "other": 0})
    fired: set[str] = field(default_factory=set)
    formed: int = 0
    fired_formed: set[str] = field(default_factory=set)

    def as_data(self) -> dict[str, Any]:
        """For a report, as JSON."""
        return {
            "lines": self.lines,
            "changed": self.changed,
            "new_in_text": len(self.fired),
            "romanised_lines": self.formed,
            "new_in_romanised": len(self.fired_formed),
        }


def unreachable(made: Any, pieces: Sequence[str]) -> list[str]:
    """The pieces that no text is cut into.

    A Unigram tokenizer takes the best sum of scores: a piece whose own text is cut better is in no best sum of any
    text, and one that is the best of its own is found at least where that stands alone. What the normaliser makes other
    text of is not found either.

    Args:
        made: a `tokenizers.Tokenizer` with the pieces.
        pieces: the pieces.
    """
    lost = []
    for piece in pieces:
        best = [token.value for token in made.model.tokenize(piece)]
        if best != [piece] or not _stays(made, piece):
            lost.append(piece)
    return lost


def _stays(made: Any, piece: str) -> bool:
    """Whether the text of a piece is the same after the normaliser."""
    if made.normalizer is None:
        return True
    bare = piece.replace(SPACE, " ").strip()
    return str(made.normalizer.normalize_str(bare)).replace(SPACE, " ").strip() == bare


def changes(
    old: Any, made: Any, new: Iterable[str], lines: Iterable[str], form: Callable[[str], str] | None
) -> Changes:
    """What becomes of lines of text.

    Args:
        old: the tokenizer without the pieces.
        made: the one with them.
        new: the pieces.
        lines: the text.
        form: what brings text to the form of the pieces; the first `MOST` lines of other letters are.
    """
    found, pieces = Changes(), set(new)
    for batch in batches(lines):
        before, after = (t.encode_batch(batch, add_special_tokens=False) for t in (old, made))
        other: list[str] = []
        for line, one, two in zip(batch, before, after, strict=True):
            kind = "ascii" if line.isascii() else "other"
            found.lines[kind] += 1
            found.changed[kind] += one.tokens != two.tokens
            found.fired |= pieces.intersection(two.tokens)
            if form is not None and kind == "other" and found.formed + len(other) < MOST:
                other.append(form(line))
        for two in made.encode_batch(other, add_special_tokens=False) if other else ():
            found.fired_formed |= pieces.intersection(two.tokens)
        found.formed += len(other)
    return found
