"""What a search found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict


class SearchedGene(TypedDict):
    """A number that is searched."""

    name: str
    #: Where the search begins, unless the seed draws a place beside it.
    start: float
    #: The least it may be; null for no bound.
    low: float | None
    #: The most it may be; null for no bound.
    high: float | None


class LayerValues(TypedDict):
    """A value for each layer."""

    layers: dict[str, float]
    #: What lies outside the layers has.
    default: float


class SearchedValue(TypedDict):
    """A value of the config that genes make."""

    name: str
    #: What it is with the best candidate, or at the start where none has a score.
    value: float | LayerValues


class JudgedCandidate(TypedDict):
    """A candidate that was judged."""

    number: int
    #: From 1; 0 is where the search begins.
    generation: int
    #: Its numbers, in the order of `genes`.
    genes: list[float]
    #: Null if judging failed.
    score: float | None
    #: Why there is no score.
    failure: str | None
    #: Seconds that it took to make.
    made: float
    #: Seconds that it took to judge.
    judged: float


class SearchResult(TypedDict):
    """What a search found, or dry what it would search."""

    genes: list[SearchedGene]
    knobs: list[SearchedValue]
    #: In the order of their numbers; dry none.
    candidates: list[JudgedCandidate]
    #: The number of the best one, the first of equals; null if none has a score.
    best: int | None
    #: Whether lower scores are better.
    minimise: bool
    #: Candidates to judge in all.
    budget: int
    #: Bytes of the tensors' files of a candidate.
    candidate_bytes: int
    #: Bytes that this call did not have to write, since the candidate before had the same.
    kept_bytes: int
    #: Why it ended.
    ended: str
    #: The merge config of the best; null if there is none.
    config: str | None
    warnings: list[str]


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        out: the folder with best.yml and its coefficient files.
        data: the same as data, as ``suture schema search`` says.
    """

    out: Path
    data: SearchResult

    @property
    def config(self) -> Path:
        """The merge config of the best candidate."""
        return self.out / "best.yml"

    @property
    def best(self) -> JudgedCandidate | None:
        """The best candidate, the first of equals; None if none has a score."""
        number = self.data["best"]
        return None if number is None else next(c for c in self.data["candidates"] if c["number"] == number)

    @property
    def score(self) -> float | None:
        """Its score."""
        return None if self.best is None else self.best["score"]

    @property
    def warnings(self) -> list[str]:
        """What the user should know."""
        return list(self.data["warnings"])
