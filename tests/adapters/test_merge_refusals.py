"""What no sum of adapters is: refused, with the tensor or the key; and what the user should know is told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..support.checkpoints import Raw, encode
from ..support.lora import factors, random, read_lora, write_lora
from ..support.refusals import left_behind, refusal
from .test_merge_laws import K, Q, adapter, config_of

RNG = np.random.default_rng(5)
PLAIN = factors(RNG, Q, (32, 24))
EXPERTS = {"mlp.experts.lora_A.weight": random(RNG, 8, 24), "mlp.experts.lora_B.weight": random(RNG, 32, 8)}


def with_nan(tensors: dict[str, Raw], name: str, value: float) -> dict[str, Raw]:
    """The same, one element of a tensor another."""
    values = tensors[name].values().copy()
    values[1, 2] = value
    return tensors | {name: encode(values, "F32")}


#: Tensors and config of the second adapter, and what the message must name.
REFUSED: dict[str, tuple[dict[str, Raw], dict[str, Any], tuple[str, ...]]] = {
    "dora": (PLAIN | {f"{Q}.lora_magnitude_vector": random(RNG, 32)}, {"use_dora": True}, ("magnitude", "DoRA")),
    "saved": (PLAIN | {"score.weight": random(RNG, 2, 24)}, {"modules_to_save": ["score"]}, ("score.weight", "whole")),
    "pissa": (PLAIN, {"init_lora_weights": "pissa"}, ("pissa", "adapter_config.json")),
    "loftq": (PLAIN, {"init_lora_weights": "loftq"}, ("loftq",)),
    "another kind": (PLAIN, {"peft_type": "LOHA"}, ("LOHA",)),
    "tokens": (PLAIN, {"trainable_token_indices": [1]}, ("trainable_token_indices",)),
    "another shape": (factors(RNG, Q, (30, 24)), {}, (Q, "shape")),
    "another input": (factors(RNG, Q, (32, 20)), {}, (Q, "shape")),
    "another rank": (PLAIN, {"r": 8}, (Q, "8 ranks")),
    "laid otherwise": (PLAIN, {"fan_in_fan_out": True}, ("fan_in_fan_out",)),
    "no B": ({f"{Q}.lora_A.weight": PLAIN[f"{Q}.lora_A.weight"]}, {}, (Q, "partner")),
    "no A": ({f"{Q}.lora_B.weight": PLAIN[f"{Q}.lora_B.weight"]}, {}, (Q, "partner")),
    "nan": (with_nan(PLAIN, f"{Q}.lora_A.weight", np.nan), {}, (f"{Q}.lora_A", "element 26", "NaN")),
    "infinite": (with_nan(PLAIN, f"{Q}.lora_B.weight", np.inf), {}, (f"{Q}.lora_B", "element 6", "infinite")),
    "integers": ({n: encode(r.values(), "I32") for n, r in PLAIN.items()}, {}, (f"{Q}.lora_A", "I32")),
    "small floats": ({n: Raw("F8_E4M3", r.shape, r.data[::4]) for n, r in PLAIN.items()}, {}, (Q, "F8_E4M3")),
}


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_sum_is_refused(case: str, rank: int | None, tmp_path: Path) -> None:
    """Law 8: an error that names the adapter and the tensor or key, and no output; in either order."""
    tensors, config, said = REFUSED[case]
    bad = write_lora(tmp_path / "bad", tensors, **config)
    good = adapter(tmp_path / "good", 1)
    for order in ((good, bad), (bad, good)):
        found = refusal(suture.merge_adapters, order, tmp_path / "out", weights=[0.7, 0.3], rank=rank)
        assert found is not None
        assert [word for word in said if word not in found] == [], found
        assert "good" in found or "bad" in found
        assert "suture-" not in found, found
    assert left_behind(tmp_path, ["good", "bad"]) == []


def test_experts_of_other_parameters_are_not_added(tmp_path: Path) -> None:
    """Law 8: what a pair of factors changes is told by the config; two that differ in it are folded, not merged."""
    one = write_lora(tmp_path / "a", EXPERTS, target_parameters=["mlp.experts.down_proj"])
    two = write_lora(tmp_path / "b", EXPERTS, target_parameters=["mlp.experts.gate_up_proj"])
    with pytest.raises(suture.SutureError, match="target_parameters"):
        suture.merge_adapters([one, two], tmp_path / "out")


def test_nan_goes_through_where_it_is_allowed(tmp_path: Path) -> None:
    """`--nan allow` means what it says; of fewer ranks nothing is to be had then."""
    bad = write_lora(tmp_path / "bad", REFUSED["nan"][0])
    good, allow = adapter(tmp_path / "good", 1), suture.Settings(nan="allow")
    suture.merge_adapters([good, bad], tmp_path / "out", settings=allow)
    assert np.isnan(read_lora(tmp_path / "out")[f"{Q}.lora_A.weight"].values()).any()
    with pytest.raises(suture.SutureError, match="NaN"):
        suture.merge_adapters([good, bad], tmp_path / "low", rank=2, settings=allow)


@pytest.mark.parametrize(
    ("count", "options", "said"),
    [
        (0, {}, "at least one"),
        (2, {"weights": [1]}, "one for each of 2 adapters, found 1"),
        (2, {"weights": []}, "found 0"),
        (1, {"weights": [1, 2]}, "found 2"),
        (2, {"weights": [1, float("nan")]}, "finite"),
        (2, {"weights": [1, float("inf")]}, "finite"),
        (2, {"rank": 0}, "rank"),
        (2, {"rank": -1}, "rank"),
    ],
    ids=str,
)
def test_arguments_are_looked_at(count: int, options: dict[str, Any], said: str, tmp_path: Path) -> None:
    """Law 9: what PEFT takes without a word is an error here."""
    given: Sequence[Path] = [adapter(tmp_path / f"a{i}", i) for i in range(count)]
    with pytest.raises(suture.UsageError, match=said):
        suture.merge_adapters(given, tmp_path / "out", **options)


def test_an_output_that_is_there_stays(tmp_path: Path) -> None:
    """Law 9: a name that is taken is an error; `--overwrite` replaces what is an adapter of ours."""
    given = [adapter(tmp_path / f"a{i}", i) for i in range(2)]
    suture.merge_adapters(given, tmp_path / "out")
    with pytest.raises(suture.SutureError, match="out"):
        suture.merge_adapters(given, tmp_path / "out", weights=[2, 2])
    suture.merge_adapters(given, tmp_path / "out", weights=[2, 2], settings=suture.Settings(overwrite=True))
    assert config_of(tmp_path / "out")["lora_alpha"] == 32
    with pytest.raises(suture.UsageError, match="folder"):
        suture.merge_adapters(given, tmp_path / "out.safetensors")


def test_the_config_is_of_the_sum(tmp_path: Path) -> None:
    """What keeps a module of one out is no law for the sum, and a bias of one is a bias of it."""
    bias = {f"{K}.lora_B.bias": random(RNG, 12)}
    one = adapter(tmp_path / "a", 1, (Q,), layers_to_transform=[0], exclude_modules=["k_proj"])
    two = write_lora(tmp_path / "b", factors(RNG, K, (12, 24)) | bias, lora_bias=True, layers_to_transform=[1])
    suture.merge_adapters([one, two], tmp_path / "out", weights=[1, 0.5])
    config = config_of(tmp_path / "out")
    assert sorted(config["target_modules"]) == [Q, K]
    assert (config["layers_to_transform"], config["exclude_modules"], config["lora_bias"]) == (None, None, True)
    found = read_lora(tmp_path / "out")
    np.testing.assert_allclose(found[f"{K}.lora_B.bias"].values(), bias[f"{K}.lora_B.bias"].values(), rtol=1e-6)
    assert not found[f"{Q}.lora_B.bias"].values().any()


def test_adapters_of_two_models_are_told_of(tmp_path: Path) -> None:
    """Shapes may agree where models do not: the names that the configs give the model are compared."""
    given = [adapter(tmp_path / f"a{i}", i, base_model_name_or_path=f"some/base-{i}") for i in range(2)]
    (told,) = suture.merge_adapters(given, tmp_path / "out").warnings
    assert "some/base-0" in told
    assert "some/base-1" in told
