"""The demo's NumPy forward pass gives what transformers gives of the same checkpoint."""

from __future__ import annotations

import numpy as np
import pytest

from suture.demo import MODELS
from suture.demo.llama import Llama

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("name", ["base", "task", "language"])
def test_the_forward_pass_is_that_of_transformers(name: str) -> None:
    """Grouped heads, rotary positions, RMS norms: the logits agree to 1e-3 in f32."""
    theirs = transformers.AutoModelForCausalLM.from_pretrained(MODELS / name, dtype=torch.float32)
    ids = np.random.default_rng(0).integers(1, theirs.config.vocab_size, (5, 9))
    with torch.inference_mode():
        wanted = theirs(torch.from_numpy(ids)).logits.numpy()
    np.testing.assert_allclose(Llama.load(MODELS / name).scores(ids), wanted, rtol=1e-3, atol=1e-3)
