"""Candidates made in memory, by a session of suture.torch, for a callable that is given the model itself."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from suture.checkpoint import opened
from suture.errors import SutureError, UsageError
from suture.recipe.models import parameters as of_models
from suture.searching.genome import Genome
from suture.searching.judge import judged
from suture.searching.state import Candidate
from suture.settings import Settings
from suture.torch.merging import merge, spec_of
from suture.torch.models import TORCH, Model, named_tensors
from suture.torch.models import resident as described
from suture.torch.sessions import Session, coefficients, prepare

#: What a config may say in memory. The dtype is that of the model that is written into, which has a template or none.
_KEYS = ("merge_method", "base_model", "models", "parameters", "dtype", "out_dtype", "chat_template")
_PER_MODEL = ("model", "parameters")


class _Held(torch.nn.Module):  # type: ignore[misc]
    """The tensors of a checkpoint with its config, as a model."""

    def __init__(self, tensors: dict[str, Tensor], config: dict[str, Any] | None) -> None:
        super().__init__()
        self._held = tensors
        self.config = SimpleNamespace(to_dict=lambda: config)

    def state_dict(self, *_: Any, **__: Any) -> Any:
        """The tensors by name."""
        return self._held


class Resident:
    """Candidates in the memory of one model, one after another.

    Args:
        genome: what is searched.
        plan: the plan of the first candidate, as data: what tensors it has, and what its models are called.
        settings: the seed, and the device for a model that is made here.
        judge: is given the model, with a candidate's weights in it.
        into: the model, a module or tensors by name; True to make tensors like those of a candidate on the disk.

    Attributes:
        model: the model.
        told: what the user should know.
        dtypes: those of its floats.
        kept_bytes: 0, every candidate is made anew.

    Raises:
        UsageError: if the config asks for what is not done in memory.
    """

    def __init__(
        self, genome: Genome, plan: Mapping[str, Any], settings: Settings, judge: Callable[[Any], float], into: Any
    ) -> None:
        self._method, self._judge, self._settings = _checked(genome), judge, settings
        self.kept_bytes = 0
        self._config = genome.config
        self._searched = sorted({str(k.path[k.path.index("parameters") + 1]) for k in genome.knobs})
        self._labels = _labels(genome.config, plan["models"])
        self._wanted = {t["name"]: _dtype("the merge", t) for t in plan["tensors"]}
        self._shapes = {t["name"]: t["shape"] for t in plan["tensors"]}
        there = {} if into is True else {n: t.dtype for n, t in described(into, "in_memory").tensors.items()}
        self.model: Any = None if into is True else into
        floats = {n: d for n, d in (there or self._wanted).items() if d.is_floating_point}
        self.dtypes = sorted({str(d).removeprefix("torch.") for d in floats.values()})
        other = [n for n, d in floats.items() if self._wanted.get(n, d) != d]
        told = "have another dtype than the merge has on a disk; candidates are rounded to it"
        self.told = [f"in_memory: {len(other)} tensors of the model, such as `{other[0]}`, {told}"] if other else []
        self._inputs: dict[str, Model] = {}
        self._base: Model | None = None
        self._session: Session | None = None

    def begin(self) -> None:
        """Read the models.

        Raises:
            SutureError: if one cannot be read, or has tensors that torch has no dtype for.
        """
        if self.model is None:
            device = "cpu" if self._settings.device == "torch-cpu" else self._settings.device
            shapes = self._shapes
            self.model = {n: torch.empty(shapes[n], dtype=d, device=device) for n, d in self._wanted.items()}
        places = {n: t.device for n, t in named_tensors(self.model).items() if isinstance(t, Tensor)}
        models = [entry["model"] for entry in self._config["models"]]
        self._inputs = {label: _held(m, places) for label, m in zip(self._labels, models, strict=True)}
        base = self._config.get("base_model")
        if base is not None:
            same = self._labels[models.index(base)] if base in models else None
            self._base = _held(base, places) if same is None else self._inputs[same]

    def end(self) -> None:
        """Let go of what the session keeps; the model stays."""
        self._session = None

    def stop(self) -> None:
        """Nothing: there is no other worker."""

    def best(self, config: dict[str, Any]) -> None:
        """Leave the best in the model."""
        self._make(config)

    def one(self, number: int, generation: int, genes: list[float], config: dict[str, Any]) -> Candidate:
        """Make a candidate and judge it.

        Raises:
            SutureError: if it cannot be made.
        """
        began = time.monotonic()
        self._make(config)
        made = time.monotonic()
        score, failure = judged(self._judge, self.model)
        return Candidate(number, generation, genes, score, failure, made - began, time.monotonic() - made)

    def _make(self, config: dict[str, Any]) -> None:
        shared, each = _parameters(self._method, config)
        how: dict[str, Any] = {"base": self._base, "parameters": shared, "each": each, "seed": self._settings.seed}
        now = {n: shared[n] if n in shared else [own.get(n) for own in each] for n in self._searched}
        own_ones = now.keys() - shared.keys()
        alone = own_ones <= _per_input(self._method) and all(None not in now[n] for n in own_ones)
        if alone and now.keys() <= coefficients(self._method):
            if self._session is None:
                self._session = prepare(self._inputs, self._method, **how)
            self._session.apply_(into=self.model, parameters=now)
        else:
            # What a session finds first depends on them.
            merge(self._inputs, self._method, **how, out=self.model)


def _checked(genome: Genome) -> str:
    """The method of a config that is merged in memory."""
    config = genome.config
    for key in config:
        if key not in _KEYS:
            raise _refused(key, f"`{key}` is not done in memory")
    for i, entry in enumerate(config["models"]):
        for key in entry:
            if key not in _PER_MODEL:
                raise _refused(f"models[{i}].{key}", f"`{key}` is not done in memory")
    method = str(config["merge_method"])
    own = [config, *config["models"]]
    files = {n for one in own for n in one.get("parameters") or () if n in of_models()}
    if files:
        raise _refused("parameters", f"`{min(files)}` reads files of its own")
    spec_of(method)
    return method


def _refused(at: str, why: str) -> UsageError:
    return UsageError(f"in_memory: {why}; leave in_memory out, and candidates are made on the disk", at=at)


def _per_input(method: str) -> set[str]:
    return {p["name"] for p in spec_of(method)["parameters"] if p["per_input"]}


def _parameters(method: str, config: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Parameters of all, and those of each model: what each may have of its own stands there, whoever says it."""
    per_input = _per_input(method)
    given = dict(config.get("parameters") or {})
    all_own = [dict(entry.get("parameters") or {}) for entry in config["models"]]
    each = [{n: v for n, v in given.items() if n in per_input or any(n in o for o in all_own)} | o for o in all_own]
    return {n: v for n, v in given.items() if not any(n in own for own in each)}, each


