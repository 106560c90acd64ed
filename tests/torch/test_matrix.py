"""Laws of the torch forms of matrices: what the core gives, of every shape and rank, within the memory they state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import suture
import suture.torch
from suture.torch import merge, merge_
from suture.torch.matrix import FORMS, METHODS, form
from suture.torch.merging import given, listed, planned
from suture.torch.resident import BLOCK_CPU, Runner, execute, extra_bytes
from tests.support.catalogue import SPECS
from tests.support.checkpoints import encode, write_checkpoint
from tests.support.resident import Tensors, as_torch, differing, empty_like, read
from tests.torch.test_device import backends
from tests.torch.test_parity import WORDS, agreement
from tests.unit.test_spectral_merges import VARIANTS

#: What can stand inside of `knots` and `core_space`, with what makes a difference to it.
INNER: list[dict[str, Any]] = [
    {"inner": word, "density": 0.5} | ({"epsilon": 0.2} if word == "della" else {})
    for word in ("ties", "dare_ties", "della", "breadcrumbs", "cabs", "magmax", "emr", "sce")
]
CASES = [(name, own) for name in METHODS for own in ({}, *VARIANTS.get(name, []))]
CASES += [(name, own) for name in ("knots", "core_space") for own in INNER]
#: So that on small matrices more than a direction or an entry counts.
MORE: dict[str, dict[str, Any]] = {"dc_merge": {"k_frac": 0.3}, "cart": {"rank_ratio": 0.3}}
LAYER = "model.layers.0."
SHAPES: dict[str, tuple[int, ...]] = {
    LAYER + "tall.weight": (93, 41),
    LAYER + "wide.weight": (41, 93),
    LAYER + "square.weight": (60, 60),
    LAYER + "row.weight": (1, 30),
    LAYER + "column.weight": (30, 1),
    LAYER + "one.weight": (1, 1),
    LAYER + "tall.experts": (3, 24, 17),
    LAYER + "wide.experts": (3, 17, 24),
    LAYER + "norm.weight": (77,),
    "model.embed_tokens.weight": (90, 20),
}
#: How a change is made of its shape and the number of its model.
Change = Callable[[np.random.Generator, tuple[int, ...], int], Any]


#: Methods after which singular values can be calibrated.
CALIBRATED = [
    name
    for name, spec in SPECS.items()
    if any(p["name"] == "svc" for p in spec["parameters"]) and name != "localize_and_stitch"
]


def full(rng: np.random.Generator, shape: tuple[int, ...], i: int) -> Any:
    return 0.01 * i * rng.standard_normal(shape)


def low(rng: np.random.Generator, shape: tuple[int, ...], i: int) -> Any:
    """Of rank four, exactly so in bf16."""
    if len(shape) < 2 or min(shape[-2:]) < 4:
        return rng.integers(-3, 4, shape) / 256
    left, right = (*shape[:-1], 4), (*shape[:-2], 4, shape[-1])
    return rng.integers(-3, 4, left) @ rng.integers(-3, 4, right) / 256


def equal(rng: np.random.Generator, shape: tuple[int, ...], i: int) -> Any:
    """The same of all but the last, which has none."""
    same = np.random.default_rng(int(np.prod(shape))).standard_normal(shape)
    return 0.01 * same if i < 3 else np.zeros(shape)


def steep(rng: np.random.Generator, shape: tuple[int, ...], i: int) -> Any:
    """Of singular values down to what is next to the cut, and below it."""
    if len(shape) < 2:
        return 0.01 * rng.standard_normal(shape)
    u, s, v = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
    return (u * np.geomspace(1.0, 3e-6, s.shape[-1])) @ v


def none(rng: np.random.Generator, shape: tuple[int, ...], i: int) -> Any:
    return np.zeros(shape)


def models(
    folder: Path | None,
    dtype: str = "F32",
    change: Change = full,
    shapes: dict[str, tuple[int, ...]] = SHAPES,
    base_size: float = 0.02,
    count: int = 3,
) -> list[Tensors]:
    """A base and fine-tunes, as tensors and, where a folder is given, as files of it."""
    rng = np.random.default_rng(5)
    base = {name: base_size * rng.standard_normal(shape) for name, shape in shapes.items()}
    made = []
    for i in range(count + 1):
        own = {n: v + change(rng, v.shape, i) if i else v for n, v in base.items()}
        raw = {n: encode(np.asarray(v, dtype=np.float32), dtype) for n, v in own.items()}
        if folder is not None:
            write_checkpoint(folder / ("base" if not i else f"task-{i}"), raw)
        made.append({n: as_torch(r) for n, r in raw.items()})
    return made


def config(folder: Path, name: str, own: dict[str, Any], count: int = 3) -> dict[str, Any]:
    known = {p["name"] for p in SPECS[name]["parameters"]}
    weights = [{"weight": 0.5 + i} if "weight" in known else {} for i in range(count)]
    tasks = [{"model": str(folder / f"task-{i}"), "parameters": own} for i, own in enumerate(weights, 1)]
    shared = {n: v for n, v in {"lambda": 0.6, **own}.items() if n in known}
    return {"merge_method": name, "base_model": str(folder / "base"), "models": tasks, "parameters": shared}


def resident(held: list[Tensors], name: str, own: dict[str, Any], **more: Any) -> Tensors:
    """The same merge on tensors."""
    base, *tuned = held
    how = {"lambda": 0.6, "weight": [0.5 + i for i in range(len(tuned))], **own}
    known = {p["name"] for p in SPECS[name]["parameters"]}
    named = {f"task-{i}": model for i, model in enumerate(tuned, 1)}
    return merge(named, name, base=base, parameters={n: v for n, v in how.items() if n in known}, **more)


def near(found: Tensors, expected: Tensors, base: Tensors) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        word = agreement(found[name], tensor, base[name])
        assert WORDS.index(word) <= WORDS.index("1e-5 of the change"), name


def test_every_method_of_matrices_has_a_form() -> None:
    assert set(METHODS) == {name for name, spec in SPECS.items() if spec["class"] == "matrix"} - {"regmean"}


@pytest.mark.parametrize(("name", "own"), CASES, ids=str)
@pytest.mark.parametrize(("dtype", "count"), [("F32", 3), ("BF16", 3), ("F32", 1), ("BF16", 5)])
def test_a_merge_is_the_cores(name: str, own: dict[str, Any], dtype: str, count: int, tmp_path: Path) -> None:
    """Tall, wide, square, of one row, one column, one element, stacked both ways; vectors; tables outside layers."""
    held = models(tmp_path, dtype, count=count)
    suture.merge(config(tmp_path, name, own, count), tmp_path / "out")
    near(resident(held, name, own), read(tmp_path / "out"), held[0])


@pytest.mark.parametrize("svc", [0.1, 1.0])
@pytest.mark.parametrize("name", CALIBRATED)
def test_what_any_method_makes_is_calibrated_as_the_core_does(name: str, svc: float, tmp_path: Path) -> None:
    """Methods of elements, of selection, of chance and of matrices."""
    held = models(tmp_path, "F32")
    own = {"svc": svc, "density": 0.5, "select_topk": 0.5, **MORE.get(name, {})}
    suture.merge(config(tmp_path, name, own), tmp_path / "out")
    near(resident(held, name, own), read(tmp_path / "out"), held[0])


def test_kernels_leave_alone_what_is_calibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would write what the method makes, and no more; a vector has no singular values and is theirs."""
    seen: list[str] = []
    monkeypatch.setattr("suture.torch.resident.batches", lambda works, row: seen.extend(w.name for w in works))
    held = models(None, shapes={LAYER + "w": (9, 5), LAYER + "norm": (3,)})
    for svc, left in ((0.0, {LAYER + "w", LAYER + "norm"}), (0.1, {LAYER + "norm"})):
        resident(held, "task_arithmetic", {"svc": svc})
        assert set(seen) == left
        seen.clear()


