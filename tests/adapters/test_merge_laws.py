"""The sum of adapters as one adapter: what is true of sums is true of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..reference import lora
from ..support.adapters import CONFIG
from ..support.checkpoints import Raw, encode, write_checkpoint
from ..support.lora import exact, factors, random, read_lora, write_lora

Q, K = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.k_proj"
SHAPES = {Q: (32, 24), K: (12, 24)}


def adapter(
    folder: Path, seed: int, modules: Sequence[str] = (Q, K), r: int = 4, dtype: str = "F32", **config: Any
) -> Path:
    """An adapter of some modules."""
    rng = np.random.default_rng(seed)
    given: dict[str, Raw] = {}
    for module in modules:
        given |= factors(rng, module, SHAPES[module], r, dtype)
    return write_lora(folder, given, r=r, **config)


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / CONFIG).read_text())
    return found


def changes(folder: Path) -> dict[str, Any]:
    """s B A of each module, by the oracle; patterns are those that suture writes."""
    tensors, config = read_lora(folder), config_of(folder)
    found = {}
    for name in tensors:
        if name.endswith(".lora_A.weight"):
            module = name.removesuffix(".lora_A.weight")
            key = f"^{module}".replace(".", "\\.")
            rank = config["rank_pattern"].get(key, config["r"])
            a, b = (exact(tensors[f"{module}.lora_{side}.weight"]) for side in "AB")
            assert a.shape[0] == rank, module
            s = lora.scale(config["alpha_pattern"].get(key, config["lora_alpha"]), rank, rslora=config["use_rslora"])
            found[module] = s * lora.linear(a, b)
    return found


def total(parts: Sequence[Mapping[str, Any]], weights: Sequence[float]) -> dict[str, Any]:
    """The weighted sum of changes."""
    names = {name for part in parts for name in part}
    return {n: sum(w * p[n] for p, w in zip(parts, weights, strict=True) if n in p) for n in names}


def near(found: Mapping[str, Any], wanted: Mapping[str, Any], tolerance: float = 1e-6) -> None:
    """Each change within a share of its norm."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        error = float(np.linalg.norm(found[name] - value)) / max(float(np.linalg.norm(value)), 1e-30)
        assert error < tolerance, f"{name}: {error:.2g}"


@pytest.mark.parametrize("kind", ["plain", "rslora", "patterns", "whole", "dora", "bf16"])
def test_one_adapter_comes_back(kind: str, tmp_path: Path) -> None:
    """Law 1, identity: byte for byte, with its config, whatever it holds."""
    configs: dict[str, dict[str, Any]] = {
        "rslora": {"use_rslora": True},
        "patterns": {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"k_proj": 3}},
        "bf16": {"dtype": "BF16"},
    }
    given = adapter(tmp_path / "one", 1, **configs.get(kind, {}))
    if kind in ("whole", "dora"):
        name = "score.weight" if kind == "whole" else f"{Q}.lora_magnitude_vector"
        tensors = read_lora(given) | {name: random(np.random.default_rng(2), 32)}
        given = write_lora(tmp_path / kind, tensors, modules_to_save=["score"], use_dora=kind == "dora")
    report = suture.merge_adapters([given], tmp_path / "out")
    assert report.warnings == []
    assert read_lora(tmp_path / "out") == read_lora(given)
    assert config_of(tmp_path / "out") == config_of(given)
    assert suture.verify(tmp_path / "out")["differing"] == []


def test_the_gauge_does_not_matter(tmp_path: Path) -> None:
    """Law 2, gauge: (B R, R^-1 A) is the same adapter, and merges to the same change."""
    first, other = adapter(tmp_path / "a", 1), adapter(tmp_path / "b", 2)
    mix = np.random.default_rng(3).normal(0, 1, (4, 4)) + 2 * np.eye(4)
    turned = {}
    for name, raw in read_lora(first).items():
        value = np.linalg.inv(mix) @ exact(raw) if "lora_A" in name else exact(raw) @ mix
        turned[name] = encode(value, "F64")
    again = write_lora(tmp_path / "c", turned)
    for rank in (None, 5):
        found = []
        for i, one in enumerate((first, again)):
            suture.merge_adapters([one, other], tmp_path / f"{rank}-{i}", weights=[0.7, 0.3], rank=rank)
            found.append(changes(tmp_path / f"{rank}-{i}"))
        near(found[0], found[1])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_the_order_does_not_matter(order: tuple[int, ...], tmp_path: Path) -> None:
    """Law 3, order: rsLoRA beside plain, other alphas and patterns; the config that comes first does not win."""
    given = [
        adapter(tmp_path / "a", 1, use_rslora=True, lora_alpha=16),
        adapter(tmp_path / "b", 2, r=6, lora_alpha=9),
        adapter(tmp_path / "c", 3, alpha_pattern={"k_proj": 32}),
    ]
    weights = [0.5, -0.25, 1.5]
    scales = [{Q: 8.0, K: 8.0}, {Q: 1.5, K: 1.5}, {Q: 2.0, K: 8.0}]
    parts = []
    for folder, scale in zip(given, scales, strict=True):
        tensors = read_lora(folder)
        parts.append(
            {m: s * lora.linear(*(exact(tensors[f"{m}.lora_{x}.weight"]) for x in "AB")) for m, s in scale.items()}
        )
    suture.merge_adapters([given[i] for i in order], tmp_path / "out", weights=[weights[i] for i in order])
    near(changes(tmp_path / "out"), total(parts, weights))
    assert config_of(tmp_path / "out")["use_rslora"] is False


