"""Law 8: what a caller gets wrong is a UsageError that says what was expected and what was found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import suture
import suture.torch

MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no block": ({"block": 0}, "block: expected a number of elements, at least 1, found 0"),
    "a block of halves": ({"block": 2.5}, "block: .* found 2.5"),
    "a negative seed": ({"seed": -1}, r"seed: expected a whole number from 0 to 2\^64 - 1, found -1"),
    "a large seed": ({"seed": 1 << 64}, "seed: "),
    "a list of parameters": ({"parameters": [0.5]}, "parameters: expected a mapping, found list"),
    "not a number": ({"parameters": {"weight": float("nan")}}, "expected a finite number, found nan"),
    "an object": ({"parameters": {"weight": object()}}, "parameters.weight: .* found object"),
    "a list too short": ({"parameters": {"weight": [0.5]}}, "weight: expected a value for each of 2 models, found 1"),
    "too few mappings": ({"each": [{}]}, "each: expected parameters for 2 models, found 1"),
    "a misspelt parameter": ({"parameters": {"wieght": 0.5}}, "did you mean `weight`"),
}


def models() -> list[dict[Any, torch.Tensor]]:
    """Two small models."""
    return [{"w": torch.ones(3, 2)}, {"w": torch.zeros(3, 2)}]


@pytest.mark.parametrize("word", MISTAKES)
def test_a_mistake_is_said(word: str) -> None:
    more, message = MISTAKES[word]
    arguments: dict[str, Any] = {"parameters": {"weight": 0.5}, **more}
    with pytest.raises(suture.UsageError, match=message):
        suture.torch.merge(models(), "linear", **arguments)


def test_names_are_text() -> None:
    with pytest.raises(suture.UsageError, match="model-2: expected names of tensors, found the key 1"):
        suture.torch.merge([models()[0], {1: torch.ones(3, 2)}], "linear", parameters={"weight": 0.5})


def test_numbers_of_arrays_are_numbers() -> None:
    weights = [np.float32(0.25), torch.tensor(0.75)]
    out = suture.torch.merge(models(), "linear", parameters={"weight": weights})
    assert torch.equal(out["w"], torch.full((3, 2), 0.25))
