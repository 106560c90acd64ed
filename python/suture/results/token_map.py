"""What a map from the tokens of one vocabulary to those of another comes to."""

from __future__ import annotations

from typing import TypedDict


class TokenMapping(TypedDict):
    """A map of tokens.

    `tokens` are those that are mapped, `classes` how many of each class, `coverage` the share with a match, `distance`
    the mean edit distance of those matched by it, `output` the file with the map.
    """

    of: str
    to: str
    method: str
    tokens: int
    classes: dict[str, int]
    coverage: float
    distance: float | None
    output: str | None
