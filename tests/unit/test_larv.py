"""LARV before methods of changes: scales by layer are the oracle's, and what is merged are changes so scaled."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import suture
from suture import _core

from ..reference.spectral import larv
from ..support.catalogue import CASES, Case, configure
from ..support.checkpoints import encode, read_checkpoint, write_checkpoint
from ..support.processes import start

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
    _before, found, after = name.partition("layers.")
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
    """Every tensor of a layer, vectors too, has its scale, what is outside has none; sums are of scaled changes."""
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
    assert t == c
    assert f == n
    assert t != f


SCALED = [case for case in CASES if "larv" in case.names and case.set("larv") == "none" and not case.set("masks")]


@pytest.mark.parametrize("case", SCALED, ids=str)
def test_a_method_merges_scaled_changes(case: Case, tmp_path: Path) -> None:
    """Over the registry: with tiers, which are exact, what comes out is the merge of models with such changes."""
    base, changes = family(shapes(), 3, seed=3)
    scales = oracle(base, changes, "tiered")
    plain, scaled = models(tmp_path / "plain", base, changes), models(tmp_path / "scaled", base, changes, scales)
    beside = [
        write(tmp_path / "beside" / f"task-{i}", {n: (d > 0) * 1.0 for n, d in c.items()})
        for i, c in enumerate(changes)
    ]
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


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and three experts."""
    base, changes = family(shapes(), 3, seed=4)
    return models(tmp_path_factory.mktemp("larv"), base, changes)


WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "by spans": ("magmax", {}),
    "scanned by model": ("ties", {"weight": 1.0, "density": 0.4, "scope": "model"}),
    "by matrices": ("tsvm", {}),
    "calibrated": ("task_arithmetic", {"weight": 1.0, "svc": 0.1}),
}


@pytest.mark.parametrize("way", WAYS)
def test_how_it_runs_does_not_matter(way: str, paths: list[Path], tmp_path: Path) -> None:
    """Law 3: the same bytes for any threads, chunk, I/O and memory, and wherever inputs' and outputs' tensors lie."""
    name, given = WAYS[way]
    merge = config(name, paths, {**given, "larv": True})
    suture.merge(merge, tmp_path / "out", settings=suture.Settings(threads=1))
    want = read_checkpoint(tmp_path / "out")
    others = (
        suture.Settings(threads=5, io="direct"),
        suture.Settings(threads=2, chunk="4KiB", memory="128MiB"),
        suture.Settings(shard_size="10KB"),
    )
    for i, settings in enumerate(others):
        suture.merge(merge, tmp_path / f"out-{i}", settings=settings)
        assert read_checkpoint(tmp_path / f"out-{i}") == want
    if name == "ties":
        return  # Of equal changes the first count, wherever their tensor lies.
    turned = []
    for path in paths:
        held = list(reversed(read_checkpoint(path).items()))
        turned.append(write_checkpoint(tmp_path / "turned" / path.name, dict(held), shards=3))
    suture.merge(config(name, turned, {**given, "larv": True}), tmp_path / "other")
    assert read_checkpoint(tmp_path / "other") == want


def test_experts_in_one_tensor_or_apart(paths: list[Path], tmp_path: Path) -> None:
    """Law 10: stacked experts are a matrix each, as they are when each has a tensor of its own."""
    apart = []
    for path in paths:
        values: Model = {}
        for name, value in tensors(path).items():
            if name.endswith("experts"):
                values |= {f"{name}.{i}.weight": part for i, part in enumerate(value)}
            else:
                values[name] = value
        apart.append(write(tmp_path / path.name, values))
    suture.merge(config("magmax", paths, {"larv": True}), tmp_path / "one")
    suture.merge(config("magmax", apart, {"larv": True}), tmp_path / "many")
    one, many = tensors(tmp_path / "one"), tensors(tmp_path / "many")
    for name, value in one.items():
        if name.endswith("experts"):
            value, other = np.stack([value[0], value[1]]), np.stack([many[f"{name}.{i}.weight"] for i in range(2)])
        else:
            other = many[name]
        assert np.abs(value - other).max() < 1e-7, name