def test_two_halves_are_one(tmp_path: Path) -> None:
    """Law 4, idempotence: two equal adapters at a half each have the norm of one."""
    given = adapter(tmp_path / "a", 1)
    suture.merge_adapters([given, given], tmp_path / "out", weights=[0.5, 0.5])
    near(changes(tmp_path / "out"), changes(given))
    suture.merge_adapters([given, given], tmp_path / "low", weights=[0.5, 0.5], rank=4)
    near(changes(tmp_path / "low"), changes(given))


@pytest.mark.parametrize("weights", [(0.1, 1), (-1, 0.5), (1, -1), (0, 1), (3,), (-0.5,)], ids=str)
def test_weights_are_factors(weights: tuple[float, ...], tmp_path: Path) -> None:
    """Law 5, weights: the sum as it is written, with negative weights, none and one."""
    given = [adapter(tmp_path / f"a{i}", i, r=4 + i) for i in range(len(weights))]
    suture.merge_adapters(given, tmp_path / "out", weights=weights)
    near(changes(tmp_path / "out"), total([changes(g) for g in given], weights))


def test_ranks_add_up_where_both_are(tmp_path: Path) -> None:
    """Law 6, rank: 4 and 12 are 16 where both are, and 12 where one is."""
    given = [adapter(tmp_path / "a", 1, (Q,)), adapter(tmp_path / "b", 2, r=12)]
    suture.merge_adapters(given, tmp_path / "out")
    tensors = read_lora(tmp_path / "out")
    assert {m: tensors[f"{m}.lora_A.weight"].shape[0] for m in (Q, K)} == {Q: 16, K: 12}
    near(changes(tmp_path / "out"), total([changes(g) for g in given], (1, 1)))


@pytest.mark.parametrize("rank", [1, 5, 8, 100])
def test_fewer_ranks_miss_what_they_must(rank: int, tmp_path: Path) -> None:
    """Law 6: the error is the root of the dropped squares, no less is possible, and it is told."""
    given = [adapter(tmp_path / "a", 1), adapter(tmp_path / "b", 2)]
    report = suture.merge_adapters(given, tmp_path / "out", weights=[0.7, 0.3], rank=rank)
    wanted, found = total([changes(g) for g in given], (0.7, 0.3)), changes(tmp_path / "out")
    missed = whole = 0.0
    for name, value in wanted.items():
        dropped = np.linalg.svd(value, compute_uv=False)[rank:]
        np.testing.assert_allclose(np.linalg.norm(found[name] - value), np.sqrt((dropped**2).sum()), atol=1e-5)
        missed, whole = missed + float((dropped**2).sum()), whole + float((value**2).sum())
    if rank >= 8:
        assert report.warnings == []
    else:
        (told,) = report.warnings
        assert f"{(missed / whole) ** 0.5:.3g} of the norm" in told


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_equal_scales_keep_the_bytes(dtype: str, tmp_path: Path) -> None:
    """Law 7, precision: a common scale goes into `lora_alpha`; other ones cost one rounding of B, and A stays."""
    given = [adapter(tmp_path / "a", 1, dtype=dtype), adapter(tmp_path / "b", 2, dtype=dtype)]
    report = suture.merge_adapters(given, tmp_path / "out", weights=[0.3, 0.3])
    assert report.warnings == []
    parts = [read_lora(g) for g in given]
    for name, raw in read_lora(tmp_path / "out").items():
        side = np.concatenate([p[name].values() for p in parts], axis=0 if "lora_A" in name else 1)
        assert raw == encode(side, dtype), name
    near(changes(tmp_path / "out"), total([changes(g) for g in given], (0.3, 0.3)))
    suture.merge_adapters(given, tmp_path / "apart", weights=[0.7, 0.3])
    for name, raw in read_lora(tmp_path / "apart").items():
        if "lora_A" in name:
            assert raw == encode(np.concatenate([p[name].values() for p in parts]), dtype)
        else:
            scaled = [s * exact(p[name]) for p, s in zip(parts, (1.4, 0.6), strict=True)]
            np.testing.assert_array_equal(exact(raw), lora.once(np.concatenate(scaled, axis=1), dtype))


def test_factors_of_two_dtypes_are_kept_in_the_wider(tmp_path: Path) -> None:
    """Law 7: bf16 beside f32 is f32; `--dtype` says otherwise."""
    given = [adapter(tmp_path / "a", 1, dtype="BF16"), adapter(tmp_path / "b", 2)]
    suture.merge_adapters(given, tmp_path / "out")
    assert {raw.dtype for raw in read_lora(tmp_path / "out").values()} == {"F32"}
    suture.merge_adapters(given, tmp_path / "half", settings=suture.Settings(dtype="float16"))
    assert {raw.dtype for raw in read_lora(tmp_path / "half").values()} == {"F16"}


def test_a_sum_of_sums_folds_as_its_parts(tmp_path: Path) -> None:
    """The merged adapter in a model is the adapters in it, one after the other."""
    rng = np.random.default_rng(0)
    base = write_checkpoint(tmp_path / "base", {f"{m}.weight": random(rng, *s) for m, s in SHAPES.items()})
    given = [adapter(tmp_path / "a", 1, (Q,), use_rslora=True), adapter(tmp_path / "b", 2, r=12)]
    suture.merge_adapters(given, tmp_path / "out", weights=[0.7, -0.3])
    suture.fold(base, given, tmp_path / "apart", weights=[0.7, -0.3])
    one, two = suture.open(f"{base}+{tmp_path / 'out'}"), suture.open(tmp_path / "apart")
    for name in two.names:
        np.testing.assert_allclose(one.numpy(name), two.numpy(name), atol=1e-6)
