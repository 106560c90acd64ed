"""Deltas of published weights: a BERT of reactions and its fine-tune, there and back, and as an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import suture

from ..delta.worlds import said, tensors_of
from . import chemistry


@pytest.mark.parametrize(
    ("form", "options"),
    [("xor", {}), ("sparse", {"density": 0.05}), ("bits", {}), ("lora", {"rank": 16})],
)
def test_published_weights_there_and_back(tmp_path: Path, rxnfp: Path, form: str, options: dict[str, float]) -> None:
    """Law: exact deltas of published weights, whose heads differ, give both models' bytes."""
    base, fine = rxnfp / "whole" / "base", rxnfp / "whole" / "ft_10k_25s"
    suture.delta.extract(base, fine, tmp_path / "d", form=form, exact=form != "xor", **options)  # type: ignore[arg-type]
    suture.delta.apply(base, [tmp_path / "d"], tmp_path / "again")
    suture.delta.revert(fine, tmp_path / "d", tmp_path / "back")
    assert tensors_of(tmp_path / "again") == tensors_of(fine)
    assert tensors_of(tmp_path / "back") == tensors_of(base)
    figures = said(tmp_path / "d")["figures"]
    if form == "xor":
        assert figures["bytes"] < 0.95 * said(tmp_path / "d")["tuned"]["bytes"]


def test_the_error_of_an_adapter_is_that_of_its_model(tmp_path: Path, rxnfp: Path) -> None:
    """Law: what is told of an extraction is what the applied model misses, tensor by tensor."""
    base, fine = rxnfp / "base", rxnfp / "ft"
    suture.delta.extract(base, fine, tmp_path / "d", form="lora", rank=16)
    suture.delta.apply(base, [tmp_path / "d"], tmp_path / "out")
    one, two, three = (tensors_of(p) for p in (base, fine, tmp_path / "out"))
    checked = 0
    for name, entry in said(tmp_path / "d")["tensors"].items():
        if entry["kept"] == "lowrank":
            change, left = two[name].values() - one[name].values(), two[name].values() - three[name].values()
            told = entry["figures"]["error"]
            assert float((left**2).sum() / (change**2).sum()) ** 0.5 == pytest.approx(told, rel=1e-3, abs=1e-5)
            checked += 1
        elif entry["kept"] == "whole":
            assert two[name] == three[name]
    assert checked >= 72


def test_an_adapter_keeps_what_the_fine_tune_knows(tmp_path: Path, rxnfp: Path, torch: Any, transformers: Any) -> None:
    """By function: factors of rank 17 keep the class of every reaction, at a sixth of the bytes; rank 4 does not."""
    base, fine = rxnfp / "base", rxnfp / "ft_10k_25s"
    judge = chemistry.Judge.of(torch, transformers, rxnfp / "whole" / "base", rxnfp / "whole" / "ft_10k_25s")

    def classes(model: Path) -> list[int]:
        tensors = chemistry.read(torch, model)
        return judge.classes({name: tensor for name, tensor in tensors.items() if name.startswith("bert.")})

    agreeing = {}
    for rank in (4, 17):
        suture.delta.extract(base, fine, tmp_path / f"d{rank}", form="lora", rank=rank)
        suture.delta.apply(base, [tmp_path / f"d{rank}"], tmp_path / f"out{rank}")
        found, wanted = classes(tmp_path / f"out{rank}"), classes(fine)
        agreeing[rank] = sum(a == b for a, b in zip(found, wanted, strict=True)) / len(wanted)
    assert agreeing[17] == 1.0
    assert agreeing[4] < 1.0
    stored = sum(path.stat().st_size for path in (tmp_path / "d17").rglob("*.safetensors"))
    assert stored < (fine / "model.safetensors").stat().st_size * 0.15
