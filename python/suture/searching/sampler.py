"""Who proposes candidates: CMA-ES, of the library cmaes, or a sampler of optuna; made again by asking and telling."""

from __future__ import annotations

import importlib
import inspect
import math
import random
from collections.abc import Sequence
from typing import Any, Protocol

from suture.errors import UsageError
from suture.searching.genome import Gene

#: What stands for the loss of a candidate that could not be judged: behind all others.
_WORST = 1.7e308


class Sampler(Protocol):
    """Proposes generations of candidates, each from what was told of those before, and from its seed alone.

    Attributes:
        version: the library it is of, with its version.
        population: candidates in a generation.
        start: the genes that the search begins with.
    """

    version: str
    population: int
    start: list[float]

    def ask(self) -> list[list[float]]:
        """The genes of the next generation."""

    def tell(self, losses: Sequence[float | None]) -> bool:
        """Take what became of that generation, lower is better, None failed; true if there is no point in going on."""


def sampler_of(name: str, genes: Sequence[Gene], seed: int, sigma: float, population: int | None) -> Sampler:
    """The sampler of a name: ``cma``, or a sampler of optuna's such as ``tpe``, ``random`` or ``GPSampler``.

    Raises:
        UsageError: if there is none of that name, or a number is out of range.
        UsageError: if the library is not installed.
    """
    if not 0 < sigma < math.inf:
        raise UsageError(f"sigma: expected a number above 0, found {sigma}", at="sigma")
    if population is not None and not 2 <= population <= 10_000:
        raise UsageError(f"population: expected a number from 2 to 10000, found {population}", at="population")
    begin = _starts(genes, seed)
    if name in ("cma", "cmaes"):
        return _Cma(genes, begin, seed, sigma, population)
    return _Optuna(name, genes, begin, seed, population)


def _starts(genes: Sequence[Gene], seed: int) -> list[float]:
    """Where the search begins: where each gene says, or at a place drawn by the seed, at most 0.5 beside that."""
    draw = random.Random(seed)
    found = []
    for gene in genes:
        low, high = max(gene.low, gene.start - 0.5), min(gene.high, gene.start + 0.5)
        found.append(draw.uniform(low, high) if gene.random else gene.start)
    return found


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        message = f"the search takes the library {name}, which is not installed; run `pip install {name}`"
        raise UsageError(message) from None


class _Cma:
    """CMA-ES (Hansen); genes between two bounds are searched between 0 and 1, others as they are."""

    def __init__(
        self, genes: Sequence[Gene], begin: list[float], seed: int, sigma: float, population: int | None
    ) -> None:
        import numpy as np

        library = _library("cmaes")
        self.version = f"cmaes {library.__version__}"
        self.start = begin
        self._genes = genes
        self._np = np
        bounded = [math.isfinite(g.high - g.low) for g in genes]
        self._shift = np.array([g.low if b else 0.0 for g, b in zip(genes, bounded, strict=True)])
        self._scale = np.array([g.high - g.low if b else 1.0 for g, b in zip(genes, bounded, strict=True)])
        mean = (np.array(begin) - self._shift) / self._scale
        low = (np.array([g.low for g in genes]) - self._shift) / self._scale
        high = (np.array([g.high for g in genes]) - self._shift) / self._scale
        if len(genes) == 1:
            # The library wants two dimensions at least: the second decides nothing.
            mean, low, high = (np.append(a, b) for a, b in ((mean, 0.0), (low, -np.inf), (high, np.inf)))
        more = {} if population is None else {"population_size": population}
        self._cma = library.CMA(mean=mean, sigma=sigma, bounds=np.stack([low, high], 1), seed=seed, **more)
        self.population = int(self._cma.population_size)
        self._asked: list[Any] = []

    def ask(self) -> list[list[float]]:
        self._asked = [self._cma.ask() for _ in range(self.population)]
        return [self._real(x) for x in self._asked]

    def _real(self, x: Any) -> list[float]:
        found = self._shift + self._scale * x[: len(self._genes)]
        # What was moved and scaled may be beyond a bound by its last bit.
        return [min(max(float(v), g.low), g.high) for v, g in zip(found, self._genes, strict=True)]

    def tell(self, losses: Sequence[float | None]) -> bool:
        told = [(x, _WORST if v is None else v) for x, v in zip(self._asked, losses, strict=True)]
        self._cma.tell(told)
        return bool(self._cma.should_stop())


def _fits(kind: Any) -> bool:
    """Whether a sampler of optuna's wants nothing of its own, goes by a seed (else none could go on), and takes any
    number between two."""
    wants = inspect.signature(kind).parameters
    own = [p for p in wants.values() if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return "seed" in wants and not own and not inspect.isabstract(kind) and not kind.__name__.startswith("Brute")


class _Optuna:
    """A sampler of optuna's; its study is in memory and made again by telling."""

    def __init__(self, name: str, genes: Sequence[Gene], begin: list[float], seed: int, population: int | None) -> None:
        optuna = _library("optuna")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        known = [n for n in dir(optuna.samplers) if n.endswith("Sampler") and _fits(getattr(optuna.samplers, n))]
        wanted = next((n for n in known if n.lower() in (name.lower(), f"{name.lower()}sampler")), None)
        if wanted is None:
            told = ", ".join(n.removesuffix("Sampler").lower() for n in known)
            raise UsageError(f"sampler: expected cma, or of optuna {told}; found `{name}`", at="sampler")
        kind = getattr(optuna.samplers, wanted)
        open_ = next((g for g in genes if not math.isfinite(g.high - g.low)), None)
        if open_ is not None:
            message = f"`{wanted}` searches between bounds, and `{open_.name}` has none; give `search: [low, high]`"
            raise UsageError(f"sampler: {message}", at="sampler")
        self.version = f"optuna {optuna.__version__}"
        self.start = begin
        self.population = population or 4
        self._optuna = optuna
        self._ranges = {str(i): optuna.distributions.FloatDistribution(g.low, g.high) for i, g in enumerate(genes)}
        self._study = optuna.create_study(sampler=kind(seed=seed))
        self._asked: list[Any] = []

    def ask(self) -> list[list[float]]:
        self._asked = [self._study.ask(self._ranges) for _ in range(self.population)]
        return [[float(t.params[name]) for name in self._ranges] for t in self._asked]

    def tell(self, losses: Sequence[float | None]) -> bool:
        for trial, loss in zip(self._asked, losses, strict=True):
            failed = self._optuna.trial.TrialState.FAIL
            self._study.tell(trial, loss, state=failed if loss is None else None)
        return False
