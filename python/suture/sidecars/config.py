"""config.json as the output needs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from suture.errors import SutureError
from suture.sidecars.files import INNER, inside

_DTYPE_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
_TIES = "tie_word_embeddings"
#: How T5 and its like count the layers of their decoder, if it has not as many as the encoder.
DECODER_COUNT = "num_decoder_layers"
_SYMMETRIC = ("t5", "mt5", "umt5", "longt5", "pop2piano", "udop", "switch_transformers")
#: Lists of the kind of each layer, which may be all that tells how many there are.
_KINDS = ("layers_block_type", "hybrid_override_pattern")


def adjust_config(
    config: dict[str, Any],
    change: Mapping[str, Any],
    donors: Mapping[int, dict[str, Any] | None],
    *,
    mixed: bool = False,
) -> tuple[dict[str, Any], list[str]]:
    """The config of the output: its layers, dtype and tied embeddings as they now are; and what the user should know.

    Args:
        config: the config of the model that lends it.
        change: what the plan says of it.
        donors: the config of each model by its number, if it has one.
        mixed: go on where the config cannot say what the layers now are, and tell.

    Raises:
        SutureError: if the config cannot say what the layers now are.
    """
    told: list[str] = []
    if change.get("decoded") or change.get("encoded"):
        from suture.sidecars.quantized import without_quantisation

        config, gone = without_quantisation(config, change["mostly"] is not None)
        if gone and (change.get("encoded") or {}).get("form") not in ("fp8", "mxfp4"):
            named = " and ".join(f"`{k}`" for k in gone)
            told.append(f"weights are decoded: config.json is written without {named}")
        donors = {m: d and without_quantisation(d, False)[0] for m, d in donors.items()}
    out = dict(config)
    if change["mostly"] is not None:
        out = _retype(out, _DTYPE_NAMES[change["mostly"]])
    if change["dtype"] is not None and "dtype" not in out:
        out["torch_dtype"] = _DTYPE_NAMES[change["dtype"]]
    if change["untied"]:
        out = _untie(out)
    for stack in change["stacks"]:
        out, more = _relaid(out, stack, change["from"], donors, mixed)
        told += more
    if change.get("encoded") and not change["encoded"]["form"].startswith("gguf"):
        from suture.sidecars.quantized import quantisation

        out["quantization_config"] = quantisation(change["encoded"])
    return out, told


def _retype(section: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The section with the dtype it states, and those its sub-configs state, as it now is."""
    inner = (*INNER, *(k for k in section if k.endswith("_config") and k != "quantization_config"))
    out = {k: _retype(v, dtype) if isinstance(v, dict) and k in inner else v for k, v in section.items()}
    return {k: dtype if k in ("dtype", "torch_dtype") and isinstance(v, str) else v for k, v in out.items()}


def _untie(config: dict[str, Any]) -> dict[str, Any]:
    """The config with a head of its own, wherever it says that the head is the embedding."""
    said = [k for k in INNER if isinstance(config.get(k), dict) and config[k].get(_TIES)]
    out = {**config, **{k: {**config[k], _TIES: False} for k in said}}
    return out if said and _TIES not in config else {**out, _TIES: False}


def _relaid(
    config: dict[str, Any],
    stack: Mapping[str, Any],
    model: int,
    donors: Mapping[int, dict[str, Any] | None],
    mixed: bool,
) -> tuple[dict[str, Any], list[str]]:
    """The config with the layers of a stack as they now are."""
    # Tables that only this needs, and that take 40 ms to import.
    from suture.sidecars.kind_keys import DECODER
    from suture.sidecars.kinds import SENSELESS, senseless
    from suture.sidecars.quantized import rename_quantized
    from suture.sidecars.relayer import relayer

    keys: dict[int, str | None] = dict(stack["keys"])
    moved = [(m, layer) for m, layer in stack["layers"]]
    own = keys.get(model)
    if own is None:
        if moved == [(model, i) for i in range(len(moved))]:
            return config, []
        return config, [f"config.json counts no layers of `{stack['stack']}`, which are others now; check what it says"]
    path, _, count = own.rpartition(".")
    listed = False
    if "decoder" in stack["prefix"].split(".") and _symmetric(config, path) and count not in DECODER:
        # One count stands for both sides: the decoder's becomes its own.
        count = DECODER_COUNT
    sections: dict[int, Mapping[str, Any]] = {}
    for m, key in keys.items():
        found = inside(donors.get(m) or {}, (key or own).rpartition(".")[0])
        if isinstance(found, dict) and (key or own).rpartition(".")[2] in found:
            # A count by another of its names.
            sections[m] = {**found, count: found[(key or own).rpartition(".")[2]]}
    section = inside(config, path)
    section = {**section, count: section[own.rpartition(".")[2]]} if count not in section else section
    if isinstance(section[count], list | str):
        if count not in _KINDS:
            message = f"config.json lists the stages of the model in `{count}`, and stages are not alike"
            raise SutureError(f"{message}; they cannot be stacked, dropped or repeated")
        # The list of the layers' kinds is their number too.
        count, listed = "num_hidden_layers", True
    family = str(config.get("model_type", ""))
    prefix = stack["prefix"].removesuffix(".")
    try:
        new, told = relayer(section, moved, sections, count, model=model, model_type=family, prefix=prefix)
    except (SutureError, *SENSELESS) as e:
        if not mixed:
            raise SutureError(f"{senseless(e)}; --allow-mixed goes on with the config as it is") from None
        new, told = {**section, **({} if listed else {count: len(moved)})}, [senseless(e)]
    if listed:
        new.pop(count, None)
    out = _put(config, path, new)
    if path and isinstance(quantization := config.get("quantization_config"), dict):
        others = {m: q for m, d in donors.items() if d and isinstance(q := d.get("quantization_config"), dict)}
        out["quantization_config"], more = rename_quantized(quantization, moved, others, model=model, prefix=prefix)
        told += more
    return out, told


def _symmetric(config: Mapping[str, Any], path: str) -> bool:
    """Whether a decoder has as many layers as its encoder, unless it is told."""
    section = inside(dict(config), path)
    return str(section.get("model_type") or config.get("model_type")) in _SYMMETRIC


def _put(config: dict[str, Any], path: str, section: dict[str, Any]) -> dict[str, Any]:
    """The config with another section at `path`."""
    if not path:
        return section
    head, _, rest = path.partition(".")
    return {**config, head: _put(config[head], rest, section)}
