"""Models of the corpus, made and loaded by transformers. The only file here that knows torch's side."""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .facts import Family
from .inputs import INPUTS

#: A model's tensors by name, as stored.
State = dict[str, Any]


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' warnings, which are about its own next release, and its progress bars."""
    transformers = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True)
class Loaded:
    """A model in memory, and what loading it had to say."""

    model: Any
    missing: frozenset[str]
    unexpected: frozenset[str]


def build(family: Family) -> Any:
    """A tiny model with random weights, the same every time."""
    transformers, torch = importlib.import_module("transformers"), importlib.import_module("torch")
    with quiet():
        torch.manual_seed(0)
        config = getattr(transformers, family.config)(**family.options)
        return getattr(transformers, family.model)(config).eval()


def restacked(family: Family, config: Mapping[str, Any], folder: Path) -> Any:
    """A model with this config.json, its weights still random; `folder` is a place for the file."""
    transformers = importlib.import_module("transformers")
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with quiet():
        made = getattr(transformers, family.config).from_pretrained(folder)
        return getattr(transformers, family.model)(made).eval()


def load(family: Family, folder: Path) -> Loaded:
    """A checkpoint as transformers reads it."""
    kind = getattr(importlib.import_module("transformers"), family.model)
    with quiet():
        model, told = kind.from_pretrained(folder, output_loading_info=True)
    names = [frozenset(map(str, told[key])) for key in ("missing_keys", "unexpected_keys")]
    assert not told["mismatched_keys"], told["mismatched_keys"]
    return Loaded(model.eval(), names[0], names[1])


def read(folder: Path) -> State:
    """A checkpoint's tensors as they are stored."""
    open_file = importlib.import_module("safetensors.torch").load_file
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in open_file(file).items()}


def write(folder: Path, state: State, like: Path) -> None:
    """A checkpoint of these tensors, with the config of `like`."""
    folder.mkdir(exist_ok=True)
    importlib.import_module("safetensors.torch").save_file(
        {name: tensor.contiguous() for name, tensor in state.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    (folder / "config.json").write_bytes((like / "config.json").read_bytes())


def save(folder: Path, model: Any, like: Path) -> None:
    """The checkpoint `like`, loaded as `model`, as torch.save writes it: what is tied under all its names."""
    folder.mkdir()
    inside = model.state_dict()
    state = {name: inside.get(name, tensor) for name, tensor in read(like).items()}
    stored = {tensor.data_ptr() for tensor in state.values() if tensor.numel()}
    state |= {n: t for n, t in inside.items() if n not in state and t.data_ptr() in stored}
    importlib.import_module("torch").save(state, folder / "pytorch_model.bin")
    (folder / "config.json").write_bytes((like / "config.json").read_bytes())


def config_of(folder: Path) -> dict[str, Any]:
    """A checkpoint's config.json."""
    return dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))


def forward(family: Family, model: Any) -> list[Any]:
    """Every tensor that a forward pass returns."""
    torch = importlib.import_module("torch")
    torch.manual_seed(0)
    with quiet(), torch.no_grad():
        return list(_tensors(torch, model(**INPUTS[family.inputs](torch), return_dict=True).to_tuple()))


def _tensors(torch: Any, found: Any) -> Iterator[Any]:
    if isinstance(found, torch.Tensor):
        yield found
    elif isinstance(found, (list, tuple)):
        for item in found:
            yield from _tensors(torch, item)
    elif hasattr(found, "to_tuple"):
        yield from _tensors(torch, found.to_tuple())
