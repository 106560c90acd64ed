"""The k largest changes of the whole model, and the other forms against NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import suture
from suture import Settings

from ..reference.rounding import bf16_bits, bf16_values
from ..support.checkpoints import Raw, encode
from .worlds import change, llama, pair, said, tensors_of, tuned, write


def places(delta: Path, names: list[str]) -> dict[str, dict[int, float]]:
    """What a sparse delta holds of each tensor."""
    held = tensors_of(delta)
    found = {}
    for name in names:
        index, values = held.get(f"{name}.index"), held.get(f"{name}.values")
        pairs = zip(index.values(), values.values(), strict=True) if index and values else ()
        found[name] = {int(i): float(v) for i, v in pairs}
    return found


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
@pytest.mark.parametrize("density", [0.003, 0.05, 0.31, 0.7, 1.0])
def test_exactly_the_k_largest_of_the_whole_model(tmp_path: Path, dtype: str, density: float) -> None:
    """Law 4: k = round(density n) elements, those of a stable sort by falling magnitude over all tensors in order."""
    base, fine = llama(0, dtype), tuned(llama(0, dtype), 1)
    one, other = write(tmp_path / "base", base), write(tmp_path / "tuned", fine)
    suture.delta.extract(one, other, tmp_path / "d", form="sparse", density=density)
    names = list(base)
    every = np.concatenate([change(base[n], fine[n]).ravel() for n in names])
    keep = round(density * every.size)
    order = np.argsort(-np.abs(every), kind="stable")[:keep]
    wanted = {int(i) for i in order if every[i] != 0}
    begin, found = 0, set()
    for name, held in places(tmp_path / "d", names).items():
        for i, value in held.items():
            assert value == every[begin + i]
            found.add(begin + i)
        begin += base[name].values().size
    assert found == wanted


def test_ties_are_cut_by_index(tmp_path: Path) -> None:
    """Law 4: of equal changes the first in the order of the base's tensors, across tensors and pieces."""
    rng = np.random.default_rng(0)
    base = {f"t{i}": encode(np.zeros((700, 1000)), "BF16") for i in range(4)}
    fine = {n: encode(rng.choice([0.0, 0.5, -0.5, 1.0], (700, 1000)), "BF16") for n in base}
    one, other = write(tmp_path / "base", base), write(tmp_path / "tuned", fine)
    keep = 1_234_567
    suture.delta.extract(one, other, tmp_path / "d", form="sparse", keep=keep, settings=Settings(threads=3))
    every = np.concatenate([fine[n].values().ravel() for n in base])
    wanted = np.sort(np.argsort(-np.abs(every), kind="stable")[:keep])
    held = tensors_of(tmp_path / "d")
    begin, found = 0, []
    for name in base:
        if f"{name}.index" in held:
            found.append(held[f"{name}.index"].values().astype(np.int64) + begin)
        begin += 700_000
    assert np.array_equal(np.concatenate(found), wanted)


def test_signs_and_the_mean_change(tmp_path: Path) -> None:
    """BitDelta: base + mean |change| sign(change), 0 counting as +, rounded once; what is no matrix whole."""
    base, fine = llama(0), tuned(llama(0), 1)
    one, other = write(tmp_path / "base", base), write(tmp_path / "tuned", fine)
    suture.delta.extract(one, other, tmp_path / "d", form="bits")
    suture.delta.apply(one, [tmp_path / "d"], tmp_path / "out")
    out = tensors_of(tmp_path / "out")
    for name, raw in base.items():
        delta = change(raw, fine[name]).astype(np.float64)
        if len(raw.shape) < 2 or "embed" in name or "head" in name:
            assert out[name] == fine[name]
        elif delta.any():
            scale = np.float64(np.float32(np.abs(delta).mean()))
            wanted = raw.values().astype(np.float64) + np.where(delta < 0, -scale, scale)
            assert np.array_equal(out[name].values(), bf16_values(bf16_bits(wanted))), name


def test_weights_and_sums_are_formed_once(tmp_path: Path) -> None:
    """Composition: base + sum w_i d_i, in f64, rounded once; deltas of one base in any number."""
    base = llama(0, "F32")
    fines = [tuned(base, seed, same="nothing") for seed in (1, 2)]
    one = write(tmp_path / "base", base)
    for i, (fine, density) in enumerate(zip(fines, (0.3, 0.6), strict=True)):
        other = write(tmp_path / f"tuned{i}", fine)
        suture.delta.extract(one, other, tmp_path / f"d{i}", form="sparse", density=density)
    deltas = [tmp_path / "d0", tmp_path / "d1"]
    suture.delta.apply(one, deltas, tmp_path / "out", weights=[0.5, -2.0])
    out = tensors_of(tmp_path / "out")
    for name, raw in base.items():
        wanted = raw.values().astype(np.float64).ravel()
        for delta, weight in zip(deltas, (0.5, -2.0), strict=True):
            for i, value in places(delta, [name])[name].items():
                wanted[i] += weight * value
        assert np.array_equal(out[name].values().ravel(), wanted.astype(np.float32)), name