def test_layers_in_slices_and_stacks(paths: list[Path], tmp_path: Path) -> None:
    """Slices of the same models are the whole again; each stack is standardised and has its depth by itself."""
    merge = config("magmax", paths, {"larv": True})
    suture.merge(merge, tmp_path / "whole")
    listed = [str(path) for path in paths]
    slices = [{"sources": [{"model": m, "layer_range": r} for m in listed]} for r in ([0, 2], [2, LAYERS])]
    sliced = {key: value for key, value in merge.items() if key != "models"} | {"slices": slices}
    suture.merge(sliced, tmp_path / "sliced")
    assert tensors(tmp_path / "sliced").keys() == tensors(tmp_path / "whole").keys()
    assert read_checkpoint(tmp_path / "sliced") == read_checkpoint(tmp_path / "whole")
    # A second stack, of fewer layers, changes nothing in the first.
    both = []
    base, changes = family(shapes(3, "vision.layers."), 3, seed=6)
    for path, change in zip(paths, [{n: 0.0 * v for n, v in base.items()}, *changes], strict=True):
        other = {n: base[n] + change[n] for n in base if "layers." in n}
        both.append(write(tmp_path / path.name, {**tensors(path), **other}))
    suture.merge({**config("magmax", both, {"larv": True}), "stack": "model.layers."}, tmp_path / "both")
    scales, alone = told(tmp_path / "both"), told(tmp_path / "whole")
    assert all(scales[name] == alone[name] for name in alone)
    want = oracle(base, changes, "continuous", layers=3)
    for name, found in scales.items():
        if name.startswith("vision"):
            layer = layer_of(name)
            assert layer is not None
            assert found == pytest.approx([own[layer] for own in want], abs=1e-6)


