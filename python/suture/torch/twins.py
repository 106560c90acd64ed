"""Twins in serving: any mixture of a twin's experts, written into a model in place, without reading anything again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from suture import _core
from suture.errors import SutureError, UsageError
from suture.results.twin import EXPERTS, SHARED, TwinInfo, read_twin, weights_by_name
from suture.torch.models import TORCH, Model, Resident, check_writable, resident

#: A number for each expert: in order, or by name.
Weights: TypeAlias = "Sequence[float] | Mapping[str, float] | Tensor"


@dataclass(frozen=True)
class _Factors:
    """U [..., m, r], S [..., r], V' [..., r, n] of a difference, in float32."""

    left: Tensor
    middle: Tensor
    right: Tensor


@dataclass
class _Held:
    """A tensor of the shared expert and what each expert has beyond it: factors, single elements (their places in the
    flat tensor, and their changes), or its own tensor whole.
    """

    shared: Tensor
    factors: dict[str, _Factors] = field(default_factory=dict)
    elements: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    whole: dict[str, Tensor] = field(default_factory=dict)

    def mixed(self, weights: Mapping[str, float]) -> Tensor:
        """theta* + sum_t w_t v_t: in float32; where an expert's is kept whole, and of float64, in float64."""
        own = {name: factors for name, factors in self.factors.items() if weights[name] != 0}
        whole = {name: tensor for name, tensor in self.whole.items() if weights[name] != 0}
        single = {name: found for name, found in self.elements.items() if weights[name] != 0}
        if not own and not whole and not single:
            return self.shared
        wide = torch.float64 if whole or self.shared.dtype == torch.float64 else torch.float32
        out = self.shared.to(wide, copy=True)
        for name, tensor in whole.items():
            out += weights[name] * (tensor.to(wide) - self.shared.to(wide))
        for name, f in own.items():
            left = (f.left * (weights[name] * f.middle).unsqueeze(-2)).to(wide)
            right = f.right.to(wide)
            if left.dim() == 2:
                # Of convolutions the columns are all that is behind the outputs.
                out.view(left.shape[0], -1).addmm_(left, right)
            else:
                out.baddbmm_(left, right)
        flat = out.view(-1)
        for name, (places, changes) in single.items():
            # Places differ from each other: nothing is added twice, in no order.
            flat.index_add_(0, places, changes.to(wide), alpha=weights[name])
        return out


class Twin:
    """A twin that `suture twin make` wrote, held in memory: the shared expert once, and the experts' differences.

    >>> twin = suture.torch.Twin("twin", device="cuda")
    >>> twin.apply_(model, weights=router(hidden).softmax(-1))

    Attributes:
        experts: the experts' names, in the order of weights.
        info: what the twin says of itself.
    """

    def __init__(self, path: str | PathLike[str], *, device: str | torch.device = "cpu") -> None:
        """Read a twin.

        Args:
            path: the folder.
            device: where it is held and where mixtures are computed.

        Raises:
            UsageError: if there is no such folder.
            SutureError: if it is no twin, is damaged, or does not fit on the device.
        """
        self.info: TwinInfo = read_twin(path)
        self.experts: list[str] = [expert["name"] for expert in self.info["experts"]]
        try:
            self._tensors = _read(Path(path), self.experts, torch.device(device))
        except torch.OutOfMemoryError as e:
            raise SutureError(f"{path}: the twin does not fit on {device}") from e

    def __repr__(self) -> str:
        """What it is of."""
        return f"<Twin: {len(self._tensors):,} tensors, experts {', '.join(self.experts)}>"

    def apply_(self, model: Model, weights: Weights | None = None, *, only: str | None = None) -> None:
        """Write theta* + sum_t w_t U_t S_t V_t' into a model, in its memory.

        Every tensor of the twin is written, whatever the model held before, so calls do not depend on each other.
        Sums are formed in float32 (in float64 where a difference is kept whole, and of float64 tensors), and rounded
        once to the dtype that the model has. Everything is checked before the first write.

        Args:
            model: a module, or tensors by name, of the twin's names and shapes; of any float dtype, on any device.
            weights: a number for each expert: in order (a tensor of one dimension, too), or by name. That of a tensor
                on a GPU waits for it.
            only: the one expert that is wanted.

        Raises:
            UsageError: if the weights are none of this twin's.
            SutureError: if the model has other tensors, or cannot be written into.
        """
        by_name = weights_by_name(self.info, _plain(weights), only)
        with torch.no_grad():
            for held, target in self._placed(resident(model, "model")):
                target.copy_(held.mixed(by_name))

    def _placed(self, model: Resident) -> list[tuple[_Held, Tensor]]:
        """Each tensor of the twin with the model's that it goes into."""
        check_writable(model)
        placed: dict[str, _Held] = {}
        for name, held in self._tensors.items():
            own = model.aliases.get(name, name)
            if own != name and own in self._tensors:
                # Tied in the model, apart in the twin: one tensor cannot be both unless they are the same.
                if not torch.equal(held.shared, self._tensors[own].shared):
                    raise SutureError(f"model, tensor `{name}`: is tied to `{own}`, and the twin has two", tensor=name)
                continue
            if own not in model.tensors:
                if _core.is_buffer(name, held.shared.dim()):
                    continue
                raise SutureError(f"model: has no tensor `{name}`, which the twin has", tensor=name)
            target = model.tensors[own]
            if target.shape != held.shared.shape:
                shapes = f"{list(held.shared.shape)}, found {list(target.shape)}"
                raise SutureError(f"model, tensor `{own}`: expected the twin's shape {shapes}", tensor=own)
            if target.is_floating_point() != held.shared.is_floating_point():
                raise SutureError(
                    f"model, tensor `{own}`: expected {held.shared.dtype}, found {target.dtype}", tensor=own
                )
            placed[own] = held
        for name, tensor in model.tensors.items():
            if name not in placed and not _core.is_buffer(name, tensor.dim()):
                raise SutureError(f"model, tensor `{name}`: is not in the twin", tensor=name)
        return [(held, model.tensors[name]) for name, held in placed.items()]


