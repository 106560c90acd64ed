"""Swaps in the memory of a model are those of files, to the bit; exchanged layers change places, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import suture
import suture.torch
from suture.torch.swapping import swap_
from tests.support.checkpoints import llama_family
from tests.support.resident import Tensors, differing, family, module_of, read

SMALL: dict[str, Any] = {"layers": 5, "hidden": 16, "heads": 4, "kv_heads": 2, "ff": 24, "vocab": 20, "n": 3}
OPTIONS: list[dict[str, Any]] = [
    {"bottom": 1},
    {"top": 2},
    {"bottom": 1, "top": 1, "transition": 1},
    {"bottom": 1, "transition_bottom": 2, "blend": "ramp"},
    {"top": 1, "transition_top": 3, "blend": 0.3, "modules": "mlp"},
    {"layers": "1,3"},
    {"layers": [0, 4], "modules": "self_attn.*"},
    {"layers": "all"},
    {"layers": "2-3", "heads": "0-1"},
    {"layers": "2", "heads": [0, 1], "modules": "self_attn.q_proj,self_attn.o_proj"},
    {"bottom": 2, "non_layer": "from"},
    {"bottom": 2, "non_layer": "mean"},
    {"bottom": 1, "non_layer": "base", "base": True},
    {"bottom": 2, "base": True, "donor_base": True},
    {"bottom": 1, "transition": 1, "base": True, "donor_base": True, "non_layer": "mean"},
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return llama_family(tmp_path_factory.mktemp("llama"), **SMALL)


def opened(folder: Path) -> torch.nn.Module:
    return module_of(read(folder), json.loads((folder / "config.json").read_text()))


def told(options: Mapping[str, Any], base: Any, donor_base: Any) -> dict[str, Any]:
    """Options with the models that they name."""
    return {
        **options,
        **({"base": base} if "base" in options else {}),
        **({"donor_base": donor_base} if "donor_base" in options else {}),
    }


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_swap_in_memory_is_that_of_files(options: dict[str, Any], models: list[Path], tmp_path: Path) -> None:
    base, into, donor, other = models
    suture.swap(into, donor, tmp_path / "out", **told(options, base, other))
    wanted = read(tmp_path / "out")
    module, giver = opened(into), opened(donor)
    before = {n: (p, p.data_ptr()) for n, p in module.named_parameters()}
    report = swap_(module, giver, **told(options, opened(base), opened(other)), block=64)
    assert differing(module.state_dict(), wanted) == []
    assert differing(giver.state_dict(), read(donor)) == []
    assert {n: (p, p.data_ptr()) for n, p in module.named_parameters()} == before
    assert all(p.requires_grad for p in module.parameters())
    changed = set(differing(wanted, read(into)))
    assert changed <= set(report.tensors)
    assert not changed & set(report.kept)
    assert report.method == "swap"


def test_models_may_be_mappings_of_several_dtypes_and_layouts(tmp_path: Path) -> None:
    shapes = {f"model.layers.{i}.{part}": shape for i in range(4) for part, shape in (("w", (6, 4)), ("b", (6,)))}
    into, donor = family("BF16", 1, 1, shapes)[0], family("F32", 1, 2, shapes)[0]
    for name, tensors in (("into", into), ("donor", donor)):
        write(tmp_path / name, tensors)
    suture.swap(tmp_path / "into", tmp_path / "donor", tmp_path / "out", bottom=1, transition=1)
    turned = {n: t.t().contiguous().t() if t.dim() == 2 else t.clone() for n, t in into.items()}
    swap_(turned, donor, bottom=1, transition=1)
    assert differing(turned, read(tmp_path / "out")) == []
    assert not turned["model.layers.0.w"].is_contiguous()


def write(folder: Path, tensors: Tensors) -> Path:
    """A checkpoint of tensors."""
    from safetensors.torch import save_file

    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_several_donors_give_layers(models: list[Path], tmp_path: Path) -> None:
    _, into, one, two = models
    suture.swap(into, {str(one): "0,2", str(two): "4"}, tmp_path / "out")
    module = opened(into)
    swap_(module, [(opened(one), "0,2"), (opened(two), [4])])
    assert differing(module.state_dict(), read(tmp_path / "out")) == []
    with pytest.raises(suture.UsageError, match="each of the donors has its own layers; expected no bottom"):
        swap_(module, [(opened(one), "0")], bottom=1)


def test_the_recipient_may_be_the_base_of_the_change(models: list[Path], tmp_path: Path) -> None:
    _, into, donor, other = models
    suture.swap(into, donor, tmp_path / "out", bottom=2, base=into, donor_base=other)
    module = opened(into)
    swap_(module, opened(donor), bottom=2, base=module, donor_base=opened(other))
    assert differing(module.state_dict(), read(tmp_path / "out")) == []


def test_ties_stay(tmp_path: Path) -> None:
    _, into, donor = llama_family(tmp_path, **{**SMALL, "n": 2}, tied=True)
    suture.swap(into, donor, tmp_path / "out", bottom=1, non_layer="from")
    module, giver = opened(into), opened(donor)
    for own in (module, giver):
        head = torch.nn.Module()
        head.weight = own.model.embed_tokens.weight
        own.lm_head = head
    swap_(module, giver, bottom=1, non_layer="from")
    found = dict(module.state_dict())
    assert module.lm_head.weight is module.model.embed_tokens.weight
    assert torch.equal(found.pop("lm_head.weight"), found["model.embed_tokens.weight"])
    assert differing(found, read(tmp_path / "out")) == []


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("layer 9|only 5|9", {"layers": "9"}),
    ("nothing is swapped", {}),
    ("base", {"bottom": 1, "non_layer": "base"}),
    ("non_layer", {"bottom": 1, "non_layer": "theirs"}),
    ("blend", {"bottom": 1, "transition": 1, "blend": 2}),
    ("share head 0", {"bottom": 1, "heads": "0"}),
    ("stack", {"bottom": 1, "stack": "decoder"}),
    ("no module of these layers", {"bottom": 1, "modules": "experts"}),
]


@pytest.mark.parametrize(("match", "options"), REFUSED, ids=str)
def test_mistakes_leave_the_model_as_it_was(match: str, options: dict[str, Any], models: list[Path]) -> None:
    module, donor = opened(models[1]), opened(models[2])
    for exchange in (False, True):
        with pytest.raises(suture.SutureError, match=match):
            swap_(module, donor, **options, exchange=exchange)
        assert differing(module.state_dict(), read(models[1])) == []


def test_models_that_do_not_go_together_are_refused_by_name(models: list[Path]) -> None:
    module, donor = opened(models[1]), read(models[2])
    name = "model.layers.0.mlp.up_proj.weight"

    def refused(match: str, model: Any, giver: Any) -> None:
        with pytest.raises(suture.SutureError, match=match):
            swap_(model, giver, bottom=1)

    refused(f"{name}`: shares memory with donor", module, {**donor, name: dict(module.named_parameters())[name]})
    refused(name, module, {**donor, name: donor[name][:3]})
    refused(name, module, {n: t for n, t in donor.items() if n != name})
    refused(f"{name}`: is expanded", {**read(models[1]), name: torch.zeros(1, 1).expand(24, 16)}, donor)
    refused("meta device", module, {**donor, name: donor[name].to("meta")})
    refused("expected a module, a mapping of names to tensors, or a list", module, 5)
    refused("expected a torch tensor, found int", module, {**donor, name: 5})
    assert differing(module.state_dict(), read(models[1])) == []


def test_a_head_that_the_recipient_has_not_is_refused(models: list[Path], tmp_path: Path) -> None:
    _, tied, _ = llama_family(tmp_path, **{**SMALL, "n": 2}, tied=True)
    module = opened(tied)
    with pytest.raises(suture.SutureError, match=r"expected a tensor `lm_head\.weight`"):
        swap_(module, opened(models[2]), bottom=1, non_layer="from")
    assert differing(module.state_dict(), read(tied)) == []


@pytest.mark.parametrize(
    "options",
    [{"bottom": 1, "top": 1}, {"layers": "1,3", "modules": "mlp"}, {"layers": "2", "non_layer": "from"}],
    ids=str,
)
def test_layers_change_places_without_a_copy(options: dict[str, Any], models: list[Path], tmp_path: Path) -> None:
    _, into, donor, _ = models
    suture.swap(into, donor, tmp_path / "there", **options)
    suture.swap(donor, into, tmp_path / "back", **options)
    module, giver = opened(into), opened(donor)
    own, other = dict(module.named_parameters()), dict(giver.named_parameters())
    places = {n: (own[n].data_ptr(), other[n].data_ptr()) for n in own}
    other["model.norm.weight"].requires_grad_(False)
    report = swap_(module, giver, **options, exchange=True, digests=True)
    assert differing(module.state_dict(), read(tmp_path / "there")) == []
    assert differing(giver.state_dict(), read(tmp_path / "back")) == []
    assert report.extra_bytes == 0
    assert set(report.digests) == set(own)
    for name, parameter in module.named_parameters():
        assert parameter is own[name]
        assert isinstance(parameter, torch.nn.Parameter)
        turned = places[name][::-1] if name in report.moved else places[name]
        assert (parameter.data_ptr(), other[name].data_ptr()) == turned
    assert all(p.requires_grad for p in own.values())
    assert not other["model.norm.weight"].requires_grad
    swap_(module, giver, **options, exchange=True)
    assert differing(module.state_dict(), read(into)) == []
    assert differing(giver.state_dict(), read(donor)) == []


def test_mappings_exchange_too(models: list[Path]) -> None:
    own, other = read(models[1]), read(models[2])
    kept = {n: t.clone() for n, t in own.items()}
    name = "model.layers.0.mlp.up_proj.weight"
    held = own[name]
    swap_(own, other, bottom=1, exchange=True)
    assert own[name] is held
    assert torch.equal(other[name], kept[name])


def test_what_cannot_be_exchanged_is_refused_by_name(models: list[Path]) -> None:
    name = "model.layers.0.mlp.up_proj.weight"

    def refused(match: str, giver: Tensors | None = None, **options: Any) -> None:
        module, donor = opened(models[1]), giver or read(models[2])
        with pytest.raises(suture.SutureError, match=match):
            swap_(module, donor, **({"bottom": 1} | options), exchange=True)
        assert differing(module.state_dict(), read(models[1])) == []

    donor = read(models[2])
    refused("exchange, tensor `.*layers.1.*`: is blended or cast", transition=1)
    refused("exchange, tensor `.*embed_tokens.*`: is blended or cast", non_layer="mean")
    refused("exchange, tensor `.*`: comes from base, which is not a donor", non_layer="base", base=opened(models[0]))
    refused("exchange, tensor `.*layers.0.self_attn.*`: gives some of its heads", heads="0-1")
    refused("exchange, tensor `.*`: is blended or cast", base=opened(models[0]), donor_base=opened(models[3]))
    refused(f"exchange, tensor `{name}`: is blended or cast", {**donor, name: donor[name].float()})
    turned = donor[name].t().contiguous().t()
    refused(rf"exchange, tensor `{name}`: stride is \[16, 1\], and \[1, 24\] in donor", {**donor, name: turned})
    with torch.inference_mode():
        fixed = donor[name].clone()
    refused(f"exchange, tensor `{name}`: was made in inference mode", {**donor, name: fixed})


def test_memory_that_has_two_names_is_not_exchanged_under_one(tmp_path: Path) -> None:
    _, into, donor = llama_family(tmp_path, **{**SMALL, "n": 2}, tied=True)
    own, other = ({**m, "lm_head.weight": m["model.embed_tokens.weight"][:]} for m in (read(into), read(donor)))
    with pytest.raises(suture.SutureError, match=r"`lm_head\.weight` of into is the same memory, and would keep it"):
        swap_(own, other, bottom=1, non_layer="from", exchange=True)
    assert differing(own, {**read(into), "lm_head.weight": own["model.embed_tokens.weight"]}) == []
    swap_(own, other, bottom=1, exchange=True)
    assert differing(own, read(into)) != []


def test_heads_need_a_config(models: list[Path]) -> None:
    with pytest.raises(suture.UsageError, match="number of heads"):
        swap_(read(models[1]), read(models[2]), bottom=1, heads="0-1")


def test_a_module_in_training_mode_is_told(models: list[Path]) -> None:
    module = opened(models[1]).train()
    assert any("training mode" in w for w in swap_(module, opened(models[2]), bottom=1).warnings)
