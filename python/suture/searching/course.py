"""The course of a search: generation by generation candidates are asked for, judged, kept, and told to who proposes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from suture.errors import SutureError
from suture.results.search import Found, SearchResult
from suture.searching.best import CONFIG, plainly, write_best
from suture.searching.genome import Genome
from suture.searching.inputs import read_ahead
from suture.searching.sampler import Sampler
from suture.searching.state import Candidate, State
from suture.searching.work import Maker

#: Called with each candidate that was judged, and the best so far.
Watch = Callable[[Candidate, "Candidate | None"], None]


@dataclass(frozen=True)
class Asked:
    """What a search was asked for and what is told of it, whatever it finds.

    Attributes:
        genome: what is searched.
        out: the folder for best.yml.
        lower: whether lower scores are better.
        budget: candidates to judge in all.
        bytes: what a candidate takes.
        seed: seed of the merges.
        told: what the user should know.
    """

    genome: Genome
    out: Path
    lower: bool
    budget: int
    bytes: int
    seed: int
    told: list[str]

    def found(self, known: Mapping[int, Candidate], best: Candidate | None, ended: str, kept_bytes: int = 0) -> Found:
        """What was found so far."""
        genome = self.genome
        shown = best.genes if best else [g.start for g in genome.genes]
        data: SearchResult = {
            "genes": [
                {"name": g.name, "start": g.start, "low": _finite(g.low), "high": _finite(g.high)} for g in genome.genes
            ],
            "knobs": [{"name": k.name, "value": k.value(shown)} for k in genome.knobs],
            "candidates": [cast("Any", asdict(known[n])) for n in sorted(known)],
            "best": None if best is None else best.number,
            "minimise": self.lower,
            "budget": self.budget,
            "candidate_bytes": self.bytes,
            "kept_bytes": kept_bytes,
            "ended": ended,
            "config": None if best is None else str(self.out / CONFIG),
            "warnings": list(dict.fromkeys(self.told)),
        }
        return Found(self.out, data)


@dataclass
class Course:
    """A search that runs."""

    asked: Asked
    proposer: Sampler
    state: State
    work: Maker
    failures: int
    watch: Watch | None
    inputs: Callable[[], Any]
    report: Callable[[Found], None] | None

    def __post_init__(self) -> None:
        """Take up what was judged before."""
        self.before = self.inputs()
        self.known = self.state.candidates()
        self.best = best_of(self.known.values(), self.asked.lower)

    def to_end(self, workers: int) -> Found:
        """Go on until the budget is spent."""
        budget = self.asked.budget
        self.work.begin()
        if len(self.known) < budget:
            read_ahead(self.asked.genome.config)
        ended = "the budget is spent"
        try:
            if self.best is not None:
                # What a run that was killed did not come to write.
                self._write()
            self._generation(0, 0, [self.proposer.start], workers)
            number, generation = 1, 0
            while number < budget:
                generation += 1
                asked = self.proposer.ask()[: budget - number]
                self._generation(generation, number, asked, workers)
                number += len(asked)
                if len(asked) < self.proposer.population:
                    break
                losses = [self._loss(i) for i in range(number - len(asked), number)]
                if self.proposer.tell(losses):
                    ended = "the sampler sees nothing left to find"
                    break
            if self.best is not None:
                self.work.best(self.asked.genome.merge(self.best.genes))
        except BaseException:
            # What stopped it is what is told, not that there is no room for a page either.
            with suppress(SutureError, OSError):
                self._page("it was interrupted")
            raise
        finally:
            self.work.end()
        found = self._page(ended)
        if found.best is None:
            raise SutureError(
                f"{found.out}: no candidate has a score; the last failed: {self._last_failure()}", found.out
            )
        return found

    def _loss(self, number: int) -> float | None:
        score = self.known[number].score
        return None if score is None else score if self.asked.lower else -score

    def _generation(self, generation: int, first: int, asked: Sequence[list[float]], workers: int) -> None:
        """Have those judged that are not yet."""
        due: list[tuple[int, list[float]]] = []
        for number, genes in enumerate(asked, first):
            known = self.known.get(number)
            if known is None:
                due.append((number, genes))
            elif known.genes != genes:
                message = f"candidate {number} has other numbers than the same seed gives here"
                hint = "another version of NumPy or of the processor's library may have made it; give another --state"
                raise SutureError(f"{self.state.path}: {message}; {hint}", self.state.path)
        if workers == 1:
            for number, genes in due:
                self._take(self.work.one(number, generation, genes, self.asked.genome.merge(genes)))
            return
        self._together(generation, due, workers)

    def _together(self, generation: int, due: list[tuple[int, list[float]]], workers: int) -> None:
        """The same with several at a time; each is kept as soon as it is judged."""
        with ThreadPoolExecutor(workers) as pool:
            running: set[Future[Candidate]] = {
                pool.submit(self.work.one, number, generation, genes, self.asked.genome.merge(genes))
                for number, genes in due
            }
            try:
                while running:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        self._take(future.result())
            except BaseException:
                self.work.stop()
                pool.shutdown(wait=True, cancel_futures=True)
                for future in running:
                    if future.done() and not future.cancelled() and future.exception() is None:
                        self._keep(future.result())
                raise

    def _keep(self, one: Candidate) -> None:
        if self.inputs() != self.before:
            message = "an input, or the target, was changed meanwhile; its score is not kept"
            raise SutureError(f"candidate {one.number}: {message}, begin anew with another OUT")
        if one.failure is None or self._failed() < self.failures:
            self.state.keep(one)
            self.known[one.number] = one

    def _take(self, one: Candidate) -> None:
        if one.failure is not None and self._failed() >= self.failures:
            # Not kept: the same call tries it again.
            message = f"candidate {one.number}: {one.failure}"
            raise SutureError(f"{message}; the search is kept, run the same again to go on, or allow some --failures")
        self._keep(one)
        best = best_of([b for b in (self.best, one) if b is not None], self.asked.lower)
        if best is not self.best:
            self.best = best
            self._write()
        if self.watch is not None:
            self.watch(one, self.best)

    def _failed(self) -> int:
        return sum(c.failure is not None for c in self.known.values())

    def _last_failure(self) -> str:
        return next((c.failure for c in reversed(self.known.values()) if c.failure), "none was judged")

    def _write(self) -> None:
        assert self.best is not None
        told = [f"candidate {self.best.number} of a search by suture, score {self.best.score}"]
        genome = self.asked.genome
        plain = Genome(plainly(genome.config), genome.knobs, genome.genes)
        write_best(plain, self.best.genes, self.asked.out, told, self.asked.seed)

    def _page(self, ended: str) -> Found:
        found = self.asked.found(self.known, self.best, ended, self.work.kept_bytes)
        if self.report is not None:
            self.report(found)
        return found


def best_of(candidates: Iterable[Candidate], lower: bool) -> Candidate | None:
    """The best of some candidates, the first of equals; None if none has a score."""
    scored = [c for c in candidates if c.score is not None]
    return min(scored, key=lambda c: ((c.score or 0.0) * (1 if lower else -1), c.number), default=None)


def _finite(x: float) -> float | None:
    return x if abs(x) != float("inf") else None