def _labels(config: Mapping[str, Any], models: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the models are called where random masks depend on it, in the order of the config."""

    def key(path: Any, adapters: Any) -> str:
        return json.dumps([path, [[a["path"], a["weight"]] for a in adapters]], default=str)

    known = {key(m["path"], m["adapters"]): m["label"] for m in models}
    labels = []
    for entry in config["models"]:
        model = entry["model"]
        path = str(opened(model).path)
        label = known.get(key(path, [{"path": p, "weight": w} for p, w in getattr(model, "adapters", ())]))
        if label is None or "/" in label or label in labels:
            message = f"`{model}` is listed twice, or called like another; give folders with names of their own"
            raise _refused("models", message)
        labels.append(label)
    return labels


def _dtype(label: str, told: Mapping[str, Any]) -> torch.dtype:
    if told["dtype"] not in TORCH:
        message = f"{label}, tensor `{told['name']}`: torch has no dtype for {told['dtype']}"
        raise SutureError(f"{message}; leave in_memory out", tensor=told["name"])
    return TORCH[told["dtype"]]


def _held(model: Any, places: Mapping[str, torch.device]) -> _Held:
    """A checkpoint's tensors, quantised ones as the core decodes them, each where the tensor is that is made of it."""
    core = opened(model).plain()
    else_ = next(iter(places.values()), torch.device("cpu"))
    tensors = {}
    for told in json.loads(core.to_json())["tensors"]:
        name, dtype = told["name"], _dtype(str(model), told)
        raw = bytearray(core.read(name))
        flat = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
        tensors[name] = flat.reshape(told["shape"]).to(places.get(name, else_))
    beside = Path(core.path) / "config.json"
    return _Held(tensors, json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else None)
