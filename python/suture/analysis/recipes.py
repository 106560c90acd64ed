"""Where two outputs come from, compared: by their reports, without reading a weight."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from suture.errors import SutureError, UsageError
from suture.recipe import OUTPUTS, with_names
from suture.results.recipes import Key, Moved, RecipeComparison, Source
from suture.results.report import Report, TensorReport

#: What an output says of itself.
REPORT = "suture.json"


def diff_recipes(one: str | PathLike[str], other: str | PathLike[str]) -> RecipeComparison:
    """Compare two outputs of suture by their reports: which tensors come from elsewhere, which keys of recipes differ.

    Args:
        one: an output, its suture.json, or a plan that `--dry-run --json` printed.
        other: the same.

    Raises:
        SutureError: if there is no report, or it cannot be read.
        UsageError: if it is the list of several outputs, of which one must be named.
    """
    reports = [_read(Path(path)) for path in (one, other)]
    made = [{t.name: t for t in report.tensors} for report in reports]
    shared = [name for name in made[0] if name in made[1]]
    pairs = {name: (made[0][name], made[1][name]) for name in shared}
    alike = {name for name, (a, b) in pairs.items() if _source(a) == _source(b)}
    recipes = [dict(_flat(with_names(report.data["recipe"]))) for report in reports]
    keys = list(_keys(*recipes))
    return {
        "schema": 1,
        "one": fspath(one),
        "other": fspath(other),
        "shared": len(shared),
        "only_one": [name for name in made[0] if name not in made[1]],
        "only_other": [name for name in made[1] if name not in made[0]],
        "retyped": [name for name, (a, b) in pairs.items() if (a.dtype, a.shape) != (b.dtype, b.shape)],
        "elsewhere": [_moved(name, *pairs[name]) for name in shared if name not in alike],
        "other_bytes": [n for n in shared if n in alike and _differ(pairs[n][0].digest, pairs[n][1].digest)],
        "changed_inputs": _changed(*reports),
        "parameters": [key for key in keys if _is_parameter(key)],
        "keys": [key for key in keys if not _is_parameter(key)],
    }


def is_report(path: str | PathLike[str]) -> bool:
    """Whether an argument names a report itself, so that nothing else can be meant."""
    return Path(path).name == REPORT and Path(path).is_file()


def _read(path: Path) -> Report:
    file = path / REPORT if path.is_dir() else path
    if path.suffix == ".safetensors" and not path.is_dir():
        # An output that is one file has its report beside it.
        file = path.with_suffix(f".{REPORT}")
    if path.is_dir() and not file.is_file() and (path / OUTPUTS).is_file():
        raise UsageError(f"{path}: holds several outputs; name one of the folders in it")
    try:
        text = file.read_text(encoding="utf-8")
        report = Report(text, path)
        listed = report.data.get("tensors")
        if not isinstance(report.data.get("recipe"), dict) or not isinstance(listed, dict | list) or not report.tensors:
            raise TypeError
    except FileNotFoundError:
        raise SutureError(f"{file}: no such file; only outputs of suture say what they were made from", path) from None
    except OSError as e:
        raise SutureError(f"{file}: cannot be read: {e.strerror}", path) from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise SutureError(f"{file}: is no report of suture; expected a suture.json or a plan", path) from None
    return report


def _source(tensor: TensorReport) -> Source:
    # In any order: a plan and a report list the inputs of a blend each in its own.
    return {"action": tensor.action, "inputs": sorted([m, t] for m, t in tensor.inputs)}


def _moved(name: str, one: TensorReport, other: TensorReport) -> Moved:
    return {"tensor": name, "one": _source(one), "other": _source(other)}


def _differ(digest: str | None, other: str | None) -> bool:
    return digest is not None and other is not None and digest != other


def _changed(one: Report, other: Report) -> list[str]:
    """Inputs that both read whole, under the same names, and whose bytes were others."""
    first, second = _digests(one), _digests(other)
    return [f"{model}:{tensor}" for (model, tensor), d in first.items() if _differ(d, second.get((model, tensor)))]


def _digests(report: Report) -> dict[tuple[str, str], str]:
    tensors: Any = report.data["tensors"]
    taken = (entry for t in tensors.values() for entry in t["from"]) if isinstance(tensors, dict) else ()
    return {(model, tensor): digest for model, tensor, digest in taken if digest is not None}


def _flat(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a recipe by their key paths; a list of numbers is one."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{at}.{key}" if at else str(key))
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for i, inner in enumerate(value):
            yield from _flat(inner, f"{at}[{i}]")
    else:
        yield at, value


def _keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[Key]:
    for at in dict.fromkeys([*one, *other]):
        if json.dumps(one.get(at)) != json.dumps(other.get(at)):
            yield {"at": at, "one": one.get(at), "other": other.get(at)}


def _is_parameter(key: Key) -> bool:
    return "parameters" in key["at"].replace("[", ".").split(".")
