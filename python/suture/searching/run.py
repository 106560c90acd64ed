"""The search: what it is called with, checked, and what it is of, taken down."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from suture.errors import SutureError, UsageError
from suture.recipe import Config, documents, merges
from suture.results.search import Found
from suture.searching.best import plainly
from suture.searching.course import Asked, Course, Watch
from suture.searching.evolve import translated
from suture.searching.genome import Genome, genome_of
from suture.searching.inputs import stamps
from suture.searching.judge import Command
from suture.searching.objective import objective_of
from suture.searching.sampler import sampler_of
from suture.searching.state import State
from suture.searching.work import Folders, Maker
from suture.settings import Settings
from suture.surgery.documents import recipe_of
from suture.surgery.job import refuse_stores
from suture.surgery.merge import merge

_STATE = "search.sqlite"


def search(
    config: Mapping[str, Any] | str | PathLike[str],
    out: str | PathLike[str],
    *,
    evaluate: str | Callable[[Any], float] | None = None,
    objective: str | None = None,
    budget: int = 100,
    workers: int = 1,
    seed: int = 0,
    sigma: float = 1 / 6,
    population: int | None = None,
    sampler: str = "cma",
    minimise: bool = False,
    timeout: float | None = None,
    metric: str | None = None,
    failures: int = 0,
    keep: bool = False,
    in_memory: Any = None,
    state: str | PathLike[str] | None = None,
    settings: Settings | None = None,
    dry_run: bool = False,
    watch: Watch | None = None,
    report: Callable[[Found], None] | None = None,
) -> Found:
    """Search coefficients of a merge: values of `config` that are ``{search: [low, high]}``, or a genome of
    mergekit-evolve.

    Candidate 0 is where the search begins. Then come generations; each follows from the seed and the scores of those
    before it, whatever the number of workers. Every candidate that was judged is in the state at once: the same call
    goes on after the last one, and asks for the very candidates that it would have asked for.

    Args:
        config: the config, a file or a mapping.
        out: the folder for best.yml with its coefficient files.
        evaluate: a command line with ``{model}`` in it, or a callable that is given a candidate's folder; its score
            is better when it is higher.
        objective: instead of that, a figure of the weights: ``distance:TARGET``, ``balance`` or ``interference``.
        budget: candidates to judge in all, those of earlier calls included.
        workers: candidates that are made and judged at a time, each in a folder of its own.
        seed: seed of the search, below 2**32; random methods take that of `settings`.
        sigma: standard deviation of the first generation, of CMA-ES; of genes with two bounds, in shares of the range.
        population: candidates in a generation; None for the sampler's own.
        sampler: ``cma``, or a sampler of optuna's by its name.
        minimise: whether lower scores are better.
        timeout: seconds that the command may take.
        metric: the key of the number in the JSON that the command prints; None for the last number it prints.
        failures: how often judging may fail before the search stops; one that failed is behind all others.
        keep: whether candidates stay, each in a folder of its number.
        in_memory: a torch module or tensors by name that candidates are made in, instead of folders, by
            ``suture.torch``; `evaluate` is a callable that is given it, and at the end the best is in it. True for
            tensors that are made for it.
        state: the SQLite file; None for ``search.sqlite`` in `out`.
        settings: memory, threads, I/O and dtype of the merges.
        dry_run: whether to check everything and judge nothing.
        watch: called with each candidate that was judged, and the best so far.
        report: called with what was found whenever the search ends, whatever ended it.

    Raises:
        UsageError: if the config or an argument is wrong, or the state is of another search.
        SutureError: if a candidate cannot be made or judged; what was judged before is kept.
        KeyboardInterrupt: on Ctrl-C; likewise.
    """
    settings = settings or Settings()
    in_memory = None if in_memory is False else in_memory
    settings.refuse_parts("candidates are made as a whole")
    for place in (out, out if state is None else state):
        refuse_stores(place)
    _check_numbers(budget, workers, seed, failures)
    read, told = _read(config)
    genome = genome_of(recipe_of(read, settings))
    if in_memory is not None:
        _check_in_memory(evaluate, workers, keep)
    judge = _judge(evaluate, objective, metric, timeout, genome)
    lower = minimise or (objective is not None)
    proposer = sampler_of(sampler, genome.genes, seed, sigma, population)
    # What merging would refuse, and what it would tell, before anything is kept.
    first = merge(genome.merge(proposer.start), Path(out) / "candidate", settings=settings, dry_run=True)
    told += first.warnings
    place, target = Path(out), None
    if objective is not None and objective.startswith("distance:"):
        target = objective.removeprefix("distance:")
    file = place / _STATE if state is None else Path(state)
    asked = Asked(genome, place, lower, budget, first.data["write_bytes"], settings.seed, told)
    resident = None
    if in_memory is not None:
        try:
            # Without it there need be no torch.
            from suture.searching.resident import Resident
        except ImportError:
            raise UsageError("in_memory: needs PyTorch; install it: pip install torch", at="in_memory") from None
        resident = Resident(genome, first.data, settings, judge, in_memory)
        told += resident.told
    if dry_run:
        return asked.found({}, None, "nothing was judged")
    _check_place(place, file)

    def inputs() -> list[Any]:
        return stamps(genome.config, target)

    identity = {
        "config": plainly(genome.config),
        "inputs": inputs(),
        "evaluator": evaluate if isinstance(evaluate, str) else getattr(evaluate, "__qualname__", None),
        "objective": objective,
        "in memory": resident and resident.dtypes,
        "metric": metric,
        "minimise": lower,
        "sampler": [sampler, proposer.version, proposer.population],
        "sigma": sigma,
        "seed": seed,
        "seed of merges": settings.seed,
        "out": None if state is None else os.path.abspath(place),
    }
    kept = State(file)
    try:
        kept.bind(identity)
        place.mkdir(parents=True, exist_ok=True)
        folder = file.with_name(f".{file.name}.candidates")
        work: Maker = resident or Folders(folder, settings, judge, keep, place / "candidates")
        return Course(asked, proposer, kept, work, failures, watch, inputs, report).to_end(workers)
    except OSError as e:
        raise SutureError(f"{place}: cannot write: {e.strerror}; the state is kept", place) from None
    finally:
        kept.close()


def _check_numbers(budget: int, workers: int, seed: int, failures: int) -> None:
    for name, value, low, high in (
        ("budget", budget, 1, 10**7),
        ("workers", workers, 1, 256),
        ("seed", seed, 0, 2**32 - 1),
        ("failures", failures, 0, 10**7),
    ):
        if not low <= value <= high:
            raise UsageError(f"{name}: expected a number from {low} to {high}, found {value}", at=name)


def _check_in_memory(evaluate: object, workers: int, keep: bool) -> None:
    """Refuse what does not go with candidates in memory."""
    if not callable(evaluate):
        what = "a command is given a folder" if evaluate else "an objective reads files"
        message = f"{what}; leave in_memory out, or in Python give a callable that takes the model"
        raise UsageError(f"in_memory: {message}", at="in_memory")
    for name, wrong in (("workers", workers != 1), ("keep", keep)):
        if wrong:
            raise UsageError(f"{name}: candidates in memory are one at a time, in one model; leave it out", at=name)


def _read(config: Mapping[str, Any] | str | PathLike[str]) -> tuple[Config, list[str]]:
    """The config with its models found, and what to tell."""
    written = documents(config)
    if len(written) != 1:
        raise UsageError(f"{fspath(config)}: one merge is searched; found {len(written)} documents")  # type: ignore[arg-type]
    one, told = written[0], list[str]()
    if "genome" in one.recipe:
        try:
            recipe, told = translated(one.recipe)
        except UsageError as e:
            raise one.locate(e) from None
        one = Config(recipe, one.source)
    found = merges([one])
    if len(found) != 1 or found[0].listed or found[0].name is not None:
        raise UsageError("outputs: one merge is searched, without a name; leave `outputs` and `name` out", at="outputs")
    return found[0], told


def _judge(
    evaluate: str | Callable[[Path], float] | None,
    objective: str | None,
    metric: str | None,
    timeout: float | None,
    genome: Genome,
) -> Callable[[Path], float]:
    if (evaluate is None) == (objective is None):
        raise UsageError("a search takes an evaluator or an objective, one of them", at="evaluate")
    if isinstance(evaluate, str):
        return Command(evaluate, metric, timeout)
    for name, given in (("metric", metric), ("timeout", timeout)):
        if given is not None:
            raise UsageError(f"{name}: goes with a command that evaluates; leave it out", at=name)
    return objective_of(objective, genome.config) if objective is not None else evaluate  # type: ignore[return-value]


def _check_place(out: Path, state: Path) -> None:
    """See to it that nothing in OUT is somebody else's.

    Raises:
        SutureError: if it is.
    """
    if out.exists() and not out.is_dir():
        raise SutureError(f"{out}: is a file; expected a folder, or none", out)
    if not state.exists() and out.is_dir() and any(out.iterdir()):
        raise SutureError(f"{out}: holds something, and no search ({state} is not there); give another OUT", out)


__all__ = ["Watch", "search"]
