"""Experts in one tensor and experts apart are one model; routers are kept when asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import suture

from ..support.checkpoints import encode, read_checkpoint, write_checkpoint

Tensors = dict[str, NDArray[np.float32]]
LAYERS, EXPERTS, WIDTH, INNER = 2, 3, 4, 6
#: How families call gate, up and down, and the module they are in.
NAMES = {"qwen": ("mlp", ("gate_proj", "up_proj", "down_proj")), "mixtral": ("block_sparse_moe", ("w1", "w3", "w2"))}


def apart(seed: int) -> Tensors:
    """A model whose experts are apart, as Qwen calls them."""
    rng = np.random.default_rng(seed)
    made: Tensors = {"model.embed_tokens.weight": rng.normal(size=(9, WIDTH)).astype(np.float32)}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        made[f"{at}.self_attn.q_proj.weight"] = rng.normal(size=(WIDTH, WIDTH)).astype(np.float32)
        made[f"{at}.mlp.gate.weight"] = rng.normal(size=(EXPERTS, WIDTH)).astype(np.float32)
        for n in range(EXPERTS):
            for part, shape in zip(NAMES["qwen"][1], ((INNER, WIDTH), (INNER, WIDTH), (WIDTH, INNER)), strict=True):
                made[f"{at}.mlp.experts.{n}.{part}.weight"] = rng.normal(size=shape).astype(np.float32)
    return made


def packed(tensors: Tensors) -> Tensors:
    """The same with the experts of a layer in one tensor, the gate's rows before those of up."""
    made = {name: t for name, t in tensors.items() if ".experts." not in name}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}.mlp.experts"

        def all_of(*parts: str, at: str = at) -> NDArray[np.float32]:
            rows = [np.concatenate([tensors[f"{at}.{n}.{p}.weight"] for p in parts]) for n in range(EXPERTS)]
            return np.stack(rows)

        made[f"{at}.gate_up_proj"] = all_of("gate_proj", "up_proj")
        made[f"{at}.down_proj"] = all_of("down_proj")
    return made


def mixtral(tensors: Tensors) -> Tensors:
    """The same as Mixtral calls them."""
    made = {}
    for name, t in tensors.items():
        for ours, theirs in zip(NAMES["qwen"][1], NAMES["mixtral"][1], strict=True):
            name = name.replace(f".{ours}.", f".{theirs}.") if ".experts." in name else name
        made[name.replace(".mlp.", ".block_sparse_moe.")] = t
    return made


FORMS: dict[str, Any] = {"apart": lambda t: t, "packed": packed, "mixtral": mixtral}


def write(folder: Path, tensors: Tensors, dtype: str = "F32") -> Path:
    return write_checkpoint(folder, {name: encode(t, dtype) for name, t in tensors.items()})


def blend(*models: Path, method: str = "linear", **more: Any) -> dict[str, Any]:
    listed = [{"model": str(m), "parameters": {"weight": w}} for m, w in zip(models, (0.25, 0.75), strict=False)]
    return {"merge_method": method, "models": listed, "parameters": {"normalize": False}, **more}


@pytest.mark.parametrize("other", FORMS)
@pytest.mark.parametrize("lead", FORMS)
def test_models_merge_however_their_experts_are_stored(lead: str, other: str, tmp_path: Path) -> None:
    """The output has the lead's form, and is the merge of the same weights; so it is of a swap and a comparison."""
    one, two = apart(1), apart(2)
    a, b = write(tmp_path / "a", FORMS[lead](one)), write(tmp_path / "b", FORMS[other](two))
    suture.merge(blend(a, b), tmp_path / "out")
    want = FORMS[lead]({n: 0.25 * t.astype(np.float64) + 0.75 * two[n].astype(np.float64) for n, t in one.items()})
    found = suture.open(tmp_path / "out")
    assert set(found.names) == set(want)
    for name, t in want.items():
        np.testing.assert_allclose(found[name], t, rtol=1e-6, err_msg=name)
    suture.swap(a, b, tmp_path / "swapped", layers=[1])
    swapped = suture.open(tmp_path / "swapped")
    mixed = {name: two[name] if ".layers.1." in name else t for name, t in one.items()}
    for name, t in FORMS[lead](mixed).items():
        np.testing.assert_array_equal(swapped[name], t, err_msg=name)
    model = suture.diff(a, b)["models"][0]
    assert (model["only_base"], model["only_tuned"], model["reshaped"]) == ([], [], [])


