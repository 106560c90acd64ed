"""Layer swapping against torch: the whole grid of places, byte for byte a `state_dict` put together by hand."""

from __future__ import annotations

import importlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import suture

from ..support.checkpoints import INDEX_NAME, llama_family

LAYERS = 5
SHAPE: dict[str, Any] = {"layers": LAYERS, "hidden": 16, "heads": 4, "kv_heads": 2, "ff": 24, "vocab": 20, "n": 2}
AGAIN = suture.Settings(overwrite=True)
SIDES = ("config.json", "generation_config.json", "tokenizer_config.json")


def load(folder: Path) -> dict[str, Any]:
    """A model's state dict, all shards together."""
    read = importlib.import_module("safetensors.torch").load_file
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in read(file).items()}


@dataclass(frozen=True)
class Family:
    """A base, a recipient and a donor, and their tensors as torch has them."""

    torch: Any
    folders: dict[str, Path]
    tensors: dict[str, dict[str, Any]]

    def assembled(self, bottom: int, top: int, low: int, high: int, non_layer: str) -> dict[str, Any]:
        """The paper's rule, tensor by tensor: language outside, task inside, means between."""
        base, into, donor = (self.tensors[label] for label in ("base", "into", "donor"))
        found = {}
        for name in into:
            number = int(name.split(".")[2]) if name.startswith("model.layers.") else None
            if number is None:
                source = non_layer
            elif number < bottom or number >= LAYERS - top:
                source = "from"
            elif number < bottom + low or number >= LAYERS - top - high:
                source = "mean"
            else:
                source = "into"
            mean = (into[name].float() + donor[name].float()) / 2
            choices = {"into": into, "from": donor, "base": base, "mean": {name: mean.to(into[name].dtype)}}
            found[name] = choices[source][name]
        return found

    def check(self, out: Path, wanted: dict[str, Any]) -> None:
        """Every tensor there, in its dtype and with its bits."""
        found = load(out)
        assert found.keys() == wanted.keys()
        as_bits = self.torch.int16
        for name, tensor in wanted.items():
            assert (found[name].dtype, found[name].shape) == (self.torch.bfloat16, tensor.shape), name
            assert self.torch.equal(found[name].view(as_bits), tensor.view(as_bits)), name


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def family(request: pytest.FixtureRequest, torch: Any, tmp_path_factory: pytest.TempPathFactory) -> Family:
    folder = tmp_path_factory.mktemp("family")
    paths = llama_family(folder, **SHAPE, tied=request.param, shards=[1, 3, 2])
    for path in paths:
        config = json.loads((path / "config.json").read_text())
        types = (["sliding_attention", "full_attention"] * LAYERS)[:LAYERS]
        (path / "config.json").write_text(json.dumps(config | {"layer_types": types}, indent=2) + "\n")
    folders = dict(zip(("base", "into", "donor"), paths, strict=True))
    return Family(torch, folders, {label: load(path) for label, path in folders.items()})


def grid() -> list[tuple[int, int, int, int]]:
    """Both ends and both seams, wherever they fit; an end without layers has no seam."""
    return [
        (bottom, top, low, high)
        for bottom, top, low, high in itertools.product(range(LAYERS + 1), repeat=4)
        if bottom + top + low + high <= LAYERS and (bottom or not low) and (top or not high)
    ]


@pytest.mark.parametrize("non_layer", ["into", "from", "base", "mean"])
def test_the_output_is_the_state_dict_put_together(non_layer: str, family: Family, tmp_path: Path) -> None:
    """Laws 2 and 5: every place, every source of the rest: the same bits, index, config and tokenizer files."""
    out, into = tmp_path / "out", family.folders["into"]
    more: dict[str, Any] = {"base": family.folders["base"]} if non_layer == "base" else {}
    for bottom, top, low, high in grid():
        if non_layer == "into" and not bottom + top:
            continue  # nothing would be swapped, which is refused
        place: dict[str, Any] = {"bottom": bottom, "top": top, "transition_bottom": low, "transition_top": high}
        suture.swap(into, family.folders["donor"], out, **place, non_layer=non_layer, **more, settings=AGAIN)
        family.check(out, family.assembled(bottom, top, low, high, non_layer))
    indices = [json.loads((folder / INDEX_NAME).read_text()) for folder in (into, out)]
    assert indices[0] == indices[1]
    for name in SIDES:
        assert (out / name).read_bytes() == (into / name).read_bytes()


def test_the_default_of_the_paper(torch: Any, tmp_path: Path) -> None:
    """Of 32 layers the donor gives 0-4, 30 and 31; 5 and 29 are means, 6-28 the recipient's."""
    shape: dict[str, Any] = {"layers": 32, "hidden": 4, "heads": 1, "kv_heads": 1, "ff": 4, "vocab": 4, "n": 1}
    into, donor = llama_family(tmp_path, **shape)
    suture.swap(into, donor, tmp_path / "out", bottom=5, top=2, transition=1)
    found, own, other = (load(folder) for folder in (tmp_path / "out", into, donor))
    for name in own:
        layer = int(name.split(".")[2]) if "layers." in name else None
        if layer in (0, 1, 2, 3, 4, 30, 31):
            wanted = other[name]
        elif layer in (5, 29):
            wanted = ((own[name].float() + other[name].float()) / 2).bfloat16()
        else:
            wanted = own[name]
        assert torch.equal(found[name], wanted), name
