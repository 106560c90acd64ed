"""LARV before methods of changes: scales by layer are the oracle's, and a method merges what it would merge of models so scaled."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import suture

from ..reference.spectral import larv
from ..support.catalogue import CASES, Case, configure
from ..support.checkpoints import Raw, encode, read_checkpoint, write_checkpoint

Array = NDArray[Any]
Model = dict[str, Array]

#: What each layer has: matrices tall, wide and square, one as in a convolution (no matrix), experts, a vector.
INSIDE: dict[str, tuple[int, ...]] = {
    "mlp.up.weight": (33, 14),
    "mlp.down.weight": (14, 33),
    "attn.q.weight": (14, 14),
    "attn.conv.weight": (14, 1, 3),
    "experts": (2, 9, 14),
    "norm.weight": (14,),
}
OUTSIDE: dict[str, tuple[int, ...]] = {"embed.weight": (50, 14), "norm.weight": (14,), "lm_head.weight": (50, 14)}
LAYERS = 5


def shapes(layers: int = LAYERS, stack: str = "model.layers.") -> dict[str, tuple[int, ...]]:
    own = {f"{stack}{layer}.{name}": shape for layer in range(layers) for name, shape in INSIDE.items()}
    return {**own, **OUTSIDE}


def family(shapes: Mapping[str, tuple[int, ...]], tasks: int, seed: int) -> tuple[Model, list[Model]]:
    """A base and changes, in few bits, so that half of a change and one and a half are exact beside the base."""
    rng = np.random.default_rng(seed)
    base = {n: np.round(rng.standard_normal(s) * 64) / 1024 for n, s in shapes.items()}
    changes = []
    for i in range(tasks):
        own: Model = {}
        for name, shape in shapes.items():
            change = rng.standard_normal(shape) * (i + 2)
            if len(shape) > 1 and rng.random() < 0.6:
                # Of lower rank, and more or less like the base.
                change[..., rng.integers(1, shape[-1]) :] *= 0.2
                change = change + rng.choice([0.0, 60.0]) * base[name]
            own[name] = np.round(change) / 512
        changes.append(own)
    return base, changes


def write(folder: Path, values: Mapping[str, Array], dtype: str = "F32", shards: int = 1) -> Path:
    return write_checkpoint(folder, {n: encode(v.astype(np.float32), dtype) for n, v in values.items()}, shards=shards)


def models(folder: Path, base: Model, changes: Sequence[Model], scaled: Sequence[Sequence[float]] = ()) -> list[Path]:
    """Base and experts as files; with the changes of layers `scaled`, by task and layer."""

    def factor(task: int, name: str) -> float:
        layer = layer_of(name)
        return 1.0 if layer is None or not scaled else scaled[task][layer]

    made = [write(folder / "base", base)]
    for i, own in enumerate(changes):
        values = {n: base[n] + factor(i, n) * d for n, d in own.items()}
        assert all(np.array_equal(v, v.astype(np.float32)) for v in values.values())
        made.append(write(folder / f"task-{i}", values))
    return made


def layer_of(name: str) -> int | None:
    before, found, after = name.partition("layers.")
    return int(after.split(".")[0]) if found else None


def matrices(values: Mapping[str, Array], layers: int = LAYERS) -> list[list[Array]]:
    """The matrices of each layer: a convolution's kernel is none, experts are one each."""
    out: list[list[Array]] = [[] for _ in range(layers)]
    for name in sorted(values):
        layer, value = layer_of(name), values[name]
        if layer is not None and value.ndim == 2:
            out[layer].append(value)
        if layer is not None and value.ndim == 3 and min(value.shape[1:]) > 1:
            out[layer].extend(value)
    return out


def oracle(base: Model, changes: Sequence[Model], gate: str, layers: int = LAYERS) -> list[list[float]]:
    """The scale of each task and layer."""
    return [larv(matrices(base, layers), matrices(own, layers), gate=gate) for own in changes]


def config(name: str, paths: Sequence[Path], parameters: Mapping[str, Any]) -> dict[str, Any]:
    listed = [{"model": str(path), "parameters": {}} for path in paths[1:]]
    return {
        "merge_method": name,
        "base_model": str(paths[0]),
        "models": listed,
        "parameters": dict(parameters),
        "dtype": "float32",
    }


