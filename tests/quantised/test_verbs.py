"""What works on plain models works on quantised ones: the same as on the plain model written out first, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..support.checkpoints import read_checkpoint
from ..support.refusals import refusal
from .worlds import FORMS, LAYERS, assert_same, model, plain_model, stem_of

F32 = suture.Settings(to="f32")
#: One form of each codec, and those whose decoding is not row by row.
SOME = ("fp8 ragged blocks", "fp8 channel", "mxfp8", "llm.int8", "nvfp4 modelopt", "gpt-oss", "gptq act-order",
        "gptq 3", "awq", "awq gemv", "int4 zeros", "int5", "nf4 nested")  # fmt: skip


def linear(*paths: Path, **more: Any) -> dict[str, Any]:
    entries = [{"model": str(p), "parameters": {"weight": 1.0}} for p in paths]
    return {"merge_method": "linear", "models": entries} | more


def ties(base: Path, *paths: Path, **more: Any) -> dict[str, Any]:
    entries = [{"model": str(p), "parameters": {"weight": 0.7, "density": 0.6}} for p in paths]
    return {"merge_method": "ties", "base_model": str(base), "models": entries} | more


@pytest.mark.parametrize("name", FORMS)
def test_merges_compute_with_the_decoded_values(name: str, tmp_path: Path) -> None:
    """Law 10: a merge of quantised models is the merge of what they decode to, of whichever method."""
    a, b = (model(tmp_path / f"q{i}", FORMS[name], seed=i, shards=1 + i) for i in range(2))
    pa, pb = (plain_model(tmp_path / f"p{i}", m.plain) for i, m in enumerate((a, b)))
    suture.merge(linear(a.path, b.path, to="f32"), tmp_path / "linear")
    mean = {n: ((a.plain[n].astype(np.float64) + b.plain[n]) / 2).astype(np.float32) for n in a.plain}
    assert_same(read_checkpoint(tmp_path / "linear"), mean)
    suture.merge(ties(a.path, b.path), tmp_path / "q", settings=F32)
    suture.merge(ties(pa, pb), tmp_path / "p", settings=F32)
    assert_same(read_checkpoint(tmp_path / "q"), {n: t.values() for n, t in read_checkpoint(tmp_path / "p").items()})
    assert "quantization_config" not in json.loads((tmp_path / "q" / "config.json").read_text())


@pytest.mark.parametrize("name", SOME)
def test_diff_compares_the_decoded_values(name: str, tmp_path: Path) -> None:
    """A comparison of quantised models is that of their plain models; one with its own plain model finds no change."""
    a, b = (model(tmp_path / f"q{i}", FORMS[name], seed=i) for i in range(2))
    pa, pb = (plain_model(tmp_path / f"p{i}", m.plain) for i, m in enumerate((a, b)))
    found, wanted = (suture.diff(x, y)["models"][0] for x, y in ((a.path, b.path), (pa, pb)))
    own, other = ({t["name"]: t for t in f["tensors"]} for f in (found, wanted))
    assert own.keys() == other.keys()
    weights = [n for n in own if "norm" not in n and "embed" not in n]
    assert len(weights) == LAYERS
    # Of plain models no step is known.
    more = {n: {key: own[n].pop(key) for key in ("below_step", "stepped")} for n in weights}
    assert {n: own[n] for n in weights} == {n: other[n] for n in weights}
    assert all(more[n]["stepped"] == round(own[n]["changed"] * own[n]["elements"]) for n in weights)
    assert suture.diff(a.path, pa)["models"][0]["total"]["changed"] == 0


@pytest.mark.parametrize("name", FORMS)
def test_swaps_move_what_is_stored(name: str, tmp_path: Path) -> None:
    """Law 2: between models of one form weights move with what belongs to them, byte for byte; the config stays."""
    a, b = (model(tmp_path / f"q{i}", FORMS[name], seed=i) for i in range(2))
    suture.swap(a.path, b.path, tmp_path / "out", layers=[1])
    found = read_checkpoint(tmp_path / "out")
    assert found == {n: (b if "layers.1." in n else a).stored[n] for n in a.stored}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"] == dict(FORMS[name].said)


@pytest.mark.parametrize("name", SOME)
def test_a_swap_that_decodes(name: str, tmp_path: Path) -> None:
    """Law 10: with --to a plain layer goes into a quantised model, and the other way round; blends are computed."""
    a, b = (model(tmp_path / f"q{i}", FORMS[name], seed=i) for i in range(2))
    plain = plain_model(tmp_path / "p", b.plain)
    layer = {n: (b if "layers.1." in n else a).plain[n] for n in a.plain}
    suture.swap(a.path, plain, tmp_path / "in", layers=[1], settings=F32)
    assert_same(read_checkpoint(tmp_path / "in"), layer)
    other = {n: (a if "layers.1." in n else b).plain[n] for n in a.plain}
    suture.swap(plain, a.path, tmp_path / "back", layers=[1], settings=F32)
    assert_same(read_checkpoint(tmp_path / "back"), other)
    suture.swap(a.path, b.path, tmp_path / "blend", bottom=1, transition=1, settings=F32)
    blended = {n: b.plain[n] if "layers.0." in n else a.plain[n] for n in a.plain}
    middle = [n for n in a.plain if "layers.1." in n]
    blended |= {n: (0.5 * a.plain[n].astype(np.float64) + 0.5 * b.plain[n]).astype(np.float32) for n in middle}
    assert_same(read_checkpoint(tmp_path / "blend"), blended)


@pytest.mark.parametrize("name", SOME)
def test_what_is_stored_is_not_mixed(name: str, tmp_path: Path) -> None:
    """Law 10: a layer of another form, or a plain one, is refused from headers, with what to do."""
    a, b = model(tmp_path / "a", FORMS[name], seed=1), model(tmp_path / "b", FORMS[name], seed=2)
    plain = plain_model(tmp_path / "p", b.plain)
    other = FORMS["int8 channel"]
    odd = model(tmp_path / "o", type(other)(other.make, other.said, FORMS[name].rows, FORMS[name].columns), seed=2)
    for into, donor in ((a.path, plain), (plain, a.path), (a.path, odd.path)):
        error = refusal(suture.swap, into, donor, tmp_path / "out", layers=[1])
        assert "--to bf16" in (error or ""), error
        slices = [{"sources": [{"model": str(p), "layer_range": [i, i + 1]}]} for i, p in enumerate((into, donor))]
        error = refusal(suture.merge, {"merge_method": "passthrough", "slices": slices}, tmp_path / "out")
        assert "--to bf16" in (error or ""), error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", SOME)
def test_stacks_move_or_decode(name: str, tmp_path: Path) -> None:
    """A stack moves what is stored; with --to it decodes, from other forms and plain models too."""
    a, b = model(tmp_path / "a", FORMS[name], seed=1), model(tmp_path / "b", FORMS[name], seed=2)
    plain = plain_model(tmp_path / "p", b.plain)
    cuts = [(a, 0), (b, 0), (a, 1)]

    def config(*paths: Path) -> dict[str, Any]:
        cut = zip(paths, (0, 0, 1), strict=True)
        slices = [{"sources": [{"model": str(p), "layer_range": [i, i + 1]}]} for p, i in cut]
        return {"merge_method": "passthrough", "slices": slices}

    suture.merge(config(a.path, b.path, a.path), tmp_path / "stored")
    found = read_checkpoint(tmp_path / "stored")
    suture.merge(config(a.path, plain, a.path), tmp_path / "decoded", settings=F32)
    decoded = read_checkpoint(tmp_path / "decoded")
    for number, (own, layer) in enumerate(cuts):
        for n, t in own.stored.items():
            if f"layers.{layer}." in n:
                assert found[n.replace(f"layers.{layer}.", f"layers.{number}.")] == t
        for n, values in own.plain.items():
            if f"layers.{layer}." in n:
                got = decoded[n.replace(f"layers.{layer}.", f"layers.{number}.")]
                np.testing.assert_array_equal(got.values(), values)


@pytest.mark.parametrize("name", ["fp8 ragged blocks", "gptq act-order", "nf4 nested", "gpt-oss"])
def test_inspect_names_the_form(name: str, tmp_path: Path) -> None:
    """Inspect shows what is stored, and what each weight is stored as."""
    a = model(tmp_path / "a", FORMS[name], seed=1)
    found = suture.inspect(a.path)
    assert sum(found["forms"].values()) == LAYERS
    assert found["refused"] is None
    assert {t["name"] for t in found["tensors"]} == set(a.stored)
    assert next(t["name"] for t in found["tensors"] if "form" in t).startswith(stem_of(FORMS[name], 0))
    assert any("decodes them" in sentence for sentence in found["verdict"])


def test_a_dtype_beside_to_is_an_error(tmp_path: Path) -> None:
    """--to is what the output is written as: a dtype beside it is a mistake, and so is a form that is not known."""
    with pytest.raises(suture.UsageError, match="to: `bf16`"):
        suture.Settings(to="bf16", dtype="float16")
    with pytest.raises(suture.UsageError, match="found `int4`"):
        suture.Settings(to="int4")


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_the_dtype_is_that_of_the_config(dtype: str, tmp_path: Path) -> None:
    """Decoded weights have the dtype that config.json says, rounded once; bf16 where it says none."""
    a = model(tmp_path / "a", FORMS["fp8 ragged blocks"], seed=1, dtype=dtype)
    suture.convert(a.path, tmp_path / "out")
    found = read_checkpoint(tmp_path / "out")
    name = stem_of(FORMS["fp8 ragged blocks"], 0) + ".weight"
    assert found[name].dtype == dtype
    assert_same({name: found[name]}, {name: a.plain[name]}, dtype)
    config = json.loads((a.path / "config.json").read_text())
    config.pop("torch_dtype")
    (a.path / "config.json").write_text(json.dumps(config))
    suture.convert(a.path, tmp_path / "none")
    assert read_checkpoint(tmp_path / "none")[name].dtype == "BF16"
