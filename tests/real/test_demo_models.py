"""The demo's NumPy forward pass gives what transformers gives of the same checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from suture.demo import NAMES, Experiment
from suture.demo.llama import Llama

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of the demo."""
    folder = tmp_path_factory.mktemp("demo")
    Experiment(folder).prepare()
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_the_forward_pass_is_that_of_transformers(name: str, family: Path) -> None:
    """Grouped heads, rotary positions, RMS norms: the logits agree to 1e-3 in f32."""
    theirs = transformers.AutoModelForCausalLM.from_pretrained(family / name, dtype=torch.float32)
    ids = np.random.default_rng(0).integers(1, theirs.config.vocab_size, (5, 9))
    with torch.inference_mode():
        wanted = theirs(torch.from_numpy(ids)).logits.numpy()
    np.testing.assert_allclose(Llama.load(family / name).scores(ids), wanted, rtol=1e-3, atol=1e-3)