def tensors(folder: Path) -> Model:
    return {n: np.asarray(r.values(), np.float64).reshape(r.shape) for n, r in read_checkpoint(folder).items()}


def told(folder: Path) -> dict[str, list[float]]:
    """The scales that a report tells, by tensor."""
    report = json.loads((folder / "suture.json").read_text())
    out = {}
    for name, tensor in report["tensors"].items():
        own = {k: v for k, v in tensor.get("found", {}).items() if k.startswith("larv_")}
        if own:
            out[name] = [own[f"larv_{i + 1}"] for i in range(len(own))]
    return out


@pytest.mark.parametrize("gate", ["continuous", "tiered"])
@pytest.mark.parametrize("tasks", [1, 2, 3])
def test_scales_are_the_oracles(gate: str, tasks: int, tmp_path: Path) -> None:
    """Every tensor of a layer, vectors too, has its layer's scale, what is outside has none; sums are of scaled changes."""
    base, changes = family(shapes(), tasks, seed=tasks)
    want = oracle(base, changes, gate)
    assert len({round(s, 6) for own in want for s in own}) > 2
    paths = models(tmp_path, base, changes)
    weights = [0.5, -1.25, 0.75][:tasks]
    given = config("task_arithmetic", paths, {"larv": gate, "lambda": 0.6})
    for own, weight in zip(given["models"], weights, strict=True):
        own["parameters"] = {"weight": weight}
    suture.merge(given, tmp_path / "out")
    scales, found = told(tmp_path / "out"), tensors(tmp_path / "out")
    assert set(scales) == {n for n in base if layer_of(n) is not None}
    for name, value in found.items():
        layer = layer_of(name)
        own = [1.0] * tasks if layer is None else [s[layer] for s in want]
        if layer is not None:
            assert scales[name] == pytest.approx(own, abs=1e-6), name
        change = 0.6 * sum(w * s * d[name] for w, s, d in zip(weights, own, changes, strict=True))
        assert np.abs(value - base[name] - change).max() < 2e-7, name


def test_true_is_continuous_and_false_is_none(tmp_path: Path) -> None:
    """A switch for those who want no word; without it the bytes are those of a merge that knows none."""
    base, changes = family(shapes(), 2, seed=5)
    paths = models(tmp_path, base, changes)
    for out, parameters in (("t", {"larv": True}), ("c", {"larv": "continuous"}), ("f", {"larv": False}), ("n", {})):
        suture.merge(config("magmax", paths, parameters), tmp_path / out)
    t, c, f, n = (read_checkpoint(tmp_path / out) for out in "tcfn")
    assert t == c and f == n and t != f


SCALED = [case for case in CASES if "larv" in case.names and case.set("larv") == "none" and not case.set("masks")]


@pytest.mark.parametrize("case", SCALED, ids=str)
def test_a_method_merges_scaled_changes(case: Case, tmp_path: Path) -> None:
    """Over the registry: with tiers, which are exact, what comes out is the merge of models whose changes are so scaled."""
    base, changes = family(shapes(), 3, seed=3)
    scales = oracle(base, changes, "tiered")
    plain, scaled = models(tmp_path / "plain", base, changes), models(tmp_path / "scaled", base, changes, scales)
    beside = [write(tmp_path / "beside" / f"task-{i}", {n: (d > 0) * 1.0 for n, d in c.items()}) for i, c in enumerate(changes)]
    want = configure(case, scaled, beside=beside[: case.experts])
    given = configure(case, plain, beside=beside[: case.experts])
    given["parameters"] = {**given["parameters"], "larv": "tiered"}
    for own in (want, given):
        own["dtype"] = "float32"
    suture.merge(want, tmp_path / "want")
    suture.merge(given, tmp_path / "out")
    expected, found = tensors(tmp_path / "want"), tensors(tmp_path / "out")
    assert expected.keys() == found.keys()
    for name in expected:
        size = max(float(np.abs(expected[name] - base[name]).max()), 1e-3)
        assert np.abs(expected[name] - found[name]).max() < 2e-5 * size + 1e-7, name