@pytest.mark.parametrize("change", [equal, none, low])
def test_equal_singular_values_are_calibrated_as_the_core_does(change: Change, tmp_path: Path) -> None:
    """After iso_c all directions are of one size: which basis is theirs the tasks decide."""
    held = models(tmp_path, "F32", change, base_size=0.0 if change is low else 0.02)
    for name in ("iso_c", "task_arithmetic"):
        suture.merge(config(tmp_path, name, {"svc": 0.1}), tmp_path / name)
        near(resident(held, name, {"svc": 0.1}), read(tmp_path / name), held[0])


@pytest.mark.parametrize("change", [low, equal, steep, none])
@pytest.mark.parametrize("name", METHODS)
def test_of_low_rank_equal_and_no_changes(name: str, change: Change, tmp_path: Path) -> None:
    """No direction that rounding makes reaches the result; where nothing changes, it is the base to the bit."""
    held = models(tmp_path, "F32", change, base_size=0.0 if change in (low, steep) else 0.02)
    own = MORE.get(name, {})
    suture.merge(config(tmp_path, name, own), tmp_path / "out")
    found = resident(held, name, own)
    near(found, read(tmp_path / "out"), held[0])
    if change is none:
        assert differing(found, held[0]) == []


@pytest.mark.parametrize("together", [400, 1 << 22])
@pytest.mark.parametrize("name", METHODS)
def test_stacked_experts_are_merged_as_each_alone(name: str, together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the others' ranks are: of full rank, of a low one, equal changes and none go through together."""
    monkeypatch.setattr(form, "TOGETHER", together)
    for shape in ((24, 17), (17, 24)):
        parts = [
            models(None, change=change, shapes={LAYER + "w": shape}, base_size=1 / 64)
            for change in (full, low, equal, none)
        ]
        stacked = [{LAYER + "w": torch.stack([part[i][LAYER + "w"] for part in parts])} for i in range(4)]
        own = MORE.get(name, {})
        found = resident(stacked, name, own)[LAYER + "w"]
        for expert, part in zip(found, parts, strict=True):
            near({LAYER + "w": expert}, resident(part, name, own), part[0])


@pytest.mark.parametrize("name", METHODS)
def test_what_is_not_finite_is_refused_before_the_first_write(name: str) -> None:
    """By the tensor's name, in place too; a model whose weight is zero is not looked at, and vectors have no rank."""
    for value in (float("nan"), float("inf")):
        base, *tuned = models(None)
        tuned[1][LAYER + "wide.experts"][1, 2, 3] = value
        kept = {n: t.clone() for n, t in base.items()}
        with pytest.raises(suture.SutureError, match=r"wide\.experts`: holds NaN or infinite values") as told:
            merge_(base, tuned, name, base=base)
        assert told.value.tensor == LAYER + "wide.experts"
        assert differing(base, kept) == []
        found = merge(tuned, name, base=base, parameters={"weight": [1.0, 0.0, 1.0]})
        assert all(bool(t.isfinite().all()) for t in found.values())


@pytest.mark.parametrize("name", METHODS)
def test_what_does_not_converge_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(a: torch.Tensor) -> Any:
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(torch.linalg, "eigh", fails)
    held = models(None, shapes={LAYER + "w": (9, 5)})
    with pytest.raises(suture.SutureError, match=r"tensor `model\.layers\.0\.w`: its eigenvalues do not converge"):
        resident(held, name, MORE.get(name, {}))


def test_weights_for_which_there_is_no_result_are_refused_before_the_first_write() -> None:
    base, *tuned = models(None)
    session = suture.torch.prepare(tuned, "iso_c", base=base)
    into = empty_like(base)
    with pytest.raises(suture.SutureError, match="holds NaN or infinite values"):
        session.apply_([1e200, 1.0, 1.0], into=into)
    assert differing(into, empty_like(base)) == []
    session.apply_([2.0, 1.0, 0.0], into=into, parameters={"lambda": 0.5, "outside": "mean"})
    wanted = {"weight": [2.0, 1.0, 0.0], "lambda": 0.5, "outside": "mean"}
    assert differing(into, merge(tuned, "iso_c", base=base, parameters=wanted)) == []


def test_where_memory_does_not_suffice_the_tensor_and_its_need_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def scarce(*given: Any) -> Any:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(torch.linalg, "eigh", scarce)
    held = models(None, shapes={LAYER + "a": (9, 5), LAYER + "b": (400, 300), LAYER + "norm": (3,)})
    with pytest.raises(suture.SutureError, match=r"`model\.layers\.0\.b`: .*; iso_c takes it whole and needs \d+ MiB"):
        resident(held, "iso_c", {})


def peak(work: Callable[[], object]) -> int:
    """Bytes that were taken at a time at most, workspaces of libraries that torch makes among them."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most


#: What takes the most.
MEMORY: dict[str, dict[str, Any]] = {
    "knots": {"inner": "ties", "density": 0.5},
    "core_space": {"inner": "sce"},
    "ties": {"svc": 0.1, "density": 0.5, "weight": 1.0},
    "dc_merge": {"svc": 0.1},
}


@pytest.mark.parametrize("name", [*METHODS, "ties"])
def test_no_more_memory_is_taken_than_is_stated(name: str) -> None:
    given_now = MEMORY.get(name, {})
    for shape, count in (((260, 90), 3), ((90, 260), 5), ((120, 120), 2), ((7, 60, 40), 3), ((7, 40, 60), 3)):
        base, *tuned = models(None, "BF16", shapes={LAYER + "w": shape}, count=count)
        found = given(name, listed(tuned), ("base", base), given_now, None)
        works = planned(name, found, 0)
        out = {n: torch.empty_like(t) for n, t in base.items()}
        taken = peak(lambda f=found, w=works, o=out: execute(Runner(w, f.models, o, BLOCK_CPU)))  # type: ignore[misc]
        assert 0 < taken <= extra_bytes(works, BLOCK_CPU), shape


def test_what_does_not_fit_a_device_is_the_cpus(tmp_path: Path) -> None:
    """A matrix is taken whole: where it does not fit, the core computes it, and the rest goes to the device."""
    held = models(tmp_path, "BF16")
    settings = suture.Settings(device="torch-cpu", device_memory="400KiB")
    suture.merge(config(tmp_path, "tsvm", {}), tmp_path / "cpu")
    suture.merge(config(tmp_path, "tsvm", {}), tmp_path / "out", settings=settings)
    near(read(tmp_path / "out"), read(tmp_path / "cpu"), held[0])
    computed = backends(tmp_path / "out")
    assert computed[LAYER + "square.weight"] == "cpu"
    assert computed[LAYER + "row.weight"] == "torch-cpu"


def test_a_device_names_what_is_not_finite(tmp_path: Path) -> None:
    """Under `nan: allow`, as the CPU does."""
    held = models(tmp_path, "BF16")
    held[2][LAYER + "wide.weight"][3, 4] = float("nan")
    raw = {n: encode(t.float().numpy(), "BF16") for n, t in held[2].items()}
    write_checkpoint(tmp_path / "broken", raw)
    recipe = config(tmp_path, "iso_c", {})
    recipe["models"][1]["model"] = str(tmp_path / "broken")
    said = []
    for name in ("cpu", "torch-cpu"):
        with pytest.raises(suture.SutureError, match=r"wide\.weight`: holds NaN or infinite values") as told:
            suture.merge(recipe, tmp_path / name, settings=suture.Settings(device=name, nan="allow"))
        said.append(str(told.value))
    assert said[0] == said[1]


def test_a_form_is_free_of_parameters() -> None:
    """A session of it may change them all."""
    assert all(own.free for own in FORMS.values())
    assert suture.torch.sessions.coefficients("opcm") == {p["name"] for p in SPECS["opcm"]["parameters"]} - {
        "svc",
        "larv",
    }
