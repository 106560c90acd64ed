"""The files beside the weights: config.json kept true, tokenizer and templates carried over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from suture.errors import SutureError

#: Never carried over: weights in any form, training state, and what describes another checkpoint.
_LEFT_OUT = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".ggml", ".h5", ".msgpack", ".onnx", ".npz", ".pkl",
    ".index.json", ".lock", ".incomplete", ".tmp", ".log",
)  # fmt: skip
_NOT_OURS = {"suture.json", "config.json", "README.md", "trainer_state.json", "adapter_config.json"}
#: Larger files are not tokenizers.
_LARGEST = 256 * 2**20

_DTYPE_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


def sidecars(plan: dict[str, Any]) -> tuple[list[tuple[str, bytes]], list[tuple[str, str]]]:
    """What to put beside an output's weights: files to write, with their bytes, and files to copy, with their source.

    `plan` holds the models' paths and the plan's `config` section. Nothing is carried over from a lone file.

    Raises:
        SutureError: if a config.json is not valid JSON, or if layers of different types would be mixed.
    """
    folders = [Path(p) for p in plan["models"]]
    source = folders[plan["config"]["from"]]
    if not source.is_dir():
        return [], []
    copied = [(str(p.relative_to(source)), str(p)) for p in sorted(_carried(source))]
    config = _read_config(source)
    if config is None:
        return [], copied
    donors = {i: _read_config(f) for i, f in enumerate(folders) if f.is_dir()}
    fixed = adjust_config(config, plan["config"], donors)
    return [("config.json", (json.dumps(fixed, indent=2, ensure_ascii=False) + "\n").encode())], copied


def _carried(folder: Path) -> list[Path]:
    found = []
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name in _NOT_OURS:
            continue
        if path.is_dir():
            inner = [p for p in path.rglob("*") if p.is_file()]
            # A folder with weights in it is another checkpoint.
            if not any(p.name.endswith(_LEFT_OUT) for p in inner):
                found += [p for p in inner if p.stat().st_size <= _LARGEST]
        elif path.is_file() and not path.name.endswith(_LEFT_OUT) and path.stat().st_size <= _LARGEST:
            found.append(path)
    return found


def _read_config(folder: Path) -> dict[str, Any] | None:
    path = folder / "config.json"
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise SutureError(f"{path}: is not valid JSON: {e}", path) from None
    if not isinstance(config, dict):
        raise SutureError(f"{path}: expected a JSON object", path)
    return config


def adjust_config(
    config: dict[str, Any], change: dict[str, Any], donors: dict[int, dict[str, Any] | None]
) -> dict[str, Any]:
    """The config of the output: layer count, per-layer lists, dtype and tied embeddings as they now are.

    Per-layer lists are those with as many entries as there were layers, at the top and in `text_config` and its
    like; each entry comes from the config of the model that its layer came from.
    """
    out = dict(config)
    if change["dtype"] is not None:
        key = "dtype" if "dtype" in out else "torch_dtype"
        out[key] = _DTYPE_NAMES[change["dtype"]]
    if change["untied"] and out.get("tie_word_embeddings", True):
        out["tie_word_embeddings"] = False
    if change["layers"] is not None:
        out = _relayer(out, change["layers"], donors, ())
    return out


_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")


def _relayer(
    section: dict[str, Any],
    layers: list[list[int]],
    donors: dict[int, dict[str, Any] | None],
    path: tuple[str, ...],
) -> dict[str, Any]:
    out = dict(section)
    count_key = next((k for k in _COUNTS if isinstance(section.get(k), int)), None)
    for key, value in section.items():
        if isinstance(value, dict) and key in ("text_config", "llm_config", "language_config"):
            out[key] = _relayer(value, layers, donors, (*path, key))
        elif count_key and isinstance(value, list) and len(value) == section[count_key]:
            out[key] = [_entry(donors.get(model), path, key, layer, value) for model, layer in layers]
    if count_key and not any(k in section for k in ("text_config", "llm_config", "language_config")):
        out[count_key] = len(layers)
        if isinstance(section.get("max_window_layers"), int) and section["max_window_layers"] >= section[count_key]:
            out["max_window_layers"] = len(layers)
    return out


def _entry(donor: dict[str, Any] | None, path: tuple[str, ...], key: str, layer: int, fallback: list[Any]) -> Any:
    found: Any = donor
    for part in (*path, key):
        found = found.get(part) if isinstance(found, dict) else None
    entries = found if isinstance(found, list) else fallback
    return entries[layer] if layer < len(entries) else fallback[-1]


def layer_types(folder: Path) -> list[Any] | None:
    """The `layer_types` of a model's config, if it has any."""
    config = _read_config(folder) if folder.is_dir() else None
    if config is None:
        return None
    for section in (config, config.get("text_config")):
        if isinstance(section, dict) and isinstance(section.get("layer_types"), list):
            return list(section["layer_types"])
    return None
