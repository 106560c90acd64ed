"""What a config says of quantised modules by name, with the names of layers that moved."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from suture.errors import SutureError

_NUMBER = re.compile(r"(?:^|(?<=\.))(?:layers?|h|blocks?|blk|resblocks|transformer_blocks)\.(\d+)(?=\.|$)")
_TOWERS = re.compile(r"(^|[._])(vision|visual|audio|image|speech|talker|vit)([._]|$)")
#: What only patterns contain.
_META = re.compile(r"^(re|\+|-):|[*?\[\](){}|^$\\+]")
#: Parts of a pattern that hold for every number.
_ANY_NUMBER = re.compile(r"\\d|\[0-9\]|\{\d*,?\d*\}|experts\\?\.\d+|[A-Za-z_]\d+")


@dataclass(frozen=True)
class Stack:
    """A stack of layers in names, and where its layers come from."""

    moved: Sequence[tuple[int, int]]
    model: int
    #: The names before the number, such as `model.layers`; without it, all but those of towers.
    prefix: str = ""

    def layer(self, name: str) -> int | None:
        """The number of the layer of this stack in a name."""
        found = _NUMBER.search(name)
        if found is None:
            return None
        before = name[: found.start(1)].rstrip(".")
        if self.prefix:
            mine = f".{before}".endswith(f".{self.prefix}") or f".{self.prefix}".endswith(f".{before}")
        else:
            mine = not _TOWERS.search(before)
        return int(found[1]) if mine else None


#: What is behind the name of the module of a layer's experts.
_EXPERT = re.compile(r"(?<=\.experts)\.\d+\..*")
#: Where a config says how weights are quantised.
_SECTIONS = ("quantization_config", "compression_config")


def without_quantisation(config: Mapping[str, Any], typed: bool) -> tuple[dict[str, Any], list[str]]:
    """A config whose weights are plain now: without what says how they are quantised, at any depth, and with a dtype.

    With `typed`, a config that states no dtype gets the key, for its value to be set.

    Returns:
        the config, and the keys that it is without.
    """
    gone = [k for k in _SECTIONS if k in config]
    out: dict[str, Any] = {}
    for key, value in config.items():
        if key in gone:
            continue
        if isinstance(value, Mapping) and (key.endswith("_config") or key == "text_model"):
            out[key], inner = without_quantisation(value, False)
            gone += [f"{key}.{i}" for i in inner]
        else:
            out[key] = value
    if typed and not {"dtype", "torch_dtype"} & out.keys():
        out["torch_dtype"] = ""
    return out, gone


def quantisation(encoded: Mapping[str, Any]) -> dict[str, Any]:
    """The `quantization_config` of weights that a plan writes in a quantised form, as transformers reads it.

    Args:
        encoded: what the plan says of the form, and which modules stay plain.
    """
    # Where it is the embedding it has no tensor, and loaders would look for its codes all the same.
    plain = sorted({"lm_head", *encoded["plain"]})
    if encoded["form"] == "fp8":
        # Loaders hold a layer's experts in one module, however they are stored.
        plain = sorted({*plain, *(_EXPERT.sub("", name) for name in plain)})
        return {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "weight_block_size": [128, 128],
            "modules_to_not_convert": plain,
        }
    weights = {
        "num_bits": 4,
        "type": "float",
        "strategy": "group",
        "group_size": 32,
        "symmetric": True,
        "dynamic": False,
        "scale_dtype": "torch.uint8",
    }
    # Loaders may call modules otherwise than files do, and then know no name, but for what is in all of them.
    plain += [rf"re:(.*\.)?{re.escape(word)}(\..*)?$" for word in encoded.get("words", ())]
    return {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": "mxfp4-pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "format": "mxfp4-pack-quantized"}},
        "ignore": plain,
    }


def rename_quantized(
    quantization: Mapping[str, Any],
    moved: Sequence[tuple[int, int]],
    donors: Mapping[int, Mapping[str, Any]],
    *,
    model: int,
    prefix: str = "",
) -> tuple[dict[str, Any], list[str]]:
    """A `quantization_config` whose names of layers are those after layers moved.

    `donors` has the `quantization_config` of every model, `quantization` is that of `model`; `prefix` tells the stack
    that moved apart from others, such as `model.layers`.

    Raises:
        SutureError: if a pattern depends on the number of a layer.
    """
    stack = Stack(moved, model, prefix)
    used = {m: donors.get(m, quantization) for m, _ in moved} | {model: quantization}
    for m, config in used.items():
        _refuse_patterns(config, m)
    plain = {m: _without(config, stack) for m, config in used.items()}
    warnings = [
        f"`quantization_config` of model {m} differs from that of model {model}, which the output keeps"
        for m in sorted(used)
        if plain[m] != plain[model]
    ]
    renamed = _rename(dict(quantization), used, stack)
    assert isinstance(renamed, dict)
    return renamed, warnings


def _refuse_patterns(value: Any, model: int, key: str = "quantization_config") -> None:
    for text, at in _texts(value, key):
        if _META.search(text) and re.search(r"\d", _ANY_NUMBER.sub("", text)):
            raise SutureError(
                f"config.json of model {model}: expected names or patterns that hold for every layer in "
                f"`{at}`, found {text!r}, which depends on a layer's number; write the layers' names one by one"
            )


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """The texts that may be names of modules, with the keys under which they stand."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield str(name), key
            yield from _texts(inner, f"{key}.{name}")
    elif isinstance(value, list):
        for entry in value:
            yield from [(entry, key)] if isinstance(entry, str) else _texts(entry, key)


def _without(value: Any, stack: Stack) -> Any:
    """What is said of no layer of the stack."""
    if isinstance(value, Mapping):
        return {k: _without(v, stack) for k, v in value.items() if stack.layer(str(k)) is None}
    if isinstance(value, list):
        return [_without(v, stack) for v in value if not (isinstance(v, str) and stack.layer(v) is not None)]
    return value


def _rename(value: Any, donors: Mapping[int, Any], stack: Stack) -> Any:
    if isinstance(value, Mapping):
        inner = {m: d if isinstance(d, Mapping) else {} for m, d in donors.items()}
        kept = {
            k: _rename(v, {m: d.get(k) for m, d in inner.items()}, stack)
            for k, v in value.items()
            if stack.layer(str(k)) is None
        }
        return kept | {name: inner[m][old] for name, old, m in _moved_names(inner, stack)}
    if isinstance(value, list):
        lists = {m: [v for v in d if isinstance(v, str)] if isinstance(d, list) else [] for m, d in donors.items()}
        return [*_without(value, stack), *(name for name, _, _ in _moved_names(lists, stack))]
    return value


def _moved_names(names: Mapping[int, Any], stack: Stack) -> Iterator[tuple[str, str, int]]:
    """The new name, the old one and the model, layer by layer."""
    for i, (m, layer) in enumerate(stack.moved):
        for name in names[m]:
            if stack.layer(str(name)) == layer:
                found = _NUMBER.search(str(name))
                assert found is not None
                yield f"{name[: found.start(1)]}{i}{name[found.end(1) :]}", name, m
