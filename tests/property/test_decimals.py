"""A number in a config is the double that is nearest to it, wherever it goes (law 2)."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path

import numpy as np

import suture

from ..support.checkpoints import write_checkpoint

DECIMALS = 2_000


def decimal(rng: random.Random) -> str:
    """A decimal as people and programs write them: a few digits, or seventeen and more."""
    digits = "".join(rng.choice("0123456789") for _ in range(rng.choice([1, 2, 3, 6, 9, 15, 16, 17, 18, 25])))
    exponent = rng.choice(["", "", "", "", "e-3", "e-07", "e-19", "e+5"])
    return f"{rng.choice(['0', '0', '0', '1', '7', '123'])}.{digits}{exponent}"


def test_weights_keep_every_bit(tmp_path: Path) -> None:
    """A weight from YAML is in the plan as the same double, in the recipe and in what each tensor gets."""
    rng = random.Random(0)
    written = [decimal(rng) for _ in range(DECIMALS)]
    names = [f"t{number:04}" for number in range(DECIMALS)]
    for model in "ab":
        write_checkpoint(tmp_path / model, {name: np.zeros(1, np.float32) for name in names})
    rules = "\n".join(f"      - {{filter: {name}, value: {text}}}" for name, text in zip(names, written, strict=True))
    config = tmp_path / "m.yml"
    config.write_text(
        "merge_method: linear\nparameters: {normalize: false}\n"
        f"models:\n  - model: {tmp_path}/b\n    parameters: {{weight: 1}}\n"
        f"  - model: {tmp_path}/a\n    parameters:\n      weight:\n{rules}\n"
    )
    plan = suture.merge(config, tmp_path / "out", dry_run=True).data
    # `Fraction` reads a decimal exactly, and dividing its two integers rounds once: an oracle that parses no float.
    expected = [Fraction(text).numerator / Fraction(text).denominator for text in written]
    in_recipe = [rule["value"] for rule in plan["recipe"]["models"][1]["parameters"]["weight"]]
    in_tensors = {t["name"]: t["params"]["per_input"]["weight"][1] for t in plan["tensors"]}
    assert in_recipe == expected
    assert [in_tensors[name] for name in names] == expected
