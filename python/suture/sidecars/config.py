"""config.json as the output needs it."""

from __future__ import annotations

from typing import Any

from suture.sidecars.files import INNER

_DTYPE_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


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
    out = {k: _retype(v, dtype) if isinstance(v, dict) and k in INNER else v for k, v in section.items()}
    return {k: dtype if k in ("dtype", "torch_dtype") and isinstance(v, str) else v for k, v in out.items()}


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
        if isinstance(value, dict) and key in INNER:
            out[key] = _relayer(value, layers, donors, (*path, key))
        elif count_key and _per_layer(key, value, section[count_key]):
            out[key] = [_entry(donors.get(model), path, key, layer, value) for model, layer in layers]
    if count_key and not any(k in section for k in INNER):
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
