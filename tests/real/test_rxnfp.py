"""The main job on real weights: a BERT of chemical reactions and its fine-tune for reaction classes.

The base knows the grammar of reactions and nothing of classes; the fine-tune knows the classes and has lost
some of the grammar. Half-way between the two, both are there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..support.checkpoints import Raw, read_checkpoint
from ..support.diffing import agrees, by_name, only
from . import chemistry

LAYERS = 12
MLM_HEAD = {
    "cls.predictions.bias",
    "cls.predictions.decoder.weight",
    "cls.predictions.transform.LayerNorm.bias",
    "cls.predictions.transform.LayerNorm.weight",
    "cls.predictions.transform.dense.bias",
    "cls.predictions.transform.dense.weight",
    "cls.seq_relationship.bias",
    "cls.seq_relationship.weight",
}
CLASSIFIER = {"classifier.bias", "classifier.weight"}


def diff(base: Path, tuned: Path) -> Any:
    """`suture diff --json`, as a user runs it."""
    command = [sys.executable, "-m", "suture", "diff", str(base), str(tuned), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def base(rxnfp: Path) -> dict[str, Raw]:
    return read_checkpoint(rxnfp / "base")


@pytest.fixture(scope="module")
def tuned(rxnfp: Path) -> dict[str, Raw]:
    return read_checkpoint(rxnfp / "ft_10k_25s")


@pytest.fixture(scope="module")
def judge(torch: Any, transformers: Any, rxnfp: Path) -> chemistry.Judge:
    return chemistry.Judge.of(torch, transformers, rxnfp / "whole" / "base", rxnfp / "whole" / "ft_10k_25s")


def test_the_weights_are_those_that_the_tests_are_about(rxnfp: Path) -> None:
    """The conversion gives one set of encoder names, and the heads that were published."""
    encoders = [set(read_checkpoint(rxnfp / name)) for name in ("base", "ft", "ft_10k_25s")]
    assert len(encoders[0]) == 5 + 16 * LAYERS + 2
    assert encoders[0] == encoders[1] == encoders[2]
    assert set(read_checkpoint(rxnfp / "whole" / "base")) == encoders[0] | MLM_HEAD
    assert set(read_checkpoint(rxnfp / "whole" / "ft_10k_25s")) == encoders[0] | CLASSIFIER


def test_diff_measures_a_real_fine_tune(rxnfp: Path, base: dict[str, Raw], tuned: dict[str, Raw]) -> None:
    """Law 2: every measure of every tensor agrees with the float64 oracle."""
    rows = by_name(only(diff(rxnfp / "base", rxnfp / "ft_10k_25s")))
    assert set(rows) == set(base)
    for name, row in rows.items():
        agrees(row, base[name].values(), tuned[name].values())
        assert row["changed"] > 0, name


def test_diff_lists_the_heads_that_only_one_side_has(rxnfp: Path) -> None:
    """Law 5: no tensor is passed over because the other checkpoint lacks it."""
    model = only(diff(rxnfp / "whole" / "base", rxnfp / "whole" / "ft_10k_25s"))
    assert set(model["only_base"]) == MLM_HEAD
    assert set(model["only_tuned"]) == CLASSIFIER
    assert len(model["tensors"]) == 5 + 16 * LAYERS + 2


def test_swap_moves_layers_bit_for_bit(
    rxnfp: Path,
    base: dict[str, Raw],
    tuned: dict[str, Raw],
    judge: chemistry.Judge,
    torch: Any,
    tmp_path: Path,
) -> None:
    """Law 2: outer layers are the base's bytes, the rest the fine-tune's; the grammar comes with them."""
    out = tmp_path / "swapped"
    suture.swap(rxnfp / "ft_10k_25s", rxnfp / "base", out, bottom=2, top=2)
    moved = tuple(f"bert.encoder.layer.{layer}." for layer in (0, 1, LAYERS - 2, LAYERS - 1))
    assert read_checkpoint(out) == {name: (base if name.startswith(moved) else tuned)[name] for name in tuned}
    fine_tune = judge.surprise(chemistry.read(torch, rxnfp / "ft_10k_25s"))
    assert judge.surprise(chemistry.read(torch, out)) < fine_tune - 0.3


def test_swap_blends_the_seams(rxnfp: Path, base: dict[str, Raw], tuned: dict[str, Raw], tmp_path: Path) -> None:
    """Law 2: a transition layer is the mean of both, rounded once; its neighbours are bytes."""
    out = tmp_path / "blended"
    suture.swap(rxnfp / "ft_10k_25s", rxnfp / "base", out, bottom=1, top=1, transition=1)
    found = read_checkpoint(out)
    assert set(found) == set(tuned)
    moved = tuple(f"bert.encoder.layer.{layer}." for layer in (0, LAYERS - 1))
    seam = tuple(f"bert.encoder.layer.{layer}." for layer in (1, LAYERS - 2))
    for name, raw in found.items():
        if name.startswith(seam):
            mean = (base[name].values().astype(np.float64) + tuned[name].values()) / 2
            np.testing.assert_allclose(raw.values(), mean, rtol=2e-7, atol=1e-9, err_msg=name)
        else:
            assert raw == (base if name.startswith(moved) else tuned)[name], name


def test_half_way_keeps_the_grammar_and_gains_the_classes(
    rxnfp: Path,
    base: dict[str, Raw],
    tuned: dict[str, Raw],
    judge: chemistry.Judge,
    torch: Any,
    tmp_path: Path,
) -> None:
    """The main job: a linear merge at one half does what the base does and what the fine-tune does.

    Measured with torch alone: surprise 1.27 base, 1.15 half-way, 1.82 fine-tune; 0, 11 and 12 of 12 classes.
    """
    out = tmp_path / "half"
    models = [{"model": str(rxnfp / name), "parameters": {"weight": 0.5}} for name in ("base", "ft_10k_25s")]
    suture.merge({"merge_method": "linear", "models": models, "dtype": "float32"}, out)

    merged = read_checkpoint(out)
    assert set(merged) == set(base)
    for name, raw in merged.items():
        mean = (base[name].values().astype(np.float64) + tuned[name].values()) / 2
        np.testing.assert_allclose(raw.values(), mean, rtol=0, atol=2e-6, err_msg=name)

    start, half, end = (chemistry.read(torch, path) for path in (rxnfp / "base", out, rxnfp / "ft_10k_25s"))
    surprise = judge.surprise(half)
    assert surprise < judge.surprise(start) + 0.15
    assert surprise < judge.surprise(end) - 0.4

    wanted = judge.classes(end)
    assert len(set(wanted)) >= 8
    assert agreement(judge.classes(half), wanted) >= 0.75
    assert agreement(judge.classes(start), wanted) <= 0.25


def agreement(found: list[int], wanted: list[int]) -> float:
    return sum(a == b for a, b in zip(found, wanted, strict=True)) / len(wanted)