def _plain(weights: Weights | None) -> Sequence[float] | Mapping[str, float] | None:
    if not isinstance(weights, Tensor):
        return weights
    if weights.dim() != 1:
        raise UsageError(
            f"weights: expected one dimension, a number for each expert; found the shape {list(weights.shape)}",
            at="weights",
        )
    return [float(w) for w in weights.tolist()]


def _read(folder: Path, experts: Sequence[str], device: torch.device) -> dict[str, _Held]:
    shared = folder / SHARED
    held = {name: _Held(tensor) for name, tensor in _tensors([shared], device).items()}
    for expert in experts:
        place = folder / EXPERTS / expert
        if not (place / "delta.json").is_file():
            raise SutureError(f"{place}: is missing, or no delta; make the twin again", str(place))
        # The core looks at what the delta holds, and whether it is one of this shared model.
        _core.Checkpoint(str(shared), [(str(place), 1.0)])
        said: dict[str, Any] = json.loads(_core.delta_json(str(place)))
        parts = _tensors([place / file for file in said["files"]], device)
        for entry in said["tensors"]:
            name, kept = entry["name"], entry["kept"]
            if kept == "lowrank":
                left, middle, right = (parts[f"{name}.{part}"].to(torch.float32) for part in ("U", "S", "Vt"))
                held[name].factors[expert] = _Factors(left, middle, right)
            elif kept == "sparse":
                places = parts[f"{name}.index"]
                if places.dtype == torch.int32 and held[name].shared.numel() > 2**31:
                    places = places.to(torch.int64) & 0xFFFF_FFFF
                held[name].elements[expert] = (places, parts[f"{name}.values"])
            elif kept == "whole" and name in held:
                held[name].whole[expert] = parts[f"{name}.whole"]
            elif kept not in ("same", "left"):
                raise SutureError(f"{place}, tensor `{name}`: is kept as {kept}; no twin does that", str(place))
    return held


#: What places are read as: their bytes are those of these dtypes, up to 2^31 elements the numbers, too.
_PLACES = {"U32": torch.int32, "U64": torch.int64}


def _tensors(places: Sequence[Path], device: torch.device) -> dict[str, Tensor]:
    """All tensors of checkpoints."""
    out: dict[str, Tensor] = {}
    for place in places:
        core = _core.Checkpoint(str(place))
        for info in json.loads(core.to_json())["tensors"]:
            name, dtype = info["name"], info["dtype"]
            dtypes = TORCH | _PLACES
            if dtype not in dtypes:
                raise SutureError(f"{place}: tensor `{name}`: torch has no {dtype}", tensor=name)
            data = bytearray(core.read(name))
            flat = torch.frombuffer(data, dtype=dtypes[dtype]) if data else torch.empty(0, dtype=dtypes[dtype])
            out[name] = flat.reshape(info["shape"]).to(device)
    return out
