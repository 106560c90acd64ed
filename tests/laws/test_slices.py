"""What holds for `models:` holds for `slices:`, for every method there is; what has no right answer is refused."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..reference.linear import linear
from ..support.catalogue import CASES, Case, Config, differing, merge
from ..support.checkpoints import Raw, encode, read_checkpoint, write_checkpoint
from ..support.layered import (
    LAYERS,
    STACK,
    listed,
    of_layers,
    renamed,
    settled,
    sliced,
    sources,
    with_depth,
    write_layered,
)
from ..support.refusals import left_behind, refusal


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_layered(tmp_path_factory.mktemp("layered"))


@pytest.fixture(scope="module")
def layers_alone(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Models that are nothing but layers, so that a slice is all there is of what it is made from."""
    return write_layered(tmp_path_factory.mktemp("alone"), around=False)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_slices_that_cover_all_are_the_models(case: Case, models: list[Path], place: Path) -> None:
    """Law 10: however the layers of the same models are cut, statistics and depth are those of the whole model."""
    config = settled(case, models)
    whole = merge(config, place / "whole")
    for cuts in [(0, 4), (0, 1, 4)]:
        ranges = itertools.pairwise(cuts)
        assert not differing(merge(sliced(config, ranges), place / str(len(cuts))), whole), cuts


@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_slice_is_the_merge_of_renamed_checkpoints(case: Case, first: int, models: list[Path], place: Path) -> None:
    """Law 10: a slice, checkpoint parameters too, is what layers renamed by hand would give."""
    config = settled(case, models)
    found = merge(sliced(config, [(first, first + 2)]), place / "slice")
    (place / "by-hand").mkdir()
    by_hand = [renamed(m, place / "by-hand" / m.name, [first, first + 1]) for m in models]
    assert not differing(found, merge(settled(case, by_hand), place / "out"))


@pytest.mark.parametrize("case", [case for case in CASES if case.experts > 1], ids=str)
def test_sources_that_take_other_layers(case: Case, models: list[Path], place: Path) -> None:
    """Law 10: each source is read at its own layers, and so are its checkpoint parameters."""
    config = settled(case, models)
    base = [Path(config["base_model"])] if "base_model" in config else []
    entries = [*({"model": str(b)} for b in base), *config["models"]]
    listed = [
        {**entry, "layer_range": [start, start + 2]}
        for entry, start in zip(entries, (0, 1, 2, 1), strict=False)
    ]  # fmt: skip
    config = {key: value for key, value in config.items() if key != "models"} | {"slices": [{"sources": listed}]}
    found = merge(config, place / "slice")
    (place / "by-hand").mkdir()
    starts = {entry["model"]: entry["layer_range"][0] for entry in listed}
    by_hand = []
    for path in models:
        start = starts.get(str(path), 0)
        by_hand.append(renamed(path, place / "by-hand" / path.name, [start, start + 1]))
    wanted = merge(settled(case, by_hand), place / "out")
    # Whose embeddings count is no matter of layers: all models have theirs.
    assert not differing(found, wanted)


def apart(case: Case, models: list[Path], place: Path) -> tuple[Config, list[dict[str, Raw]]]:
    """Two slices of other models, and what each comes to alone."""
    config = with_depth(settled(case, models), on=False)
    if "task" in config["parameters"]:
        # It numbers the models, of which the second slice has fewer.
        config["parameters"]["task"] = 1
    entries, rest = config["models"], {key: value for key, value in config.items() if key != "models"}
    least = case.spec["inputs"][0] - (case.spec["base"] == "first")
    # All models, and all but the first; where a method takes one or two only, another of them.
    if case.experts > least:
        first, second = entries, entries[1:]
    else:
        other = configure_other(entries, models)
        first, second = entries, other
    based = listed({**config, "models": []})
    parts = [sources([*based, *first], 0, 2), sources([*based, *second], 2, 4)]
    both = rest | {"slices": [{"sources": part} for part in parts]}
    alone = [merge(rest | {"slices": [{"sources": part}]}, place / f"alone-{i}") for i, part in enumerate(parts)]
    return both, alone


def configure_other(entries: list[dict[str, Any]], models: list[Path]) -> list[dict[str, Any]]:
    """The entries with the last model exchanged for one that is not among them."""
    used = {entry["model"] for entry in entries}
    other = next(str(m) for m in reversed(models) if str(m) not in used)
    last = entries[-1]
    own = {k: other if v == last["model"] else v for k, v in last["parameters"].items()}
    return [*entries[:-1], {"model": other, "parameters": own}]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_slices_of_other_models_are_apart_or_refused(case: Case, layers_alone: list[Path], place: Path) -> None:
    """Law 10: statistics are never pooled over models by position: each slice has its own, or both are named."""
    both, alone = apart(case, layers_alone, place)
    before = [p.name for p in place.iterdir()]
    error = refusal(suture.merge, both, place / "out")
    if error is not None:
        assert re.search(r"slices\[0\]", error), error
        assert re.search(r"slices\[1\]", error), error
        assert left_behind(place, before) == []
        return
    found = read_checkpoint(place / "out")
    assert not differing(of_layers(found, 0, 2), alone[0])
    assert not differing(of_layers(found, 2, 4), alone[1])


