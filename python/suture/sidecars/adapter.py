"""The config of a swap of adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from suture.checkpoint import Checkpoint
from suture.errors import SutureError
from suture.sidecars.files import as_bytes, read_config

#: What of an adapter's config decides what its factors mean.
_SCALE = ("peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern")

#: Lists of what an adapter is on.
_JOINED = ("target_modules", "target_parameters", "modules_to_save", "layers_to_transform")


def adapter_config(folders: list[Path]) -> bytes | None:
    """The adapter_config.json of a swap of adapters; None if none of the models is one.

    Args:
        folders: the recipient and its donors.

    Raises:
        SutureError: if only some are adapters, or their factors do not mean the same.
    """
    opened = [Checkpoint(f) for f in folders]
    folders = [c.folder for c in opened]
    files = [f / "adapter_config.json" for f in folders]
    # A model's folder may hold an adapter's files beside its own: what counts is what the checkpoint consists of.
    adapters = [any(".lora_" in name for name in c.names) for c in opened]
    if not any(adapters):
        return None
    for folder, adapter in zip(folders, adapters, strict=True):
        if not adapter:
            raise SutureError(f"{folder}: holds no adapter; adapters can only be swapped with adapters", folder)
    configs = []
    for folder, file in zip(folders, files, strict=True):
        config = read_config(folder, file.name)
        if config is None:
            raise SutureError(f"{file}: is missing, and says what the adapter's factors mean", file)
        configs.append(config)
    first = configs[0]
    for file, config in zip(files[1:], configs[1:], strict=True):
        for key in _SCALE:
            if (config.get(key) or None) != (first.get(key) or None):
                message = f"expected `{key}` as in {files[0]}, {json.dumps(first.get(key))}"
                found = f"found {json.dumps(config.get(key))}; fold the adapters into their models first"
                raise SutureError(f"{file}: {message}, {found}", file)
    joined = dict(first)
    for file, config in zip(files, configs, strict=True):
        for key in _JOINED:
            given = config.get(key)
            items: list[Any] = given if isinstance(given, list) else []
            if not (all(isinstance(i, str) for i in items) or all(type(i) is int for i in items)):
                raise SutureError(f"{file}: expected names or numbers in `{key}`, found {json.dumps(items)}", file)
    for key in _JOINED:
        if all(key not in config for config in configs):
            continue
        listed: list[Any] = [[c[key]] if type(c.get(key)) is int else c.get(key) for c in configs]
        if all(isinstance(entry, list) for entry in listed):
            joined[key] = sorted({item for entry in listed for item in entry})
        elif key == "layers_to_transform" and None in listed:
            # None stands for all.
            joined[key] = None
        elif key in ("modules_to_save", "target_parameters"):
            joined[key] = sorted({item for entry in listed for item in entry or []}) or None
        elif any(entry != listed[0] for entry in listed):
            message = f"expected lists of `{key}` that can be joined, found patterns"
            raise SutureError(f"{files[0]}: {message}", files[0])
    if joined.get("layers_pattern") is not None and joined.get("layers_to_transform") is None:
        joined["layers_pattern"] = None
    # Whatever one of them has, loaders must look for.
    excluded = [config.get("exclude_modules") for config in configs]
    if any(excluded):
        same = all(one == excluded[0] for one in excluded)
        joined["exclude_modules"] = excluded[0] if same else None
    biases = {config.get("bias") for config in configs}
    joined |= next(({"bias": kind} for kind in ("all", "lora_only") if kind in biases), {})
    if any(config.get("lora_bias") is True for config in configs):
        joined["lora_bias"] = True
    return as_bytes(joined)


def adapter_path(path: Path) -> Path:
    """Where the adapter at `path` is: of a folder that holds a model too, the file beside it.

    Raises:
        SutureError: if nothing can be read there.
    """
    if not path.is_dir():
        return path
    opened = Checkpoint(path)
    beside = opened.folder / "adapter_model.safetensors"
    return beside if beside.is_file() and not any(".lora_" in name for name in opened.names) else path


def own_config(model: Path) -> bytes | None:
    """The adapter_config.json of an adapter as it is, which stays true of the whole of it; None if there is none."""
    opened = Checkpoint(model)
    folder = opened.folder if opened.folder.is_dir() else opened.folder.parent
    file = folder / "adapter_config.json"
    adapter = any(".lora_" in name for name in opened.names)
    return file.read_bytes() if adapter and file.is_file() else None
