"""Deltas of quantised models: of what is stored, codes and scales together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..quantised.worlds import FORMS, assert_same, model, plain_model
from ..support.checkpoints import read_checkpoint
from ..support.refusals import refusal

NAMES = (
    "fp8 ragged blocks",
    "int8 zeros",
    "gptq 3 act-order",
    "int4 zeros",
    "nvfp4",
    "gpt-oss",
    "llm.int8",
    "nf4 nested",
)
LOSSY: dict[str, dict[str, Any]] = {
    "sparse": {"density": 0.02},
    "bits": {},
    "lowrank": {"rank": 1},
    "lora": {"rank": 1},
}
F32 = suture.Settings(to="f32")


@pytest.mark.parametrize("name", NAMES)
def test_bits_of_quantised_models_go_both_ways(name: str, tmp_path: Path) -> None:
    """Law 2: base + delta is the fine-tune as it is stored, to the byte, and the other way round; its config is that
    of a quantised model."""
    a, b = (model(tmp_path / n, FORMS[name], seed=i) for i, n in enumerate("ab"))
    suture.delta.extract(a.path, b.path, tmp_path / "d", form="xor")
    suture.delta.apply(a.path, [tmp_path / "d"], tmp_path / "tuned")
    assert read_checkpoint(tmp_path / "tuned") == b.stored
    assert json.loads((tmp_path / "tuned" / "config.json").read_text())["quantization_config"] == FORMS[name].said
    suture.delta.revert(b.path, tmp_path / "d", tmp_path / "base")
    assert read_checkpoint(tmp_path / "base") == a.stored


@pytest.mark.parametrize("form", LOSSY)
@pytest.mark.parametrize("name", ["fp8 ragged blocks", "int4 zeros", "gptq 4", "nf4"])
def test_scales_are_not_thinned_beside_codes(name: str, form: str, tmp_path: Path) -> None:
    """Law 10: a lossy delta loses nothing of a quantised weight, whose codes mean nothing with other scales; what is
    plain is kept as the form has it, and nothing can be weighed."""
    a, b = (model(tmp_path / n, FORMS[name], seed=i) for i, n in enumerate("ab"))
    suture.delta.extract(a.path, b.path, tmp_path / "d", form=form, **LOSSY[form])
    suture.delta.apply(a.path, [tmp_path / "d"], tmp_path / "out")
    found = read_checkpoint(tmp_path / "out")
    quantised = {n for n in a.stored if ".mlp." in n}
    assert {n: found[n] for n in quantised} == {n: b.stored[n] for n in quantised}
    if form != "lora":
        message = refusal(suture.delta.apply, a.path, [tmp_path / "d"], tmp_path / "half", weights=[0.5])
        assert message is not None
        assert "weight" in message


@pytest.mark.parametrize("name", ["fp8 ragged blocks", "int8 zeros", "nvfp4 modelopt", "gpt-oss"])
def test_a_quantised_model_with_a_delta_is_decoded(name: str, tmp_path: Path) -> None:
    """Law 10: `base+delta` is a model wherever one is named: its codes are those that the delta makes."""
    a, b = (model(tmp_path / n, FORMS[name], seed=i) for i, n in enumerate("ab"))
    suture.delta.extract(a.path, b.path, tmp_path / "d", form="xor")
    both = f"{a.path}+{tmp_path / 'd'}"
    suture.convert(both, tmp_path / "plain.safetensors", settings=F32)
    assert_same(read_checkpoint(tmp_path / "plain.safetensors"), b.plain)
    suture.convert(both, tmp_path / "plain")
    assert {t.dtype for t in read_checkpoint(tmp_path / "plain").values()} == {"F32", "BF16"}
    assert "quantization_config" not in json.loads((tmp_path / "plain" / "config.json").read_text())
    entries = [{"model": m, "parameters": {"weight": 1.0}} for m in (both, str(a.path))]
    suture.merge({"merge_method": "linear", "models": entries, "to": "f32"}, tmp_path / "m.safetensors")
    mean = {n: ((a.plain[n].astype("f8") + b.plain[n]) / 2).astype("f4") for n in a.plain}
    found = read_checkpoint(tmp_path / "m.safetensors")
    for n, values in mean.items():
        np.testing.assert_array_equal(found[n].values(), values, err_msg=n)
    assert suture.diff(both, b.path)["models"][0]["total"]["changed"] == 0
    suture.swap(a.path, both, tmp_path / "swapped", layers=[1])
    assert read_checkpoint(tmp_path / "swapped") == {n: (b if "layers.1." in n else a).stored[n] for n in a.stored}


def test_a_delta_to_another_form_is_refused(tmp_path: Path) -> None:
    """What lies beside the weights says of one form only: plain and quantised, or two forms, make no delta; nor does
    a twin of quantised experts."""
    a = model(tmp_path / "a", FORMS["fp8 ragged blocks"], seed=1)
    c = model(tmp_path / "c", FORMS["fp8 ragged blocks"], seed=2)
    plain = plain_model(tmp_path / "p", a.plain)
    for base, tuned in ((a.path, plain), (plain, a.path)):
        message = refusal(suture.delta.extract, base, tuned, tmp_path / "d", form="xor")
        assert message is not None
        assert "suture convert" in message
        assert not (tmp_path / "d").exists()
    message = refusal(suture.twin.make, a.path, [c.path], tmp_path / "t", shared="task_arithmetic")
    assert message is not None
    assert "suture convert" in message


def test_what_is_left_is_left_whole(tmp_path: Path) -> None:
    """A weight that is named to be left is left with its scales."""
    a, b = (model(tmp_path / n, FORMS["fp8 ragged blocks"], seed=i) for i, n in enumerate("ab"))
    code = "model.layers.0.mlp.up_proj.weight"
    suture.delta.extract(a.path, b.path, tmp_path / "d", form="xor", left=[code])
    suture.delta.apply(a.path, [tmp_path / "d"], tmp_path / "out")
    found = read_checkpoint(tmp_path / "out")
    left = {code, f"{code}_scale_inv"}
    assert found == {n: (a if n in left else b).stored[n] for n in a.stored}
