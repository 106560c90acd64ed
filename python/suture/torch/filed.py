"""What a fine-tune changed, of files, computed on a device: for ``suture diff --device``."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from suture import _core
from suture.errors import SutureError
from suture.results import Comparison
from suture.settings import Progress
from suture.torch.comparing import Side, compare
from suture.torch.device import device_of
from suture.torch.models import TORCH


def diff_files(base: _core.Checkpoint, tuned: _core.Checkpoint, device: str, progress: Progress | None) -> Comparison:
    """Measure what a fine-tune changed, tensor by tensor: both are read, and compared on the device.

    Args:
        base: what `tuned` was tuned from.
        tuned: the fine-tune; its tensors have the names that the base's have.
        device: as ``--device`` has it.
        progress: called with the bytes done and the bytes in all.

    Returns:
        What :func:`suture.torch.diff` returns.

    Raises:
        UsageError: if there is no such device, or no tensor in common.
        SutureError: if a tensor cannot be read, or has a dtype that torch has not, or another name in the fine-tune.
    """
    place = device_of(device)
    listed = [{name: json.loads(core.info_json(name)) for name in core.names()} for core in (base, tuned)]
    total = sum(info["nbytes"] for infos in listed for info in infos.values())
    done = 0
    sides = []
    for core, infos in zip((base, tuned), listed, strict=True):
        for name, info in infos.items():
            if info["dtype"] not in TORCH:
                message = f"{core.path}: tensor `{name}`: torch has no {info['dtype']}; leave --device out"
                raise SutureError(message, tensor=name)

        def read(name: str, core: _core.Checkpoint = core) -> Tensor:
            nonlocal done
            info = json.loads(core.info_json(name))
            dtype, data = TORCH[info["dtype"]], bytearray(core.read(name))
            done += len(data)
            if progress is not None:
                progress(done, total)
            flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            return flat.reshape(info["shape"]).to(place)

        what = {name: (TORCH[info["dtype"]], tuple(info["shape"])) for name, info in infos.items()}
        sides.append(Side.reading(str(core.path), what, read, core))
    for name in listed[0].keys() - listed[1].keys():
        if (other := tuned.counterpart(name)) is not None and other not in listed[0]:
            message = f"{tuned.path}: has `{name}` under another name, `{other}`; leave --device out"
            raise SutureError(message, tensor=name)
    found = compare(sides[0], sides[1], None)
    found["models"][0]["label"] = Path(tuned.path).name
    return Comparison(**{**found, "warnings": [w for core in (base, tuned) for w in core.warnings]})  # type: ignore[typeddict-item]
