"""`diff` of whatever models there may be: small, odd, of several dtypes and with what is not a number."""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import suture

from ..reference import delta
from ..support.checkpoints import Raw, encode, write_checkpoint
from ..support.diffing import agrees, agrees_as_pair, agrees_in_spread, by_name, joined, label, laid

NAMES = [
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.self_attn.k_proj.weight",
    "model.layers.0.self_attn.k_proj.bias",
    "model.layers.1.self_attn.o_proj.weight",
    "model.layers.1.mlp.up_proj.weight",
    "model.layers.2.mlp.down_proj.weight",
    "model.norm.weight",
]
#: What every dtype holds exactly; as small as it is, sums of it are exact too.
POOL = np.array([*(n / 8 for n in range(-12, 13)), -0.0, np.nan, np.inf, -np.inf], np.float32)


@st.composite
def families(draw: st.DrawFn) -> list[dict[str, Raw]]:
    """A base and one to three fine-tunes of it."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = st.sampled_from(["F32", "F16", "BF16"])
    dtypes = [draw(dtype) for _ in range(draw(st.integers(2, 4)))]
    shapes = {}
    for name in draw(st.sets(st.sampled_from(NAMES), min_size=1)):
        sides = st.integers(1, draw(st.sampled_from([3, 12, 40])))
        shapes[name] = (draw(sides), draw(sides))[: 1 if "norm" in name or "bias" in name else 2]
    finite = len(POOL) - 3 * draw(st.booleans())
    share = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    models: list[dict[str, Raw]] = [{} for _ in dtypes]
    for name, shape in sorted(shapes.items()):
        base = POOL[rng.integers(0, finite, shape)]
        for number, (model, kind) in enumerate(zip(models, dtypes, strict=True)):
            moved = (rng.random(shape) < share) & (number > 0)
            model[name] = encode(np.where(moved, POOL[rng.integers(0, finite, shape)], base), kind)
    return models


def compare(models: list[dict[str, Raw]], config: dict[str, int], **options: Any) -> dict[str, Any]:
    """`diff` of folders that are gone afterwards; its report is JSON, strictly."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [
            write_checkpoint(Path(folder) / str(n), tensors, config=config, shards=min(len(tensors), 1 + n % 2))
            for n, tensors in enumerate(models)
        ]
        found: Any = suture.diff(*paths, spread=True, **options)
    json.dumps(found, allow_nan=False)
    assert isinstance(found, dict)
    return found


@settings(max_examples=60, deadline=None)
@given(
    families(),
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(1, 50),
    st.integers(1, 50),
    st.sampled_from(["1e-3,0.25", "0.5x", "0,0.125,1,2x"]),
    st.integers(1, 4),
)
def test_every_figure_is_the_oracles(
    models: list[dict[str, Raw]], keys: int, each: int, groups: int, tokens: int, above: str, threads: int
) -> None:
    """Laws 2 and 4: rows, roll-ups, slices and spread, all of them at once."""
    config = {"num_attention_heads": keys * each, "num_key_value_heads": keys}
    run = suture.Settings(threads=threads)
    found = compare(models, config, heads=True, neurons=groups, tokens=tokens, above=above, settings=run)
    values = [{name: raw.values() for name, raw in tensors.items()} for tensors in models]
    names, thresholds = sorted(values[0]), above.split(",")
    for tuned, model in zip(values[1:], found["models"], strict=True):
        rows = by_name(model)
        assert sorted(rows) == names
        for name in names:
            agrees(rows[name], values[0][name], tuned[name])
            agrees_in_spread(rows[name], values[0][name], tuned[name], thresholds)
        everything = joined([(values[0][name], tuned[name]) for name in names])
        agrees(model["total"], *everything)
        agrees_in_spread(model["total"], *everything, above=thresholds)
        for layer in model["layers"]:
            part = joined([(values[0][n], tuned[n]) for n in names if delta.place(n)[0] == layer["layer"]])
            agrees(layer, *part)
            agrees_in_spread(layer, *part, above=thresholds)
        check_slices(model, values[0], tuned, config, groups, tokens)


@settings(max_examples=40, deadline=None)
@given(families())
def test_every_pair_is_the_oracles(models: list[dict[str, Raw]]) -> None:
    """Laws 2 and 4: what two fine-tunes have in common, by tensor and altogether."""
    values = [{name: raw.values() for name, raw in tensors.items()} for tensors in models]
    pairs = compare(models, {})["pairs"]
    for pair, (first, second) in zip(pairs, itertools.combinations(values[1:], 2), strict=True):
        triples = {name: (base, first[name], second[name]) for name, base in values[0].items()}
        for name, row in by_name(pair).items():
            agrees_as_pair(row, *triples[name])
            assert row["overlap"] == delta.overlap([triples[name]])
        agrees_as_pair(pair["total"], *(laid(side) for side in zip(*triples.values(), strict=True)))
        assert pair["total"]["overlap"] == delta.overlap(triples.values())


def check_slices(
    model: dict[str, Any],
    base: dict[str, NDArray[Any]],
    tuned: dict[str, NDArray[Any]],
    config: dict[str, int],
    groups: int,
    tokens: int,
) -> None:
    """Heads, neuron groups and tokens: those there are and no others, each with its figures."""
    parts: dict[tuple[Any, ...], list[tuple[NDArray[Any], NDArray[Any]]]] = {}
    for name, values in base.items():
        heads = zip(delta.heads(name, values, config), delta.heads(name, tuned[name], config), strict=True)
        for head, both in enumerate(heads):
            parts.setdefault((*delta.place(name), head), []).append(both)
        pieces = zip(delta.neurons(name, values, groups), delta.neurons(name, tuned[name], groups), strict=True)
        for group, (b, x) in enumerate(pieces):
            parts[(*delta.place(name), group, *b[:2])] = [(b[2], x[2])]
        if "embed" in name:
            listed = [row["row"] for row in model["tokens"]]
            assert listed == delta.tokens(values, tuned[name], tokens)
            parts |= {(name, row, None): [(values[row], tuned[name][row])] for row in listed}
    found = {label(row): row for section in ("heads", "neurons", "tokens") for row in model[section]}
    assert found.keys() == parts.keys()
    for key, row in found.items():
        agrees(row, *joined(parts[key]))
