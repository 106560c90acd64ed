"""Law: every method of whole matrices gives what its oracle, by plain full SVDs in float64, gives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import suture

from ..reference.elementwise import magmax
from ..reference.spectral import METHODS, core_space, interference, knots, stacked, svc
from ..reference.ties import ties
from ..support.checkpoints import encode, read_checkpoint, write_checkpoint

Array = NDArray[Any]

#: The methods of the class, those of the registry; regmean, which wants Gram matrices too, has tests of its own.
NAMES = [spec["name"] for spec in suture.methods() if spec["class"] == "matrix" and spec["name"] != "regmean"]
#: Parameters that are no default, by method.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "tsvm_reweighted": [{"sigmas": 2.0, "small": 0.3}],
    "iso_cts": [{"common_space_fraction": 0.5}, {"common_space_fraction": 1.0}],
    "star": [{"eta": 75.0}, {"eta": 100.0}],
    "cart": [{"rank_ratio": 0.3, "scale": 0.7}, {"rank_ratio": 1.0}],
    "swudi": [{"time": 30.0, "rank_ratio": 0.4}, {"start": "sum"}],
    "opcm": [{"alpha": 0.2}],
    "resmerge": [{"beta_min": 0.2, "head_ratio": 0.6}],
    "dc_merge": [{"k_frac": 0.05}],
}
CASES = [(name, given) for name in NAMES for given in ({}, *VARIANTS.get(name, []))]
SHAPES = {
    "model.layers.0.tall.weight": (93, 41),
    "model.layers.0.wide.weight": (41, 93),
    "model.layers.0.square.weight": (60, 60),
    "model.layers.0.row.weight": (1, 30),
    "model.layers.0.column.weight": (30, 1),
    "model.layers.0.one.weight": (1, 1),
    "model.layers.0.experts": (3, 24, 17),
}


def rounded(values: Array, dtype: str) -> Array:
    """Values as a dtype stores them."""
    return np.asarray(encode(values.astype(np.float32), dtype).values(), dtype=np.float64).reshape(values.shape)


def family(
    folder: Path, tasks: int, dtype: str, shapes: Mapping[str, tuple[int, ...]], seed: int, rank: int | None = None
) -> tuple[dict[str, Array], list[dict[str, Array]]]:
    """A base and fine-tunes as files; what they hold."""
    rng = np.random.default_rng(seed)
    models: list[dict[str, Array]] = []
    for i in range(tasks + 1):
        tensors: dict[str, Array] = {}
        for name, shape in shapes.items():
            if not i:
                values = 0.02 * rng.standard_normal(shape)
            else:
                change = 0.01 * i * rng.standard_normal(shape)
                if rank is not None and len(shape) == 2:
                    left = rng.standard_normal((shape[0], rank))
                    change = 0.01 * left @ rng.standard_normal((rank, shape[1]))
                values = models[0][name] + change
            tensors[name] = rounded(values, dtype)
        models.append(tensors)
        named = "base" if not i else f"task-{i}"
        write_checkpoint(folder / named, {n: encode(v.astype(np.float32), dtype) for n, v in tensors.items()})
    return models[0], models[1:]


def merged(
    folder: Path, out: str, name: str, tasks: int, given: dict[str, Any], weights: list[float] | None = None
) -> dict[str, Array]:
    """What a merge makes, in float32."""
    listed = [{"model": str(folder / f"task-{i + 1}"), "parameters": {}} for i in range(tasks)]
    for own, weight in zip(listed, weights or [], strict=False):
        own["parameters"] = {"weight": weight}
    config = {
        "merge_method": name,
        "base_model": str(folder / "base"),
        "models": listed,
        "parameters": given,
        "dtype": "float32",
    }
    suture.merge(config, folder / out)
    return {
        n: np.asarray(r.values(), dtype=np.float64).reshape(r.shape) for n, r in read_checkpoint(folder / out).items()
    }


def expected(name: str, deltas: list[Array], weights: list[float] | None, given: dict[str, Any]) -> Array:
    """What the oracle makes."""
    told = {("lam" if key == "lambda" else key): value for key, value in given.items()}
    method = METHODS[name]
    if deltas[0].ndim == 3:
        return stacked(method, deltas, weights=weights, **told)
    return method(deltas, weights=weights, **told)


def off(found: Array, base: Array, want: Array, deltas: list[Array]) -> float:
    """How far a result is from the oracle's, of the size of the larger of it and the changes."""
    size = max(float(np.linalg.norm(want)), *(float(np.linalg.norm(d)) for d in deltas), 1e-30)
    # float32 rounds the sum with the base.
    slack = 1.2e-7 * float(np.linalg.norm(np.abs(base) + np.abs(want)))
    return max(0.0, float(np.linalg.norm(found - base - want)) - slack) / size


