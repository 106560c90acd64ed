"""A merge config to begin with, from the models that are to be merged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from suture.analysis.compat import compat, reason
from suture.analysis.methods import methods
from suture.analysis.proposed import draft_of
from suture.analysis.seen import COMPUTES, DTYPES, Seen, look
from suture.errors import SutureError, UsageError
from suture.recipe.draft import Draft, Line
from suture.results import Proposal, Spec
from suture.results.compat import Compatibility

#: The share of a change that is kept, to begin with, by methods that thin changes.
_DENSITY = 0.5


def init(
    *models: str | PathLike[str],
    base: str | PathLike[str] | None = None,
    method: str | None = None,
    proposal: Proposal | None = None,
    swap: Mapping[str, Any] | None = None,
) -> str:
    """A merge config for these models, as YAML with comments: to run as it is, and to edit.

    Args:
        models: the models; or a folder that holds them, of which one called ``base`` is the base.
        base: the model they were tuned from.
        method: a merge method; by default ``ties``, of one model ``task_arithmetic``; without a base ``slerp`` of two
            models and ``linear`` of more.
        proposal: what :func:`propose` returned; then the config does what it says, and no models are given.
        swap: the recipe of the swap that took the proposal, if it is not the published rule's.

    Raises:
        UsageError: if there are too few or too many models for the method, or there is no such method.
        SutureError: if the models cannot be merged as they are, or one is not sound.
    """
    if proposal is not None:
        if models or base is not None or method is not None:
            raise UsageError("a proposal names its models; give no others, no base and no method")
        return draft_of(proposal, swap).text
    listed, base = _listed(models, base)
    spec = _method(method, len(listed), base is not None)
    if spec["base"] == "first" and base is None:
        base, *listed = listed
    _check(spec, listed, base)
    everyone = [*([base] if base is not None else []), *listed]
    found = compat(*everyone) if len(everyone) > 1 else None
    seen = look(everyone)
    if found is not None and found["merge"]["answer"] == "no":
        because = "; ".join(found["merge"]["because"])
        raise SutureError(
            f"no config to write, for the models cannot be merged as they are: {because}; see suture compat"
        )
    shared = [_line(p, 1) for p in spec["parameters"] if not p["per_input"]]
    # What holds for each model and has a default stands once, for all of them.
    shared = [*(_line(p, 1, spec) for p in spec["parameters"] if p["per_input"] and p["default"] is not None), *shared]
    own = [_line(p, len(listed)) for p in spec["parameters"] if p["per_input"] and p["default"] is None]
    return Draft(
        method=(spec["name"], spec["summary"]),
        models=[(m, own if i == 0 else [Line(o.key, o.value) for o in own]) for i, m in enumerate(listed)],
        base=base,
        parameters=shared,
        dtype=_dtype(seen),
        remarks=[*_remarks(spec), *_found(found)],
    ).text


def unfinished(text: str) -> list[str]:
    """The lines of a config that a user must fill in before it runs."""
    return [line.strip() for line in text.splitlines() if _PLACE in line and not line.lstrip().startswith("#")]


_PLACE = "path/to/"


def _listed(models: Sequence[str | PathLike[str]], base: str | PathLike[str] | None) -> tuple[list[str], str | None]:
    """The models and their base; those in a folder that is none itself."""
    listed = [fspath(m) for m in models]
    asked = None if base is None else fspath(base)
    if len(listed) == 1 and (inside := _inside(Path(listed[0]))):
        if asked is None:
            asked = next((m for m in inside if Path(m).name == "base"), None)
        listed = inside
    real = None if asked is None else Path(asked).resolve()
    found = [_written(m) for m in listed if Path(m).resolve() != real]
    return found, None if asked is None else _written(asked)


def _written(path: str) -> str:
    """A path as a config has it, which takes a tilde for a home."""
    return f"./{path}" if path.startswith("~") else path


def _inside(folder: Path) -> list[str]:
    """The models in a folder, by name; none if it holds weights itself."""
    try:
        if not folder.is_dir() or _holds_weights(folder):
            return []
        return sorted(str(p) for p in folder.iterdir() if p.is_dir() and _holds_weights(p))
    except OSError as e:
        raise SutureError(f"{folder}: cannot be read: {e.strerror}", folder) from None


def _holds_weights(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in ("*.safetensors", "pytorch_model*.bin"))


def _method(name: str | None, count: int, based: bool) -> Spec:
    specs = {spec["name"]: spec for spec in methods()}
    if name is None:
        name = ("ties" if count > 1 else "task_arithmetic") if based else "slerp" if count == 2 else "linear"
    if name not in specs:
        raise UsageError(f"unknown method `{name}`; `suture methods` lists them")
    return specs[name]


def _check(spec: Spec, listed: Sequence[str], base: str | None) -> None:
    if not listed:
        raise UsageError("no models to merge; give two, or one and its base (--base)")
    if spec["base"] == "required" and base is None:
        raise UsageError(f"method `{spec['name']}` merges changes of a base; give --base")
    if spec["base"] in ("none", "input") and base is not None:
        raise UsageError(f"method `{spec['name']}` has no base; leave --base out, or name the base among the models")
    least, most = spec["inputs"]
    count = len(listed) + (spec["base"] == "first")
    if not least <= count <= most:
        wanted = f"{least}" if least == most else f"{least} or more" if most > 1000 else f"{least} to {most}"
        raise UsageError(f"method `{spec['name']}` takes {wanted} models, found {count}")
    if count == 1 and base is None and spec["name"] != "passthrough":
        raise UsageError("one model alone is nothing to merge; give two, or one and its base (--base)")


def _line(parameter: Any, models: int, thinning: Spec | None = None) -> Line:
    """A parameter: with its default commented out, or where it has none with something to begin with."""
    name, kind, default = parameter["name"], parameter["kind"], parameter["default"]
    if isinstance(default, float) and kind["kind"] == "integer":
        default = int(default)
    if name == "density" and thinning is not None and _thins(thinning):
        return Line(name, _DENSITY, f"{parameter['summary']}; {default:g} by default, which keeps all")
    if default is not None:
        return Line(name, default, parameter["summary"], live=False)
    begun: dict[str, Any] = {"choice": kind.get("words", [""])[0], "switch": True, "checkpoint": f"{_PLACE}{name}"}
    begun["gram"] = begun["checkpoint"]
    if kind["kind"] in begun:
        value = begun[kind["kind"]]
    elif kind["kind"] == "integer":
        value = max(int(kind["min"]), 1)
    else:
        value = min(max(round(1 / models, 3) if name == "weight" else 0.5, kind["min"]), kind["max"])
    return Line(name, value, parameter["summary"])


def _thins(spec: Spec) -> bool:
    """Whether the method makes changes sparse without being told to."""
    return any(p["name"] == "sparsify" and p["default"] != "none" for p in spec["parameters"])


def _dtype(seen: Sequence[Seen]) -> tuple[str, str] | None:
    """The dtype of the models; commented out where they have several, which it would make one of."""
    counts: Counter[str] = Counter()
    for model in seen:
        counts.update(dtype for dtype, _ in model.tensors.values() if dtype in COMPUTES)
    if not counts:
        return None
    most = DTYPES[counts.most_common(1)[0][0]]
    several = "models hold " + " and ".join(sorted(counts)) + "; without this line each tensor keeps the wider one"
    return most, several if len(counts) > 1 else ""


def _remarks(spec: Spec) -> list[str]:
    return [
        "run it with `suture merge THIS_FILE OUT`, look at it first with --dry-run --verbose",
        f"what the method does: `suture methods {spec['name']}`; what else a config can say: `suture schema config`",
        "a value can be a list (a gradient over the layers) or a list of {filter, value}; what is commented out holds",
    ]


def _found(found: Compatibility | None) -> list[str]:
    """What `compat` says differs."""
    if found is None:
        return []
    rows = [row for row in found["rows"] if row["status"] != "same"]
    if not rows:
        return ["suture compat: the models are alike in all that headers and configs tell"]
    lines = [reason(row) + (f"; {row['remedy']}" if row["remedy"] else "") for row in rows]
    return ["suture compat: the models differ in", *(f"  {line}" for line in lines)]
