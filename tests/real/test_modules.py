"""Language modules against transformers, and groups of X-ALMA against their formula."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture
from suture.errors import SutureError, UsageError

LANGUAGES = ["en_XX", "sw_KE", "de_DE"]


@pytest.fixture(scope="module")
def xmod(tmp_path_factory: pytest.TempPathFactory, transformers: Any) -> Path:
    """A random model of X-MOD with three languages."""
    import torch

    torch.manual_seed(0)
    config = transformers.XmodConfig(
        vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=40, languages=LANGUAGES, default_language="en_XX",
    )  # fmt: skip
    model = transformers.XmodForMaskedLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    folder = tmp_path_factory.mktemp("xmod") / "model"
    model.save_pretrained(folder)
    return folder


def logits(path: Path, language: str) -> Any:
    """The logits in a language; every tensor was found, and none more."""
    import torch
    import transformers

    model: Any
    model, info = transformers.XmodForMaskedLM.from_pretrained(path, output_loading_info=True)
    assert not any(info.values()), info
    ids = torch.arange(2, 18).reshape(2, 8) * 5 % 96
    lang = torch.full((2,), model.config.languages.index(language))
    with torch.no_grad():
        return model.eval()(ids, lang_ids=lang).logits.numpy()


def test_languages_that_stay_compute_what_they_did(xmod: Path, tmp_path: Path) -> None:
    """Law: kept languages' logits stay to the bit, in any order; a clone computes what its source does."""
    rows = suture.modules.listed(xmod)
    assert [r["name"] for r in rows] == LANGUAGES
    assert json.loads(suture.modules.as_json(rows))["schema"] == 1
    assert [r["default"] for r in rows] == [True, False, False]
    suture.modules.keep(xmod, tmp_path / "kept", ["de_DE", "sw_KE"])
    suture.modules.drop(xmod, tmp_path / "dropped", ["en_XX"])
    suture.modules.clone(xmod, tmp_path / "cloned", "sw_KE", "zu_ZA")
    suture.modules.default(xmod, tmp_path / "default", "sw_KE")
    for language in ("sw_KE", "de_DE"):
        want = logits(xmod, language)
        for out in ("kept", "dropped", "cloned", "default"):
            assert np.array_equal(logits(tmp_path / out, language), want)
    assert np.array_equal(logits(tmp_path / "cloned", "zu_ZA"), logits(xmod, "sw_KE"))
    said = {out: json.loads((tmp_path / out / "config.json").read_text()) for out in ("kept", "default", "cloned")}
    assert said["kept"]["languages"] == ["de_DE", "sw_KE"]
    assert said["kept"]["default_language"] == "de_DE"
    assert said["default"]["default_language"] == "sw_KE"
    assert said["cloned"]["languages"] == [*LANGUAGES, "zu_ZA"]


def test_grafted_languages_are_the_donors_on_the_same_trunk_alone(
    xmod: Path, tmp_path: Path, transformers: Any
) -> None:
    """Law: a grafted language computes what it does in the donor; on another trunk it is refused, naming a tensor."""
    import torch

    def tuned(name: str, what: str) -> Path:
        model = transformers.XmodForMaskedLM.from_pretrained(xmod)
        with torch.no_grad():
            for own, parameter in model.named_parameters():
                if what in own:
                    parameter.add_(0.25)
        model.save_pretrained(tmp_path / name)
        return tmp_path / name

    donor, other = tuned("donor", "adapter_modules.sw_KE"), tuned("other", "attention.self.query.weight")
    suture.modules.graft(xmod, donor, tmp_path / "out", ["sw_KE"])
    assert np.array_equal(logits(tmp_path / "out", "sw_KE"), logits(donor, "sw_KE"))
    assert np.array_equal(logits(tmp_path / "out", "de_DE"), logits(xmod, "de_DE"))
    with pytest.raises(SutureError, match=r"trunk is not.*query\.weight"):
        suture.modules.graft(xmod, other, tmp_path / "no", ["sw_KE"])
    report = suture.modules.graft(xmod, other, tmp_path / "yes", ["sw_KE"], ignore_trunk=True)
    assert any("trunk" in w for w in report.warnings)


def test_mistakes_are_refused(xmod: Path, tmp_path: Path) -> None:
    """Law: what is not there is refused, and nothing is written."""
    with pytest.raises(UsageError, match="did you mean"):
        suture.modules.keep(xmod, tmp_path / "no", ["en_XY"])
    with pytest.raises(UsageError, match="none would be left"):
        suture.modules.drop(xmod, tmp_path / "no", LANGUAGES)
    with pytest.raises(UsageError, match="already"):
        suture.modules.clone(xmod, tmp_path / "no", "sw_KE", "de_DE")
    with pytest.raises(SutureError, match="made of X-ALMA"):
        suture.modules.split(xmod, tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_groups_of_x_alma_fold_to_a_plain_model(tmp_path: Path, transformers: Any) -> None:
    """Law: a group that is split off and folded into the plain model is W + 2 B A; those left are numbered anew."""
    import torch
    from safetensors.torch import load_file, save_file

    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "plain")
    plain = load_file(tmp_path / "plain" / "model.safetensors")
    whole = dict(plain)
    for name, weight in plain.items():
        if name.endswith("_proj.weight"):
            at = name.removesuffix("_proj.weight")
            for group in range(3):
                whole[f"{at}_lora_A.{group}.weight"] = torch.randn(4, weight.shape[1])
                whole[f"{at}_lora_B.{group}.weight"] = torch.randn(weight.shape[0], 4)
    model = tmp_path / "alma"
    model.mkdir()
    save_file(whole, model / "model.safetensors")
    (model / "config.json").write_bytes((tmp_path / "plain" / "config.json").read_bytes())
    suture.modules.split(model, tmp_path / "groups", ["1"])
    suture.modules.drop(model, tmp_path / "bare", ["0", "1", "2"])
    suture.fold(tmp_path / "bare", [tmp_path / "groups" / "group-1"], tmp_path / "folded")
    found = load_file(tmp_path / "folded" / "model.safetensors")
    assert found.keys() == plain.keys()
    for name, weight in found.items():
        want = plain[name].double()
        if name.endswith("_proj.weight"):
            at = name.removesuffix("_proj.weight")
            want = want + 2 * whole[f"{at}_lora_B.1.weight"].double() @ whole[f"{at}_lora_A.1.weight"].double()
        assert torch.allclose(weight.double(), want, atol=1e-5)
    suture.modules.keep(model, tmp_path / "two", ["2", "0"])
    kept = load_file(tmp_path / "two" / "model.safetensors")
    at = "model.layers.0.mlp.gate_lora_A"
    assert torch.equal(kept[f"{at}.0.weight"], whole[f"{at}.2.weight"])
    assert torch.equal(kept[f"{at}.1.weight"], whole[f"{at}.0.weight"])
