"""Short names for the rules that `kind_tables` puts together, and what entries of lists mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from suture.sidecars.kind_rules import Every, First, FirstOf, Fixed, Last, Listed, Rule, Section

#: What the entries of lists of attention types mean.
TYPES: Mapping[Any, str] = {
    "full_attention": "full", "attention": "full", "sliding_attention": "sliding", "chunked_attention": "chunked",
    "linear_attention": "linear", "mamba": "linear", "window_attention": "window", "indexed_attention": "indexed",
    "deepseek_sparse_attention": "indexed", "qwen_sparse_attention": "indexed",
    "compressed_sparse_attention": "compressed", "heavily_compressed_attention": "heavily_compressed",
    "minimax_m3_sparse": "sparse", "reference_sliding_attention": "reference_sliding",
}  # fmt: skip
#: The same where full attention is another name of attention by an index.
INDEXED: Mapping[Any, str] = {**TYPES, "full_attention": "indexed"}
#: How meanings are written that have several names.
SPELLED = {"full": "full_attention", "linear": "linear_attention", "indexed": "indexed_attention"}
MLPS: Mapping[Any, str] = {"dense": "dense", "sparse": "experts"}
ROPES: Mapping[Any, str] = {1: "", 0: "none"}


@dataclass(frozen=True)
class Family:
    """The rules of a family, in the order in which they are settled, and what follows from the kind of attention."""

    rules: tuple[Rule, ...] = ()
    #: The rope of layers whose attention is of a kind, where the kind decides it.
    rope: Mapping[str, str] = field(default_factory=dict)
    #: Keys that the family has and does not read, or that are none of a layer's.
    idle: tuple[str, ...] = ()


def every_layer(kind: str) -> Rule:
    """All layers are the same."""
    return Fixed("attention", schedule=lambda _, n: [kind] * n)


def attention(*otherwise: Rule, key: str = "layer_types", names: Mapping[Any, str] = TYPES, cut: bool = False) -> Rule:
    """A list of types, and what holds without it."""
    keys = ("layer_types",) if key == "layer_types" else (key, "layer_types")
    return FirstOf("attention", ways=(Listed("attention", keys, names, SPELLED, cut=cut), *otherwise))


def every(
    period: int,
    key: str | None = None,
    hit: str = "full",
    miss: str = "sliding",
    phase: int = 1,
    *,
    aspect: str = "attention",
) -> Rule:
    """One layer in every few."""
    return Every(aspect, (key,) if key else (), period, hit, miss, phase)


def fixed(schedule: Callable[[int], list[str]], *, aspect: str = "attention") -> Rule:
    """What the number of a layer and of all decides."""
    return Fixed(aspect, schedule=lambda _, n: schedule(n))


def mlp(*otherwise: Rule) -> Rule:
    """A list of dense and sparse layers, and what holds without it."""
    return FirstOf("mlp", ways=(Listed("mlp", ("mlp_layer_types",), MLPS), *otherwise))


def first_dense(default: int, key: str = "first_k_dense_replace") -> Rule:
    """The first layers are dense."""
    return First("mlp", (key,), default)


def first_fixed(count: int) -> Rule:
    """The same by a number that no key changes."""
    return fixed(lambda n: ["dense" if i < count else "experts" for i in range(n)], aspect="mlp")


def full_between(step: int, *, first: bool = False, last: bool = False) -> Callable[[int], list[str]]:
    """Every few layers full, and so are the first or the last."""
    return lambda n: [
        "full" if (i + 1) % step == 0 or (first and i == 0) or (last and i == n - 1) else "sliding" for i in range(n)
    ]


def from_the_end(step: int, hit: str, miss: str) -> Callable[[int], list[str]]:
    """Every few layers, counted from the last."""
    return lambda n: [hit if (n - 1 - i) % step == 0 else miss for i in range(n)]


def number_of_layer(*keys: str, when: Callable[[Section], bool] = lambda _: True) -> Rule:
    """What a layer does depends on its number itself."""
    return Fixed("place", keys, lambda s, n: [f"layer {i}" if when(s) else "" for i in range(n)])


def number_of_all(*keys: str, when: Callable[[Section], bool] = lambda _: True) -> Rule:
    """What a layer does depends on its number among all, or one tensor holds a part for every layer."""
    return Fixed("place", keys, lambda s, n: [f"layer {i} of {n}" if when(s) else "" for i in range(n)])


def edge(*keys: str, last: bool = False) -> Rule:
    """The first layer, or the last, has tensors of its own or lacks some."""
    return Fixed(
        "place",
        keys,
        lambda _, n: ["last" if last and i == n - 1 else "first" if not last and i == 0 else "" for i in range(n)],
    )


def ordinals(rule: Rule, kind: str, *keys: str) -> Rule:
    """Layers of a kind share tensors, by how many of the kind come before."""

    def schedule(section: Section, layers: int) -> list[str]:
        types = rule.read(section, layers)
        of = types.count(kind)
        return [f"number {types[:i].count(kind)} of {of}" if t == kind else "" for i, t in enumerate(types)]

    return Fixed("place", keys, schedule)


def reads(key: str, default: Any) -> Callable[[Section], bool]:
    """Whether a key is neither false nor 0, with its default."""
    return lambda section: bool(section.get(key, default))


def shared_last(default: int, *, even_all: bool) -> Rule:
    """The last layers take keys and values of earlier ones."""
    return Last("shares", ("num_kv_shared_layers",), default, even_all=even_all)
