"""A twin of published weights: a BERT of reactions and its two fine-tunes, checked by what the models know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import suture

from . import chemistry

EXPERTS = ("ft", "ft_10k_25s")


@pytest.fixture(scope="module")
def judge(torch: Any, transformers: Any, rxnfp: Path) -> chemistry.Judge:
    return chemistry.Judge.of(torch, transformers, rxnfp / "whole" / "base", rxnfp / "whole" / EXPERTS[1])


def encoder(torch: Any, model: Path) -> dict[str, Any]:
    return {name: t for name, t in chemistry.read(torch, model).items() if name.startswith("bert.")}


def test_one_expert_knows_what_it_knew(tmp_path: Path, rxnfp: Path, torch: Any, judge: chemistry.Judge) -> None:
    """A tenth of the ranks keeps the class of every reaction, the shared expert does not; the twin is the smaller."""
    twin = tmp_path / "twin"
    suture.twin.make(rxnfp / "base", [rxnfp / name for name in EXPERTS], twin, shared="task_arithmetic", rank_share=0.1)
    wanted = judge.classes(encoder(torch, rxnfp / EXPERTS[1]))
    suture.twin.materialise(twin, tmp_path / "one", only=EXPERTS[1])
    suture.twin.materialise(twin, tmp_path / "none", weights=[0.0, 0.0])
    assert judge.classes(encoder(torch, tmp_path / "one")) == wanted
    assert judge.classes(encoder(torch, tmp_path / "none")) != wanted
    stored = sum(path.stat().st_size for path in twin.rglob("*.safetensors"))
    assert stored < 0.7 * sum((rxnfp / name / "model.safetensors").stat().st_size for name in EXPERTS)


def test_a_mixture_is_between_its_experts(tmp_path: Path, rxnfp: Path, torch: Any, judge: chemistry.Judge) -> None:
    """At all ranks a mixture is theta* + sum w (theta_t - theta*), and knows what that knows."""
    twin, weights = tmp_path / "twin", [0.3, 0.7]
    suture.twin.make(rxnfp / "base", [rxnfp / n for n in EXPERTS], twin, shared="task_arithmetic", rank_share=1.0)
    suture.twin.materialise(twin, tmp_path / "mixed", weights=weights)
    shared, *experts = (encoder(torch, m) for m in (twin / "shared", *(rxnfp / n for n in EXPERTS)))
    by_hand = {
        name: start + sum(w * (e[name] - start) for w, e in zip(weights, experts, strict=True))
        if name.endswith("weight")
        else start
        for name, start in shared.items()
    }
    found = encoder(torch, tmp_path / "mixed")
    for name, tensor in by_hand.items():
        if found[name].dim() == 2:
            assert torch.allclose(found[name], tensor, rtol=0, atol=1e-5 * float(tensor.abs().max())), name
    assert judge.classes(found) == judge.classes(by_hand | {n: t for n, t in found.items() if t.dim() != 2})
