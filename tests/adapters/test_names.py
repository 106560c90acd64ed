"""Adapters name their modules in several ways; each is found, or named where the model has none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..reference import lora
from ..support.adapters import CONFIG, PREFIX, WEIGHTS
from ..support.checkpoints import Raw, llama_family, parse_file, read_checkpoint, write_checkpoint, write_file
from ..support.lora import exact, factors, random, write_lora

SHAPE: dict[str, Any] = {"layers": 2, "hidden": 16, "heads": 2, "kv_heads": 1, "ff": 24, "vocab": 20, "n": 0}
Q, EMBED, HEAD = "model.layers.0.self_attn.q_proj", "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (folder,) = llama_family(tmp_path, dtype="f32", **SHAPE)
    return folder


def adapter(folder: Path, rename: Callable[[str], str] = str) -> tuple[Path, np.ndarray]:
    """An adapter of one module, its tensors called otherwise; and its change."""
    given = factors(np.random.default_rng(1), Q, (16, 16))
    found = write_lora(folder, {rename(name): raw for name, raw in given.items()})
    return found, 2 * lora.linear(*map(exact, given.values()))


def changes(model: str, base: Path) -> dict[str, np.ndarray]:
    """What a model is, less what its base is, where it differs."""
    found, own = suture.open(model), suture.open(base)
    return {n: found.numpy(n) - own.numpy(n) for n in own.names if (found.numpy(n) != own.numpy(n)).any()}


@pytest.mark.parametrize(
    "rename",
    [
        str,
        lambda n: n.removeprefix("model."),
        lambda n: f"backbone.{n}",
        lambda n: n.replace(".weight", ".default.weight"),
        lambda n: n.replace(".weight", ".my_adapter.weight"),
    ],
    ids=["peft", "no model.", "another front", "default", "named"],
)
def test_a_module_is_found_by_each_name(rename: Callable[[str], str], base: Path, tmp_path: Path) -> None:
    """A prefix more or less, and names as PEFT once wrote them, mean the same module."""
    folder, change = adapter(tmp_path / "lora", rename)
    ((name, found),) = changes(f"{base}+{folder}", base).items()
    assert name == f"{Q}.weight"
    np.testing.assert_allclose(found, change, atol=1e-6)


def test_names_without_the_prefix_of_peft(base: Path, tmp_path: Path) -> None:
    """`base_model.model.` is what PEFT puts in front; others leave it out."""
    folder, change = adapter(tmp_path / "lora")
    tensors = parse_file((folder / WEIGHTS).read_bytes())
    write_file(folder / WEIGHTS, {name.removeprefix(PREFIX): raw for name, raw in tensors.items()})
    np.testing.assert_allclose(changes(f"{base}+{folder}", base)[f"{Q}.weight"], change, atol=1e-6)


def test_a_language_model_inside_a_larger_one(base: Path, tmp_path: Path) -> None:
    """An adapter of the language model is one of the whole; what is new is called as its neighbours are."""
    tower = {"vision.layers.0.mlp.fc1.weight": random(np.random.default_rng(0), 8, 8)}
    inner = {f"language_model.{name}": raw for name, raw in read_checkpoint(base).items()}
    whole = write_checkpoint(tmp_path / "whole", inner | tower)
    rng = np.random.default_rng(1)
    given = factors(rng, Q, (16, 16)) | {f"{Q}.lora_B.bias": random(rng, 16), "score.weight": random(rng, 2, 16)}
    folder = write_lora(tmp_path / "lora", given, lora_bias=True, modules_to_save=["score"])
    assert list(changes(f"{whole}+{folder}", whole)) == [f"language_model.{Q}.weight"]
    new = set(suture.open(f"{whole}+{folder}").names) - set(suture.open(whole).names)
    assert new == {f"language_model.{Q}.bias", "language_model.score.weight"}


def test_a_module_that_two_parts_have_is_not_guessed(base: Path, tmp_path: Path) -> None:
    """Where two tensors end in the name the adapter is refused: nothing tells which is meant."""
    own = read_checkpoint(base)
    twice = {f"{front}.{name}": raw for front in ("one", "two") for name, raw in own.items()}
    whole = write_checkpoint(tmp_path / "whole", twice)
    folder, _ = adapter(tmp_path / "lora")
    with pytest.raises(suture.SutureError, match="lacks"):
        suture.open(f"{whole}+{folder}")


@pytest.mark.parametrize("front", ["", "language_model."], ids=["plain", "inside a larger one"])
def test_the_head_of_a_tied_model(front: str, tmp_path: Path) -> None:
    """A model that ties its head gets one of its own, made of the table; the table stays, and the config says so."""
    (tied,) = llama_family(tmp_path / "tied", dtype="f32", tied=True, **SHAPE)
    if front:
        tensors = {front + name: raw for name, raw in read_checkpoint(tied).items()}
        write_checkpoint(tied, tensors)
    given = factors(np.random.default_rng(2), "lm_head", (20, 16)) | factors(np.random.default_rng(1), Q, (16, 16))
    folder = write_lora(tmp_path / "lora", given)
    found = suture.open(f"{tied}+{folder}")
    table = suture.open(tied).numpy(front + EMBED)
    change = 2 * lora.linear(*(exact(given[f"lm_head.lora_{side}.weight"]) for side in "AB"))
    np.testing.assert_allclose(found.numpy(front + HEAD), table + change, atol=1e-6)
    np.testing.assert_array_equal(found.numpy(front + EMBED), table)
    suture.fold(tied, [folder], tmp_path / "out")
    assert '"tie_word_embeddings": false' in (tmp_path / "out" / "config.json").read_text()


def test_an_adapter_named_by_its_file(base: Path, tmp_path: Path) -> None:
    """Its file may be named itself; the config lies beside it."""
    folder, change = adapter(tmp_path / "lora")
    assert (folder / CONFIG).is_file()
    np.testing.assert_allclose(changes(f"{base}+{folder / WEIGHTS}", base)[f"{Q}.weight"], change, atol=1e-6)


def test_an_adapter_that_lies_beside_a_model(base: Path, tmp_path: Path) -> None:
    """A folder with both is the adapter where an adapter is named: the model in it is no change of another."""
    folder, change = adapter(tmp_path / "lora")
    other: dict[str, Raw] = read_checkpoint(llama_family(tmp_path / "other", dtype="f32", seed=4, **SHAPE)[0])
    write_checkpoint(folder, other)
    ((name, found),) = changes(f"{base}+{folder}", base).items()
    assert name == f"{Q}.weight"
    np.testing.assert_allclose(found, change, atol=1e-6)
    report = suture.merge_adapters([folder], tmp_path / "one")
    assert set(report.data["tensors"]) == {f"{PREFIX}{Q}.lora_{side}.weight" for side in "AB"}


def test_a_plus_in_a_folders_name(base: Path, tmp_path: Path) -> None:
    """What is there by that very name comes first; a + inside the name of something there does not part."""
    folder, change = adapter(tmp_path / "a+b")
    base = base.rename(tmp_path / "c+d")
    for model in (f"{base}+{folder}", f"{tmp_path}/c+d+{tmp_path}/a+b"):
        np.testing.assert_allclose(changes(model, base)[f"{Q}.weight"], change, atol=1e-6)