def constant(folder: Path, values: list[float]) -> Path:
    """A model whose layers hold one number each."""
    return write_checkpoint(folder, {f"{STACK}{i}.w": np.full((4, 4), v, np.float32) for i, v in enumerate(values)})


def found_values(out: Path) -> list[float]:
    """The number each layer holds."""
    return [float(raw.values().flat[0]) for _, raw in sorted(read_checkpoint(out).items())]


def test_fisher_weights_follow_the_source_layer(place: Path) -> None:
    """By hand: layers 2 and 3 of models 1 and 0 with weights 3 : 1 and 4 : 1 are 3/4 and 4/5."""
    a, b = constant(place / "a", [1] * 4), constant(place / "b", [0] * 4)
    fa, fb = constant(place / "fa", [1, 2, 3, 4]), constant(place / "fb", [1] * 4)
    listed = [{"model": str(m), "parameters": {"fisher": str(f)}, "layer_range": [2, 4]} for m, f in ((a, fa), (b, fb))]
    suture.merge({"merge_method": "fisher", "slices": [{"sources": listed}]}, place / "out")
    np.testing.assert_allclose(found_values(place / "out"), [0.75, 0.8], rtol=1e-5)


def test_masks_follow_the_source_layer(place: Path) -> None:
    """By hand: a mask that lets layer 3 through and stops layer 2."""
    base, a = constant(place / "base", [0] * 4), constant(place / "a", [1] * 4)
    masks = {f"{STACK}{i}.w": encode(np.full((4, 4), i in (0, 3)), "BOOL") for i in range(4)}
    entry = {"model": str(a), "parameters": {"masks": str(write_checkpoint(place / "masks", masks))}}
    slices = [{"sources": [{"model": str(base), "layer_range": [2, 4]}, entry | {"layer_range": [2, 4]}]}]
    suture.merge({"merge_method": "mask", "base_model": str(base), "slices": slices}, place / "out")
    assert found_values(place / "out") == [0.0, 1.0]


@pytest.mark.parametrize("cuts", [(0, 4), (0, 2, 4), (0, 1, 4), (0, 1, 2, 3, 4)], ids=str)
@pytest.mark.parametrize("method", ["lines", "task_arithmetic", "ties"])
def test_depth_is_that_in_the_model(method: str, cuts: tuple[int, ...], place: Path) -> None:
    """By hand: from alpha to alpha + beta over four layers, however they are cut: 0, 1/3, 2/3, 1."""
    base, a = constant(place / "base", [0] * 4), constant(place / "a", [1] * 4)
    config = {
        "merge_method": method, "base_model": str(base), "parameters": {"alpha": 0.0, "beta": 1.0},
        "models": [{"model": str(a), "parameters": {"weight": 1.0}}],
    }  # fmt: skip
    suture.merge(sliced(config, itertools.pairwise(cuts)), place / "out")
    np.testing.assert_allclose(found_values(place / "out"), [0, 1 / 3, 2 / 3, 1], rtol=1e-6, atol=1e-7)


def test_depth_counts_layers_of_the_output(place: Path) -> None:
    """By hand: a stack that repeats layers is as deep as it is high."""
    base, a = constant(place / "base", [0] * 4), constant(place / "a", [1] * 4)
    config = {
        "merge_method": "lines", "base_model": str(base), "parameters": {"alpha": 0.0, "beta": 1.0},
        "models": [{"model": str(a), "parameters": {"weight": 1.0}}],
    }  # fmt: skip
    suture.merge(sliced(config, [(0, 3), (1, 3)]), place / "out")
    np.testing.assert_allclose(found_values(place / "out"), np.arange(5) / 4, rtol=1e-6, atol=1e-7)


def test_weights_of_slices_are_their_own(models: list[Path], place: Path) -> None:
    """By hand: a linear merge whose slices have other models and weights is each slice's own mean."""
    listed = [[(1, 0.3), (2, 0.9)], [(3, 0.2), (1, 0.5), (2, 0.4)]]
    slices = [
        {"sources": [{"model": str(models[m]), "parameters": {"weight": w}, "layer_range": [2 * i, 2 * i + 2]}
                     for m, w in entries]}
        for i, entries in enumerate(listed)
    ]  # fmt: skip
    suture.merge({"merge_method": "linear", "slices": slices}, place / "out")
    found, values = read_checkpoint(place / "out"), [read_checkpoint(m) for m in models]
    for layer in range(LAYERS):
        name = f"{STACK}{layer}.mlp.up_proj.weight"
        entries = listed[layer // 2]
        wanted = linear([values[m][name].values() for m, _ in entries], [w for _, w in entries], normalize=True)
        np.testing.assert_allclose(found[name].values(), wanted, rtol=1e-6, atol=1e-7)
