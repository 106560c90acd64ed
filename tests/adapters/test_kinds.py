"""Every kind of adapter is read as the oracle has it: the sum in float64, rounded once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import suture

from ..reference.lora import once
from ..support.checkpoints import write_checkpoint
from ..support.lora import write_lora
from .kinds import KINDS, Kind, Made

DTYPES = [("F32", "F32"), ("BF16", "F32"), ("BF16", "BF16"), ("F16", "F32"), ("F64", "F64"), ("F32", "BF16")]
#: Of tensors that the model lacks the adapter's dtype.
NEW = "score.weight"


def check(folder: Path, kind: Kind, base: str, adapter: str) -> None:
    """Every tensor of the model with the adapter in it, as it is read and as it is written."""
    model = write_checkpoint(folder / "base", kind.base)
    lora = write_lora(folder / "lora", kind.adapter, **kind.config)
    found = suture.open(f"{model}+{lora}")
    assert set(found.names) == {*kind.base, *kind.changed}
    plain = suture.open(model)
    suture.fold(model, [lora], folder / "out")
    written = suture.open(folder / "out")
    assert set(written.names) == set(found.names)
    for name in found.names:
        np.testing.assert_array_equal(written.numpy(name), found.numpy(name), err_msg=name)
        if name not in kind.changed:
            np.testing.assert_array_equal(found.numpy(name), plain.numpy(name), err_msg=name)
            continue
        dtype = adapter if name == NEW else base
        assert found.info(name).dtype == dtype, name
        got, wanted = found.numpy(name).astype(np.float64), kind.changed[name]
        if dtype in ("BF16", "F16"):
            np.testing.assert_array_equal(got, once(wanted, dtype), err_msg=name)
        else:
            rtol, atol = (2.0**-23, 1e-15) if dtype == "F32" else (0, 1e-14)
            np.testing.assert_allclose(got, wanted, rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.parametrize(("base", "adapter"), DTYPES, ids=lambda d: str(d))
@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_what_the_oracle_has(kind: str, base: str, adapter: str, tmp_path: Path) -> None:
    """Law 2: 16 bits are the f64 sum rounded once, to the bit; f32 within a unit, f64 within its own rounding."""
    check(tmp_path, KINDS[kind](Made(base, adapter)), base, adapter)
