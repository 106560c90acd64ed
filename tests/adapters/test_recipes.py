"""`base+adapter` wherever a config names a model: slices, modules, several documents and outputs, dtypes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..reference.lora import once
from ..support.catalogue import differing
from ..support.checkpoints import read_checkpoint
from .worlds import World, write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return write_world(tmp_path_factory.mktemp("world"))


def entry(model: Path, weight: Any = 0.5, **more: Any) -> dict[str, Any]:
    """A model with its weight."""
    return {"model": str(model), "parameters": {"weight": weight}, **more}


def sliced(models: Sequence[Path], *cuts: tuple[int, int], **more: Any) -> dict[str, Any]:
    """Slices of two models."""
    base = [Path(more["base_model"])] if "base_model" in more else []
    slices = [{"sources": [entry(m, layer_range=[a, b]) for m in (*base, *models[1:3])]} for a, b in cuts]
    return {"merge_method": "linear", "slices": slices, **more}


def stacked(models: Sequence[Path]) -> dict[str, Any]:
    """Layers on top of each other, some twice."""
    runs = [(1, 0, 3), (2, 1, 4), (0, 3, 4), (1, 0, 1)]
    slices = [{"sources": [{"model": str(models[i]), "layer_range": [a, b]}]} for i, a, b in runs]
    return {"merge_method": "passthrough", "slices": slices}


def by_modules(models: Sequence[Path]) -> dict[str, Any]:
    """Two modules, one sliced."""
    whole = [entry(m) for m in models[1:]]
    inner = sliced(models, (0, 2), (2, 4))["slices"]
    return {"merge_method": "linear", "modules": {"lm_head": {"models": whole}, "default": {"slices": inner}}}


def rules(models: Sequence[Path]) -> dict[str, Any]:
    """Gradients and filters, and layers' own coefficients."""
    listed = [
        entry(models[1], [{"filter": "mlp", "value": [0.1, 0.7]}, {"value": 0.3}]),
        entry(models[2], {"layers": {"0": 0.25, "2": 1e-3}, "default": 0.5}),
    ]
    return {
        "merge_method": "ties",
        "base_model": str(models[0]),
        "models": listed,
        "parameters": {"density": [0.2, 0.9]},
    }


def linear(models: Sequence[Path], **more: Any) -> dict[str, Any]:
    """A mean."""
    return {"merge_method": "linear", "models": [entry(m) for m in models[1:]], **more}


CONFIGS: dict[str, Callable[[Sequence[Path]], dict[str, Any]]] = {
    "slices": lambda m: sliced(m, (0, 2), (2, 4)),
    "a slice": lambda m: sliced(m, (1, 3)),
    "slices on a base": lambda m: sliced(m, (0, 1), (1, 4), merge_method="task_arithmetic", base_model=str(m[0])),
    "slices on a base with an adapter": lambda m: sliced(m, (0, 4), merge_method="ties", base_model=str(m[3])),
    "stack": stacked,
    "modules": by_modules,
    "rules": rules,
    "filters": lambda m: linear(m, exclude=["norm", "lm_head"]),
    "include": lambda m: linear(m, include=["glob:*.mlp.*"]),
    "half": lambda m: linear(m, dtype="bfloat16"),
    "out_dtype": lambda m: linear(m, dtype="float32", out_dtype="float16"),
    "alone": lambda m: {"merge_method": "passthrough", "models": [{"model": str(m[1])}]},
    "scaled": lambda m: {
        "merge_method": "passthrough",
        "models": [{"model": str(m[1]), "parameters": {"scale": [{"filter": "mlp", "value": 0.5}, {"value": 1}]}}],
    },
}


@pytest.mark.parametrize("form", CONFIGS)
def test_a_form_takes_models_with_adapters(form: str, world: World, tmp_path: Path) -> None:
    """Law 10: what holds for folded models holds, bit for bit, where they are named with their adapters."""
    found, wanted = tmp_path / "named", tmp_path / "folded"
    suture.merge(CONFIGS[form](world.named), found)
    suture.merge(CONFIGS[form](world.folded), wanted)
    assert differing(read_checkpoint(found), read_checkpoint(wanted)) == []
    assert json.loads((found / "config.json").read_text()) == json.loads((wanted / "config.json").read_text())


def test_documents_and_outputs_take_them(world: World, tmp_path: Path) -> None:
    """Law 10: one document's output is another's base for an adapter's model; several outputs are made at once."""
    for label, models in (("named", world.named), ("folded", world.folded)):
        both = [entry(Path("first"), 1), entry(models[1])]
        documents = [{"name": "first", **linear(models)}, {"name": "last", "merge_method": "linear", "models": both}]
        file = tmp_path / f"{label}.yml"
        file.write_text("\n---\n".join(json.dumps(d) for d in documents))
        suture.merge(file, tmp_path / label)
        suture.merge({"outputs": {"a": linear(models), "b": rules(models)}}, tmp_path / f"{label}-both")
    for name in "ab":
        named, folded = (read_checkpoint(tmp_path / f"{label}-both" / name) for label in ("named", "folded"))
        assert differing(named, folded) == []
    assert differing(read_checkpoint(tmp_path / "named"), read_checkpoint(tmp_path / "folded")) == []


def test_an_output_dtype_is_one_rounding_of_the_sum(world: World, tmp_path: Path) -> None:
    """Law 2: a fold to 16 bits rounds the f64 sum once, not the f32 one again."""
    exact = suture.Settings(dtype="float64")
    suture.fold(world.base, [world.adapters[0]], tmp_path / "exact", settings=exact)
    wanted = read_checkpoint(tmp_path / "exact")
    named = suture.open(str(world.named[1]))
    assert any((raw.values() != named.numpy(name)).any() for name, raw in wanted.items()), "f64 is more than f32"
    for name, stored in (("bfloat16", "BF16"), ("float16", "F16")):
        suture.fold(world.base, [world.adapters[0]], tmp_path / name, settings=suture.Settings(dtype=name))
        for tensor, raw in read_checkpoint(tmp_path / name).items():
            assert raw.dtype == stored
            np.testing.assert_array_equal(raw.values(), once(wanted[tensor].values(), stored), err_msg=tensor)


def test_adapters_of_one_model_need_no_copy_of_it(world: World, tmp_path: Path) -> None:
    """The idiom of task arithmetic on the base alone is what folding is."""
    listed = [
        {"model": str(m), "parameters": {"weight": w}} for m, w in zip(world.named[1:], (0.7, -0.3, 1), strict=True)
    ]
    config = {"merge_method": "task_arithmetic", "base_model": str(world.base), "models": listed}
    suture.merge(config, tmp_path / "sum")
    suture.fold(world.base, world.adapters, tmp_path / "fold", weights=[0.7, -0.3, 1])
    found, wanted = (read_checkpoint(tmp_path / n) for n in ("sum", "fold"))
    for name, raw in wanted.items():
        # Each operand is rounded to f32 before it is subtracted.
        np.testing.assert_allclose(found[name].values(), raw.values(), atol=3e-8, rtol=3e-7, err_msg=name)
