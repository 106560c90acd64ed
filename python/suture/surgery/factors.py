"""The factors of adapters, put side by side: the sum of their changes as one adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from suture import _core
from suture.checkpoint import Checkpoint
from suture.errors import SutureError
from suture.sidecars.files import as_bytes, read_config
from suture.sidecars.tensors import write_tensors

Matrix = npt.NDArray[np.float64]
#: Dtypes of factors, and what a config calls them; the later ones hold the earlier.
_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
#: What of a config says how the change was made, of which the sum knows nothing.
_GONE = (
    "rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern", "exclude_modules", "loftq_config",
    "modules_to_save",
)  # fmt: skip


#: What keeps modules out that `target_modules` would take.
_LIMITS = ("layers_to_transform", "exclude_modules")


@dataclass
class Joined:
    """An adapter that was made of others.

    Attributes:
        config: its adapter_config.json.
        dtype: the dtype its factors are to have, as configs call it: in the file they are f64.
        told: what the user should know.
    """

    config: bytes
    dtype: str
    told: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Term:
    """A module of one adapter: its factors by their names, and what their product is multiplied by."""

    of: Checkpoint
    module: Mapping[str, Any]
    scale: float


def joined(
    folders: Sequence[Path], weights: Sequence[float], rank: int | None, out: Path, *, finite: bool = True
) -> Joined:
    """Write the sum of adapters into the new folder `out`, without its config; `finite` refuses NaN and infinities.

    Raises:
        SutureError: if they are not of one model, or hold what no sum of adapters is.
    """
    opened = [Checkpoint(f) for f in folders]
    listed = [json.loads(_core.adapter_json(str(f))) for f in folders]
    configs = [read_config(c.folder if c.folder.is_dir() else c.folder.parent, "adapter_config.json") for c in opened]
    _agreed(folders, configs)
    terms: dict[tuple[str, int], list[_Term]] = {}
    for checkpoint, modules, weight in zip(opened, listed, weights, strict=True):
        for module in modules:
            _check(checkpoint, module, finite=finite or rank is not None)
            term = _Term(checkpoint, module, weight * module["scale"])
            terms.setdefault((module["module"], module["depth"]), []).append(term)
    if not terms:
        raise SutureError(f"{folders[0]}: holds no factors, and is no adapter", folders[0])
    config = dict(configs[0] or {})
    dtypes = {c.info(name).dtype for c in opened for name in c.names}
    dtype = dtypes.pop() if len(dtypes) == 1 else "F64" if "F64" in dtypes else "F32"
    scales = {term.scale for each in terms.values() for term in each}
    kept = rank is None and len(scales) == 1
    tensors: dict[str, Any] = {}
    ranks: dict[str, int] = {}
    sums: dict[tuple[str, int], tuple[Matrix, Matrix]] = {}
    lost: list[tuple[float, float, str]] = []
    for key, each in sorted(terms.items()):
        a, b = _side_by_side(each, scaled=not kept)
        if rank is not None and a.shape[1] > rank:
            a, b, missed, of = _best(a, b, rank)
            lost.append((missed, of, key[0]))
        known = each[0].module["key"]
        ranks[known] = max(a.shape[1], ranks.get(known, 0))
        sums[key] = a, b
    biased = any(t.module["bias"] for each in terms.values() for t in each)
    for key, (a, b) in sums.items():
        each = terms[key]
        tensors[each[0].module["a"]], tensors[each[0].module["b"]] = _stored(
            *_wider(a, b, ranks[each[0].module["key"]])
        )
        if biased:
            tensors[_bias_name(each)] = _bias(each, b.shape[0], scaled=not kept)
    write_tensors(out, tensors)
    config = _config(config, configs, ranks, next(iter(scales)) if kept else 1.0)
    config["lora_bias"] = biased or bool(config.get("lora_bias"))
    told = [_told(lost)] if lost else []
    return Joined(as_bytes(config), _DTYPES[dtype], told=[*_bases(folders, configs), *told])


def _check(checkpoint: Checkpoint, module: Mapping[str, Any], *, finite: bool) -> None:
    """Refuse what no sum of adapters is.

    Raises:
        SutureError: naming the tensor.
    """
    for key, what in (("magnitude", "lengths of rows (DoRA), which depend on the model"), ("whole", "a whole tensor")):
        if (name := module[key]) is not None:
            message = f"tensor `{name}`: is {what}; adapters with such are not merged: fold them into their model"
            raise SutureError(f"{checkpoint.path}: {message} (suture lora fold)", checkpoint.path, name)
    if module["a"] is None or module["b"] is None:
        name = module["a"] or module["b"] or module["bias"]
        message = "has no partner; the adapter is not whole"
        raise SutureError(f"{checkpoint.path}: tensor `{name}`: {message}", checkpoint.path, name)
    for name in (module[key] for key in ("a", "b", "bias") if module[key] is not None):
        if (dtype := checkpoint.info(name).dtype) not in _DTYPES:
            message = f"is {dtype}; expected F64, F32, F16 or BF16"
            raise SutureError(f"{checkpoint.path}: tensor `{name}`: {message}", checkpoint.path, name)
        odd = np.flatnonzero(~np.isfinite(checkpoint.numpy(name))) if finite else np.empty(0)
        if odd.size:
            message = f"element {odd[0]} is NaN or infinite; mend the adapter"
            raise SutureError(f"{checkpoint.path}: tensor `{name}`: {message}", checkpoint.path, name)


def _exact(term: _Term, key: str) -> Matrix:
    return term.of.numpy(term.module[key]).astype(np.float64)


def _side_by_side(each: Sequence[_Term], *, scaled: bool) -> tuple[Matrix, Matrix]:
    """The factors of a module's sum, [experts, ranks, in...] and [out, ranks, experts, ...]; the scales go into B."""
    parts: list[tuple[Matrix, Matrix]] = []
    for term in each:
        a, b = _exact(term, "a"), _exact(term, "b") * (term.scale if scaled else 1.0)
        rank, named, path = term.module["rank"], term.module["a"], term.of.path
        experts = 1 if term.module["embedding"] else a.shape[0] // rank
        if experts == 0 or a.shape[0] != experts * rank or b.ndim < 2 or b.shape[1] != experts * rank:
            message = f"has shape {list(a.shape)}, expected {rank} ranks, as its config says"
            raise SutureError(f"{path}: tensor `{named}`: {message}", path, named)
        a, b = a.reshape(experts, rank, *a.shape[1:]), b.reshape(b.shape[0], rank, experts, *b.shape[2:])
        if parts and (a.shape[::2], a.shape[3:], b.shape[0]) != (
            parts[0][0].shape[::2],
            parts[0][0].shape[3:],
            parts[0][1].shape[0],
        ):
            message = f"is of another shape than in {each[0].of.path}; the adapters are of different models"
            raise SutureError(f"{path}: tensor `{named}`: {message}", path, named)
        parts.append((a, b))
    return np.concatenate([a for a, _ in parts], axis=1), np.concatenate([b for _, b in parts], axis=1)