@pytest.mark.parametrize("form", ["packed", "apart", "as-base"])
@pytest.mark.parametrize("lead", ["apart", "packed"])
def test_the_output_stores_experts_as_asked(lead: str, form: str, tmp_path: Path) -> None:
    """By the config or by the setting; what is only moved keeps its bytes, whichever way it is stored."""
    one = apart(3)
    a = write(tmp_path / "a", FORMS[lead](one), "BF16")
    config = {"merge_method": "passthrough", "models": [{"model": str(a)}]}
    report = suture.merge(config, tmp_path / "out", settings=suture.Settings(experts=form))
    suture.merge({**config, "experts": form}, tmp_path / "again")
    want = FORMS[lead if form == "as-base" else form](one)
    assert {t.action for t in report.tensors} == {"copy"}
    for out in ("out", "again"):
        found = read_checkpoint(tmp_path / out)
        assert found.keys() == want.keys()
        for name, t in want.items():
            assert found[name].data == encode(t, "BF16").data, name


def test_packed_there_and_back_is_the_same_model(tmp_path: Path) -> None:
    """Bytes, and a plan that went through JSON."""
    a = write(tmp_path / "a", apart(4), "BF16")
    for source, form in ((a, "packed"), (tmp_path / "packed", "apart")):
        config = {"merge_method": "passthrough", "models": [{"model": str(source)}]}
        suture.merge(config, tmp_path / form, settings=suture.Settings(experts=form))
    assert {n: t.data for n, t in read_checkpoint(tmp_path / "apart").items()} == {
        n: t.data for n, t in read_checkpoint(a).items()
    }


def test_experts_that_cannot_be_repacked_are_refused(tmp_path: Path) -> None:
    """One that is missing, of another shape, or kept transposed: the tensor is named."""
    one, two = apart(5), apart(6)
    whole = write(tmp_path / "whole", packed(two))
    name = "model.layers.1.mlp.experts.1.up_proj.weight"
    lacking = write(tmp_path / "lacking", {n: t for n, t in one.items() if n != name})
    odd = write(tmp_path / "odd", {n: t[:, :2] if n == name else t for n, t in one.items()})
    turned = {n: np.ascontiguousarray(t.swapaxes(1, 2)) if t.ndim == 3 else t for n, t in packed(one).items()}
    transposed = write(tmp_path / "transposed", turned)
    for bad, lead, says in ((lacking, whole, "not whole"), (odd, whole, "cannot be packed")):
        with pytest.raises(suture.SutureError, match=says):
            suture.merge(blend(lead, bad), tmp_path / "out")
    with pytest.raises(suture.SutureError, match="transposed"):
        suture.merge(blend(write(tmp_path / "plain", two), transposed), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_routers_can_stay_one_models(tmp_path: Path) -> None:
    """Bit for bit; merged with their experts they are warned of."""
    one, two = apart(7), apart(8)
    a, b = write(tmp_path / "a", one), write(tmp_path / "b", two)
    merged = suture.merge(blend(a, b), tmp_path / "merged")
    assert any("routers" in w for w in merged.warnings)
    kept = suture.merge(blend(a, b), tmp_path / "kept", settings=suture.Settings(routers_from=str(b)))
    assert not any("routers" in w for w in kept.warnings)
    found = suture.open(tmp_path / "kept")
    for name, t in two.items():
        assert np.array_equal(found[name], t) is name.endswith(".mlp.gate.weight"), name
