"""What a fine-tune changed, of files, computed on a device: for ``suture diff --device``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from suture import _core
from suture.errors import SutureError
from suture.results import Comparison
from suture.settings import Progress
from suture.torch.comparing import Described, Side, compare
from suture.torch.device import device_of
from suture.torch.models import TORCH


def diff_files(base: _core.Checkpoint, tuned: _core.Checkpoint, device: str, progress: Progress | None) -> Comparison:
    """Measure what a fine-tune changed, tensor by tensor: both are read, and compared on the device.

    Args:
        base: what `tuned` was tuned from.
        tuned: the fine-tune; its names and the way it stores experts may be others.
        device: as ``--device`` has it.
        progress: called with the bytes done and the bytes in all.

    Returns:
        What :func:`suture.torch.diff` returns.

    Raises:
        UsageError: if there is no such device, or no tensor in common.
        SutureError: if a tensor cannot be read, has a dtype that torch has not, or is made with adapters.
    """
    place, tuned = device_of(device), tuned.alike(base)
    cores = (base, tuned)
    told = [json.loads(core.to_json()) for core in cores]
    total = sum(info["nbytes"] for one in told for info in one["tensors"])
    done = 0
    # What the base calls a tensor whose name is another even so: a head, say.
    known = {info["name"] for info in told[0]["tensors"]}
    there = {name: tuned.counterpart(name) for name in known - {info["name"] for info in told[1]["tensors"]}}
    called: dict[str, str] = {other: name for name, other in there.items() if other is not None and other not in known}
    sides = []
    for core, one in zip(cores, told, strict=True):
        if (made := core.computed()) is not None:
            what_of = "is computed of a weight and its adapters, or of a quantised one"
            message = f"{one['path']}: tensor `{made}`: {what_of}; leave --device out"
            raise SutureError(message, tensor=made)
        what = {}
        for info in one["tensors"]:
            if info["dtype"] not in TORCH:
                message = f"{one['path']}: tensor `{info['name']}`: torch has no {info['dtype']}; leave --device out"
                raise SutureError(message, tensor=info["name"])
            own = called if core is tuned else {}
            what[own.get(info["name"], info["name"])] = TORCH[info["dtype"]], tuple(info["shape"])

        def read(name: str, core: _core.Checkpoint = core, what: Described = what) -> Tensor:
            nonlocal done
            stored = there.get(name) if core is tuned else None
            (dtype, shape), data = what[name], bytearray(core.read(stored or name))
            done += len(data)
            if progress is not None:
                progress(done, total)
            flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            return flat.reshape(shape).to(place)

        sides.append(Side.reading(one["path"], what, read, core))
    found = compare(sides[0], sides[1], None)
    found["models"][0]["label"] = Path(told[1]["path"]).name
    found["warnings"] = [w for core in cores for w in core.warnings]
    return cast(Comparison, found)