def _best(a: Matrix, b: Matrix, rank: int) -> tuple[Matrix, Matrix, float, float]:
    """The best factors of so few ranks; the norm of what they miss, and of the whole.

    The singular values of B A are those of R_B R_A', which has a row for each rank, where B = Q_B R_B and A' = Q_A R_A.
    """
    experts, inner = a.shape[0], a.shape[2:]
    new_a = np.zeros((experts, rank, int(np.prod(inner))))
    new_b = np.zeros((b.shape[0], rank, *b.shape[2:]))
    missed = whole = 0.0
    for i in range(experts):
        q_b, r_b = np.linalg.qr(b[:, :, i].reshape(b.shape[0], b.shape[1]))
        q_a, r_a = np.linalg.qr(a[i].reshape(a.shape[1], -1).T)
        u, s, v = np.linalg.svd(r_b @ r_a.T, full_matrices=False)
        keep = min(rank, len(s))
        root = np.sqrt(s[:keep])
        new_b[:, :keep, i] = (q_b @ (u[:, :keep] * root)).reshape(new_b[:, :keep, i].shape)
        new_a[i, :keep] = (q_a @ (v[:keep].T * root)).T
        missed, whole = missed + float((s[rank:] ** 2).sum()), whole + float((s**2).sum())
    return new_a.reshape(experts, rank, *inner), new_b, missed**0.5, whole**0.5


def _stored(a: Matrix, b: Matrix) -> tuple[Matrix, Matrix]:
    """The factors as files have them: ranks and experts are one axis."""
    return a.reshape(-1, *a.shape[2:]), b.reshape(b.shape[0], -1, *b.shape[3:])


def _wider(a: Matrix, b: Matrix, rank: int) -> tuple[Matrix, Matrix]:
    """The factors with so many ranks: two parameters that go by one name have one rank."""
    more = rank - a.shape[1]
    if more == 0:
        return a, b
    none_a, none_b = np.zeros((a.shape[0], more, *a.shape[2:])), np.zeros((b.shape[0], more, *b.shape[2:]))
    return np.concatenate([a, none_a], axis=1), np.concatenate([b, none_b], axis=1)


