"""Any shape, rank, scale and dtype: the sum in f64, however the work is cut."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import suture

from ..reference import lora
from ..support.checkpoints import encode, read_checkpoint, write_checkpoint
from ..support.lora import exact, random, write_lora

NAME = "model.layers.0.up_proj"


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 300),
    columns=st.sampled_from([1, 2, 127, 128, 129, 255, 256, 257, 700]),
    rank=st.integers(1, 9),
    power=st.integers(-4, 4),
    dtype=st.sampled_from(["F32", "BF16", "F16", "F64"]),
    lengths=st.booleans(),
    chunk=st.sampled_from(["4KiB", "20KiB", None]),
    seed=st.integers(0, 2**16),
)
def test_a_product_of_any_shape(
    rows: int, columns: int, rank: int, power: int, dtype: str, lengths: bool, chunk: str | None, seed: int
) -> None:
    """Tiles, blocks and chunks that end inside rows lose nothing and add nothing twice."""
    rng = np.random.default_rng(seed)
    weight = random(rng, rows, columns, dtype=dtype)
    tensors = {
        f"{NAME}.lora_A.weight": random(rng, rank, columns, dtype="BF16"),
        f"{NAME}.lora_B.weight": random(rng, rows, rank, dtype="BF16"),
    }
    change = 2.0**power * lora.linear(*(exact(t) for t in tensors.values()))
    wanted = exact(weight) + change
    if lengths:
        tensors[f"{NAME}.lora_magnitude_vector"] = encode(rng.uniform(0.5, 2, rows), "F32")
        wanted = lora.dora(exact(weight), change, exact(tensors[f"{NAME}.lora_magnitude_vector"]))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        base = write_checkpoint(place / "base", {f"{NAME}.weight": weight})
        adapter = write_lora(place / "lora", tensors, r=rank, lora_alpha=rank * 2.0**power, use_dora=lengths)
        suture.fold(base, [adapter], place / "out", settings=suture.Settings(chunk=chunk, threads=2))
        found = exact(read_checkpoint(place / "out")[f"{NAME}.weight"])
    if dtype in ("BF16", "F16"):
        np.testing.assert_array_equal(found, lora.once(wanted, dtype))
    else:
        np.testing.assert_allclose(found, wanted, rtol=2.0**-23 if dtype == "F32" else 1e-12, atol=1e-14)
