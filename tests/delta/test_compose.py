"""Deltas as one delta, and as other tools have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import suture
from suture import Settings, SutureError

from ..support.checkpoints import encode
from .worlds import llama, pair, said, tensors_of, tuned, write


def two(tmp_path: Path, form: str, **options: float) -> tuple[Path, list[Path]]:
    """A base in f32, and deltas of two fine-tunes of it."""
    base = llama(0, "F32")
    one = write(tmp_path / "base", base)
    for seed in (1, 2):
        other = write(tmp_path / f"tuned{seed}", tuned(base, seed, same="norm"))
        suture.delta.extract(one, other, tmp_path / f"d{seed}", form=form, **options)  # type: ignore[arg-type]
    return one, [tmp_path / "d1", tmp_path / "d2"]


def test_a_sum_of_sparse_deltas(tmp_path: Path) -> None:
    """Law: applying the sum is applying all, to one rounding of the values in f32."""
    base, deltas = two(tmp_path, "sparse", density=0.3)
    suture.delta.compose(deltas, tmp_path / "both", weights=[0.5, 2.0])
    suture.delta.apply(base, [tmp_path / "both"], tmp_path / "one")
    suture.delta.apply(base, deltas, tmp_path / "all", weights=[0.5, 2.0])
    one, every = tensors_of(tmp_path / "one"), tensors_of(tmp_path / "all")
    for name, raw in one.items():
        assert np.allclose(raw.values(), every[name].values(), rtol=1e-6, atol=1e-7)
    assert not suture.verify(tmp_path / "both")["differing"]
    kept = said(tmp_path / "both")["tensors"]["lm_head.weight"]["figures"]["kept"]
    each = [set(tensors_of(d)["lm_head.weight.index"].values().tolist()) for d in deltas]
    assert kept == len(each[0] | each[1])


def test_a_sum_of_factors(tmp_path: Path) -> None:
    """Law: ranks lie side by side, and nothing of the sum is lost."""
    base, deltas = two(tmp_path, "lowrank", rank=3)
    whole = {n for n, e in said(deltas[0])["tensors"].items() if e["kept"] == "whole"}
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= whole
    with pytest.raises(SutureError, match="do not add up"):
        suture.delta.compose(deltas, tmp_path / "both")
    for i, delta in enumerate(deltas):
        fine = tmp_path / f"tuned{i + 1}"
        suture.delta.extract(base, fine, delta, form="lowrank", rank=3, embed=True, settings=Settings(overwrite=True))
    biases = {n for n, e in said(deltas[0])["tensors"].items() if e["kept"] == "whole"}
    assert all(name.endswith("bias") for name in biases)


def test_a_chain_of_lossless_deltas(tmp_path: Path) -> None:
    """Law: base -> v1 -> v2 as one step gives v2's bytes, and takes them back to the base's."""
    base = llama(0)
    second = tuned(tuned(base, 1), 2, same="embed")
    one, v1, v2 = (write(tmp_path / n, t) for n, t in (("base", base), ("v1", tuned(base, 1)), ("v2", second)))
    suture.delta.extract(one, v1, tmp_path / "d1", form="xor")
    suture.delta.extract(v1, v2, tmp_path / "d2", form="xor")
    suture.delta.compose([tmp_path / "d1", tmp_path / "d2"], tmp_path / "d")
    suture.delta.apply(one, [tmp_path / "d"], tmp_path / "out")
    suture.delta.revert(v2, tmp_path / "d", tmp_path / "back")
    assert tensors_of(tmp_path / "out") == tensors_of(v2)
    assert tensors_of(tmp_path / "back") == tensors_of(one)
    with pytest.raises(SutureError, match="only deltas of one base add up"):
        suture.delta.compose([tmp_path / "d2", tmp_path / "d1"], tmp_path / "no")


def test_diffs_of_lt_sft(tmp_path: Path) -> None:
    """The format as it is described: places with the first axis fastest, as gaps of int64; read again, the same."""
    torch = pytest.importorskip("torch")
    base, deltas = two(tmp_path, "sparse", density=0.3)
    suture.delta.write_diff(deltas[0], tmp_path / "diff.bin")
    found = torch.load(tmp_path / "diff.bin", weights_only=True)
    held = tensors_of(deltas[0])
    for name, diff in found["diffs"].items():
        assert diff["index_steps"].dtype == torch.int64
        flat, dense = np.cumsum(diff["index_steps"].numpy()), np.zeros(tuple(diff["size"]), np.float32)
        multipliers = np.cumprod([1, *diff["size"][:-1]])
        for place, value in zip(flat.tolist(), diff["values"].tolist(), strict=True):
            where = tuple(place // int(m) % int(n) for m, n in zip(multipliers, diff["size"], strict=True))
            dense[where] = value
        wanted = np.zeros(dense.size, np.float32)
        wanted[held[f"{name}.index"].values()] = held[f"{name}.values"].values()
        assert np.array_equal(dense.ravel(), wanted), name
    suture.delta.read_diff(base, tmp_path / "diff.bin", tmp_path / "again")
    assert tensors_of(tmp_path / "again") == held
    suture.delta.apply(base, [tmp_path / "again"], tmp_path / "out")
    suture.delta.apply(base, [deltas[0]], tmp_path / "wanted")
    assert tensors_of(tmp_path / "out") == tensors_of(tmp_path / "wanted")


def test_what_a_diff_replaces(tmp_path: Path) -> None:
    """`abs` tensors overwrite; gaps of int32, as composable-sft writes them, are read; a head that is new is added."""
    torch = pytest.importorskip("torch")
    base = write(tmp_path / "base", llama(0, "F32"))
    diffs = {
        "model.layers.0.self_attn.q_proj.weight": {
            "size": torch.Size((24, 24)),
            "index_steps": torch.tensor([1, 24, 3], dtype=torch.int32),
            "values": torch.tensor([1.0, 2.0, 3.0]),
        }
    }
    whole = {"model.norm.weight": torch.full((24,), 7.0), "classifier.weight": torch.ones(3, 24)}
    torch.save({"diffs": diffs, "abs": whole}, tmp_path / "diff.bin")
    suture.delta.read_diff(base, tmp_path / "diff.bin", tmp_path / "d")
    suture.delta.apply(base, [tmp_path / "d"], tmp_path / "out")
    out, was = tensors_of(tmp_path / "out"), tensors_of(base)
    changed = (
        out["model.layers.0.self_attn.q_proj.weight"].values() - was["model.layers.0.self_attn.q_proj.weight"].values()
    )
    wanted = np.zeros((24, 24), np.float32)
    wanted[1, 0], wanted[1, 1], wanted[4, 1] = 1, 2, 3
    assert np.allclose(changed, wanted, atol=1e-6)
    assert (out["model.norm.weight"].values() == 7).all()
    assert out["classifier.weight"].shape == (3, 24)


@pytest.mark.parametrize("steps", [[0, 0], [-1, 2], [576]])
def test_diffs_that_are_none(tmp_path: Path, steps: list[int]) -> None:
    """Law 7: places that do not rise or lie outside the tensor, and files that are something else, are errors."""
    torch = pytest.importorskip("torch")
    base = write(tmp_path / "base", llama(0, "F32"))
    name = "model.layers.0.self_attn.q_proj.weight"
    diff = {"size": torch.Size((24, 24)), "index_steps": torch.tensor(steps), "values": torch.ones(len(steps))}
    torch.save({"diffs": {name: diff}, "abs": {}}, tmp_path / "diff.bin")
    with pytest.raises(SutureError, match="do not rise, or lie outside"):
        suture.delta.read_diff(base, tmp_path / "diff.bin", tmp_path / "d")
    (tmp_path / "no.bin").write_bytes(b"nothing")
    with pytest.raises(SutureError, match="is no file of torch"):
        suture.delta.read_diff(base, tmp_path / "no.bin", tmp_path / "d")


def test_masks_say_where(tmp_path: Path) -> None:
    """A mask is true exactly where the delta changes something."""
    _, deltas = two(tmp_path, "sparse", density=0.2)
    suture.delta.write_diff(deltas[0], tmp_path / "mask.safetensors", mask=True)
    found = suture.open(tmp_path / "mask.safetensors")
    held = tensors_of(deltas[0])
    assert {f"{name}.index" for name in found} == {name for name in held if name.endswith(".index")}
    for name in found:
        assert np.array_equal(np.flatnonzero(found[name]), held[f"{name}.index"].values())


def test_other_forms_have_no_places(tmp_path: Path) -> None:
    """A delta that is not sparse is refused by its tensor."""
    base, fine = pair(tmp_path)
    suture.delta.extract(base, fine, tmp_path / "d", form="xor")
    with pytest.raises(SutureError, match="only sparse deltas have places"):
        suture.delta.write_diff(tmp_path / "d", tmp_path / "mask.safetensors", mask=True)


__all__ = ["encode"]
