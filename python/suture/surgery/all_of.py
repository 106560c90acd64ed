"""A set of models merged by several methods, and how what they give lies to each expert."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from suture.analysis.diff import diff
from suture.checkpoint import opened
from suture.errors import UsageError
from suture.recipe import Config
from suture.recipe.all_of import TABLE, Set, read_set
from suture.reference import Reference, called
from suture.results import Comparison
from suture.results.report import Report
from suture.results.tables import AllOf, Compared, Towards
from suture.settings import Progress, Settings
from suture.surgery.documents import Beside, merge_documents

#: Rows that a comparison returns at most: a tensor of a model, or of two. Each takes about 3 kB in Python.
_ROWS, _ROW_BYTES = 100_000, 3_000
#: Bytes that a thread takes for each model it compares.
_EACH = 8 << 20
#: Below this share of both lengths squared, a difference of squares has lost digits: the two are then compared anew.
_NEAR = 1e-2

Figure = float | str | None
#: Tensors compared, the output's own change and that as a share of the base; to each expert distance, share, cosine.
_Row = tuple[int, Figure, Figure, list[tuple[Figure, Figure, Figure]]]


def merge_all_of(
    documents: list[Config], out: Path, settings: Settings, dry_run: bool, progress: Progress | None
) -> Report:
    """Merge a set of models by several methods, each into a folder of `out`, and compare what they give.

    Raises:
        UsageError: if the set is wrong; the message gives its line.
        SutureError: if an input is not sound or an output cannot be written.
    """
    if len(documents) > 1:
        error = UsageError(f"a set stands alone in its file; found {len(documents)} documents")
        raise documents[0].locate(error)
    found = read_set(documents[0], lenient=settings.ignore_unknown)

    def table(_: Mapping[str, Report], reports: Mapping[str, Report] | None) -> dict[str, Any] | None:
        return None if reports is None else dict(_table(found, out, settings, progress))

    beside = Beside(TABLE, "left_out", table, found.warnings)
    return merge_documents(found.configs, out, settings, dry_run, progress, beside)


def _table(found: Set, out: Path, settings: Settings, progress: Progress | None) -> AllOf:
    """The figures of all outputs, which are made."""
    names = list(found.methods)
    labels = _labels(found.experts)
    rows: dict[str, _Row] = {}
    for some, how in _batches(found, names, settings):
        rows |= _compared(found, {name: out / name for name in some}, how, progress)
    outputs: list[Compared] = []
    for name, method in found.methods.items():
        tensors, l2, relative, towards = rows[name]
        listed: list[Towards] = [
            {"expert": label, "distance": d, "relative_distance": r, "cosine": c}
            for label, (d, r, c) in zip(labels, towards, strict=True)
        ]
        outputs.append(
            {
                "output": name,
                "merge_method": method.method,
                "title": method.title,
                "tensors": tensors,
                "l2": l2,
                "relative_l2": relative,
                "towards": listed,
            }
        )
    base = None if found.base is None else _labels([found.base])[0]
    return {"schema": 1, "base": base, "experts": labels, "outputs": outputs, "left_out": found.left_out}


def _batches(found: Set, names: list[str], settings: Settings) -> Iterator[tuple[list[str], Settings]]:
    """Which outputs to compare in one reading: as many as the memory has room for, with the threads it has room for."""
    experts, tensors = len(found.experts), _tensors(found)
    rows, threads, models = _ROWS, settings.thread_count, len(names) + experts + 1
    if settings.memory_bytes is not None:
        rows = min(rows, settings.memory_bytes // 4 // _ROW_BYTES)
        threads = max(min(threads, settings.memory_bytes // (2 * _EACH * (experts + 2))), 1)
        models = settings.memory_bytes // (2 * _EACH * threads)
    each = max(models - experts - 1, 1)
    while each > 1 and (each + experts) * (each + experts + 1) // 2 * tensors > rows:
        each -= 1
    # Only merges are computed on a device: `diff` of several models is the core's.
    how = replace(settings, threads=threads, device="cpu", device_memory=None)
    for i in range(0, len(names), each):
        yield names[i : i + each], how


def _tensors(found: Set) -> int:
    """How many tensors a model of the set has."""
    return len(opened(found.experts[0] if found.base is None else found.base).names())


def _compared(found: Set, outs: Mapping[str, Path], settings: Settings, progress: Progress | None) -> dict[str, _Row]:
    """The figures of some outputs, from one reading of these, the experts and the base."""
    if found.base is None:
        return {name: _without_base(found, out, settings, progress) for name, out in outs.items()}
    one = diff(found.base, *outs.values(), *found.experts, settings=settings, progress=progress)
    cosines, first = _cosines(one), len(outs)
    made: dict[str, _Row] = {}
    for i, (name, out) in enumerate(outs.items()):
        own, *theirs = (_lengths(one, j) for j in (i, *range(first, first + len(found.experts))))
        shared = sorted(set(own).intersection(*theirs))
        towards = []
        for j, (expert, its) in enumerate(zip(found.experts, theirs, strict=True), first):
            between = cosines[i, j]
            dot = math.fsum(between[t] * own[t] * its[t] for t in shared)
            both = _square(own, shared), _square(its, shared)
            square = sum(both) - 2 * dot
            if square < _NEAR * sum(both):
                # They all but coincide: the two are read once more, by themselves.
                square = _square(_lengths(diff(expert, out, settings=settings), 0), shared)
            length = math.sqrt(both[1])
            distance = math.sqrt(square)
            towards.append((_told(distance), _ratio(distance, length), _ratio(dot, math.sqrt(both[0]) * length)))
        total = one["models"][i]["total"]
        made[name] = (len(shared), total["l2"], total["relative_l2"], towards)
    return made


def _without_base(found: Set, out: Path, settings: Settings, progress: Progress | None) -> _Row:
    """The distances alone, of an output to each expert."""
    lengths = [_lengths(diff(e, out, settings=settings, progress=progress), 0) for e in found.experts]
    shared = sorted(set.intersection(*map(set, lengths)))
    return len(shared), None, None, [(_told(math.sqrt(_square(one, shared))), None, None) for one in lengths]


def _lengths(found: Comparison, i: int) -> dict[str, float]:
    """Of each tensor of a model that is computed on, the length of its change."""
    return {row["name"]: float(row["l2"]) for row in found["models"][i]["tensors"] if row["l2"] is not None}


def _cosines(found: Comparison) -> dict[tuple[int, int], dict[str, float]]:
    """Of every two models, by their numbers, the cosine of their changes of each tensor; 0 where one has none."""
    pairs = combinations(range(len(found["models"])), 2)
    return {
        two: {row["name"]: float(row["cosine"] or 0) for row in pair["tensors"]}
        for two, pair in zip(pairs, found["pairs"], strict=True)
    }


def _square(lengths: Mapping[str, float], shared: Iterable[str]) -> float:
    return math.fsum(lengths[t] ** 2 for t in shared)


def _ratio(part: float, whole: float) -> Figure:
    """A ratio; nothing where there is nothing to divide by."""
    return _told(part / whole) if whole else None


def _told(value: float) -> Figure:
    """A figure as JSON can write it."""
    return value if math.isfinite(value) else "NaN" if math.isnan(value) else str(value)


def _labels(models: Iterable[str | Reference]) -> list[str]:
    """What models are called, numbered where that repeats."""
    seen: Counter[str] = Counter()
    names = []
    for model in models:
        name = model.label(called(model.path)) if isinstance(model, Reference) else called(model)
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return names