@pytest.mark.parametrize("tasks", [1, 2, 3, 5])
@pytest.mark.parametrize(("name", "given"), CASES, ids=str)
def test_a_merge_is_the_oracles(name: str, given: dict[str, Any], tasks: int, tmp_path: Path) -> None:
    """Tall, wide, square, of one row, one column, one element, stacked; bf16 and float32; weights and a lambda."""
    for dtype, weights, more in (("F32", None, {}), ("BF16", [0.5, 1.25, 0.75, 1.0, 2.0][:tasks], {"lambda": 0.6})):
        folder = tmp_path / dtype
        base, experts = family(folder, tasks, dtype, SHAPES, seed=tasks)
        found = merged(folder, "out", name, tasks, {**given, **more}, weights)
        for tensor in SHAPES:
            deltas = [e[tensor] - base[tensor] for e in experts]
            want = expected(name, deltas, weights, {**given, **more})
            assert off(found[tensor], base[tensor], want, deltas) < 2e-6, (tensor, dtype)


@pytest.mark.parametrize("name", NAMES)
def test_of_low_rank(name: str, tmp_path: Path) -> None:
    """Changes of low rank, exactly so in bf16: no direction that rounding makes reaches the result."""
    rng = np.random.default_rng(4)
    shapes = {"model.layers.0.tall.weight": (70, 30), "model.layers.0.wide.weight": (30, 70)}
    models = [{n: np.zeros(s) for n, s in shapes.items()}]
    for _ in range(3):
        whole = {n: rng.integers(-3, 4, (s[0], 4)) @ rng.integers(-3, 4, (4, s[1])) / 256 for n, s in shapes.items()}
        models.append(whole)
    for i, model in enumerate(models):
        named = "base" if not i else f"task-{i}"
        write_checkpoint(tmp_path / named, {n: encode(v.astype(np.float32), "F32") for n, v in model.items()})
    found = merged(tmp_path, "out", name, 3, {})
    for tensor in shapes:
        deltas = [m[tensor] for m in models[1:]]
        want = expected(name, deltas, None, {})
        assert off(found[tensor], models[0][tensor], want, deltas) < 5e-6, tensor


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_matrix(name: str, tmp_path: Path) -> None:
    """Tensors of one dimension get what the oracle gives them; so do embeddings where a method takes layers alone."""
    shapes = {"model.layers.0.norm.weight": (77,), "model.norm.weight": (5,), "model.embed_tokens.weight": (90, 20)}
    base, experts = family(tmp_path, 3, "F32", shapes, seed=9)
    spec = next(s for s in suture.methods() if s["name"] == name)
    outside = next(p["default"] for p in spec["parameters"] if p["name"] == "outside")
    found = merged(tmp_path, "out", name, 3, {})
    for tensor in shapes:
        deltas = [e[tensor] - base[tensor] for e in experts]
        flat = deltas if deltas[0].ndim == 2 and outside == "matrix" else [d.reshape(-1) for d in deltas]
        want = expected(name, flat, None, {}).reshape(base[tensor].shape)
        assert off(found[tensor], base[tensor], want, deltas) < 2e-6, tensor


@pytest.mark.parametrize("name", NAMES)
def test_equal_experts_and_none(name: str, tmp_path: Path) -> None:
    """Identical experts, one that is the base, and all that are: no arbitrary vectors, no NaN, the base's own bytes."""
    shapes = {"model.layers.0.a.weight": (40, 25), "model.layers.0.b.weight": (25, 40)}
    base, (expert,) = family(tmp_path, 1, "F32", shapes, seed=2)
    for i, tensors in ((2, expert), (3, base)):
        write_checkpoint(tmp_path / f"task-{i}", {n: encode(v.astype(np.float32), "F32") for n, v in tensors.items()})
    for tasks in (2, 3):
        found = merged(tmp_path, f"out-{tasks}", name, tasks, {})
        for tensor in shapes:
            deltas = [d[tensor] - base[tensor] for d in (expert, expert, base)][:tasks]
            want = expected(name, deltas, None, {})
            assert off(found[tensor], base[tensor], want, deltas) < 5e-6, (tensor, tasks)
    for i in (1, 2):
        write_checkpoint(tmp_path / f"task-{i}", {n: encode(v.astype(np.float32), "F32") for n, v in base.items()})
    found = merged(tmp_path, "none", name, 3, {})
    assert all(np.array_equal(found[n], base[n]) for n in shapes)


def test_the_report_tells_ranks_energies_and_interference(tmp_path: Path) -> None:
    shapes = {"model.layers.0.a.weight": (40, 25)}
    base, experts = family(tmp_path, 2, "F32", shapes, seed=2)
    merged(tmp_path, "out", "tsvm", 2, {})
    told = json.loads((tmp_path / "out" / "suture.json").read_text())["tensors"]["model.layers.0.a.weight"]["found"]
    deltas = [e["model.layers.0.a.weight"] - base["model.layers.0.a.weight"] for e in experts]
    assert told["rank_1"] == told["rank_2"] == 12
    assert told["interference"] == pytest.approx(interference(deltas), rel=1e-5)
    for i, delta in enumerate(deltas):
        s = np.linalg.svd(delta, compute_uv=False) ** 2
        assert told[f"energy_{i + 1}"] == pytest.approx(s[:12].sum() / s.sum(), rel=1e-5)


