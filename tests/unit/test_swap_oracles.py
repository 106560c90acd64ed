"""The oracles of swapping agree with what is done by hand."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from ..reference import rounding, swap
from ..support.checkpoints import encode
from ..support.swapping import EMBEDDING, HEAD, assemble, between, by_layer, mix, outside_of


def test_seams_of_their_own_widths() -> None:
    """The paper's rule with 2 below, 1 above, seams of 1 and 3 in 8 layers; an end without layers has no seam."""
    places = {"bottom": 2, "top": 1, "transition_bottom": 1, "transition_top": 3}
    assert swap.roles(8, **places) == ["donor"] * 2 + ["blend"] + ["into"] + ["blend"] * 3 + ["donor"]
    assert swap.roles(4, transition_bottom=1, transition_top=2) == ["into"] * 4
    assert swap.widths(bottom=1, top=1, transition=2, transition_top=1) == (2, 1)
    with pytest.raises(ValueError, match="do not fit"):
        swap.roles(7, bottom=2, top=2, transition_bottom=1, transition_top=3)


def test_a_ramp_by_hand() -> None:
    """Three quarters, a half, a quarter from the donor's side, at either end, also where the seams touch."""
    assert swap.shares(6, "ramp", bottom=1, transition_bottom=3) == [1, 0.75, 0.5, 0.25, 0, 0]
    assert swap.shares(5, "ramp", top=1, transition_top=3) == [0, 0.25, 0.5, 0.75, 1]
    assert swap.shares(6, "ramp", bottom=1, top=1, transition_bottom=1, transition_top=3) == [
        1,
        0.5,
        0.25,
        0.5,
        0.75,
        1,
    ]
    assert swap.shares(4, 0.3, bottom=1, transition=1) == [1, 0.3, 0, 0]


def test_givers_by_hand() -> None:
    """Each layer has one giver at most."""
    assert swap.givers(5, {"a": "0-1", "b": "4"}) == ["a", "a", None, None, "b"]
    with pytest.raises(ValueError, match="layer 1 of both a and b"):
        swap.givers(5, {"a": "0-1", "b": "1"})
    with pytest.raises(ValueError, match="no layer 5"):
        swap.givers(5, {"a": "5"})


def test_rounding_once_is_exact() -> None:
    """bfloat16 from float64 is the nearest there is, by fractions, also beside halfway cases and below float32's."""
    rng = np.random.default_rng(5)
    bits = rng.integers(0x3000, 0x4F00, 400, dtype=np.uint16)
    halves = sum(rounding.bf16_values(bits + np.uint16(up)).astype(np.float64) for up in (0, 1)) / 2
    values = np.concatenate([halves, halves * (1 + 2.0**-40), -halves * (1 - 2.0**-40), rng.uniform(1e-39, 9e-39, 100)])
    found = swap.round_once(values, "BF16")
    for value, rounded in zip(values, found, strict=True):
        (own,) = rounding.bf16_bits(np.array([rounded]))
        near = rounding.bf16_values(np.array([own - 1, own, own + 1], dtype=np.uint16)).tolist()
        gaps = [abs(Fraction(float(neighbour)) - Fraction(float(value))) for neighbour in near]
        assert gaps[1] == min(gaps), value
        assert gaps.count(min(gaps)) == 1 or own % 2 == 0, value
    twice = rounding.round_to(values.astype(np.float32), "BF16")
    assert (found != twice).sum() > 0


def test_the_delta_form_by_hand() -> None:
    """base + (donor - donor_base)."""
    found = swap.carried(*(np.array([value], np.float32) for value in (1.0, 5.0, 3.5)))
    assert found.dtype == np.float64
    assert found.tolist() == [2.5]


def test_an_assembly_by_hand() -> None:
    """Whole shares are moved as bytes, others mixed; a tied model's head is its embedding."""
    tensors = {
        label: {
            name: encode(np.full(2, value), "BF16")
            for name in (EMBEDDING, "model.layers.0.a.weight", "model.layers.0.b.weight", HEAD)
            if (label, name) != ("into", HEAD)
        }
        for label, value in (("into", 1.0), ("donor", 2.0))
    }
    inside = by_layer([between(0.25)], "b")
    found = assemble(tensors, inside, outside_of("mean"))
    assert {name: raw.values().tolist()[0] for name, raw in found.items()} == {
        EMBEDDING: 1.5, "model.layers.0.a.weight": 1.0, "model.layers.0.b.weight": 1.25, HEAD: 1.5
    }  # fmt: skip
    assert HEAD not in assemble(tensors, inside)
    nan = encode(np.array([np.nan, -0.0]), "F32")
    assert mix({"donor": nan, "into": nan}, between(1.0), nan) == nan