def test_slices_of_other_models_are_refused(paths: list[Path], tmp_path: Path) -> None:
    """A model's layers are held against each other, so that a part of them would be scaled otherwise."""
    slices = [
        {"sources": [{"model": str(m), "layer_range": r} for m in own]}
        for own, r in ((paths[:3], [0, 2]), ([paths[0], *paths[2:]], [2, LAYERS]))
    ]
    merge = {"merge_method": "magmax", "base_model": str(paths[0]), "slices": slices}
    suture.merge(merge, tmp_path / "plain")
    with pytest.raises(
        suture.SutureError, match=r"slices\[1\].*`larv`.*slices\[0\] and slices\[1\] merge other models"
    ):
        suture.merge({**merge, "parameters": {"larv": True}}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_filters_choose_what_is_measured_and_scaled(paths: list[Path], tmp_path: Path) -> None:
    """A modifier like any parameter: by parts of names; what it is not on for is neither scaled nor measured."""
    rules = [{"filter": "mlp", "value": "tiered"}, {"value": "none"}]
    suture.merge(config("magmax", paths, {"larv": rules}), tmp_path / "out")
    suture.merge(config("magmax", paths, {}), tmp_path / "plain")
    scales = told(tmp_path / "out")
    assert set(scales) == {n for n in tensors(paths[0]) if "mlp" in n}
    found, plain = read_checkpoint(tmp_path / "out"), read_checkpoint(tmp_path / "plain")
    assert {n for n in found if found[n] == plain[n]} >= {n for n in found if "mlp" not in n}
    own = [{n: v for n, v in tensors(p).items() if "mlp" in n} for p in paths]
    want = oracle(own[0], [{n: m[n] - own[0][n] for n in m} for m in own[1:]], "tiered")
    for name, found_scales in scales.items():
        layer = layer_of(name)
        assert layer is not None
        assert found_scales == [s[layer] for s in want]


def test_what_is_left_alone(tmp_path: Path) -> None:
    """Layers that a model left alone have the scale 1 and do not count; so one of which only vectors changed."""
    base, changes = family(shapes(), 2, seed=9)
    for name in base:
        if ".2." in name:
            changes[0][name] *= 0.0
        if ".3." in name and not name.endswith("norm.weight"):
            changes[0][name] *= 0.0
    changes[1] = {n: 0.0 * v for n, v in changes[1].items()}
    suture.merge(config("magmax", models(tmp_path, base, changes), {"larv": "tiered"}), tmp_path / "out")
    want = oracle(base, changes, "tiered")
    assert want[0][2:4] == [1.0, 1.0]
    assert want[1] == [1.0] * LAYERS
    for name, found in told(tmp_path / "out").items():
        layer = layer_of(name)
        assert layer is not None
        assert found == [own[layer] for own in want]


@pytest.mark.parametrize("changed", [True, False])
def test_one_layer_and_a_base_of_zeros(changed: bool, tmp_path: Path) -> None:
    """No deviation and no rank of the base: numbers all the same, the oracle's."""
    base, changes = family(shapes(1), 1, seed=2)
    base = {n: 0.0 * v for n, v in base.items()}
    if not changed:
        changes = [{n: 0.0 * v for n, v in changes[0].items()}]
    suture.merge(config("magmax", models(tmp_path, base, changes), {"larv": True}), tmp_path / "out")
    want = oracle(base, changes, "continuous", layers=1)
    scales = told(tmp_path / "out")
    assert scales
    assert all(found == pytest.approx(want[0], abs=1e-6) for found in scales.values())
    if not changed:
        assert read_checkpoint(tmp_path / "out") == read_checkpoint(tmp_path / "base")


def test_a_model_without_layers(tmp_path: Path) -> None:
    """Nothing to scale, which is told; the bytes are those without."""
    base, changes = family(OUTSIDE, 2, seed=2)
    paths = models(tmp_path, base, changes)
    report = suture.merge(config("magmax", paths, {"larv": True}), tmp_path / "out")
    assert any("larv" in w and "nothing is scaled" in w for w in report.warnings)
    assert report.data["scales"] == {}
    suture.merge(config("magmax", paths, {}), tmp_path / "plain")
    assert read_checkpoint(tmp_path / "out") == read_checkpoint(tmp_path / "plain")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 2])
def test_what_is_not_finite(value: float, place: int, paths: list[Path], tmp_path: Path) -> None:
    """An error that names file and element; let through, one that names the tensor; in a vector it comes through."""
    bad = "model.layers.3.mlp.down.weight"
    held = [tensors(path) for path in paths]
    held[place][bad] = held[place][bad].copy()
    held[place][bad][2, 3] = value
    made = [write(tmp_path / path.name, values) for path, values in zip(paths, held, strict=True)]
    merge = config("magmax", made, {"larv": True})
    with pytest.raises(suture.SutureError, match=f"{paths[place].name}/.*`{bad}`: element 69 is"):
        suture.merge(merge, tmp_path / "out")
    with pytest.raises(suture.SutureError, match=f"{bad}.*NaN or infinite"):
        suture.merge(merge, tmp_path / "out", settings=suture.Settings(nan="allow"))
    assert not (tmp_path / "out").exists()
    held[place][bad] = tensors(paths[place])[bad]
    held[place]["model.layers.1.norm.weight"][5] = value
    for path, values in zip(paths, held, strict=True):
        write(tmp_path / "vector" / path.name, values)
    made = [tmp_path / "vector" / path.name for path in paths]
    suture.merge(
        config("task_arithmetic", made, {"larv": True, "weight": 1.0}),
        tmp_path / "out",
        settings=suture.Settings(nan="allow"),
    )
    assert not np.isfinite(tensors(tmp_path / "out")["model.layers.1.norm.weight"][5])


def test_masks_are_not_scaled(paths: list[Path], tmp_path: Path) -> None:
    """What is written is no sum with the base: refused in the plan."""
    with pytest.raises(suture.SutureError, match="`larv` scales what is added"):
        suture.merge(config("emr", paths, {"larv": True, "masks": True, "task": 1}), tmp_path / "out")


