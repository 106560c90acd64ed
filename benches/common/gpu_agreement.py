"""What the core writes to files against what `suture.torch` makes on a device, method by method."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

import suture
import suture.torch
from common.gpu_models import Dict, Difference

#: Large enough for several blocks of a kernel, and not a multiple of any; a small tensor, one of a single element.
#: On a CPU an eighth of the rows.
TENSORS: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (1000, 768),
    "model.layers.0.input_layernorm.weight": (768,),
    "model.layers.0.mlp.up_proj.weight": (2304, 768),
    "model.layers.0.self_attn.q_proj.weight": (1237, 331),
    "model.layers.0.self_attn.q_proj.bias": (1,),
    "model.layers.1.input_layernorm.weight": (7,),
    "model.layers.1.mlp.up_proj.weight": (1536, 769),
    "model.layers.1.self_attn.q_proj.weight": (3, 5, 11),
}
PER_INPUT = {"weight": [0.5, 0.3, 0.2], "density": [0.5, 0.3, 0.2]}
#: Of one method alone, or, without a name before the point, of every method that has such a parameter.
SHARED: dict[str, Any] = {"t": 0.4, "nearswap.t": 5e-4, "alpha": 0.6, "task": 2, "select_topk": 0.2, "gamma": 0.05}


@dataclass(frozen=True)
class Agreement:
    method: str
    difference: Difference | None
    error: str | None = None

    @property
    def equal(self) -> bool:
        return self.difference is not None and self.difference.unequal == 0


def family(rows: int) -> dict[str, Dict]:
    """A base and three fine-tunes on the CPU, with one of so many rows of each matrix."""
    generator = torch.Generator().manual_seed(7)
    found: dict[str, Dict] = {"base": {}, "tuned-1": {}, "tuned-2": {}, "tuned-3": {}}
    for name, whole in TENSORS.items():
        shape = (whole[0] // rows, *whole[1:]) if whole[0] > 1000 * rows // 8 else whole
        base = torch.randn(shape, generator=generator) * 0.02
        for model, tensors in found.items():
            noise = torch.randn(shape, generator=generator) * 7e-4
            tensors[name] = (base if model == "base" else base + noise).to(torch.bfloat16)
    return found


def settings(spec: Any, experts: int) -> dict[str, Any]:
    """Values for what has no default, or where the default leaves nothing to do."""
    found: dict[str, Any] = {}
    for parameter in spec["parameters"]:
        name = parameter["name"]
        if parameter["per_input"] and name in PER_INPUT:
            found[name] = PER_INPUT[name][:experts]
        elif (own := SHARED.get(f"{spec['name']}.{name}", SHARED.get(name))) is not None and not parameter["per_input"]:
            found[name] = own
    return found


def compare(spec: Any, folder: Path, files: dict[str, Dict], held: dict[str, Dict]) -> Difference:
    """One method, by the core and by torch."""
    least, most = map(int, spec["inputs"])
    experts = max(least, min(most, 3)) - (spec["base"] == "first")
    based = spec["base"] in ("required", "optional", "first")
    parameters = settings(spec, experts)
    labels = list(files)[1 : 1 + experts]
    listed = [
        {
            "model": str(folder / label),
            "parameters": {name: value[i] for name, value in parameters.items() if isinstance(value, list)},
        }
        for i, label in enumerate(labels)
    ]
    shared = {name: value for name, value in parameters.items() if not isinstance(value, list)}
    config: dict[str, Any] = {"merge_method": spec["name"], "models": listed, "parameters": shared}
    if based:
        config["base_model"] = str(folder / "base")
    out = folder / "out.safetensors"
    suture.merge(config, out, settings=suture.Settings(overwrite=True))
    expected = safetensors.torch.load_file(out)
    base = held["base"] if based else None
    models = {label: held[label] for label in labels}
    found = suture.torch.merge(models, spec["name"], base=base, parameters=parameters)
    return Difference.between({name: tensor.cpu() for name, tensor in found.items()}, expected)


def swapped(folder: Path, held: dict[str, Dict]) -> Difference:
    """The first layer of one model in another, by both."""
    out = folder / "out.safetensors"
    suture.swap(folder / "tuned-1", folder / "tuned-2", out, bottom=1, settings=suture.Settings(overwrite=True))
    into = {name: tensor.clone() for name, tensor in held["tuned-1"].items()}
    getattr(suture.torch, "swap_")(into, held["tuned-2"], bottom=1)  # noqa: B009
    return Difference.between({name: tensor.cpu() for name, tensor in into.items()}, safetensors.torch.load_file(out))


def agreement(device: torch.device, methods: Sequence[str] | None) -> Iterator[Agreement]:
    """Every method that needs no further checkpoint."""
    files = family(1 if device.type == "cuda" else 8)
    held = {label: {name: t.to(device) for name, t in model.items()} for label, model in files.items()}
    with tempfile.TemporaryDirectory(prefix="suture-gpu-") as name:
        folder = Path(name)
        for label, model in files.items():
            (folder / label).mkdir()
            safetensors.torch.save_file(model, folder / label / "model.safetensors")
        tried: dict[str, Callable[[], Difference]] = {
            spec["name"]: partial(compare, spec, folder, files, held)
            for spec in suture.methods()
            if all(p["kind"]["kind"] != "checkpoint" for p in spec["parameters"])
        }
        if hasattr(suture.torch, "swap_"):
            tried["swap"] = partial(swapped, folder, held)
        for method, run in tried.items():
            if methods is not None and method not in methods:
                continue
            try:
                found = Agreement(method, run())
            except Exception as e:
                found = Agreement(method, None, f"{type(e).__name__}: {e}")
            yield found
