"""What a person who knows a family of models states about it. Nothing here asks suture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

#: What becomes of a key of config.json when layers are put into another order: `COUNT` is their number, `EACH` a list
#: with an entry a layer, `INDEX` a list of layers' numbers.
COUNT, EACH, INDEX = "count", "each", "index"
#: One of these, or the new value from the order of the layers and the old value.
How = str | Callable[[list[int], Any], Any]


class Cut(Enum):
    """How attention is cut into heads."""

    SEPARATE = "separate q, k, v"
    STACKED = "fused, q above k above v"
    PER_HEAD = "fused, q, k, v of each head together"
    PER_GROUP = "fused, q, k, v of each key/value group together"
    CONV1D = "fused columns, q before k before v (Conv1D)"
    AXIS = "an axis of its own"
    NONE = "cannot be cut"


@dataclass(frozen=True)
class Part:
    """Tensors of a layer that hold something of each head.

    Attributes:
        names: a glob of names inside the layer.
        axis: the dimension along which the heads lie.
        segments: how many times the heads come one after another, such as 3 for q above k above v; or how many heads
            each of these has, where that differs.
        blocks: how many times all that repeats, each time with the next share of the heads.
    """

    names: str
    axis: int = 0
    segments: int | tuple[int, ...] = 1
    blocks: int = 1


@dataclass(frozen=True)
class Attention:
    """The attention heads of the main stack.

    Attributes:
        heads: query heads and heads for keys and values.
        cut: how they lie in the tensors.
        parts: where each tensor holds them; empty if they cannot be told apart.
        why_not: why they cannot be.
        layer: the first layer that has attention.
        alike: false if heads are told apart by their number (a slope or a bias of positions for each), so that the
            order of heads matters.
        plain: true for projections named as in Llama, whose heads suture must not refuse to move.
    """

    heads: tuple[int, int] | None
    cut: Cut
    parts: tuple[Part, ...] = ()
    why_not: str = ""
    layer: int = 0
    alike: bool = True
    plain: bool = False


@dataclass(frozen=True)
class Stacking:
    """How config.json says that the main stack has other layers in another order.

    Attributes:
        keys: dotted keys of config.json and what becomes of them; empty where it cannot be said.
        why_not: why it cannot be said for the order of the test, 0, 1 ... n-1, 1 ... n-1.
        refusable: true if it can be said, but takes knowledge that nobody must have: to refuse it is right too.
    """

    keys: Mapping[str, How] = field(default_factory=dict)
    why_not: str = ""
    refusable: bool = False


@dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
        name: what it is called here.
        config: the class of its config in transformers.
        model: the class of its models there.
        options: what a tiny config is made from.
        stacks: where the names of the main stack's layers begin, as stored; several if the layers are spread.
        kinds: the kind of each layer of the main stack, in words.
        attention: its heads.
        stacking: how it is told that it has more layers.
        others: the other stacks of layers that are stored, with their lengths.
        inside: where the names of the main stack's layers begin in the loaded model; None for as stored.
        tied: whether the head is the table of the embedding; None without a head that could be.
        inputs: what a forward pass takes; a name in :mod:`tests.corpus.inputs`.
        stored: what is stored otherwise than one would think.
        copies: what published checkpoints hold and transformers does not build: where names begin, and where those of
            their copies do.
        predicting: blocks that predict further tokens, numbered on after the layers of the main stack.
        equals: true if another stack is as much the main one, so that suture may ask which is meant.
    """

    name: str
    config: str
    model: str
    options: Mapping[str, Any]
    stacks: tuple[str, ...]
    kinds: tuple[str, ...]
    attention: Attention
    stacking: Stacking
    others: Mapping[str, int] = field(default_factory=dict)
    inside: tuple[str, ...] | None = None
    tied: bool | None = False
    inputs: str = "text"
    stored: str = ""
    copies: Mapping[str, str] = field(default_factory=dict)
    predicting: int = 0
    equals: bool = False

    @property
    def layers(self) -> int:
        """Layers of the main stack."""
        return len(self.kinds)

    @property
    def spread(self) -> bool:
        """Whether a layer's tensors are in several lists of modules."""
        return len(self.stacks) > 1

    @property
    def order(self) -> list[int]:
        """The layers of the stack of slices that the tests make."""
        return [*range(self.layers), *range(1, self.layers)]


def same(kind: str, layers: int = 4) -> tuple[str, ...]:
    """Layers that are all alike."""
    return (kind,) * layers


def count(*keys: str, **more: How) -> Stacking:
    """A config that says how many layers there are, and `more`."""
    return Stacking({**dict.fromkeys(keys or ("num_hidden_layers",), COUNT), **more})


def separate(q: int, kv: int | None = None, *, at: str = "self_attn.", names: str = "[qkv]_proj", out: str = "o_proj",
             more: tuple[Part, ...] = (), layer: int = 0, alike: bool = True) -> Attention:  # fmt: skip
    """Rows of three projections and columns of the output projection; `at` may be a glob of several blocks."""
    parts = (Part(f"{at}{names}.*"), Part(f"{at}{out}.weight", axis=1), *more)
    named = (at, names) in (("self_attn.", "[qkv]_proj"), ("*_attn.", "[qkv]_proj")) and out in ("o_proj", "out_proj")
    plain = named and alike and not more
    return Attention((q, kv or q), Cut.SEPARATE, parts, layer=layer, alike=alike, plain=plain)


def uncut(why: str, heads: tuple[int, int] | None = None, layer: int = 0) -> Attention:
    """Heads that cannot be told apart."""
    return Attention(heads, Cut.NONE, why_not=why, layer=layer)