def _bias_name(each: Sequence[_Term]) -> str:
    given = [str(t.module["bias"]) for t in each if t.module["bias"]]
    return given[0] if given else f"{str(each[0].module['b']).removesuffix('.weight')}.bias"


def _bias(each: Sequence[_Term], outputs: int, *, scaled: bool) -> Matrix:
    """The sum of the biases of products; PEFT has one in every module, or in none."""
    given = [_exact(t, "bias") * (t.scale if scaled else 1.0) for t in each if t.module["bias"]]
    total: Matrix = np.sum(given, axis=0) if given else np.zeros(outputs)
    return total


def _config(
    config: dict[str, Any], configs: Sequence[Mapping[str, Any] | None], ranks: Mapping[str, int], scale: float
) -> dict[str, Any]:
    """The config of the sum, whose product is multiplied by `scale` in every module."""
    most = max(ranks.values())
    for key in _GONE:
        if key in config:
            config[key] = {} if isinstance(config[key], dict) else None
    pattern = {module: rank for module, rank in ranks.items() if rank != most}
    alphas = {module: scale * rank for module, rank in pattern.items()}
    joined: dict[str, Any] = {"r": most, "lora_alpha": _number(scale * most), "use_rslora": False, "use_dora": False}
    joined |= {"rank_pattern": _patterns(pattern), "alpha_pattern": _patterns(alphas), "init_lora_weights": True}
    joined["inference_mode"] = True
    parameters = [c["target_parameters"] for c in configs if c is not None and c.get("target_parameters")]
    if parameters:
        joined["target_parameters"] = parameters[0]
    joined["target_modules"] = _targets(configs, ranks, parameters[0] if parameters else [])
    return config | joined


def _targets(configs: Sequence[Mapping[str, Any] | None], ranks: Mapping[str, int], parameters: list[str]) -> list[str]:
    """The modules that PEFT is to adapt: by the words of the configs where these are lists, else each by its name."""
    given: list[Any] = [c.get("target_modules") for c in configs if c is not None]
    limited = any(c is not None and any(c.get(k) for k in _LIMITS) for c in configs)
    if not limited and all(isinstance(g, list) for g in given):
        return sorted({item for g in given for item in g})
    holders = {parameter.rpartition(".")[0] for parameter in parameters}
    held = {m for m in ranks if any(f".{m.rpartition('.')[0]}".endswith(f".{h}") for h in holders)}
    return sorted(ranks.keys() - held)


def _agreed(folders: Sequence[Path], configs: Sequence[Mapping[str, Any] | None]) -> None:
    """Refuse adapters whose factors do not lie the same way in one model.

    Raises:
        SutureError: naming the key.
    """
    for key in ("fan_in_fan_out", "target_parameters"):
        found = [(f, c[key]) for f, c in zip(folders, configs, strict=True) if c is not None and c.get(key) is not None]
        for folder, value in found:
            if value != found[0][1]:
                message = f"`{key}` is {json.dumps(value)}, and {json.dumps(found[0][1])} in {found[0][0]}"
                raise SutureError(f"{folder}: {message}; fold the adapters into their model instead", folder)


def _bases(folders: Sequence[Path], configs: Sequence[Mapping[str, Any] | None]) -> list[str]:
    """Tell of adapters that name another model than the first."""

    def called(path: Path) -> str:
        # Not where they lie, which is nobody's business who gets the output.
        return path.parent.name if path.suffix == ".safetensors" else path.name

    given = [(f, c.get("base_model_name_or_path")) for f, c in zip(folders, configs, strict=True) if c is not None]
    named = [(called(f), name) for f, name in given if name]
    return [
        f"{folder}: is of {json.dumps(name)}, and {named[0][0]} of {json.dumps(named[0][1])}; the sum is of one model"
        for folder, name in named
        if name != named[0][1]
    ]


def _patterns(values: Mapping[str, float]) -> dict[str, float]:
    """Patterns that are modules: their dots are dots."""
    return {f"^{module}".replace(".", "\\."): _number(value) for module, value in values.items()}


def _number(value: float) -> float:
    return int(value) if float(value).is_integer() else value


def _told(lost: Sequence[tuple[float, float, str]]) -> str:
    """How much fewer ranks miss of the changes."""
    missed = sum(m**2 for m, _, _ in lost) ** 0.5
    whole = sum(w**2 for _, w, _ in lost) ** 0.5
    share, module = max((m / w if w else 0.0, module) for m, w, module in lost)
    total = missed / whole if whole else 0.0
    return (
        f"fewer ranks in {len(lost)} modules: {total:.3g} of the norm of their changes is lost, most in `{module}` "
        f"({share:.3g}); no change of so few ranks is nearer"
    )
