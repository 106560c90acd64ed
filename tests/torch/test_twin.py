"""Twins that torch holds: mixtures written into models, as `suture twin materialise` writes them into files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture
from suture import SutureError, UsageError

from ..delta.test_twin import EXPERTS, twin, world
from ..delta.worlds import tensors_of, write
from ..support.checkpoints import Raw, encode

torch = pytest.importorskip("torch")

import suture.torch  # noqa: E402


def empty(tensors: dict[str, Raw], dtype: Any = None) -> dict[str, Any]:
    """A model of the same names and shapes that holds nothing of use."""
    dtype = dtype or torch.float32
    return {name: torch.full(raw.shape, 7.0, dtype=dtype) for name, raw in tensors.items()}


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
@pytest.mark.parametrize("share", [0.1, 1.0])
def test_it_is_what_materialise_writes(tmp_path: Path, dtype: str, share: float) -> None:
    """Law: each call gives what the file has, whatever was in the model: mixtures, one expert, none; in any order."""
    base, _ = world(tmp_path, dtype)
    made = twin(tmp_path, rank_share=share)
    held = suture.torch.Twin(made)
    assert held.experts == list(EXPERTS)
    model = empty(base, torch.float32 if dtype == "F32" else torch.bfloat16)
    places = {name: tensor.data_ptr() for name, tensor in model.items()}
    for i, weights in enumerate([(0.7, 0.3, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 0.0), (0.5, -0.25, 1.5)]):
        suture.twin.materialise(made, tmp_path / f"out-{i}", weights=weights)
        held.apply_(model, torch.tensor(weights) if i % 2 else weights)
        for name, raw in tensors_of(tmp_path / f"out-{i}").items():
            # In bf16 what lies half-way between two numbers may go to either: (7 a + 3 b) / 10 often does.
            near = 1e-5 if dtype == "F32" else 2**-7
            assert np.allclose(model[name].float().numpy(), raw.values(), rtol=near, atol=1e-6), name
    assert {name: tensor.data_ptr() for name, tensor in model.items()} == places


def test_one_expert_by_its_name(tmp_path: Path) -> None:
    """Law: at full rank, with heads of its own, one expert alone is that expert to the bit: all is kept whole."""
    _, experts = world(tmp_path)
    held = suture.torch.Twin(twin(tmp_path, rank_share=1.0, heads="whole"))
    model = empty(experts["law"])
    held.apply_(model, only="law")
    for name, raw in experts["law"].items():
        assert np.array_equal(model[name].numpy(), raw.values()), name
    other = empty(experts["law"])
    held.apply_(other, {"law": 1.0})
    assert all(torch.equal(model[name], other[name]) for name in model)


def test_a_module_with_stacked_experts_and_convolutions(tmp_path: Path) -> None:
    """Law: matrices in three dimensions are decomposed one by one, those of convolutions by their outputs."""
    rng = np.random.default_rng(0)
    shapes = {"model.layers.0.mlp.experts.up_proj": (3, 40, 24), "model.layers.0.conv.weight": (20, 4, 3, 3)}
    for folder in ("base", *EXPERTS[:2]):
        tensors = {name: encode(rng.normal(0, 0.5, shape), "F32") for name, shape in shapes.items()}
        write(tmp_path / folder, tensors)
    made = twin(tmp_path, experts=2)
    model = {name: torch.zeros(shape) for name, shape in shapes.items()}
    suture.torch.Twin(made).apply_(model, [0.7, 0.5])
    suture.twin.materialise(made, tmp_path / "out", weights=[0.7, 0.5])
    for name, raw in tensors_of(tmp_path / "out").items():
        assert np.allclose(model[name].numpy(), raw.values(), rtol=1e-5, atol=1e-6), name


def test_matrices_that_lie_as_in_out(tmp_path: Path) -> None:
    """Law: a model that keeps its matrices as [in, out] gets factors of them as they lie: an expert comes back."""
    rng = np.random.default_rng(0)
    shapes = {"h.0.attn.c_attn.weight": (24, 72), "h.0.mlp.c_fc.weight": (24, 96), "h.0.mlp.c_proj.weight": (96, 24)}
    own = {name: rng.normal(0, 0.5, shape) for name, shape in shapes.items()}
    write(tmp_path / "base", {name: encode(values, "F32") for name, values in own.items()})
    experts: dict[str, dict[str, Raw]] = {}
    for expert in EXPERTS[:2]:
        planted = {n: np.outer(rng.normal(size=m), rng.normal(size=k)) / 10 for n, (m, k) in shapes.items()}
        experts[expert] = {name: encode(own[name] + planted[name], "F32") for name in shapes}
        write(tmp_path / expert, experts[expert])
    made = twin(tmp_path, experts=2)
    model = {name: torch.zeros(shape) for name, shape in shapes.items()}
    suture.torch.Twin(made).apply_(model, only="law")
    suture.twin.materialise(made, tmp_path / "out", only="law")
    for name, raw in tensors_of(tmp_path / "out").items():
        wanted = experts["law"][name].values()
        assert np.allclose(raw.values(), wanted, rtol=1e-5, atol=1e-5), name
        assert np.allclose(model[name].numpy(), wanted, rtol=1e-5, atol=1e-5), name


def test_a_router_can_sit_in_front(tmp_path: Path) -> None:
    """Law: a module is written into in place, parameters stay parameters, ties stay ties, gradients do not matter."""

    class Tiny(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.embed_tokens = torch.nn.Embedding(30, 8)
            self.up = torch.nn.Linear(8, 12)
            self.lm_head = torch.nn.Linear(8, 30, bias=False)
            self.lm_head.weight = self.embed_tokens.weight

    torch.manual_seed(0)
    for folder in ("base", *EXPERTS[:2]):
        module = Tiny()
        state = {n: encode(t.detach().numpy(), "F32") for n, t in module.state_dict().items() if "lm_head" not in n}
        write(tmp_path / folder, state)
    made = twin(tmp_path, experts=2, rank_share=0.5)
    module = Tiny()
    router = torch.nn.Linear(8, 2)
    weights = router(module.embed_tokens(torch.tensor([1, 2, 3])).mean(0)).softmax(-1)
    suture.torch.Twin(made).apply_(module, weights)
    suture.twin.materialise(made, tmp_path / "out", weights=weights.tolist())
    for name, raw in tensors_of(tmp_path / "out").items():
        assert np.allclose(module.state_dict()[name].numpy(), raw.values(), rtol=1e-5, atol=1e-6), name
    assert module.lm_head.weight is module.embed_tokens.weight
    assert module.up.weight.requires_grad


def test_what_does_not_fit_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    """Bad input: another shape, a tensor too many or too few, weights of another number."""
    base, _ = world(tmp_path)
    held = suture.torch.Twin(twin(tmp_path))
    name = "model.norm.weight"
    without = {n: t for n, t in empty(base).items() if n != name}
    cases: list[tuple[dict[str, Any], Any, str]] = [
        (without, [1, 0, 0], f"has no tensor `{name}`"),
        (empty(base) | {"more.weight": torch.zeros(3, 3)}, [1, 0, 0], "`more.weight`: is not in the twin"),
        (empty(base) | {name: torch.zeros(3)}, [1, 0, 0], r"expected the twin's shape \[24\], found \[3\]"),
        (empty(base) | {name: torch.zeros(24, dtype=torch.int64)}, [1, 0, 0], "found torch.int64"),
        (empty(base), [1, 0], "one for each of 3 experts"),
        (empty(base), torch.ones(2, 3), "one dimension"),
        (empty(base), {"lore": 1.0}, "no expert `lore`"),
    ]
    for model, weights, message in cases:
        before = {n: t.clone() for n, t in model.items()}
        with pytest.raises((SutureError, UsageError), match=message):
            held.apply_(model, weights)
        assert all(torch.equal(before[n], t) for n, t in model.items())
    with pytest.raises(SutureError, match="is no twin"):
        suture.torch.Twin(tmp_path / "base")


def test_a_damaged_twin_is_not_held(tmp_path: Path) -> None:
    """Law 7: differences of another shared model, or of none, are refused when the twin is read."""
    world(tmp_path)
    made = twin(tmp_path)
    for file in (made / "shared").glob("*.safetensors"):
        file.write_bytes(next((tmp_path / "base").glob("*.safetensors")).read_bytes())
    with pytest.raises(SutureError, match="belongs to another model"):
        suture.torch.Twin(made)