SHARED = {"knots": knots, "core_space": core_space}


@pytest.mark.parametrize("name", sorted(SHARED))
@pytest.mark.parametrize("inner", ["ties", "magmax", "task_arithmetic"])
def test_another_method_along_a_shared_basis(name: str, inner: str, tmp_path: Path) -> None:
    """The inner method's oracle on coordinates; its own parameters (a density, weights) reach it."""
    base, experts = family(tmp_path, 3, "F32", SHAPES, seed=6)
    weights, given = [0.5, 1.25, 0.75], {"inner": inner} | ({"density": 0.3} if inner == "ties" else {})
    found = merged(tmp_path, "out", name, 3, given, weights)

    def of(tasks: list[Array]) -> Array:
        nothing = np.zeros(tasks[0].shape, np.float32)
        narrow = [x.astype(np.float32) for x in tasks]
        if inner == "ties":
            return ties(nothing, narrow, weights, [0.3] * 3).astype(np.float64)
        if inner == "magmax":
            return magmax(nothing, narrow, weights).astype(np.float64)
        return np.asarray(np.sum([w * x for w, x in zip(weights, tasks, strict=True)], axis=0))

    for tensor in SHAPES:
        deltas = [e[tensor] - base[tensor] for e in experts]
        method = SHARED[name]
        want = stacked(method, deltas, inner=of) if deltas[0].ndim == 3 else method(deltas, inner=of)
        assert off(found[tensor], base[tensor], want, deltas) < 2e-5, tensor


CALIBRATED = [s["name"] for s in suture.methods() if any(p["name"] == "svc" for p in s["parameters"])]
MORE = {
    "ties": {"density": 0.4},
    "breadcrumbs": {"density": 0.6},
    "della": {"density": 0.5},
    "sce": {"select_topk": 0.5},
}


@pytest.mark.parametrize("alpha", [0.1, 1.0])
@pytest.mark.parametrize("name", CALIBRATED)
def test_svc_after_any_method(name: str, alpha: float, tmp_path: Path) -> None:
    """A modifier: what comes out is the oracle of SVC on what the method makes without it, whatever the method."""
    if name == "localize_and_stitch":
        pytest.skip("it goes by the whole model: refused")
    base, experts = family(tmp_path, 3, "F32", SHAPES, seed=8)
    weighs = any(p["name"] == "weight" for p in next(s for s in suture.methods() if s["name"] == name)["parameters"])
    given, weights = MORE.get(name, {}), [0.5, 1.25, 0.75] if weighs else None
    plain = merged(tmp_path, "plain", name, 3, given, weights)
    found = merged(tmp_path, "out", name, 3, {**given, "svc": alpha}, weights)
    for tensor in SHAPES:
        deltas = [e[tensor] - base[tensor] for e in experts]
        change = plain[tensor] - base[tensor]
        if deltas[0].ndim == 3:
            parts = [svc(change[i], [d[i] for d in deltas], alpha=alpha) for i in range(len(change))]
            want = np.stack(parts)
        else:
            want = svc(change, deltas, alpha=alpha)
        assert off(found[tensor], base[tensor], want, deltas) < 1e-4, tensor


def test_svc_goes_by_single_tensors(tmp_path: Path) -> None:
    """What goes by the whole model, or writes masks, is refused in the plan."""
    family(tmp_path, 2, "F32", SHAPES, seed=8)
    with pytest.raises(suture.SutureError, match="svc"):
        merged(tmp_path, "out", "ties", 2, {"scope": "model", "svc": 0.1, "density": 0.5}, [1.0, 1.0])
    with pytest.raises(suture.SutureError, match="svc"):
        merged(tmp_path, "out", "emr", 2, {"masks": True, "task": 1, "svc": 0.1})


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("form", [*NAMES, "svc"])
def test_no_singular_vectors_of_what_is_not_finite(form: str, value: float, tmp_path: Path) -> None:
    """With NaN let through: an error that names the tensor, whichever model holds it; no model is left out unsaid."""
    shapes = {"model.layers.0.a.weight": (30, 20), "model.layers.0.b.weight": (20, 30)}
    for place in (1, 3):
        folder = tmp_path / str(place)
        _, experts = family(folder, 3, "F32", shapes, seed=2)
        tensors = dict(experts[place - 1])
        bad = sorted(shapes)[place // 3]
        tensors[bad] = tensors[bad].copy()
        tensors[bad][3, 4] = value
        write_checkpoint(folder / f"task-{place}", {n: encode(v.astype(np.float32), "F32") for n, v in tensors.items()})
        name, given = ("ties", {"svc": 0.1}) if form == "svc" else (form, {})
        listed = [{"model": str(folder / f"task-{i}"), "parameters": {"weight": 1.0}} for i in (1, 2, 3)]
        config = {"merge_method": name, "base_model": str(folder / "base"), "models": listed, "parameters": given}
        with pytest.raises(suture.SutureError, match=bad):
            suture.merge(config, folder / "out", settings=suture.Settings(nan="allow"))
        assert not (folder / "out").exists()
