"""Configs of `suture assemble`: parts of several checkpoints, each under a prefix of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from suture.errors import UsageError, near
from suture.recipe import Config, documents
from suture.recipe.paths import model_path
from suture.reference import Model

_KEYS = ("parts", "config", "tokenizer", "dtype", "freeze")
_PART = ("model", "adapters", "take", "drop", "rename", "prefix", "dtype", "linear")
_LINEAR = ("from", "to", "in", "out", "bias", "ridge", "inputs", "outputs", "init", "std", "seed", "weight")
#: Dtypes as configs call them, and as files do.
DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}
#: How a projection is drawn.
INITS = ("normal", "uniform", "xavier")


@dataclass(frozen=True)
class Rows:
    """A file of rows: NumPy's, or a tensor of a safetensors file, by its name where there are several."""

    file: str
    tensor: str | None = None


@dataclass(frozen=True)
class Linear:
    """A projection that is asked for.

    Attributes:
        ends: the parts that it leads from and to, by their names.
        sizes: how wide these are, where it is said.
        bias: whether there is one; or the file that holds it.
        ridge: what the sum of the squared weights is multiplied by, if it is a regression.
        states: what goes in and what should come out of a regression.
        init: how it is drawn, where it is.
        std: of `normal`.
        seed: what is drawn by; None for the run's.
        weight: the file that holds it.
    """

    ends: tuple[str | None, str | None]
    sizes: tuple[int | None, int | None]
    bias: bool | Rows
    ridge: float | None
    states: tuple[Rows, Rows] | None
    init: str | None
    std: float
    seed: int | None
    weight: Rows | None


@dataclass(frozen=True)
class Part:
    """A part of the output.

    Attributes:
        name: what the config calls it.
        model: where its tensors come from; None for a projection.
        take: tensors, or beginnings of names, that are taken; None for all.
        drop: those that are left out of these.
        rename: beginnings of names, and what stands there in the output.
        prefix: what stands before its names in the output.
        dtype: its dtype, if said.
        linear: the projection that it is.
    """

    name: str
    model: Model | None
    take: tuple[str, ...] | None
    drop: tuple[str, ...]
    rename: Mapping[str, str]
    prefix: str
    dtype: str | None
    linear: Linear | None

    @property
    def at(self) -> str:
        """Where it stands in the config."""
        return f"parts.{self.name}"


@dataclass(frozen=True)
class Composition:
    """What a config asks for.

    Attributes:
        parts: the parts, in the order of the output.
        config: what config.json says, as it is asked for; None for none.
        tokenizer: the part whose tokenizer goes with the output.
        dtype: of all floats, if said.
        freeze: which parameters are trained, as :func:`suture.mask` takes it.
        source: the document, for the lines of its keys.
    """

    parts: tuple[Part, ...]
    config: Any
    tokenizer: str | None
    dtype: str | None
    freeze: Mapping[str, Any] | None
    source: Config


def composition(config: Mapping[str, Any] | str | PathLike[str]) -> Composition:
    """Read a config.

    Args:
        config: a YAML file, or what one holds; files and models are looked for here, then beside it.

    Raises:
        UsageError: if it is none, with the line of the key.
        SutureError: if it cannot be read.
    """
    found = documents(config)
    if len(found) != 1:
        raise UsageError(f"expected one document, found {len(found)}; write each output to a file of its own")
    try:
        return _read(found[0], None if isinstance(config, Mapping) else Path(config).parent)
    except UsageError as e:
        raise found[0].locate(e) from None


