"""Merges in tests: recipes, random keys, a family of models and the comparison of an output with an oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from .checkpoints import Raw, encode, write_checkpoint

Tensors = dict[str, NDArray[Any]]

BASELESS = ("linear", "passthrough")
LAYERS = 3
#: In an order that is not the alphabet's: outside the layers a scalar, vectors, a single element, rows of one,
#: nothing at all; in the layers matrices, a vector and a tensor of three dimensions.
SHAPES: dict[str, tuple[int, ...]] = {
    "z_scalar": (),
    "model.embed_tokens.weight": (41, 24),
    **{
        f"model.layers.{layer}.{part}": shape
        for layer in range(LAYERS)
        for part, shape in {
            "self_attn.q_proj.weight": (23, 17),
            "self_attn.o_proj.weight": (17, 24),
            "input_layernorm.weight": (24,),
            "mlp.experts.weight": (3, 5, 7),
            "mlp.down_proj.weight": (64, 33),
        }.items()
    },
    "model.norm.weight": (24,),
    "a_single": (1,),
    "column": (5, 1),
    "none": (0, 3),
    "tiles": (1031, 5),
}
#: What no fine-tune changed.
FROZEN = "model.norm.weight"
#: Continuous values; the coarse changes that bfloat16 leaves of small ones; small binary fractions, on which sums
#: and products with powers of two are exact in any precision, so that every tie is one.
KINDS = ("f32", "bf16", "grid")


def f64(values: NDArray[Any]) -> NDArray[np.float64]:
    """Double precision, also of a scalar."""
    return np.asarray(values, dtype=np.float64)


def keys(seed: int, labels: Sequence[str], tensor: str) -> list[int]:
    """The key of each model's random words."""
    texts = [f"{seed}\0{label}\0{tensor}".encode() for label in labels]
    return [xxhash.xxh3_128_intdigest(text) & (2**64 - 1) for text in texts]


def recipe(
    method: str,
    folders: Sequence[Path],
    per_input: Mapping[str, Sequence[Any]],
    shared: Mapping[str, Any],
    *,
    based: bool | None = None,
) -> dict[str, Any]:
    """A merge of the fine-tunes onto the first folder; of all folders, for methods without a base."""
    based = method not in BASELESS if based is None else based
    listed = folders[1:] if based else folders
    models = [
        {"model": str(f), "parameters": {key: values[i] for key, values in per_input.items()}}
        for i, f in enumerate(listed)
    ]
    config: dict[str, Any] = {"merge_method": method, "models": models, "parameters": dict(shared)}
    return config | {"base_model": str(folders[0])} if based else config


@dataclass(frozen=True)
class Family:
    """A base and its fine-tunes, as folders and as the values they hold."""

    kind: str
    folders: Sequence[Path]
    base: Tensors
    tuned: Sequence[Tensors]

    @property
    def exact(self) -> bool:
        """Whether arithmetic on it is exact in f32."""
        return self.kind == "grid"

    def first(self, count: int) -> Family:
        """The same base with fewer fine-tunes."""
        return Family(self.kind, self.folders[: count + 1], self.base, self.tuned[:count])


def make_family(folder: Path, kind: str, count: int, seed: int) -> Family:
    """Write a base and `count` fine-tunes that leave a fifth of all elements and one tensor alone."""
    rng = np.random.default_rng(seed)
    dtype = "F32" if kind == "f32" else "BF16"
    spread = {"f32": 0.5, "bf16": 2e-3, "grid": 1.0}[kind]

    def draw(shape: tuple[int, ...], around: int) -> NDArray[Any]:
        if kind == "grid":
            return np.asarray(rng.integers(-around, around + 1, shape) / 8)
        return np.asarray(rng.normal(0.0, 0.5, shape))

    base = {name: draw(shape, 6) for name, shape in SHAPES.items()}
    folders, models = [], []
    for number in range(count + 1):
        tensors: dict[str, Raw] = {}
        for name, values in base.items():
            change = spread * (1.0 if kind == "grid" else 2.0) * draw(values.shape, 4)
            moves = (rng.random(values.shape) > 0.2) & (number > 0) & (name != FROZEN)
            tensors[name] = encode(np.asarray(values + np.where(moves, change, 0.0)), dtype)
        config = {"model_type": "llama", "num_hidden_layers": LAYERS}
        label = "base" if number == 0 else f"tuned-{number}"
        folders.append(write_checkpoint(folder / label, tensors, shards=1 + number % 2, config=config))
        models.append({name: raw.values() for name, raw in tensors.items()})
    return Family(kind, folders, models[0], models[1:])


def assert_matches(
    found: Mapping[str, Raw],
    expected: Mapping[str, NDArray[Any]],
    family: Family,
    *,
    tolerance: float,
    settled: Mapping[str, NDArray[np.bool_]] | None = None,
    keeps: bool = True,
    at_most: float = 0.01,
) -> None:
    """Within `tolerance` of the largest value around, tensor by tensor, where the oracle's choices are `settled`.

    `at_most`: the share of a tensor that may be left out because they are not.
    `keeps`: what the oracle leaves as the base has it is the base's to the bit.
    """
    assert sorted(found) == sorted(expected)
    for name, raw in found.items():
        assert (raw.dtype, raw.shape) == ("F32", expected[name].shape), name
        exact, values = f64(expected[name]), f64(raw.values())
        where = np.ones(exact.shape, dtype=np.bool_) if settled is None else settled[name]
        assert (~where).sum() <= 2 + at_most * where.size, f"{name}: the data leaves too much open"
        around = [np.abs(f64(t[name])).max(initial=0.0) for t in (family.base, *family.tuned)]
        scale = max(float(np.abs(exact).max(initial=0.0)), *map(float, around))
        error = np.abs(values - exact)[where]
        wrong = error > tolerance * scale
        assert not wrong.any(), f"{name}: {wrong.sum()} of {wrong.size} elements, off by up to {error.max()}"
        if keeps:
            left = where & (exact == f64(family.base[name]))
            moved = int((values != exact)[left].sum())
            assert moved == 0, f"{name}: {moved} of {left.sum()} elements should be as the base has them"
