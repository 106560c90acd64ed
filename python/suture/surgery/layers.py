"""Layers of a model kept, dropped, repeated, strided, or taken of several: depth up and down."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import Any

from suture.analysis.diff import diff
from suture.checkpoint import open as opened
from suture.errors import SutureError, UsageError
from suture.recipe import documents, merges
from suture.results.report import Report
from suture.settings import Progress, Settings
from suture.surgery.documents import recipe_of
from suture.surgery.influence import least
from suture.surgery.run import carry_out, for_output, prepare

#: Layers in a row: the first, and the one behind the last.
Span = tuple[int, int]


def layers(
    model: str | PathLike[str] | None,
    out: str | PathLike[str],
    *,
    keep: str | None = None,
    drop: str | None = None,
    repeat: str | None = None,
    stride: int | None = None,
    from_slices: str | None = None,
    scale: Mapping[str, float] | None = None,
    influence: str | PathLike[str] | None = None,
    report: str | PathLike[str] | None = None,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Write a model with other layers, each bit for bit, and a config.json that says so.

    One of `keep`, `drop`, `repeat`, `stride` and `from_slices` is given. Layers are counted from 0; ``8-15`` means both
    and all between.

    Args:
        model: the model; None with `from_slices`.
        out: the output folder.
        keep: the layers that stay, in this order: ``0-7,12,15-31``.
        drop: the layers that go; or with `influence` ``least:4``, the four of least influence.
        repeat: the layers that come twice, the copy behind the original (depth up-scaling, arXiv 2312.15166).
        stride: a number that divides that of the layers; the last of each so many stays (BiStil, arXiv 2306.02767).
        from_slices: models and their layers, one behind the other: ``A=0-23,B=8-31``.
        scale: what matrices are multiplied by, by a part of their names: ``{"o_proj": 0.5}``; with `repeat` in the
            copies alone.
        influence: what ``suture text influence MODEL --json`` printed, for ``drop="least:4"`` (ShortGPT, arXiv
            2403.03853).
        report: the base that the model was tuned from: the report tells what the training had changed in each layer
            that goes.
        settings: how to do the work.
        dry_run: return the plan instead of running it.
        progress: called with the bytes done and the bytes in all, a few times a second.

    Raises:
        UsageError: if a layer is not there, or none is left.
        SutureError: if the config cannot say what the layers now are, or the output cannot be written.
        KeyboardInterrupt: on Ctrl-C; the same call then resumes.
    """
    given = {"keep": keep, "drop": drop, "repeat": repeat, "stride": stride, "from_slices": from_slices}
    asked = [name for name, value in given.items() if value is not None]
    if len(asked) != 1:
        names = ", ".join(given)
        raise UsageError(f"expected one of {names}; found {' and '.join(asked) or 'none'}")
    if (model is None) != (from_slices is not None):
        raise UsageError(
            "from_slices: names its models itself" if model is not None else "expected a model", at="from_slices"
        )
    notes: list[tuple[str, str]] = []
    if from_slices is not None:
        slices = [_slice(name, span, scale) for name, spans in _sliced(from_slices) for span in spans]
        if influence is not None or report is not None:
            raise UsageError("influence and report go with a model; from_slices names several", at="from_slices")
    else:
        name = fspath(model or "")
        count = _count(name)
        given["drop"] = least(drop, influence, count)
        spans = _spans(count, given)
        slices = [_slice(name, span, scale if again or repeat is None else None) for span, again in spans]
        if report is not None:
            kept = {i for span, _ in spans for i in range(*span)}
            notes = _changes(name, report, [i for i in range(count) if i not in kept], settings)
    config = merges(documents({"merge_method": "passthrough", "slices": slices}))[0]
    settings = for_output(out, settings or Settings())
    job = prepare(recipe_of(config, settings), settings, config=config, notes=notes)
    return carry_out(job, out, dry_run, progress)


def _changes(
    model: str, base: str | PathLike[str], cut: Sequence[int], settings: Settings | None
) -> list[tuple[str, str]]:
    """What a training had changed in layers: a title and a text for each.

    Raises:
        UsageError: if none goes.
        SutureError: if the base is not sound, or not of the same shape.
    """
    if not cut:
        raise UsageError("report: no layer goes, so there is no change to tell of", at="report")
    rows = diff(base, model, layers=",".join(map(str, cut)), settings=settings)["models"][0]["layers"]
    return [("cut", _told(row, base)) for row in rows]