def _read(found: Config, folder: Path | None) -> Composition:
    data = found.recipe
    _known(data, _KEYS, "")
    parts = data.get("parts")
    if not isinstance(parts, dict) or not parts:
        raise UsageError("parts: expected a mapping from the name of a part to what it is", at="parts")
    read = tuple(_part(str(name), own, folder) for name, own in parts.items())
    names = [p.name for p in read]
    for part in read:
        for end, key in zip(part.linear.ends if part.linear else (), ("from", "to"), strict=False):
            at = f"{part.at}.linear.{key}"
            if end is not None and (end not in names or end == part.name):
                raise UsageError(f"{at}: there is no other part `{end}`{near(end, names)}", at=at)
    tokenizer = data.get("tokenizer")
    if tokenizer is not None and tokenizer not in [p.name for p in read if p.model is not None]:
        message = f"tokenizer: expected a part that has a model, found `{tokenizer}`"
        raise UsageError(f"{message}{near(str(tokenizer), names)}", at="tokenizer")
    freeze = data.get("freeze")
    if freeze is not None and not isinstance(freeze, dict):
        raise UsageError("freeze: expected a mapping with `train`, `freeze` or `stages`", at="freeze")
    own = data.get("config")
    if own is not None and not isinstance(own, dict | str):
        raise UsageError("config: expected the name of a part, a JSON file or a mapping", at="config")
    try:
        json.dumps(own, allow_nan=False)
    except (TypeError, ValueError) as e:
        raise UsageError(f"config: cannot be written as JSON: {e}; put dates into quotes", at="config") from None
    if isinstance(own, str) and own not in names:
        own = _file(own, "config", folder, names)
    return Composition(read, own, tokenizer, _dtype(data.get("dtype"), "dtype"), freeze, found)


def _part(name: str, given: Any, folder: Path | None) -> Part:
    at = f"parts.{name}"
    if "/" in name or ":" in name or not name.strip():
        raise UsageError(f"{at}: expected a name without / and :", at=at)
    if not isinstance(given, dict):
        raise UsageError(f"{at}: expected a mapping with `model` or `linear`", at=at)
    _known(given, _PART, at)
    if ("model" in given) == ("linear" in given):
        raise UsageError(f"{at}: expected one of `model` and `linear`", at=at)
    prefix = given.get("prefix", f"{name}.")
    if not isinstance(prefix, str):
        raise UsageError(f"{at}.prefix: expected text, such as `{name}.`", at=f"{at}.prefix")
    dtype = _dtype(given.get("dtype"), f"{at}.dtype")
    if "linear" in given:
        if other := next((k for k in ("adapters", "take", "drop", "rename") if k in given), None):
            raise UsageError(f"{at}.{other}: goes with `model`, not with `linear`", at=f"{at}.{other}")
        return Part(name, None, None, (), {}, prefix, dtype, _linear(given["linear"], f"{at}.linear", folder))
    if not isinstance(given["model"], str | dict):
        raise UsageError(f"{at}.model: expected a model, found `{given['model']}`", at=f"{at}.model")
    rename = given.get("rename") or {}
    if not isinstance(rename, dict) or not all(isinstance(v, str) for v in rename.values()):
        raise UsageError(f"{at}.rename: expected a mapping from beginnings of names to others", at=f"{at}.rename")
    take = None if given.get("take") is None else _texts(given["take"], f"{at}.take")
    drop = _texts(given.get("drop") or [], f"{at}.drop")
    rename = {str(k): v for k, v in rename.items()}
    return Part(name, _model(given, at, folder), take, drop, rename, prefix, dtype, None)


def _model(given: Mapping[str, Any], at: str, folder: Path | None) -> Model:
    """The model of a part, its adapters on top in their order."""
    adapters, named = given.get("adapters") or [], given["model"]
    if not adapters:
        return model_path(named, f"{at}.model", folder)  # type: ignore[no-any-return]
    own = [{"path": a} if isinstance(a, str) else a for a in (adapters if isinstance(adapters, list) else [adapters])]
    if not isinstance(named, str):
        raise UsageError(f"{at}.model: expected a path or a name beside `adapters`", at=f"{at}.model")
    return model_path({"path": named, "adapters": own}, at, folder)  # type: ignore[no-any-return]


