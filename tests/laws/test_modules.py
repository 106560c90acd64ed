"""What holds for `models:` holds for `modules:`, for every method there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..support.catalogue import CASES, DEFAULTS, Case, Config, differing, merge
from ..support.checkpoints import Raw, encode, read_checkpoint, write_checkpoint
from ..support.layered import listed, settled, sources, with_depth, write_layered
from ..support.refusals import refusal


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_layered(tmp_path_factory.mktemp("layered"))


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and fine-tunes of two stacks: a tower for images beside the layers of a language model."""
    folder, rng = tmp_path_factory.mktemp("towers"), np.random.default_rng(4)
    shapes = {f"vision.blocks.{i}.attn.weight": (5, 7) for i in range(3)}
    shapes |= {f"language.layers.{i}.mlp.weight": (9, 7) for i in range(4)}
    base = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    folders = []
    for number in range(4):
        tensors = {n: encode(v + 0.1 * number * rng.standard_normal(v.shape), "F32") for n, v in base.items()}
        folders.append(write_checkpoint(folder / f"model-{number}", tensors))
    return folders


def by_module(config: Config, named: str, *, slices: tuple[tuple[int, int], ...] = ()) -> Config:
    """A config of whole models as one of two modules: what `named` says, and the rest, which may be sliced."""
    rest = {key: value for key, value in config.items() if key != "models"}
    whole: dict[str, Any] = {"models": config["models"]}
    layers = {"slices": [{"sources": sources(listed(config), a, b)} for a, b in slices]} if slices else whole
    return rest | {"modules": {named: whole, "default": layers}}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_modules_of_the_same_models_are_the_models(case: Case, models: list[Path], place: Path) -> None:
    """Law 10: statistics are over the whole model, whatever its modules; the layers may be cut, too.

    The module that is named stands first in the model: equal magnitudes are taken in the order of the output.
    """
    config = settled(case, models)
    whole = merge(config, place / "whole")
    for name, slices in (("models", ()), ("slices", ((0, 3), (3, 4)))):
        assert not differing(merge(by_module(config, "embed_tokens", slices=slices), place / name), whole), name


@pytest.mark.parametrize("case", CASES, ids=str)
def test_modules_with_layers_of_their_own(case: Case, towers: list[Path], place: Path) -> None:
    """Law 10: two stacks in two modules; but for factors of depth, which each stack has its own of."""
    config = with_depth(settled(case, towers), on=False)
    whole = merge(config, place / "whole")
    assert not differing(merge(by_module(config, "vision"), place / "modules"), whole)


def part_of(source: Path, target: Path, named: str, *, inside: bool) -> Path:
    """The checkpoint with nothing but one module, or all but it."""
    tensors = read_checkpoint(source)
    return write_checkpoint(target, {n: raw for n, raw in tensors.items() if n.startswith(f"{named}.") == inside})


@pytest.mark.parametrize("case", [case for case in CASES if case in DEFAULTS or case.set("scope")], ids=str)
def test_modules_of_other_models_are_apart_or_refused(case: Case, towers: list[Path], place: Path) -> None:
    """Law 10: each module is the merge of its own models alone, or a refusal names both modules."""
    if case.experts <= case.spec["inputs"][0] - (case.spec["base"] == "first"):
        pytest.skip("takes no fewer models")
    config = with_depth(settled(case, towers), on=False)
    if "task" in config["parameters"]:
        config["parameters"]["task"] = 1
    both = by_module(config, "vision")
    both["modules"]["vision"] = {"models": config["models"][1:]}
    error = refusal(suture.merge, both, place / "out")
    if error is not None:
        assert re.search(r"vision.*default|default.*vision", error), error
        return
    wanted: dict[str, Raw] = {}
    for inside, dropped in ((True, 1), (False, 0)):
        folder = place / str(inside)
        folder.mkdir()
        alone = [part_of(m, folder / m.name, "vision", inside=inside) for m in towers]
        own = with_depth(settled(case, alone), on=False)
        if "task" in own["parameters"]:
            own["parameters"]["task"] = 1
        wanted |= merge(own | {"models": own["models"][dropped:]}, folder / "out")
    assert not differing(read_checkpoint(place / "out"), wanted)
