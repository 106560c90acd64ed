"""Adapters on top of quantised models: what is added is added to the decoded values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import suture

from ..support.checkpoints import read_checkpoint
from ..support.lora import factors, write_lora
from .test_verbs import F32
from .worlds import FORMS, assert_same, model, plain_model, stem_of


@pytest.mark.parametrize(
    "name", ["fp8 ragged blocks", "fp8 channel", "gptq act-order", "awq", "int4 zeros", "nf4 nested", "nvfp4"]
)
def test_an_adapter_on_top_is_folded_into_the_decoded_weight(name: str, tmp_path: Path) -> None:
    """Law 10: `base+adapter` of a quantised base is that of its plain model; so are swaps and merges of it."""
    form = FORMS[name]
    a = model(tmp_path / "a", form, seed=1)
    plain = plain_model(tmp_path / "p", a.plain)
    rng = np.random.default_rng(0)
    made = {k: v for i in range(2) for k, v in factors(rng, stem_of(form, i), (form.rows, form.columns), 4).items()}
    adapter = write_lora(tmp_path / "lora", made, r=4)
    outs = []
    for i, base in enumerate((a.path, plain)):
        suture.convert(f"{base}+{adapter}", tmp_path / f"fold{i}", settings=F32)
        entries = [
            {"model": f"{base}+{adapter}", "parameters": {"weight": 0.3}},
            {"model": str(base), "parameters": {"weight": 1}},
        ]
        suture.merge({"merge_method": "linear", "models": entries}, tmp_path / f"merge{i}", settings=F32)
        suture.swap(base, f"{base}+{adapter}", tmp_path / f"swap{i}", layers=[1], settings=F32)
        outs.append([read_checkpoint(tmp_path / f"{what}{i}") for what in ("fold", "merge", "swap")])
    for own, other in zip(*outs, strict=True):
        assert_same(own, {n: t.values() for n, t in other.items()})
    stem = stem_of(form, 0) + ".weight"
    assert (outs[0][0][stem].values() != a.plain[stem]).any()
