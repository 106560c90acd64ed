"""Adapters that are taken in part, several in one model, and weights of what was trained whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..reference import lora
from ..support.checkpoints import encode, write_checkpoint
from ..support.lora import exact, factors, random, write_lora

Q, HEAD = "model.layers.0.self_attn.q_proj", "lm_head.weight"
RNG = np.random.default_rng(3)
BASE = {f"{Q}.weight": random(RNG, 20, 12), HEAD: random(RNG, 30, 12), f"{Q}.bias": random(RNG, 20)}
PARTS = [factors(RNG, Q, (20, 12), r) for r in (4, 2)]


def change(part: int) -> Any:
    """B A of a part."""
    return lora.linear(*(exact(PARTS[part][f"{Q}.lora_{side}.weight"]) for side in "AB"))


def folded(folder: Path, adapters: Sequence[Path], weights: Sequence[float]) -> suture.Checkpoint:
    """The model with these in it."""
    base = write_checkpoint(folder / "base", BASE)
    suture.fold(base, adapters, folder / "out", weights=weights)
    return suture.open(folder / "out")


@pytest.mark.parametrize("weights", [(1, 1), (0.7, 0.3), (-1, 2), (0, 1), (1e-3, 1e3)], ids=str)
def test_changes_add_up(weights: tuple[float, ...], tmp_path: Path) -> None:
    """W + sum w_i s_i B_i A_i, by other ranks and scales; a weight of nothing is nothing."""
    given = [write_lora(tmp_path / f"a{i}", part, r=(4, 2)[i]) for i, part in enumerate(PARTS)]
    wanted = exact(BASE[f"{Q}.weight"]) + sum(
        w * s * change(i) for i, (w, s) in enumerate(zip(weights, (2, 4), strict=True))
    )
    found = folded(tmp_path, given, weights).numpy(f"{Q}.weight")
    np.testing.assert_allclose(found, wanted, rtol=2.0**-23, atol=1e-15)


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F64"])
@pytest.mark.parametrize("weight", [1.0, 0.25, -1.0])
def test_what_was_trained_whole_is_taken_in_part(weight: float, dtype: str, tmp_path: Path) -> None:
    """M for a weight of 1, byte for byte where the dtype is the model's; else base + w (M - base)."""
    trained = random(RNG, 30, 12, dtype=dtype)
    given = write_lora(tmp_path / "a", PARTS[0] | {HEAD: trained}, modules_to_save=["lm_head"])
    own = exact(BASE[HEAD])
    wanted = encode(own + weight * (exact(trained) - own), "F32").values()
    found = folded(tmp_path, [given], [weight]).numpy(HEAD)
    np.testing.assert_allclose(found, wanted, rtol=2.0**-23, atol=1e-15)
    if weight == 1:
        np.testing.assert_array_equal(found, exact(trained).astype(np.float32))


def test_what_is_new_is_not_taken_in_part(tmp_path: Path) -> None:
    """A head that the model lacks has nothing to be a part of: it is named."""
    given = write_lora(tmp_path / "a", PARTS[0] | {"score.weight": random(RNG, 2, 12)}, modules_to_save=["score"])
    with pytest.raises(suture.SutureError, match=r"score\.weight"):
        folded(tmp_path, [given], [0.5])


def test_a_bias_of_the_product_is_scaled(tmp_path: Path) -> None:
    """b + w s b_B."""
    extra = random(RNG, 20)
    given = write_lora(tmp_path / "a", PARTS[0] | {f"{Q}.lora_B.bias": extra}, lora_bias=True)
    wanted = exact(BASE[f"{Q}.bias"]) + 0.5 * 2 * exact(extra)
    found = folded(tmp_path, [given], [0.5]).numpy(f"{Q}.bias")
    np.testing.assert_allclose(found, wanted, rtol=2.0**-23, atol=1e-15)


def test_whole_and_factors_one_after_the_other(tmp_path: Path) -> None:
    """What a first adapter saved whole a second one changes; of the other order the whole is what stays."""
    trained = random(RNG, 30, 12)
    whole = write_lora(tmp_path / "whole", PARTS[0] | {HEAD: trained}, modules_to_save=["lm_head"])
    head = factors(RNG, "lm_head", (30, 12))
    second = write_lora(tmp_path / "second", head)
    moved = exact(trained) + 2 * lora.linear(*(exact(t) for t in head.values()))
    np.testing.assert_allclose(folded(tmp_path, [whole, second], [1, 1]).numpy(HEAD), moved, rtol=2.0**-23, atol=1e-15)
    other = tmp_path / "other"
    np.testing.assert_array_equal(folded(other, [second, whole], [1, 1]).numpy(HEAD), trained.values())


def test_lengths_are_of_the_model_that_is_there(tmp_path: Path) -> None:
    """DoRA over another adapter gives lengths to what that one left, and is changed itself by a later one."""
    lengths = random(RNG, 20)
    dora = write_lora(tmp_path / "dora", PARTS[0] | {f"{Q}.lora_magnitude_vector": lengths}, use_dora=True)
    plain = write_lora(tmp_path / "plain", PARTS[1], r=2)
    own = exact(BASE[f"{Q}.weight"])
    first = lora.dora(own + 4 * change(1), 2 * change(0), exact(lengths))
    found = folded(tmp_path, [plain, dora], [1, 1]).numpy(f"{Q}.weight")
    np.testing.assert_allclose(found, first, rtol=2.0**-23, atol=1e-15)
    last = lora.dora(own, 2 * change(0), exact(lengths)) + 4 * change(1)
    found = folded(tmp_path / "other", [dora, plain], [1, 1]).numpy(f"{Q}.weight")
    np.testing.assert_allclose(found, last, rtol=2.0**-23, atol=1e-15)
