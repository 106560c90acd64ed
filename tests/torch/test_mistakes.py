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
    "one mapping": ({"each": {"weight": 0.5}}, "each: expected a list with a mapping for each model"),
    "a number for mappings": ({"each": 3}, "each: expected a list with a mapping for each model"),
    "given twice": ({"each": [{"weight": 1}, {"weight": 2}]}, "weight: is in `parameters` and in `each`"),
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


@pytest.mark.parametrize("given", [models()[0], torch.nn.Linear(2, 2), [], None], ids=str)
def test_what_is_no_list_of_models_is_said(given: Any) -> None:
    with pytest.raises(suture.UsageError, match="models: expected"):
        suture.torch.merge(given, "linear", parameters={"weight": 0.5})


def test_arrays_of_weights_are_lists_of_them() -> None:
    """What search loops hand out."""
    session = suture.torch.prepare(models(), "linear", parameters={"weight": 0.5})
    out = {"w": torch.empty(3, 2)}
    session.apply_(np.array([0.25, 0.75]), into=out)  # type: ignore[arg-type]
    assert torch.equal(out["w"], torch.full((3, 2), 0.25))


def test_the_models_own_name_decides_its_mask() -> None:
    """merge_ has a name for the model it writes into: masks are then those of files in folders of these names."""
    base = {"w": torch.zeros(40, 20)}
    tuned = {"math": {"w": torch.ones(40, 20)}, "swahili": {"w": torch.ones(40, 20)}}
    how: dict[str, Any] = {"base": base, "parameters": {"weight": 1, "density": 0.5}}
    wanted = suture.torch.merge(tuned, "dare_linear", **how)["w"]
    into = {"w": torch.ones(40, 20)}
    suture.torch.merge_(into, {"swahili": tuned["swahili"]}, "dare_linear", name="math", **how)
    assert torch.equal(into["w"], wanted)


def test_names_of_models_meet_nothing_of_ours() -> None:
    """A model may be called as the base is inside, or as a checkpoint beside a model."""
    first, second, base = [{"w": torch.full((3, 2), float(value))} for value in (5, 7, 1)]
    out = suture.torch.merge({"base": first, "q": second}, "task_arithmetic", base=base, parameters={"weight": 1})
    assert torch.equal(out["w"], torch.full((3, 2), 11.0))
    squares = [{"w": torch.full((3, 2), value)} for value in (3.0, 1.0)]
    out = suture.torch.merge({"fisher-1": first, "q": second}, "fisher", parameters={"fisher": squares})
    assert torch.equal(out["w"], torch.full((3, 2), 5.5))


def test_gram_matrices_are_those_of_files() -> None:
    """A method that reads them is refused, whatever stands for them, and not merged without."""
    first, second = [{"w": torch.full((3, 2), float(value))} for value in (5, 7)]
    for given in ("gram", [{"w": torch.eye(2)}] * 2):
        with pytest.raises(suture.UsageError, match="`regmean` reads Gram matrices from files"):
            suture.torch.merge([first, second], "regmean", parameters={"gram": given})


REFUSED: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "a fold": ({"a": torch.zeros(10).as_strided((4, 4), (1, 1))}, "`a`: is expanded"),
    "overlaps over a third": (
        dict(zip("abc", (lambda t: (t.as_strided((12,), (9,)), t[1:3], t[8:12]))(torch.zeros(100)), strict=True)),
        "`a` and `c` share memory",
    ),
}


@pytest.mark.parametrize("word", REFUSED)
def test_what_cannot_be_written_into_is_said(word: str) -> None:
    model, message = REFUSED[word]
    other = {name: torch.ones(tensor.shape) for name, tensor in model.items()}
    with pytest.raises(suture.SutureError, match=message):
        suture.torch.merge_(model, [other], "linear", parameters={"weight": 0.5})


def test_what_is_not_computed_on_must_be_the_same() -> None:
    """As with files: eight-bit floats are kept where all models have the same, and refused where they differ."""
    models = [{"w": torch.full((3, 2), value).to(torch.float8_e4m3fn)} for value in (1.0, 2.0, 1.0)]
    with pytest.raises(
        suture.SutureError, match="F8_E4M3, which is not computed on, and differs between model-1 and model-2"
    ):
        suture.torch.merge(models[:2], "linear", parameters={"weight": 0.5})
    out = suture.torch.merge(models[::2], "linear", parameters={"weight": 0.5})
    assert torch.equal(out["w"].float(), torch.ones(3, 2))


def test_an_output_must_hold_what_is_computed() -> None:
    out = {"w": torch.zeros(3, 2, dtype=torch.int32)}
    with pytest.raises(suture.SutureError, match=r"out, tensor `w`: expected a dtype for F32, found torch.int32"):
        suture.torch.merge(models(), "linear", parameters={"weight": 0.5}, out=out)


def test_mistakes_are_said_in_the_words_of_arguments() -> None:
    """Not in those of the command line, which has the same core."""
    one, two = models()
    with pytest.raises(suture.UsageError, match=r"^base: is missing; method ties needs it"):
        suture.torch.merge([one, two], "ties", parameters={"weight": 0.5})
    with pytest.raises(suture.SutureError, match=r"models must have the same tensors$"):
        suture.torch.merge([one, {**two, "more": torch.ones(2)}], "linear", parameters={"weight": 0.5})
    layers = {f"model.layers.{i}.mlp.up_proj.weight": torch.ones(2, 2) for i in range(3)}
    with pytest.raises(suture.UsageError, match="give `bottom`, `top` or `layers`"):
        suture.torch.swap_(layers, {name: tensor.clone() for name, tensor in layers.items()})


@pytest.mark.parametrize("method", ["task_arithmetic", "tsvm"])
def test_layers_are_not_measured_in_memory(method: str) -> None:
    """Refused before anything is written, with what to do; outside layers it does nothing, as for files."""
    own = [{"model.layers.0.w": torch.full((3, 2), float(i))} for i in range(3)]
    parameters = {"weight": 0.5, "larv": True}
    with pytest.raises(suture.UsageError, match=r"larv: .*`model.layers.0.w`.*suture\.merge"):
        suture.torch.merge(own[1:], method, base=own[0], parameters=parameters)
    with pytest.raises(suture.UsageError, match="larv"):
        suture.torch.merge_(own[1], own[2:], method, base=own[0], parameters=parameters)
    with pytest.raises(suture.UsageError, match="larv"):
        suture.torch.prepare(own[1:], method, base=own[0], parameters=parameters)
    base, *others = ({"w": torch.full((3, 2), float(i))} for i in range(3))
    suture.torch.merge(others, method, base=base, parameters=parameters)
