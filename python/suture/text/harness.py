"""Models evaluated elsewhere: the command line for a harness, and a table of what it found."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from suture.errors import MALFORMED, SutureError, UsageError
from suture.results.text import Evaluated, Evaluation

HARNESSES = ("lm-eval", "lighteval")


def emit(
    *models: str | PathLike[str],
    harness: str,
    tasks: Sequence[str],
    out: str | PathLike[str] = "results",
    dtype: str = "bfloat16",
    few_shot: int | None = None,
) -> list[str]:
    """The command lines that evaluate models by a harness: lm-evaluation-harness (``lm-eval``) or ``lighteval``, a line
    a model, quoted for a shell. Nothing is run.

    Args:
        models: folders of models.
        harness: of :data:`HARNESSES`.
        tasks: as the harness names them, such as ``belebele_swh_Latn`` or ``leaderboard|arc:challenge``.
        out: where results go, a folder for each model.
        dtype: of the weights.
        few_shot: examples; None for 0 of lighteval, and each task's own of lm-eval.

    Raises:
        UsageError: if there is no such harness, no task, or a path that the harness's own syntax cannot hold.
    """
    if harness not in HARNESSES:
        raise UsageError(f"emit: expected one of {', '.join(HARNESSES)}, found `{harness}`", at="emit")
    if not models or not tasks:
        at = "tasks" if models else "models"
        raise UsageError(f"{at}: expected some, found none", at=at)
    lines = []
    paths = [fspath(model) for model in models]
    folders = [Path(path).resolve().name for path in paths]
    if len(set(folders)) < len(set(paths)):
        # Two of one name: results of one would be taken for the other's.
        folders = [path.strip("/").replace("/", "-") for path in paths]
    for path, folder in zip(paths, folders, strict=True):
        if wrong := next((c for c in path if c in ",=" or not c.isprintable()), None):
            raise UsageError(
                f"{path}: holds `{wrong}`, which parts arguments of {harness}; give the model another path"
            )
        if not (Path(path) / "config.json").is_file():
            raise UsageError(f"{path}: is no folder with a config.json, which {harness} loads; write it with "
                             "`suture convert` first")  # fmt: skip
        to = str(Path(out) / folder)
        if harness == "lm-eval":
            words = ["lm_eval", "--model", "hf", "--model_args", f"pretrained={path},dtype={dtype}", "--tasks",
                     ",".join(tasks), "--batch_size", "auto", "--output_path", to]  # fmt: skip
            words += [] if few_shot is None else ["--num_fewshot", str(few_shot)]
        else:
            asked = ",".join(f"{task}|{few_shot or 0}" for task in tasks)
            words = ["lighteval", "accelerate", f"model_name={path},dtype={dtype}", asked, "--output-dir", to]
        lines.append(shlex.join(words))
    return lines


def table(*results: str | PathLike[str]) -> Evaluation:
    """Parents against child, of results that harnesses wrote; the last is the child.

    Of each task and metric: every model's figure with its standard error, and the child's less the best of the others
    (the highest, or the lowest where lm-eval's results say that lower is better) with the standard error of the
    difference, as if the two were independent (the harness keeps no figures by item).

    Args:
        results: results of one model each: JSON files of lm-eval or lighteval, or folders of which the newest counts.

    Returns:
        Figures by task; see :class:`suture.results.text.Evaluation`.

    Raises:
        UsageError: if there is no such file.
        SutureError: if a file is none of a harness, or the results share no task.
    """
    if not results:
        raise UsageError("expected results, found none", at="results")
    read = [_results(Path(one)) for one in results]
    names = [fspath(one) for one in results]
    shared = [key for key in read[0] if all(key in one for one in read)]
    if not shared:
        raise SutureError(f"{names[-1]}: shares no task and metric with {names[0]}; evaluate all by the same tasks")
    rows: list[Evaluated] = []
    for task, metric in shared:
        own = [one[task, metric] for one in read]
        best = (min if own[-1][2] else max)(range(len(own) - 1), key=lambda i: own[i][0]) if own[1:] else None
        error = None
        if best is not None and own[-1][1] is not None and own[best][1] is not None:
            error = math.hypot(own[-1][1] or 0.0, own[best][1] or 0.0)
        rows.append({
            "task": task, "metric": metric, "values": [v for v, *_ in own], "errors": [e for _, e, _ in own],
            "best": None if best is None else names[best],
            "difference": None if best is None else own[-1][0] - own[best][0], "difference_error": error,
        })  # fmt: skip
    left = sorted({key for one in read for key in one} - set(shared))
    warnings = [f"`{task}`: {metric} is not in all results, and left out" for task, metric in left]
    return {"schema": 1, "results": names, "tasks": rows, "warnings": warnings}


def _results(path: Path) -> dict[tuple[str, str], tuple[float, float | None, bool]]:
    """Figures, their standard errors and whether lower is better, by task and metric."""
    if path.is_dir():
        inside = sorted(path.rglob("results*.json"), key=lambda p: (p.stat().st_mtime, str(p)))
        if not inside:
            raise UsageError(f"{path}: has no results*.json, which harnesses write")
        path = inside[-1]
    try:
        said: Any = json.loads(path.read_text(encoding="utf-8"))
        found: dict[tuple[str, str], tuple[float, float | None, bool]] = {}
        for task, figures in said["results"].items():
            higher = (said.get("higher_is_better") or {}).get(task) or {}
            for name, value in figures.items():
                metric, _, kind = name.partition(",")
                if "stderr" in metric or task == "all" or isinstance(value, bool) or not isinstance(value, int | float):
                    continue
                if not math.isfinite(value):
                    continue
                beside = f"{metric}_stderr,{kind}" if kind else f"{metric}_stderr"
                error = figures.get(beside)
                good = isinstance(error, int | float) and math.isfinite(error)
                label = metric if kind in ("", "none") else f"{metric} ({kind})"
                lower = not higher.get(metric, "perplexity" not in metric and metric != "bits_per_byte")
                found[task, label] = float(value), float(error) if good else None, lower
    except OSError as e:
        raise UsageError(f"`{path}`: cannot read: {e.strerror}") from None
    except MALFORMED:
        raise SutureError(f"{path}: is no result of lm-eval or lighteval: expected JSON with `results`", path) from None
    if not found:
        raise SutureError(f"{path}: holds no figures", path)
    return found
