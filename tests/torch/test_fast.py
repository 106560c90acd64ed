"""Law: the Triton kernels give what the torch forms give, to the bit; here as Triton interprets them, on the CPU."""

from __future__ import annotations

import pytest

from tests.support.processes import interpreted

#: Tensors of the families that have elements.
TENSORS = 4


@pytest.mark.heavy
def test_kernels_give_what_the_forms_give() -> None:
    """All families of kernels, over smooth and coarse changes, with bounds that hold the cut and bounds that miss it.

    A minute long: tests/torch/test_known.py has most kernels interpreted too, on few tensors.
    """
    merges = interpreted("tests.torch.kernels")
    assert len(merges) > 80
    assert not [m for m in merges if m["unequal"] or m["taken"] != TENSORS]