def _told(row: Mapping[str, Any], base: str | PathLike[str]) -> str:
    """A row of a comparison in words."""
    share = row["relative_l2"]
    # Of zeros no share is known.
    of_norm = f"{share:.2%} of its norm" if isinstance(share, float) else "all that it has, from zeros,"
    by = f"{of_norm} in {fspath(base)}, {row['changed']:.1%} of its elements"
    return f"layer {row['layer']} was changed by {by}"


def _slice(model: str, span: Span, scale: Mapping[str, float] | None) -> dict[str, Any]:
    """A slice of a recipe."""
    source: dict[str, Any] = {"model": model, "layer_range": list(span)}
    if scale:
        rules: list[dict[str, Any]] = [{"filter": part, "value": value} for part, value in scale.items()]
        source["parameters"] = {"scale": [*rules, {"value": 1.0}]}
    return {"sources": [source]}


def _count(model: str) -> int:
    """How many layers a model has.

    Raises:
        SutureError: if it has no stack of layers.
    """
    found = opened(model)
    main = [stack for stack in found.describe()["stacks"] if stack["main"]]
    if len(main) != 1:
        raise SutureError(f"{model}: has no one stack of layers; say in a config which (`stack`)", model)
    return int(main[0]["layers"])


def _spans(count: int, given: Mapping[str, Any]) -> list[tuple[Span, bool]]:
    """The layers of the output, in rows, and whether they come a second time."""
    if (stride := given["stride"]) is not None:
        if not 2 <= stride <= count or count % stride:
            raise UsageError(f"stride: expected a number that divides the {count} layers, found {stride}", at="stride")
        return [(span, False) for span in _rows(range(stride - 1, count, stride))]
    name = next(n for n in ("keep", "drop", "repeat") if given[n] is not None)
    listed = [range(*span) for span in ranges(given[name], count, name)]
    if name == "keep":
        return [((r.start, r.stop), False) for r in listed]
    chosen = sorted({i for r in listed for i in r})
    if name == "drop":
        left = _rows([i for i in range(count) if i not in set(chosen)])
        if not left:
            raise UsageError(f"drop: `{given[name]}` leaves no layer of {count}", at="drop")
        return [(span, False) for span in left]
    out: list[tuple[Span, bool]] = []
    at = 0
    for first, end in _rows(chosen):
        out += [((at, end), False), ((first, end), True)]
        at = end
    return [*out, *([((at, count), False)] if at < count else [])]


def _rows(listed: Sequence[int]) -> list[Span]:
    """Ascending numbers as rows."""
    out: list[Span] = []
    for i in listed:
        if out and out[-1][1] == i:
            out[-1] = (out[-1][0], i + 1)
        else:
            out.append((i, i + 1))
    return out


def ranges(text: str, count: int | None, at: str) -> list[Span]:
    """Layers as they are listed.

    Raises:
        UsageError: if one is not there, or the list is none.
    """
    out: list[Span] = []
    for item in text.split(","):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", item.strip())
        span = (int(match[1]), int(match[2] or match[1]) + 1) if match else (0, 0)
        if span[1] <= span[0]:
            raise UsageError(f"{at}: expected layers such as 0-7,12,15-31, found `{text}`", at=at)
        if count is not None and span[1] > count:
            raise UsageError(f"{at}: there is no layer {span[1] - 1}; the model has 0 to {count - 1}", at=at)
        out.append(span)
    return out


def _sliced(text: str) -> list[tuple[str, list[Span]]]:
    """Models and their layers: ``A=0-23,B=8-31``; a range without a model is of the one before.

    Raises:
        UsageError: if it is no such list.
    """
    out: list[tuple[str, list[Span]]] = []
    for item in text.split(","):
        name, equals, span = item.rpartition("=")
        if not equals and not out:
            raise UsageError(
                f"from_slices: expected models and layers such as A=0-23,B=8-31, found `{text}`", at="from_slices"
            )
        spans = ranges(span, None, "from_slices")
        if equals:
            out.append((name.strip(), spans))
        else:
            out[-1][1].extend(spans)
    return out
