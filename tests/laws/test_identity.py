"""An input that changes under a run is an error, never a crash, and never part of an output."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..support import meddling
from ..support.checkpoints import encode, read_checkpoint, write_checkpoint

MODES = ("auto", "mmap", "pread", "direct")
LAYERS = 6


def write_models(folder: Path) -> dict[str, Path]:
    """A base, two fine-tunes and a checkpoint of weights for elements, of a few pages a tensor."""
    rng = np.random.default_rng(8)
    shapes = {f"model.layers.{i}.mlp.up_proj.weight": (128, 67) for i in range(LAYERS)}
    found = {}
    for label in ("base", "one", "two", "beside"):
        tensors = {n: encode(rng.uniform(0.1, 1.0, s), "F32") for n, s in shapes.items()}
        found[label] = write_checkpoint(folder / label, tensors, shards=2)
    return found


def jobs(models: dict[str, Path]) -> dict[str, tuple[dict[str, Any], str]]:
    """What may be asked for, and which of the models is to change."""
    entry = [{"model": str(models[n]), "parameters": {"weight": 0.5}} for n in ("one", "two")]
    fisher = [{"model": e["model"], "parameters": {"fisher": str(models["beside"])}} for e in entry]
    swap = {"into": str(models["base"]), "donor": str(models["one"])}
    return {
        "ties": ({"config": {"merge_method": "ties", "base_model": str(models["base"]), "models": entry}}, "two"),
        "a base": ({"config": {"merge_method": "ties", "base_model": str(models["base"]), "models": entry}}, "base"),
        "fisher": ({"config": {"merge_method": "fisher", "models": fisher}}, "beside"),
        "whole model": ({"config": {"merge_method": "metagpt", "base_model": str(models["base"]),
                                    "models": [{"model": e["model"]} for e in entry]}}, "one"),
        "a copy": ({"config": {"merge_method": "passthrough", "models": [{"model": entry[0]["model"]}]}}, "one"),
        "swap": ({"swap": swap | {"layers": [1, 5]}}, "one"),
        "recipient": ({"swap": swap | {"layers": [1]}}, "base"),
        "blend": ({"swap": swap | {"bottom": 3, "transition": 2}}, "one"),
    }  # fmt: skip


#: Tried by every way of reading; the others by that which is usual.
FEW = ("ties", "a copy", "blend")


def attempts(place: Path, io: str, when: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every job and every change, each in a folder of its own."""
    for name in jobs(dict.fromkeys(("base", "one", "two", "beside"), place)):
        for how in meddling.HOWS if io == "auto" or name in FEW else ():
            if (how, when) == ("removed", "during"):
                # What is open stays readable: whether that is an error is no matter here.
                continue
            folder = place / f"{name}-{how}"
            job, label = jobs(write_models(folder))[name]
            path = sorted((folder / label).glob("*.safetensors"))[-1]
            if how == "relinked":
                meddling.as_link(path)
            settings = {"io": io, "threads": 1, "chunk": "4KiB"}
            case = {**job, "path": str(path), "how": how, "when": when, "settings": settings}
            yield f"{name}, {how}", case | {"out": str(folder / "out")}


def assert_errors(cases: dict[str, dict[str, Any]]) -> None:
    """Each ends in an error of ours that names the file or its folder, and nothing is published."""
    ends = dict(zip(cases, meddling.run(list(cases.values())), strict=True))
    assert {label: end[:150] for label, end in ends.items() if not end.startswith("error ")} == {}
    for label, case in cases.items():
        assert not Path(case["out"]).exists(), label
        assert Path(case["path"]).parent.name in ends[label], (label, ends[label])


@pytest.mark.parametrize("when", ["during", "between"])
@pytest.mark.parametrize("io", MODES)
def test_an_input_that_changes_is_an_error(io: str, when: str, place: Path) -> None:
    """Law 7: rewritten, longer, shorter, replaced or gone, during a run or since its plan: nothing is published."""
    assert_errors(dict(attempts(place, io, when)))


@pytest.mark.parametrize("io", MODES)
def test_a_file_that_is_cut_short_while_it_is_read(io: str, place: Path) -> None:
    """Law 7: a run of some length, in the midst of which a file shrinks, ends in an error, not by a signal."""
    values = np.ones((512, 512), np.float32)
    tensors = {f"model.layers.{i}.w": values for i in range(8)}
    cases = {}
    for how in ("truncated", "emptied", "other bytes"):
        folder = place / how
        model = write_checkpoint(folder / "model", tensors)
        entries = [{"model": str(model), "parameters": {"scale": 2.0}}]
        cases[how] = {
            "config": {"merge_method": "passthrough", "models": entries},
            "path": str(model / "model.safetensors"), "how": how, "when": "during", "out": str(folder / "out"),
            "settings": {"io": io, "threads": 1, "chunk": "4KiB"},
        }  # fmt: skip
    assert_errors(cases)


def test_what_an_input_was_before_it_changed_is_not_resumed(place: Path) -> None:
    """Law 6: a run that is taken up with other inputs makes everything of the new ones."""
    models, out = write_models(place / "models"), place / "out"
    entries = [{"model": str(models[n]), "parameters": {"weight": 0.5}} for n in ("one", "two")]
    config = {"merge_method": "ties", "base_model": str(models["base"]), "models": entries}

    def stop(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        suture.merge(config, out, settings=suture.Settings(threads=1), progress=stop)
    for path in models["two"].glob("*.safetensors"):
        meddling.meddle(path, "dated back")
    suture.merge(config, out)
    suture.merge(config, place / "whole")
    assert read_checkpoint(out) == read_checkpoint(place / "whole")


def test_a_file_that_was_cut_short_since_it_was_opened(place: Path) -> None:
    """Law 7: a handle to what is no longer there raises an error of ours when it is read."""
    models = write_models(place)
    checkpoint = suture.open(models["one"])
    for path in models["one"].glob("*.safetensors"):
        meddling.meddle(path, "truncated")
    for name in checkpoint.names:
        with pytest.raises(suture.SutureError):
            checkpoint.numpy(name)
