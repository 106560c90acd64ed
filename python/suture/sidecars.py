"""The files beside the weights: config.json kept true, tokenizer and templates carried over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from suture._core import __version__
from suture.checkpoint import Checkpoint
from suture.errors import SutureError

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


def model_card(recipe: dict[str, Any], models: list[str]) -> bytes:
    """A README.md in the form model hubs read: what the output was made from, and the recipe."""
    title = "swap" if "swap" in recipe else recipe["merge_method"]
    names = "\n".join(f"  - {json.dumps(Path(m).resolve().name)}" for m in models)
    listed = "\n".join(f"* `{Path(m).resolve().name}`" for m in models)
    body = json.dumps(recipe, indent=2, ensure_ascii=False)
    text = f"""---
base_model:
{names}
tags:
  - merge
  - suture
---

# {title} of {len(models)} models

Made by suture {__version__} from

{listed}

by this recipe; `suture.json` beside it holds the digest of every tensor.

```json
{body}
```
"""
    return text.encode()


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


def _read_config(folder: Path, name: str = "config.json") -> dict[str, Any] | None:
    path = folder / name
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise SutureError(f"{path}: cannot be read as JSON: {e}", path) from None
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
    if change["mostly"] is not None:
        out = _retype(out, _DTYPE_NAMES[change["mostly"]])
    if change["dtype"] is not None and "dtype" not in out:
        out["torch_dtype"] = _DTYPE_NAMES[change["dtype"]]
    if change["untied"] and out.get("tie_word_embeddings", True):
        out["tie_word_embeddings"] = False
    if change["layers"] is not None:
        out = _relayer(out, change["layers"], donors, ())
    return out


def _retype(section: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The section with the dtype it states, and those its sub-configs state, as it now is."""
    out = {k: _retype(v, dtype) if isinstance(v, dict) and k in _INNER else v for k, v in section.items()}
    return {k: dtype if k in ("dtype", "torch_dtype") and isinstance(v, str) else v for k, v in out.items()}


_INNER = ("text_config", "llm_config", "language_config")
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
        if isinstance(value, dict) and key in _INNER:
            out[key] = _relayer(value, layers, donors, (*path, key))
        elif count_key and _per_layer(key, value, section[count_key]):
            out[key] = [_entry(donors.get(model), path, key, layer, value) for model, layer in layers]
    if count_key and not any(k in section for k in _INNER):
        out[count_key] = len(layers)
        _rewindow(out, section, layers)
    return out


def _per_layer(key: str, value: Any, layers: int) -> bool:
    """Whether a list has an entry for every layer, rather than as many entries by chance."""
    by_chance = key == "architectures" or key.endswith(("_token_id", "_token_ids"))
    return isinstance(value, list) and len(value) == layers and not by_chance


def _rewindow(out: dict[str, Any], section: dict[str, Any], layers: list[list[int]]) -> None:
    """Keep the attention window of every layer where the config tells it by the layer's number."""
    period = _period(section)
    if isinstance(section.get("max_window_layers"), int):
        full = [layer < section["max_window_layers"] for _, layer in layers]
        if full == sorted(full, reverse=True):
            out["max_window_layers"] = sum(full)
            return
    elif period is not None and [layer for _, layer in layers] != list(range(len(layers))):
        full = [(layer + 1) % period == 0 for _, layer in layers]
    else:
        return
    if "layer_types" in section:
        return
    out["layer_types"] = ["full_attention" if f else "sliding_attention" for f in full]


def _period(section: dict[str, Any]) -> int | None:
    """Every how many layers attention is full, for the models that alternate without saying so layer by layer."""
    model = str(section.get("model_type", ""))
    if model.startswith("gemma2"):
        return 2
    if model.startswith("gemma3"):
        period = section.get("sliding_window_pattern", 6)
        return period if isinstance(period, int) else None
    return None


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
    for section in _sections(config):
        if isinstance(section.get("layer_types"), list):
            return list(section["layer_types"])
    return None


#: What of an adapter's config decides what its factors mean.
_SCALE = ("peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern")