def _linear(given: Any, at: str, folder: Path | None) -> Linear:
    if not isinstance(given, dict):
        raise UsageError(f"{at}: expected a mapping with `ridge`, `init` or `weight`", at=at)
    _known(given, _LINEAR, at)
    ways = [k for k in ("ridge", "init", "weight") if k in given]
    if len(ways) != 1:
        message = "`ridge` (of states), `init` (drawn: normal, uniform, xavier) and `weight` (a file)"
        raise UsageError(f"{at}: expected one of {message}, found {' and '.join(ways) or 'none'}", at=at)
    for key, way in (("inputs", "ridge"), ("outputs", "ridge"), ("std", "init"), ("seed", "init")):
        if key in given and way not in given:
            raise UsageError(f"{at}.{key}: goes with `{way}`", at=f"{at}.{key}")

    def rows(key: str) -> Rows:
        value = given.get(key)
        file = value.get("file") if isinstance(value, dict) else value
        if not isinstance(file, str) or (isinstance(value, dict) and not value.keys() <= {"file", "tensor"}):
            message = f"{at}.{key}: expected a .npy or .safetensors file, or `file` and `tensor`, found `{value}`"
            raise UsageError(message, at=f"{at}.{key}")
        return Rows(_file(file, f"{at}.{key}", folder), value.get("tensor") if isinstance(value, dict) else None)

    def number(key: str, least: float, kinds: Any, most: float = float("inf")) -> Any:
        value = given.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value < most:
            what = "a whole number" if kinds is int else "a number"
            raise UsageError(f"{at}.{key}: expected {what} of {least:g} or more, found `{value}`", at=f"{at}.{key}")
        return value

    ends = tuple(None if given.get(k) is None else str(given[k]) for k in ("from", "to"))
    sizes = (number("in", 1, int), number("out", 1, int))
    ridge, std = number("ridge", 0, int | float), number("std", 0, int | float, 1e30)
    if ridge == 0:
        raise UsageError(f"{at}.ridge: expected a number above 0, by which squared weights are multiplied", at=at)
    init = given.get("init")
    if init is not None and init not in INITS:
        raise UsageError(f"{at}.init: expected one of {', '.join(INITS)}, found `{init}`", at=f"{at}.init")
    if std is not None and init != "normal":
        raise UsageError(f"{at}.std: goes with `init: normal`", at=f"{at}.std")
    bias = given.get("bias", "weight" not in given)
    if not isinstance(bias, bool):
        if "weight" not in given:
            raise UsageError(f"{at}.bias: expected true or false; a file goes with `weight`", at=f"{at}.bias")
        bias = rows("bias")
    elif bias and "weight" in given:
        raise UsageError(f"{at}.bias: expected a file, as the weight is one, or false", at=f"{at}.bias")
    states = (rows("inputs"), rows("outputs")) if ridge is not None else None
    weight = rows("weight") if "weight" in given else None
    return Linear(
        (ends[0], ends[1]), sizes, bias, None if ridge is None else float(ridge), states,
        init, 0.02 if std is None else float(std), number("seed", 0, int, 2**64), weight,
    )  # fmt: skip


def _known(given: Mapping[str, Any], keys: Sequence[str], at: str) -> None:
    for key in given:
        if key not in keys:
            place = f"{at}.{key}" if at else str(key)
            raise UsageError(f"{place}: unknown key{near(str(key), keys)}", at=place)


def _texts(given: Any, at: str) -> tuple[str, ...]:
    listed = [given] if isinstance(given, str) else given
    if not isinstance(listed, list) or not all(isinstance(t, str) and t for t in listed):
        raise UsageError(f"{at}: expected names of tensors, or beginnings of names", at=at)
    return tuple(listed)


def _dtype(given: Any, at: str) -> str | None:
    if given is not None and str(given) not in DTYPES:
        raise UsageError(f"{at}: expected one of {', '.join(DTYPES)}, found `{given}`", at=at)
    return given  # type: ignore[no-any-return]


def _file(name: str, at: str, folder: Path | None, parts: Sequence[str] = ()) -> str:
    """A file that a config names: here, else beside the config."""
    for path in (Path(name), *([] if folder is None else [folder / name])):
        if path.is_file():
            return str(path)
    what = f"no such file{' or part' if parts else ''}"
    raise UsageError(f"{at}: {what}: {name}{near(name, parts)}", at=at)
