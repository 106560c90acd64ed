"""Swaps carried out in memory on raw tensors: what an output must be, byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..reference import swap
from ..reference.layers import layer_of
from .checkpoints import Raw, encode

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"

Model = Mapping[str, Raw]
#: What a tensor is made of: each model's share. A lone whole share is moved bit for bit.
Shares = Mapping[str, float]
#: The shares of a module in a layer.
Inside = Callable[[int, str], Shares]

INTO: Shares = {"into": 1.0}


def assemble(models: Mapping[str, Model], inside: Inside, outside: Shares = INTO) -> dict[str, Raw]:
    """The output, each tensor by its shares, with the dtypes of the model `into`.

    A tied model's head is its embedding. The output has a head of its own if any model has that gives to it.
    """
    own = models["into"]
    names = list(own)
    if HEAD not in own and any(HEAD in models[label] for label in outside):
        names.append(HEAD)
    found = {}
    for name in names:
        layer = layer_of(name)
        shares = outside if layer is None else inside(layer, module_of(name))
        found[name] = mix({label: tensor_of(models[label], name) for label in shares}, shares, tensor_of(own, name))
    return found


def by_layer(layers: Sequence[Shares], modules: str = "*") -> Inside:
    """A layer's shares for the modules that move, globs with commas between them; the recipient's for the rest."""
    globs = [glob.strip() for glob in modules.split(",")]
    return lambda layer, module: layers[layer] if any(fnmatchcase(module, glob) for glob in globs) else INTO


def tensor_of(model: Model, name: str) -> Raw:
    """A tensor by its name; the head of a tied model is its embedding."""
    return model[EMBEDDING] if name == HEAD and HEAD not in model else model[name]


def mix(parts: Model, shares: Shares, like: Raw) -> Raw:
    """A tensor made of shares of others, in the dtype of `like`."""
    given = {label: share for label, share in shares.items() if share != 0.0}
    if len(given) == 1:
        ((label, _),) = given.items()
        return cast(parts[label], like.dtype)
    total = np.zeros(like.shape, np.float64)
    for label, share in given.items():
        total += share * parts[label].values().astype(np.float64)
    return encode(total.astype(np.float32), like.dtype)


def cast(raw: Raw, dtype: str) -> Raw:
    """The tensor as it is, or rounded once to another dtype."""
    return raw if raw.dtype == dtype else encode(swap.round_once(raw.values().astype(np.float64), dtype), dtype)


def between(share: float) -> Shares:
    """A layer of donor and recipient."""
    return {"donor": share, "into": 1.0 - share}


def outside_of(non_layer: str, donors: Sequence[str] = ("donor",)) -> Shares:
    """Whose tensors outside the layers the output has."""
    if non_layer == "mean":
        return dict.fromkeys(["into", *donors], 1 / (1 + len(donors)))
    return {donors[0] if non_layer == "from" else non_layer: 1.0}


def carried(base: Model, donor: Model, donor_base: Model) -> dict[str, Raw]:
    """The delta form of a donor: base + (donor - donor_base), in float64."""
    values = {
        name: swap.carried(base[name].values(), raw.values(), donor_base[name].values()) for name, raw in donor.items()
    }
    return {name: encode(array, "F64") for name, array in values.items()}


def module_of(name: str) -> str:
    """A tensor's name inside its layer, without `.weight` or `.bias`."""
    inner = name.split(f"layers.{layer_of(name)}.", 1)[1]
    return inner.removesuffix(".weight").removesuffix(".bias")


def with_heads(
    into: Model, donor: Model, layers: Sequence[int], listed: Sequence[int], heads: int, groups: int
) -> dict[str, Raw]:
    """The recipient with these attention heads of the donor in these layers, bit for bit."""
    found = {}
    for name, raw in into.items():
        if layer_of(name) in layers:
            module = module_of(name).split(".")[-1]
            parts = [bits(model[name]) for model in (into, donor)]
            raw = Raw(
                raw.dtype, raw.shape, swap.with_heads(parts[0], parts[1], module, listed, heads, groups).tobytes()
            )
        found[name] = raw
    return found


def bits(raw: Raw) -> NDArray[Any]:
    """The elements as integers."""
    width = {"F64": "<u8", "F32": "<u4", "F16": "<u2", "BF16": "<u2"}[raw.dtype]
    return np.frombuffer(raw.data, width).reshape(raw.shape)


def same(found: Model, wanted: Model) -> None:
    """Bit for bit, with the first tensor that differs named."""
    assert sorted(found) == sorted(wanted)
    assert [name for name, raw in wanted.items() if found[name] != raw] == []