def adapter_config(folders: list[Path]) -> bytes | None:
    """The adapter_config.json of a swap of adapters; None if none of the models is one.

    Args:
        folders: the recipient and its donors.

    Raises:
        SutureError: if only some are adapters, or their factors do not mean the same.
    """
    files = [f / "adapter_config.json" for f in folders]
    # A model's folder may hold an adapter's files beside its own: what counts is what the checkpoint consists of.
    adapters = [any(".lora_" in name for name in Checkpoint(f).names) for f in folders]
    if not any(adapters):
        return None
    for folder, adapter in zip(folders, adapters, strict=True):
        if not adapter:
            raise SutureError(f"{folder}: holds no adapter; adapters can only be swapped with adapters", folder)
    configs = []
    for folder, file in zip(folders, files, strict=True):
        config = _read_config(folder, file.name)
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
    for key in ("target_modules", "modules_to_save", "layers_to_transform"):
        if all(key not in config for config in configs):
            continue
        listed = [[c[key]] if type(c.get(key)) is int else c.get(key) for c in configs]
        if all(isinstance(entry, list) for entry in listed):
            joined[key] = sorted({item for entry in listed for item in entry})
        elif key == "layers_to_transform" and None in listed:
            # None stands for all.
            joined[key] = None
        elif key == "modules_to_save":
            joined[key] = sorted({item for entry in listed for item in entry or []}) or None
        elif any(entry != listed[0] for entry in listed):
            message = f"expected lists of `{key}` that can be joined, found patterns"
            raise SutureError(f"{files[0]}: {message}", files[0])
    return (json.dumps(joined, indent=2, ensure_ascii=False) + "\n").encode()


def same_heads(folders: list[Path]) -> None:
    """Check that models whose layers are swapped cut their attention into the same heads, as far as configs tell.

    Raises:
        SutureError: naming the first that differs from the recipient, the first folder.
    """
    counts: list[tuple[int, int] | None] = []
    for folder in folders:
        try:
            counts.append(head_counts(folder))
        except SutureError:
            counts.append(None)
    for folder, count in zip(folders[1:], counts[1:], strict=True):
        if counts[0] is not None and count is not None and count != counts[0]:
            message = f"expected {counts[0][0]} attention heads with {counts[0][1]} for keys and values"
            found = f"as {folders[0]} has, found {count[0]} with {count[1]}"
            raise SutureError(f"{folder}: {message}, {found}", folder)


def head_counts(folder: Path) -> tuple[int, int]:
    """The query heads and the key/value heads of each layer, as the model's config.json has them.

    Raises:
        SutureError: if there is no config.json that tells.
    """
    config = _read_config(folder) if folder.is_dir() else None
    for section in _sections(config or {}):
        query = next((section[k] for k in ("num_attention_heads", "n_head", "num_heads") if k in section), None)
        shared = section.get("num_key_value_heads") or query
        if type(query) is int and type(shared) is int and 0 < query < 2**31 and 0 < shared < 2**31:
            return query, shared
    raise SutureError(
        f"{folder}: no config.json with `num_attention_heads`, which it takes to tell heads apart", folder
    )


def _sections(config: dict[str, Any]) -> list[dict[str, Any]]:
    """A config and the configs inside it that may be those of its language model."""
    return [config, *(config[k] for k in _INNER if isinstance(config.get(k), dict))]


def token_names(folder: Path) -> dict[int, str]:
    """The tokens of a model's vocabulary by their number, from tokenizer.json, vocab.json or vocab.txt; else none."""
    try:
        if (folder / "tokenizer.json").is_file():
            data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
            vocabulary = data["model"]["vocab"]
            listed = isinstance(vocabulary, list)
            pairs = [(i, t[0]) for i, t in enumerate(vocabulary)] if listed else [(i, t) for t, i in vocabulary.items()]
            named = dict(pairs) | {t["id"]: t["content"] for t in data.get("added_tokens") or []}
            return {i: t for i, t in named.items() if isinstance(t, str)}
        if (folder / "vocab.json").is_file():
            return {i: t for t, i in json.loads((folder / "vocab.json").read_text(encoding="utf-8")).items()}
        if (folder / "vocab.txt").is_file():
            return dict(enumerate((folder / "vocab.txt").read_text(encoding="utf-8").splitlines()))
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        # A tokenizer of another make; the figures do not need it.
        return {}
    return {}