def test_a_word_there_is_not(paths: list[Path], tmp_path: Path) -> None:
    """Refused with the words there are."""
    with pytest.raises(suture.SutureError, match=r"larv.*continuous"):
        suture.merge(config("magmax", paths, {"larv": 0.5}), tmp_path / "out")
    report = suture.merge(config("linear", paths, {"larv": True, "weight": 1.0}), tmp_path / "out")
    assert any("larv" in warning for warning in report.warnings)


def test_it_is_told(paths: list[Path], tmp_path: Path) -> None:
    """A plan says what is measured, and is the plan again; a report has the scales by layer and model, in order."""
    merge = config("magmax", paths, {"larv": True})
    dry = suture.merge(merge, tmp_path / "out", dry_run=True)
    notes: dict[str, str] = dict(dry.data["notes"])
    # Two experts and three matrices in each layer.
    assert notes["larv"].startswith(f"{5 * LAYERS} matrices of {LAYERS} layers are measured")
    plain = suture.merge(config("magmax", paths, {}), tmp_path / "out", dry_run=True)
    assert dry.data["read_bytes"] > plain.data["read_bytes"]
    assert _core.Plan.from_json(dry.text).hash == dry.data["hash"]
    report = suture.merge(merge, tmp_path / "out")
    scales = report.data["scales"]
    assert list(scales) == [f"model.layers.{i}" for i in range(LAYERS)]
    tensors_told = told(tmp_path / "out")
    for layer, own in scales.items():
        assert own == dict(zip(("task-0", "task-1", "task-2"), tensors_told[f"{layer}.mlp.up.weight"], strict=True))


def test_progress_ends_at_its_end(paths: list[Path], tmp_path: Path) -> None:
    """What measuring reads is counted beforehand."""
    seen: list[tuple[int, int]] = []
    suture.merge(config("magmax", paths, {"larv": True}), tmp_path / "out", progress=lambda *now: seen.append(now))
    assert seen
    assert seen[-1][0] == seen[-1][1]


def lines(out: Path) -> int:
    """How many tensors the journal of an unfinished output lists; -1 where there is none."""
    journal = out.with_name(f".{out.name}.suture-partial") / ".suture-journal"
    return len(journal.read_text().splitlines()) - 1 if journal.exists() else -1


@pytest.mark.parametrize("goal", [0, 20])
def test_a_run_that_is_killed_ends_in_the_same_bytes(goal: int, tmp_path: Path) -> None:
    """Law 6: killed while layers are measured, or while tensors are made; run again, with what is done or without."""
    rng = np.random.default_rng(1)
    own = {f"model.layers.{i}.{n}.weight": (300, 400) for i in range(12) for n in ("a", "b", "c")}
    base = {n: rng.standard_normal(s) for n, s in own.items()}
    made = [write(tmp_path / "base", base)]
    made += [
        write(tmp_path / f"task-{i}", {n: v + 0.1 * rng.standard_normal(v.shape) for n, v in base.items()})
        for i in (0, 1)
    ]
    path, out = tmp_path / "config.json", tmp_path / "out"
    path.write_text(json.dumps(config("wudi", made, {"larv": True})))
    process = start([sys.executable, "-m", "suture", "merge", str(path), str(out), "--threads", "2"])
    try:
        while lines(out) < goal and process.poll() is None:
            time.sleep(0.002)
    finally:
        process.kill()
        process.communicate()
    assert goal <= lines(out) < len(own), "finished before it was killed"
    report = suture.merge(path, out)
    assert report.data["run"]["tensors_resumed"] >= goal
    suture.merge(path, tmp_path / "undisturbed")
    assert read_checkpoint(out) == read_checkpoint(tmp_path / "undisturbed")
    assert told(out) == told(tmp_path / "undisturbed")
