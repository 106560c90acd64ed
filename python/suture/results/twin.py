"""What a twin says of itself: one shared model, and of each expert what leads to it from there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypedDict, cast

from suture.errors import SutureError, UsageError

RECORD = "twin.json"
SHARED = "shared"
EXPERTS = "experts"


class TwinExpert(TypedDict):
    """An expert: its name, which is its folder's in ``experts/``, and bytes of weights.

    `bytes` are those of its difference, `own_bytes` those of the expert as it was.
    """

    name: str
    bytes: int
    own_bytes: int


class TwinShared(TypedDict):
    """The shared expert: the merge that made it, what it was asked for, bytes of its weights."""

    method: str
    parameters: dict[str, Any]
    bytes: int


class TwinInfo(TypedDict):
    """What a twin is.

    `rank_share` is of the form svd, `density` of the others, and `seed` of random elements; `excluded` are tensors that
    every model has as the shared one has them, `whole` those kept whole on demand, `bytes` those of all its weights,
    `files` all that it holds beside its record.
    """

    schema: int
    suture: str
    form: str
    rank_share: float | None
    density: float | None
    seed: int | None
    base: str
    shared: TwinShared
    experts: list[TwinExpert]
    excluded: list[str]
    whole: list[str]
    bytes: int
    own_bytes: int
    files: list[str]


def read_twin(twin: str | PathLike[str]) -> TwinInfo:
    """The record of the twin in a folder.

    Raises:
        UsageError: if there is no such folder.
        SutureError: if it is no twin, or a later suture's.
    """
    folder = Path(twin)
    if not folder.is_dir():
        raise UsageError(f"`{fspath(twin)}`: no such folder; expected what `suture twin make` wrote")
    file = folder / RECORD
    try:
        said = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise SutureError(f"{folder}: is no twin; expected a folder with {RECORD}", str(folder)) from None
    except (OSError, ValueError) as e:
        raise SutureError(f"{file}: cannot be read: {e}; make the twin again", str(file)) from None
    if not isinstance(said, dict) or said.get("schema") != 1:
        found = said.get("schema") if isinstance(said, dict) else said
        raise SutureError(f"{file}: expected schema 1, found {found!r}; it is of another suture", str(file))
    try:
        shapes = [isinstance(said[key], kind) for key, kind in _KINDS.items()]
        names = [expert["name"] for expert in said["experts"]]
        sound = all(shapes) and all(_plain(name) for name in names) and len(set(names)) == len(names) > 0
    except (KeyError, TypeError):
        sound = False
    if not sound:
        raise SutureError(f"{file}: is not as a twin has it; make the twin again", str(file))
    return cast(TwinInfo, {"density": None, "seed": None, **said})


_KINDS = {"form": str, "shared": dict, "experts": list, "excluded": list, "whole": list, "files": list}


def compressed(said: TwinInfo) -> str:
    """How the differences of a twin are compressed, in a few words."""
    if said["form"] == "svd":
        return f"svd, rank share {said['rank_share']}"
    seed = "" if said["seed"] is None else f", seed {said['seed']}"
    return f"{said['form']}, density {said['density']}{seed}"


def _plain(name: Any) -> bool:
    """Whether it names a folder and leads nowhere else."""
    return isinstance(name, str) and name not in ("", ".", "..") and "/" not in name and "\0" not in name


def weights_by_name(
    said: TwinInfo, weights: Sequence[float] | Mapping[str, float] | None, only: str | None = None
) -> dict[str, float]:
    """A weight for each expert of a twin, in its order, of what a user gives: numbers in that order, or by name.

    Raises:
        UsageError: if not one of both is given, or not as many weights, or there is no expert of such a name.
    """
    names = [expert["name"] for expert in said["experts"]]
    if (weights is None) == (only is None):
        found = "neither" if only is None else "both"
        raise UsageError(f"weights: expected weights or the name of one expert (only), found {found}", at="weights")
    by_name = isinstance(weights, Mapping)
    for name in weights if isinstance(weights, Mapping) else [] if only is None else [only]:
        if name not in names:
            listed = ", ".join(f"`{n}`" for n in names)
            at = "weights" if by_name else "only"
            raise UsageError(f"{at}: no expert `{name}`; expected one of {listed}", at=at)
    if only is not None:
        return {name: float(name == only) for name in names}
    if isinstance(weights, Mapping):
        found_weights = {name: float(weights.get(name, 0.0)) for name in names}
    else:
        listed_weights = list(weights or ())
        if len(listed_weights) != len(names):
            order = ", ".join(names)
            raise UsageError(
                f"weights: expected one for each of {len(names)} experts ({order}), found {len(listed_weights)}",
                at="weights",
            )
        found_weights = dict(zip(names, map(float, listed_weights), strict=True))
    for name, weight in found_weights.items():
        if not abs(weight) < float("inf"):
            raise UsageError(f"weights: expected finite numbers, found {weight} for `{name}`", at="weights")
    return found_weights