def test_a_delta_is_an_input_like_an_adapter(tmp_path: Path) -> None:
    """Law 10: merging `base+delta` gives what merging the written model gives; so do swap, diff and inspect."""
    base, fine = pair(tmp_path, "F32")
    suture.delta.extract(base, fine, tmp_path / "d", form="lowrank", rank=3)
    suture.delta.extract(base, fine, tmp_path / "x", form="xor")
    (tmp_path / "as").mkdir()
    for delta in ("d", "x"):
        named, written = f"{base}+{tmp_path / delta}", tmp_path / "as" / f"base+{delta}"
        suture.delta.apply(base, [tmp_path / delta], written)
        for i, model in enumerate((named, str(written))):
            config = {
                "merge_method": "ties",
                "base_model": str(base),
                "models": [{"model": model, "parameters": {"weight": 1.0, "density": 0.5}}],
                "dtype": "float32",
            }
            suture.merge(config, tmp_path / f"{delta}-merged-{i}")
            suture.swap(base, model, tmp_path / f"{delta}-swapped-{i}", bottom=1, top=0)
        swapped = [tensors_of(tmp_path / f"{delta}-swapped-{i}") for i in range(2)]
        assert swapped[0] == swapped[1]
        merged = [tensors_of(tmp_path / f"{delta}-merged-{i}") for i in range(2)]
        for name, raw in merged[0].items():
            assert np.allclose(raw.values(), merged[1][name].values(), rtol=1e-6, atol=1e-7), name
        rows = [suture.diff(base, model)["models"][0]["total"] for model in (named, str(written))]
        assert rows[0]["l2"] == pytest.approx(rows[1]["l2"], rel=1e-6)
    assert len(suture.inspect(f"{base}+{tmp_path / 'd'}")["tensors"]) == len(llama(0))


def test_a_chain_of_deltas(tmp_path: Path) -> None:
    """A delta of what another makes follows it: base + d1 + d2 is the second fine-tune, byte for byte."""
    base = llama(0)
    second = tuned(tuned(base, 1), 2, same="nothing")
    one, two, three = (write(tmp_path / n, t) for n, t in (("base", base), ("v1", tuned(base, 1)), ("v2", second)))
    suture.delta.extract(one, two, tmp_path / "d1", form="xor")
    suture.delta.extract(two, three, tmp_path / "d2", form="xor")
    suture.delta.apply(one, [tmp_path / "d1", tmp_path / "d2"], tmp_path / "out")
    assert tensors_of(tmp_path / "out") == tensors_of(three)


def test_values_of_f64_are_not_rounded(tmp_path: Path) -> None:
    """Law 2: the changes of f64 tensors are f64."""
    base = {"w": encode(np.random.default_rng(0).normal(size=100), "F64")}
    fine = {"w": encode(base["w"].values() + np.random.default_rng(1).normal(size=100) * 1e-9, "F64")}
    one, other = write(tmp_path / "base", base), write(tmp_path / "tuned", fine)
    suture.delta.extract(one, other, tmp_path / "d", form="sparse")
    held = tensors_of(tmp_path / "d")["w.values"]
    assert held.dtype == "F64"
    assert np.array_equal(held.values(), fine["w"].values() - base["w"].values())


def test_more_figures_are_told(tmp_path: Path) -> None:
    """The figures of a sparse delta are those of NumPy."""
    base, fine = llama(0, "F32"), tuned(llama(0, "F32"), 1)
    one, other = write(tmp_path / "base", base), write(tmp_path / "tuned", fine)
    suture.delta.extract(one, other, tmp_path / "d", form="sparse", density=0.2)
    for name, entry in said(tmp_path / "d")["tensors"].items():
        delta = change(base[name], fine[name]).astype(np.float64).ravel()
        if entry["kept"] == "sparse":
            kept = np.zeros_like(delta)
            held = places(tmp_path / "d", [name])[name]
            kept[list(held)] = list(held.values())
            figures = entry["figures"]
            assert figures["kept"] == len(held)
            assert figures["norm"] == pytest.approx(np.linalg.norm(delta), rel=1e-12)
            assert figures["error"] == pytest.approx(np.linalg.norm(delta - kept) / np.linalg.norm(delta), rel=1e-6)


__all__ = ["Raw"]
