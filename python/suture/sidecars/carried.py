"""Which files go beside an output's weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from suture.sidecars.config import adjust_config
from suture.sidecars.files import as_bytes, read_config

#: Never carried over: weights in any form, training state, and what describes another checkpoint.
_LEFT_OUT = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".ggml", ".h5", ".msgpack", ".onnx", ".npz", ".pkl",
    ".index.json", ".lock", ".incomplete", ".tmp", ".log",
)  # fmt: skip
#: Folders of a training run.
_TRAINING = ("runs", "logs", "wandb", "checkpoint-", "global_step")
_NOT_OURS = {"suture.json", "config.json", "README.md", "trainer_state.json", "adapter_config.json"}
#: Larger files are not tokenizers.
_LARGEST = 256 * 2**20


def carried_over(
    folders: Sequence[Path], change: dict[str, Any]
) -> tuple[list[tuple[str, bytes]], list[tuple[str, str]]]:
    """What to put beside an output's weights: files to write, with their bytes, and files to copy, with their source.

    `folders` are the models, `change` is what the plan says of their configs. Nothing is carried over from a lone file.

    Raises:
        SutureError: if a config.json is not valid JSON, or if layers of different types would be mixed.
    """
    source = folders[change["from"]]
    if not source.is_dir():
        return [], []
    copied = [(str(p.relative_to(source)), str(p)) for p in sorted(_carried(source))]
    config = read_config(source)
    if config is None:
        return [], copied
    donors = {i: read_config(f) for i, f in enumerate(folders) if f.is_dir()}
    fixed = adjust_config(config, change, donors)
    return [("config.json", as_bytes(fixed))], copied


def _carried(folder: Path) -> list[Path]:
    found = []
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name in _NOT_OURS:
            continue
        if path.is_symlink() and path.is_dir():
            # It may lead anywhere; a link to a single file is how hubs store their caches.
            continue
        if path.is_dir():
            if path.name.startswith(_TRAINING):
                continue
            inner = [p for p in path.rglob("*") if p.is_file()]
            # A folder with weights in it is another checkpoint.
            if not any(p.name.endswith(_LEFT_OUT) or "tfevents" in p.name for p in inner):
                found += [p for p in inner if p.stat().st_size <= _LARGEST]
        elif path.is_file() and not path.name.endswith(_LEFT_OUT) and path.stat().st_size <= _LARGEST:
            found.append(path)
    return found
