"""Pieces of adapters and converted ones against PEFT, which makes of them what it made of the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import suture
from suture import AdapterFacts

from ..support.lora import read_lora
from .test_lora_peft import KINDS, agree, base, build, library, trained

pytestmark = pytest.mark.filterwarnings("ignore")

#: What all kinds of modules of a layer, a saved head and a table together take.
ALL: dict[str, Any] = {
    "target_modules": ["q_proj", "k_proj", "patch", "embed_tokens"],
    "modules_to_save": ["lm_head"],
    "rank_pattern": {"layers.0.q_proj": 2},
    "alpha_pattern": {"k_proj": 5},
}
SPLIT = ("linear", "patterns", "regex", "transposed", "dora", "saved", "biases", "experts", "experts, patterns")


def plain(folder: Path) -> Any:
    """The model that was written, built anew."""
    model = build()
    model.load_state_dict(library("safetensors.torch").load_file(folder / "model.safetensors"))
    return model


def loaded(folder: Path, *adapters: Path) -> dict[str, Any]:
    """What PEFT makes of a model with adapters, merged one after the other; every tensor of theirs found its place."""
    model = plain(folder)
    for adapter in adapters:
        own = library("peft").PeftModel.from_pretrained(model, adapter)
        state = library("peft").get_peft_model_state_dict(own, save_embedding_layers=False)
        lacking = {n for n in suture.open(adapter).names if ".lora_" in n} - state.keys()
        assert not lacking
        model = own.merge_and_unload()
    return dict(model.state_dict())


@pytest.mark.parametrize("by", ["layer", "module"])
@pytest.mark.parametrize("kind", [*SPLIT, "all"])
def test_pieces_are_loaded_by_peft(kind: str, by: str, tmp_path: Path) -> None:
    """Law: each piece is an adapter that PEFT loads, and all of them one after the other are the whole."""
    made = trained(tmp_path / "lora", base(tmp_path / "base"), 1, **(ALL if kind == "all" else KINDS[kind]))
    wanted = made.merge_and_unload().state_dict()
    report = suture.split_adapter(tmp_path / "lora", tmp_path / "out", by=by)
    assert len(report.parts) > 1 or by == "module" or kind == "regex"
    places = [tmp_path / "out" / part for part in report.parts]
    agree(suture.open("+".join(map(str, [tmp_path / "base", *places]))), wanted)
    found = loaded(tmp_path / "base", *places)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert library("torch").allclose(found[name], value, atol=2e-5), name


@pytest.mark.parametrize("through", ["sd-scripts", "loralib"])
def test_converted_adapters_are_loaded_by_peft(through: str, tmp_path: Path) -> None:
    """Law: what came back from another form is to PEFT the adapter that it was."""
    kind = {"target_modules": ["q_proj", "k_proj"], "rank_pattern": {"layers.0.q_proj": 2}}
    sd = through == "sd-scripts"
    kind |= {"target_modules": ["q_proj", "patch"]} if sd else {}
    made = trained(tmp_path / "lora", base(tmp_path / "base"), 1, **kind)
    wanted = made.merge_and_unload().state_dict()
    file = tmp_path / "other.safetensors"
    suture.convert_adapter(tmp_path / "lora", file, to=through, given=AdapterFacts(prefix="lora_unet" if sd else None))
    given = AdapterFacts(model=tmp_path / "base", alpha=None if sd else 6)
    suture.convert_adapter(file, tmp_path / "back", to="peft", given=given)
    assert read_lora(tmp_path / "back") == read_lora(tmp_path / "lora")
    found = loaded(tmp_path / "base", tmp_path / "back")
    for name, value in wanted.items():
        assert library("torch").allclose(found[name], value, atol=2e-5), name


def test_adapters_in_one_state_dict_of_peft(tmp_path: Path) -> None:
    """Law: the state dict of a model with two adapters is split into what PEFT saves of each by itself."""
    torch, peft = library("torch"), library("peft")
    model = base(tmp_path / "base")
    config = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "embed_tokens"], "modules_to_save": ["lm_head"]}
    both = peft.get_peft_model(model, peft.LoraConfig(**config), adapter_name="de")
    both.add_adapter("sw", peft.LoraConfig(**config))
    torch.manual_seed(3)
    with torch.no_grad():
        for name, value in both.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                value.copy_(torch.randn_like(value))
    both.save_pretrained(tmp_path / "apart", save_embedding_layers=False)
    folder = tmp_path / "both"
    folder.mkdir()
    torch.save(both.state_dict(), folder / "adapter_model.bin")
    (folder / "adapter_config.json").write_bytes((tmp_path / "apart" / "de" / "adapter_config.json").read_bytes())
    report = suture.split_adapter(folder, tmp_path / "out", by="language")
    assert list(report.parts) == ["de", "sw"]
    assert any("tensors of no adapter" in w for w in report.warnings)
    for name in report.parts:
        assert read_lora(tmp_path / "out" / name) == read_lora(tmp_path / "apart" / name)
        one, two = (loaded(tmp_path / "base", tmp_path / place / name) for place in ("out", "apart"))
        assert all(torch.equal(one[n], two[n]) for n in two)
