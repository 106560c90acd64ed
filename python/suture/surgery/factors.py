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
    lost: list[tuple[float, float, str]] = []
    for (module, _), each in sorted(terms.items()):
        a, b = _side_by_side(each, scaled=not kept)
        if rank is not None and a.shape[1] > rank:
            a, b, missed, of = _best(a, b, rank)
            lost.append((missed, of, module))
        first = each[0].module
        ranks[module] = a.shape[1]
        tensors[first["a"]], tensors[first["b"]] = _stored(a, b)
        if any(t.module["bias"] for t in each):
            tensors[next(t.module["bias"] for t in each if t.module["bias"])] = _bias(each, scaled=not kept)
    write_tensors(out, tensors)
    config = _config(config, configs, ranks, next(iter(scales)) if kept else 1.0)
    told = [_told(lost)] if lost else []
    return Joined(as_bytes(config), _DTYPES[dtype], told=told)


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


def _bias(each: Sequence[_Term], *, scaled: bool) -> Matrix:
    given = [_exact(t, "bias") * (t.scale if scaled else 1.0) for t in each if t.module["bias"]]
    total: Matrix = np.sum(given, axis=0)
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
    for key in ("target_modules", "target_parameters"):
        given: list[Any] = [c[key] for c in configs if c is not None and c.get(key) is not None]
        if all(isinstance(g, list) for g in given) and given:
            joined[key] = sorted({item for g in given for item in g})
        elif given and key == "target_modules":
            joined[key] = sorted({module.rpartition(".")[2] for module in ranks})
    return config | joined


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
