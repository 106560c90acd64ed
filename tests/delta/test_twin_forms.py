"""The other forms of twins: the largest elements of each difference, or random ones (arXiv 2406.15479)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture
from suture import Settings, SutureError

from ..reference import philox
from ..support.checkpoints import Raw
from ..support.merging import keys
from .test_twin import EXCLUDED, EXPERTS, twin, world
from .worlds import same_tensors, tensors_of

Array = np.ndarray[Any, Any]
DENSITY = 0.1


def largest(change: Array, density: float) -> Array:
    """The int(density * n) largest of a tensor, at least one; of equal ones the first."""
    flat = change.ravel()
    order = np.argsort(-np.abs(flat), kind="stable")[: max(1, int(density * flat.size))]
    out = np.zeros_like(flat)
    out[order] = flat[order]
    return out.reshape(change.shape)


def drawn(change: Array, density: float, seed: int, model: str, name: str) -> Array:
    """Each element with the chance of the density, times 1 / density."""
    kept = philox.keep_mask(keys(seed, [model], name)[0], change.size, density).reshape(change.shape)
    return np.where(kept, change.astype(np.float64) / density, 0.0).astype(np.float32)


def expected(form: str, name: str, shared: Raw, expert: Raw, label: str, density: float, seed: int = 0) -> Array:
    """What an expert has beyond the shared one, compressed."""
    own = shared.values().astype(np.float32)
    change = expert.values().astype(np.float32) - own
    if name in EXCLUDED:
        return np.zeros_like(change)
    bits = 32 if shared.dtype == "F32" else 16
    kept = max(1, int(density * change.size))
    if change.ndim < 2 or kept * 64 >= change.size * bits:
        return change
    return largest(change, density) if form == "magnitude" else drawn(change, density, seed, label, name)


@pytest.mark.parametrize("weights", [(1.0, 0.0, 0.0), (0.7, 0.3, -0.5)])
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
@pytest.mark.parametrize("form", ["magnitude", "random"])
def test_mixtures_are_the_sum(tmp_path: Path, form: str, dtype: str, weights: tuple[float, ...]) -> None:
    """Law: theta* + sum_t w_t v_t, v_t being the largest elements of each matrix's difference, or the drawn ones times
    1 / density; norms whole, heads and biases the shared expert's."""
    _, experts = world(tmp_path, dtype)
    made = twin(tmp_path, form=form, density=DENSITY)
    suture.twin.materialise(made, tmp_path / "out", weights=weights)
    shared, found = tensors_of(made / "shared"), tensors_of(tmp_path / "out")
    for name, raw in found.items():
        want = shared[name].values().astype(np.float64)
        for weight, label in zip(weights, EXPERTS, strict=True):
            v = expected(form, name, shared[name], experts[label][name], label, DENSITY)
            want = want + weight * v.astype(np.float64)
        near = 1e-6 if dtype == "F32" else 2**-8
        assert np.allclose(raw.values(), want, rtol=near, atol=1e-6), name


@pytest.mark.parametrize("form", ["magnitude", "random"])
def test_what_is_kept_is_counted(tmp_path: Path, form: str) -> None:
    """Law: `magnitude` keeps exactly int(density * n) of a matrix; `random` about so many, and its mean is unbiased."""
    _, experts = world(tmp_path)
    made = twin(tmp_path, form=form, density=DENSITY)
    shared = tensors_of(made / "shared")
    for label in EXPERTS:
        for entry in suture.delta.info(made / "experts" / label)["tensors"]:
            name, size = entry["name"], math.prod(shared[entry["name"]].shape)
            if entry["kept"] != "sparse":
                continue
            kept = int(entry["figures"]["kept"])
            change = experts[label][name].values() - shared[name].values()
            want = expected(form, name, shared[name], experts[label][name], label, DENSITY)
            assert kept == np.count_nonzero(want), name
            error = np.linalg.norm(change - want) / np.linalg.norm(change)
            assert math.isclose(entry["figures"]["error"], error, rel_tol=1e-4), name
            assert ("energy" in entry["figures"]) == (form == "magnitude")
            if form == "magnitude":
                assert kept == max(1, int(DENSITY * size))
            else:
                assert abs(kept - DENSITY * size) < 5 * math.sqrt(DENSITY * size)


def test_all_of_it_is_the_expert(tmp_path: Path) -> None:
    """Law: where places and values would take more than the tensor it is kept whole: at a density of 1, one-hot, with
    heads of its own, it is the expert bit for bit."""
    _, experts = world(tmp_path)
    for form in ("magnitude", "random"):
        made = twin(tmp_path, form=form, density=1.0, heads="whole", out=form)
        suture.twin.materialise(made, tmp_path / f"{form}-law", only="law")
        assert tensors_of(tmp_path / f"{form}-law") == experts["law"]


def test_heads_of_their_own(tmp_path: Path) -> None:
    """Law: asked for, heads and biases are kept whole in these forms, too."""
    _, experts = world(tmp_path)
    made = twin(tmp_path, form="magnitude", heads="whole")
    suture.twin.materialise(made, tmp_path / "out", only="code")
    found = tensors_of(tmp_path / "out")
    assert all(found[name] == experts["code"][name] for name in EXCLUDED)


def test_the_seed_alone_decides(tmp_path: Path) -> None:
    """Law 3: a seed gives the same bytes on any threads, another seed other ones; experts do not share a mask."""
    world(tmp_path)
    for out, seed, threads in (("a", 5, 1), ("b", 5, 4), ("c", 6, 4)):
        twin(tmp_path, form="random", out=out, settings=Settings(seed=seed, threads=threads))
    assert suture.twin.info(tmp_path / "a")["seed"] == 5
    math_of = [tmp_path / out / "experts/math" for out in "abc"]
    assert same_tensors(math_of[0], math_of[1])
    assert not same_tensors(math_of[0], math_of[2])
    table = "model.embed_tokens.weight.index"
    places = [tensors_of(tmp_path / "a/experts" / name)[table] for name in ("math", "law")]
    assert places[0] != places[1]


@pytest.mark.parametrize("form", ["magnitude", "random"])
def test_torch_holds_them(tmp_path: Path, form: str) -> None:
    """Law: `suture.torch.Twin` writes what `materialise` writes, whatever the model held before."""
    torch = pytest.importorskip("torch")
    import suture.torch

    base, _ = world(tmp_path)
    made = twin(tmp_path, form=form, density=DENSITY)
    held = suture.torch.Twin(made)
    model = {name: torch.full(raw.shape, 7.0) for name, raw in base.items()}
    for i, weights in enumerate([(0.7, 0.3, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 0.0)]):
        suture.twin.materialise(made, tmp_path / f"out-{i}", weights=weights)
        held.apply_(model, weights)
        for name, raw in tensors_of(tmp_path / f"out-{i}").items():
            assert np.allclose(model[name].numpy(), raw.values(), rtol=1e-6, atol=1e-6), name


def test_by_tensor_needs_a_density(tmp_path: Path) -> None:
    """Law 8: options that say nothing without another are refused by their names."""
    world(tmp_path)
    for option in ({"by_tensor": True}, {"random": 1}):
        with pytest.raises(SutureError, match="goes with a `density`"):
            suture.delta.extract(tmp_path / "base", tmp_path / "law", tmp_path / "d", form="sparse", **option)
