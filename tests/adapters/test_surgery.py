"""`base+adapter` in swaps and reverts: what comes out is what comes of the folded models."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import suture

from ..support.catalogue import differing
from ..support.checkpoints import read_checkpoint
from .worlds import World, write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return write_world(tmp_path_factory.mktemp("world"))


Models = list[Path]


def swap(into: int = 1, donor: int | Mapping[int, str] = 2, **options: Any) -> Callable[[Models, Path], Any]:
    """A swap of models by their numbers; models among the options are numbers too."""

    def call(models: Models, out: Path) -> Any:
        how = {k: models[v] if k in ("base", "donor_base") else v for k, v in options.items()}
        given: Any = models[donor] if isinstance(donor, int) else {str(models[k]): v for k, v in donor.items()}
        return suture.swap(models[into], given, out, **how)

    return call


FORMS: dict[str, Callable[[Models, Path], Any]] = {
    "into": swap(1, 0, layers="1,2"),
    "from": swap(0, 1, layers="1,2"),
    "both": swap(layers=[1]),
    "bottom and top": swap(bottom=1, top=1),
    "transition": swap(bottom=1, top=1, transition=1, blend=0.3),
    "ramp": swap(bottom=1, transition=2, blend="ramp"),
    "modules": swap(layers="0-2", modules="self_attn.*,mlp.up_proj"),
    "ignore": swap(layers="0-3", modules="mlp.*"),
    "donors": swap(donor={2: "0,1", 3: "3"}),
    "donors, mean": swap(donor={2: "0", 3: "3"}, non_layer="mean"),
    "delta": swap(layers=[1, 2], base=0, donor_base=3),
    "delta, blended": swap(bottom=1, transition=1, base=0, donor_base=3),
    "base with an adapter": swap(0, 2, layers=[1], base=3, donor_base=1),
    "non-layer from": swap(layers=[1], non_layer="from"),
    "non-layer base": swap(layers=[1], non_layer="base", base=3),
    "non-layer mean": swap(layers=[1], non_layer="mean"),
    "auto": swap(auto="layer", base=0),
    "auto by module": swap(auto="module", base=0),
    "revert": lambda m, out: suture.revert(m[0], m[1], out, layers="0,2"),
    "revert to an adapter": lambda m, out: suture.revert(m[2], m[1], out, layers="1", modules="mlp.*"),
    "revert outside": lambda m, out: suture.revert(m[0], m[1], out, layers=[1], outside=True),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_takes_models_with_adapters(form: str, world: World, tmp_path: Path) -> None:
    """Law 10: bit for bit what folded models give, in f32; config and all."""
    FORMS[form](world.named, tmp_path / "named")
    FORMS[form](world.folded, tmp_path / "folded")
    found, wanted = (read_checkpoint(tmp_path / label) for label in ("named", "folded"))
    assert differing(found, wanted) == []
    configs = [json.loads((tmp_path / label / "config.json").read_text()) for label in ("named", "folded")]
    assert configs[0] == configs[1]
    assert suture.verify(tmp_path / "named")["differing"] == []


def test_heads_are_bytes_and_an_adapted_weight_has_none(world: World, tmp_path: Path) -> None:
    """Heads are moved as bytes: of a weight that is made when it is read there are none, and that is said."""
    with pytest.raises(suture.SutureError, match="adapter") as caught:
        swap(0, 1, layers=[1], heads="0-1")(world.named, tmp_path / "out")
    assert "fold" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_what_no_adapter_changes_is_moved(world: World, tmp_path: Path) -> None:
    """Law 2: only the adapted tensors are computed; the count of them is in the report."""
    report = suture.fold(world.base, [world.adapters[0]], tmp_path / "out")
    actions = {name: t["action"] for name, t in report.data["tensors"].items()}
    own, found = read_checkpoint(world.base), read_checkpoint(tmp_path / "out")
    changed = {name for name, raw in own.items() if found[name] != raw}
    assert {name for name, action in actions.items() if action != "copy"} == changed
    assert len(changed) == 9
    assert ["adapter", "lora-0: 9 tensors, in layers 1-3 of 4"] in [list(note) for note in report.data["notes"]]
