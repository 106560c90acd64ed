"""Adapters that are broken, of another model or no adapters: an error that names the file and what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..support.adapters import CONFIG, WEIGHTS
from ..support.checkpoints import Raw, encode, llama_family, write_checkpoint, write_json
from ..support.lora import PLAIN, factors, random, write_lora
from ..support.refusals import left_behind, refusal

SHAPE: dict[str, Any] = {"layers": 2, "hidden": 16, "heads": 2, "kv_heads": 1, "ff": 24, "vocab": 20, "n": 0}
Q, K = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj"
A, B, LENGTHS = f"{Q}.lora_A.weight", f"{Q}.lora_B.weight", f"{Q}.lora_magnitude_vector"
RNG = np.random.default_rng(1)
GOOD = factors(RNG, Q, (16, 16))
WHOLE: dict[str, Any] = {"modules_to_save": ["score"]}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (folder,) = llama_family(tmp_path_factory.mktemp("base"), **SHAPE)
    return folder


def other(name: str) -> dict[str, Raw]:
    """Factors of a module that the model lacks."""
    return factors(RNG, name, (16, 16))


def ones(dtype: str, size: int = 4) -> dict[str, Raw]:
    """Factors of a dtype that is not computed on."""
    return {A: Raw(dtype, (4, 16), bytes(64 * size)), B: Raw(dtype, (16, 4), bytes(64 * size))}


#: Tensors, config, and what the message must name.
REFUSED: dict[str, tuple[dict[str, Raw], dict[str, Any], tuple[str, ...]]] = {
    "another width": (factors(RNG, Q, (16, 12)), {}, (A, "[4, 12]", "[16, 16]", "another model")),
    "another module's shape": (factors(RNG, K, (16, 16)), {}, (K, "another model")),
    "more layers": (GOOD | other("model.layers.7.self_attn.q_proj"), {}, ("layers.7", "lacks")),
    "other names": (other("transformer.h.0.attn.q"), {}, ("transformer.h.0", "lacks")),
    "half matching": (GOOD | other("x.1") | other("x.2"), {}, ("x.1", "2 of its 3 modules")),
    "another rank": (GOOD, {"r": 8}, (A, "rank 4", "says 8")),
    "another rank by a pattern": (GOOD, {"rank_pattern": {"q_proj": 2}}, (A, "rank 4", "says 2")),
    "three dimensions": ({A: random(RNG, 4, 4, 4), B: GOOD[B]}, {}, (A, "[4, 4, 4]")),
    "scalars": ({A: random(RNG), B: random(RNG)}, {}, (A, "another model")),
    "no elements": ({A: random(RNG, 4, 0), B: random(RNG, 0, 4)}, {}, (A, "another model")),
    "rank 0": ({A: random(RNG, 0, 16), B: random(RNG, 16, 0)}, {}, (A, "rank 0")),
    "A alone": ({A: GOOD[A]}, {}, (A, "no factor B")),
    "B alone": ({B: GOOD[B]}, {}, (B, "no factor A")),
    "a bias alone": ({f"{Q}.lora_B.bias": random(RNG, 16)}, {}, ("lora_B.bias", "no factor A")),
    "two adapters in one": (
        {n.replace("weight", f"{x}.weight"): r for n, r in GOOD.items() for x in "xy"},
        {},
        ("lora_A.y", "twice"),
    ),
    "nothing": ({}, {}, ("no factors",)),
    "no factors": ({"score.weight": random(RNG, 2, 16)}, WHOLE, ("no factors",)),
    "another kind of tensor": (GOOD | {f"{Q}.hada_w1_a": random(RNG, 3)}, {}, ("hada_w1_a", "lacks")),
    "saved in another shape": (
        GOOD | {"lm_head.weight": random(RNG, 20, 8)},
        WHOLE,
        ("lm_head", "[20, 8]", "[20, 16]"),
    ),
    "a bias in another shape": (GOOD | {f"{Q}.lora_B.bias": random(RNG, 4)}, {}, ("lora_B.bias",)),
    "integers": (ones("I32"), {}, (A, "I32")),
    "8 bits": (ones("F8_E4M3", 1), {}, (A, "F8_E4M3")),
    "lengths of integers": (
        GOOD | {LENGTHS: Raw("I32", (16,), bytes(64))},
        {},
        ("magnitude", "I32"),
    ),
    "too few lengths": (
        GOOD | {LENGTHS: random(RNG, 15)},
        {"use_dora": True},
        ("magnitude", "[15]"),
    ),
    "no lengths": (GOOD, {"use_dora": True}, (A, "DoRA")),
    "IA3": (GOOD, {"peft_type": "IA3"}, (CONFIG, "IA3")),
    "LoHa": (GOOD, {"peft_type": "LOHA"}, (CONFIG, "LOHA")),
    "PiSSA": (GOOD, {"init_lora_weights": "pissa_niter_16"}, (CONFIG, "pissa")),
    "OLoRA": (GOOD, {"init_lora_weights": "olora"}, (CONFIG, "olora")),
    "CorDA": (GOOD, {"init_lora_weights": "corda"}, (CONFIG, "corda")),
    "layers again": (GOOD, {"layer_replication": [[0, 2], [1, 2]]}, (CONFIG, "layer_replication")),
    "KaSA": (GOOD, {"kasa_config": {"beta": 1}}, (CONFIG, "kasa_config")),
    "blocks": (GOOD, {"use_bdlora": {"nblocks": 2}}, (CONFIG, "use_bdlora")),
    "Monte Carlo": (GOOD, {"monteclora_config": {"n": 2}}, (CONFIG, "monteclora_config")),
    "tokens": (GOOD, {"trainable_token_indices": [1, 2]}, (CONFIG, "trainable_token_indices")),
    "r 0": (GOOD, {"r": 0}, (CONFIG, "`r`")),
    "r below 0": (GOOD, {"r": -4}, (CONFIG, "`r`")),
    "r no number": (GOOD, {"r": "4"}, (CONFIG, "`r`")),
    "alpha 0": (GOOD, {"lora_alpha": 0}, (CONFIG, "changes nothing")),
    "alpha no number": (GOOD, {"lora_alpha": "8"}, (CONFIG, "`lora_alpha`")),
    "alpha nothing": (GOOD, {"lora_alpha": None}, (CONFIG, "`lora_alpha`")),
    "half a rank": (GOOD, {"rank_pattern": {"q_proj": 4.5}}, (CONFIG, "q_proj", "whole number")),
    "patterns in a list": (GOOD, {"rank_pattern": ["q_proj"]}, (CONFIG, "rank_pattern")),
    "no pattern": (GOOD, {"alpha_pattern": {"(": 8}}, (CONFIG, "alpha_pattern", "`(`")),
    "an endless pattern": (GOOD, {"alpha_pattern": {"(a{1000}){1000}": 8}}, (CONFIG, "alpha_pattern")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_adapter_of_the_model_is_refused(case: str, base: Path, tmp_path: Path) -> None:
    """Laws 7 and 8: named, with what was expected; the same wherever it is named, and no output."""
    tensors, config, said = REFUSED[case]
    lora = write_lora(tmp_path / "lora", tensors, **config)
    found = refusal(suture.open, f"{base}+{lora}")
    assert found is not None
    assert [word for word in ("lora", *said) if word not in found] == [], found
    assert "internal error" not in found
    assert refusal(suture.fold, base, [lora], tmp_path / "out") == found
    assert left_behind(tmp_path, ["lora"]) == []


@pytest.mark.parametrize("text", ["", "[1]", "{", "null", "[" * 100_000, '{"r": 4, "lora_alpha": NaN}', '{"r": 1e999}'])
def test_a_config_that_is_none(text: str, base: Path, tmp_path: Path) -> None:
    """A config that is no JSON object says nothing; the numbers that JSON has not are none."""
    lora = write_lora(tmp_path / "lora", GOOD)
    (lora / CONFIG).write_text(text)
    assert CONFIG in str(refusal(suture.open, f"{base}+{lora}"))


@pytest.mark.parametrize("spoil", [Path.unlink, lambda p: (p.unlink(), p.mkdir())], ids=["missing", "a folder"])
@pytest.mark.parametrize("file", [CONFIG, WEIGHTS])
def test_a_file_that_is_missing(file: str, spoil: Callable[[Path], Any], base: Path, tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "lora", GOOD)
    spoil(lora / file)
    assert str(lora) in str(refusal(suture.open, f"{base}+{lora}"))


@pytest.mark.parametrize("keep", [0, 7, 8, 100, -1])
def test_a_file_that_is_cut_off(keep: int, base: Path, tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "lora", GOOD)
    (lora / WEIGHTS).write_bytes((lora / WEIGHTS).read_bytes()[:keep])
    assert WEIGHTS in str(refusal(suture.open, f"{base}+{lora}"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [A, B, LENGTHS])
def test_what_is_not_finite_is_said_of_the_factor(name: str, value: float, base: Path, tmp_path: Path) -> None:
    """Law 7: the adapter's tensor, not the model's weight, which is sound; `--nan allow` lets it through."""
    tensors = GOOD | {LENGTHS: random(RNG, 16)}
    values = tensors[name].values().copy()
    values.flat[9] = value
    lora = write_lora(tmp_path / "lora", tensors | {name: encode(values, "F32")}, use_dora=True)
    found = str(refusal(suture.fold, base, [lora], tmp_path / "out"))
    assert str(lora) in found
    assert name in found or "magnitude" in name or "(with its adapters)" in found
    suture.fold(base, [lora], tmp_path / "out", settings=suture.Settings(nan="allow"))


def test_a_scale_that_no_dtype_holds(base: Path, tmp_path: Path) -> None:
    """A result that is not finite though the inputs are: said of the result."""
    lora = write_lora(tmp_path / "lora", GOOD, lora_alpha=1e300)
    assert "not a finite BF16" in str(refusal(suture.fold, base, [lora], tmp_path / "out"))


def test_models_and_adapters_in_each_others_place(base: Path, tmp_path: Path) -> None:
    """A model is no adapter, with or without a config beside it; an adapter is no model."""
    lora = write_lora(tmp_path / "lora", GOOD)
    assert CONFIG in str(refusal(suture.open, f"{base}+{base}"))
    assert "name the model first" in str(refusal(suture.open, f"{lora}+{lora}"))
    assert "name the model first" in str(refusal(suture.fold, lora, [lora], tmp_path / "out"))
    (twin,) = llama_family(tmp_path / "twin", **SHAPE)
    write_json(twin / CONFIG, PLAIN)
    assert "no factors" in str(refusal(suture.open, f"{base}+{twin}"))


@pytest.mark.parametrize("text", ["{b}+", "+{b}", "{b}++{a}", "{b}+ ", "+", "++", "{b}+{a}+"])
def test_a_plus_with_nothing_beside_it(text: str, base: Path, tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "lora", GOOD)
    with pytest.raises(suture.UsageError, match="nothing on one side"):
        suture.open(text.format(b=base, a=lora))


def test_what_is_not_there(base: Path, tmp_path: Path) -> None:
    """The part that is missing is named; names of a hub are looked for there, and offline that is said."""
    lora = write_lora(tmp_path / "lora", GOOD)
    assert "missing-lora" in str(refusal(suture.open, f"{base}+{tmp_path}/missing-lora"))
    assert "missing-base" in str(refusal(suture.open, f"{tmp_path}/missing-base+{lora}"))
    assert "org/adapter" in str(refusal(suture.open, f"{base}+org/adapter"))


def test_dora_is_not_taken_in_part(base: Path, tmp_path: Path) -> None:
    """Lengths are not linear: half of them is no half of the change."""
    lora = write_lora(tmp_path / "lora", GOOD | {LENGTHS: random(RNG, 16)}, use_dora=True)
    found = str(refusal(suture.fold, base, [lora], tmp_path / "out", weights=[0.5]))
    assert "DoRA" in found
    assert "weight other than 1" in found


@pytest.mark.parametrize("weights", [[1, 2], [], [float("nan")], [float("inf")]], ids=str)
def test_weights_are_looked_at(weights: list[float], base: Path, tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "lora", GOOD)
    with pytest.raises(suture.UsageError, match="weights"):
        suture.fold(base, [lora], tmp_path / "out", weights=weights)


def test_a_quantised_weight_takes_no_adapter(tmp_path: Path) -> None:
    """A weight whose numbers are elsewhere is not changed by adding to it."""
    base = write_checkpoint(tmp_path / "base", {f"{Q}.weight": Raw("F8_E4M3", (16, 16), bytes(256))})
    lora = write_lora(tmp_path / "lora", GOOD)
    found = str(refusal(suture.open, f"{base}+{lora}"))
    assert f"`{Q}.weight` is F8_E4M3 in the model" in found
