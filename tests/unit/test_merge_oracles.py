"""suture agrees with the oracles of tests/reference on random checkpoints, within one rounding."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import suture

from ..reference import config as oracle
from ..reference import dare, swap
from ..reference.linear import linear
from ..reference.passthrough import passthrough
from ..reference.rounding import round_to
from ..reference.select import trim
from ..reference.slerp import slerp
from ..reference.task_arithmetic import delta, task_arithmetic
from ..reference.ties import sign_margin, ties
from ..support.checkpoints import Raw, encode, read_checkpoint, write_checkpoint
from ..support.merging import Tensors, f64, keys, recipe

FLOATS = ("BF16", "F16", "F32")
USER_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
WEIGHTS = (0.61, -0.37, 0.53)
DENSITIES = (0.41, 0.77, 0.29)
#: Roundings in f32 on the way to an element of a sum of three changes: each change, its product with the weight
#: (which is rounded itself), two sums, the division, the product with lambda, the sum with the base.
SUM = 12
#: Scalars, single elements, nothing at all, primes, one more and one less than a block, several dimensions.
SHAPES: dict[str, tuple[int, ...]] = {
    "scalar": (),
    "one": (1,),
    "none": (0, 3),
    "three": (3,),
    "prime": (1009,),
    "block": (1023,),
    "blocks": (5, 1025),
    "cube": (7, 11, 13),
    "tiles": (4097, 3),
}


def promoted(dtypes: Sequence[str]) -> str:
    """The dtype of an output when the recipe sets none."""
    return dtypes[0] if len(set(dtypes)) == 1 else "F32"


def gap(values: NDArray[Any], dtype: str) -> NDArray[np.float64]:
    """The distance to the next larger number of a dtype."""
    if dtype == "F16":
        return np.asarray(np.spacing(np.abs(values).astype(np.float16)), dtype=np.float64)
    spacing = np.spacing(np.abs(values).astype(np.float32)).astype(np.float64)
    return np.asarray(spacing * (2.0**16 if dtype == "BF16" else 1.0), dtype=np.float64)


def assert_one_rounding(found: Raw, exact: NDArray[Any], size: NDArray[Any], name: str, roundings: int = 1) -> None:
    """Law 2: the nearest number of the output's dtype, give or take what f32 arithmetic adds on the way.

    `size` is the largest number on the way to each element, `roundings` how often the way rounds in f32.
    """
    assert found.shape == exact.shape, name
    values = f64(found.values())
    half = gap(np.maximum(np.abs(values), np.abs(exact)), found.dtype) / 2
    allowed = half + roundings * gap(size, "F32") / 2
    error = np.abs(values - exact)
    assert (error <= allowed).all(), f"{name}: {np.max(error / allowed)} of what is allowed"


def checkpoints(folder: Path, dtypes: Sequence[str], seed: int, spread: float) -> tuple[list[Path], list[Tensors]]:
    """A base and fine-tunes of these dtypes, written, and as the values they hold."""
    rng = np.random.default_rng(seed)
    base = {name: rng.normal(0, 0.5, shape) for name, shape in SHAPES.items()}
    folders, models = [], []
    for number, dtype in enumerate(dtypes):
        tensors = {
            name: encode(np.asarray(values + (spread * rng.normal(size=values.shape) if number else 0.0)), dtype)
            for name, values in base.items()
        }
        label = "base" if number == 0 else f"tuned-{number}"
        folders.append(write_checkpoint(folder / label, tensors, shards=1 + number % 2))
        models.append({name: raw.values() for name, raw in tensors.items()})
    return folders, models


def magnitudes(models: Sequence[Tensors], name: str, factors: Sequence[float]) -> NDArray[np.float64]:
    """The largest number that can turn up on the way to an element: base and all weighted changes, added up."""
    base = f64(models[0][name])
    changes = [abs(w) * np.abs(f64(m[name]) - base) for w, m in zip(factors, models[1:], strict=True)]
    return np.asarray(np.abs(base) + np.sum(changes, axis=0, initial=0.0), dtype=np.float64)


MIXES = [("BF16",) * 4, ("F16",) * 4, ("F32",) * 4, ("BF16", "F32", "F16", "BF16"), ("F16", "F16", "BF16", "F16")]
MIX_NAMES = ["bf16", "f16", "f32", "mixed", "one_other"]
mixes = pytest.mark.parametrize("dtypes", MIXES, ids=MIX_NAMES)
spreads = pytest.mark.parametrize("spread", [2e-3, 0.5], ids=["fine_tune", "far_apart"])


@mixes
@pytest.mark.parametrize("normalize", [True, False])
def test_linear(dtypes: Sequence[str], normalize: bool, tmp_path: Path) -> None:
    """Law 2 for linear: the sum is exact to f64 and rounded once, to the nearest."""
    folders, models = checkpoints(tmp_path, dtypes, 1, 0.5)
    weights = [0.9, *WEIGHTS]
    suture.merge(recipe("linear", folders, {"weight": weights}, {"normalize": normalize}), tmp_path / "out")
    for name, raw in read_checkpoint(tmp_path / "out").items():
        assert raw.dtype == promoted(dtypes)
        expected = linear([m[name] for m in models], weights, normalize=normalize)
        assert_one_rounding(raw, f64(expected), np.abs(f64(expected)), name)


@pytest.mark.parametrize("out_dtype", FLOATS)
@mixes
def test_passthrough_scaled(dtypes: Sequence[str], out_dtype: str, tmp_path: Path) -> None:
    """Law 2 for passthrough: one product, one rounding, into any dtype; unscaled, one rounding."""
    folders, models = checkpoints(tmp_path, dtypes[:1], 2, 0.0)
    for scale in (0.3, 1.0):
        config = recipe("passthrough", folders, {"scale": [scale]}, {}) | {"out_dtype": USER_NAMES[out_dtype]}
        out = tmp_path / f"out-{scale}"
        suture.merge(config, out)
        for name, raw in read_checkpoint(out).items():
            assert raw.dtype == out_dtype
            exact = f64(passthrough(models[0][name], scale))
            if scale == 1.0:
                assert raw == encode(models[0][name], out_dtype), name
            assert_one_rounding(raw, exact, np.abs(exact), name)


@mixes
@spreads
@pytest.mark.parametrize("t", [0.0, 0.35, 1.0])
def test_slerp(dtypes: Sequence[str], t: float, spread: float, tmp_path: Path) -> None:
    """Law 2 for slerp: the angle is that of the whole tensor in f64, the sum is rounded once."""
    folders, models = checkpoints(tmp_path, dtypes[:2], 3, spread)
    suture.merge(recipe("slerp", folders, {}, {"t": t}), tmp_path / "out")
    for name, raw in read_checkpoint(tmp_path / "out").items():
        assert raw.dtype == promoted(dtypes[:2])
        first, second = (m[name] for m in models)
        exact = f64(slerp(first, second, t))
        assert_one_rounding(raw, exact, np.abs(exact), name)
        if t in (0.0, 1.0):
            assert raw == encode(second if t else first, raw.dtype), name


@mixes
@spreads
@pytest.mark.parametrize(("lam", "normalize"), [(1.0, False), (0.7, True)])
def test_task_arithmetic(dtypes: Sequence[str], spread: float, lam: float, normalize: bool, tmp_path: Path) -> None:
    """Law 2 for task arithmetic: changes in f32, one rounding at the end."""
    folders, models = checkpoints(tmp_path, dtypes, 4, spread)
    shared = {"lambda": lam, "normalize": normalize}
    suture.merge(recipe("task_arithmetic", folders, {"weight": WEIGHTS}, shared), tmp_path / "out")
    divisor = sum(WEIGHTS) if normalize else 1.0
    for name, raw in read_checkpoint(tmp_path / "out").items():
        assert raw.dtype == promoted(dtypes)
        base, *tuned = (m[name] for m in models)
        expected = task_arithmetic(base, tuned, WEIGHTS, lam=lam, normalize=normalize)
        size = magnitudes(models, name, [lam * w / divisor for w in WEIGHTS])
        assert_one_rounding(raw, f64(expected), size, name, SUM)


def settled(deltas: Sequence[NDArray[Any]], weights: Sequence[float]) -> NDArray[np.bool_]:
    """Where the elected sign does not hang on rounding."""
    return np.asarray(sign_margin(deltas, weights) > 1e-6, dtype=np.bool_)


def masked(raw: Raw, expected: NDArray[Any], where: NDArray[np.bool_]) -> tuple[Raw, NDArray[np.float64]]:
    """Both, with the elements outside `where` taken out of the comparison."""
    exact = np.where(where, expected, raw.values())
    return raw, f64(exact)


@mixes
@spreads
@pytest.mark.parametrize("rescale", ["none", "l1"])
@pytest.mark.parametrize("normalize", [True, False])
def test_ties(dtypes: Sequence[str], spread: float, normalize: bool, rescale: str, tmp_path: Path) -> None:
    """Laws 2 and 4 for ties: the same elements kept and the same signs elected, one rounding at the end."""
    folders, models = checkpoints(tmp_path, dtypes, 5, spread)
    shared = {"normalize": normalize, "rescale": rescale, "lambda": 0.9}
    weights = [abs(w) for w in WEIGHTS]
    config = recipe("ties", folders, {"weight": weights, "density": DENSITIES}, shared)
    suture.merge(config, tmp_path / "out")
    for name, raw in read_checkpoint(tmp_path / "out").items():
        base, *tuned = (m[name] for m in models)
        expected = ties(base, tuned, weights, DENSITIES, lam=0.9, normalize=normalize, rescale=rescale == "l1")
        # Rescaled by l1 a change grows by less than 1/density; divided by agreeing weights, by less than 3.
        size = magnitudes(
            models, name, [(3 if normalize else 1) * w / d for w, d in zip(weights, DENSITIES, strict=True)]
        )
        where = settled([trim(delta(base, x), d) for x, d in zip(tuned, DENSITIES, strict=True)], weights)
        assert (~where).sum() <= 0.01 * where.size
        assert_one_rounding(*masked(raw, expected, where), size, name, SUM)


@mixes
@spreads
@pytest.mark.parametrize("rescale", ["density", "l1", "none"])
@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_dare(method: str, dtypes: Sequence[str], spread: float, rescale: str, tmp_path: Path) -> None:
    """Laws 2 and 3 for DARE: the same mask, element by element, and one rounding at the end."""
    folders, models = checkpoints(tmp_path, dtypes, 6, spread)
    config = recipe(method, folders, {"weight": WEIGHTS, "density": DENSITIES}, {"rescale": rescale})
    suture.merge(config, tmp_path / "out", settings=suture.Settings(seed=77))
    run = dare.dare_linear if method == "dare_linear" else dare.dare_ties
    labels = [folder.name for folder in folders[1:]]
    for name, raw in read_checkpoint(tmp_path / "out").items():
        base, *tuned = (m[name] for m in models)
        own = keys(77, labels, name)
        expected = run(base, tuned, WEIGHTS, DENSITIES, own, rescale=rescale)
        thinned = [dare.drop(delta(base, x), d, k, rescale) for x, d, k in zip(tuned, DENSITIES, own, strict=True)]
        changes = [abs(w) * np.abs(f64(c)) for w, c in zip(WEIGHTS, thinned, strict=True)]
        size = np.abs(f64(base)) + np.sum(changes, axis=0)
        where = settled(thinned, WEIGHTS) if method == "dare_ties" else np.ones(base.shape, dtype=np.bool_)
        assert_one_rounding(*masked(raw, expected, where), size, name, SUM)


LAYERS = 5
PARTS = {
    "input_layernorm.weight": (33,),
    "self_attn.q_proj.weight": (33, 33),
    "self_attn.o_proj.weight": (33, 33),
    "mlp.up_proj.weight": (67, 33),
    "mlp.down_proj.weight": (33, 67),
}
GRADIENT = [{"filter": "self_attn", "value": [0.1, 0.9, 0.3]}, {"filter": "mlp", "value": [1.0, 0.25]}, {"value": 0.6}]
CONFIGS: dict[str, dict[str, Any]] = {
    "linear_gradients": {
        "merge_method": "linear",
        "models": [
            {"model": "base", "parameters": {"weight": GRADIENT}},
            {"model": "one", "parameters": {"weight": 0.7}},
            {"model": "two", "parameters": {"weight": [0.2, 0.4, 0.9, 0.1]}},
        ],
    },
    "linear_slices": {
        "merge_method": "linear",
        "slices": [
            {
                "sources": [
                    {"model": "one", "layer_range": [0, 3], "parameters": {"weight": [1.0, 0.5]}},
                    {"model": "two", "layer_range": [2, 5], "parameters": {"weight": 0.4}},
                ]
            },
            {
                "sources": [
                    {"model": "two", "layer_range": [1, 2], "parameters": {"weight": [0.3, 0.8]}},
                    {"model": "base", "layer_range": [4, 5]},
                ],
                "parameters": {"weight": GRADIENT},
            },
        ],
    },
    "slerp_gradients": {
        "merge_method": "slerp",
        "base_model": "one",
        "models": [{"model": "one"}, {"model": "two"}],
        "parameters": {"t": GRADIENT},
    },
    "slerp_base_second": {
        "merge_method": "slerp",
        "base_model": "two",
        "slices": [{"sources": [{"model": "one", "layer_range": [0, 5]}, {"model": "two", "layer_range": [0, 5]}]}],
        "parameters": {"t": [0.0, 0.2, 1.0]},
    },
    "task_arithmetic_gradients": {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [
            {"model": "one", "parameters": {"weight": GRADIENT}},
            {"model": "two", "parameters": {"weight": -0.4}},
        ],
        "parameters": {"lambda": [0.5, 1.5]},
    },
    "task_arithmetic_slices": {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "slices": [
            {"sources": [{"model": m, "layer_range": [3, 5]} for m in ("base", "one", "two")]},
            {"sources": [{"model": m, "layer_range": [0, 4]} for m in ("base", "one", "two")]},
        ],
        "parameters": {"weight": [0.3, 0.6], "normalize": True},
    },
    "ties_gradients": {
        "merge_method": "ties",
        "base_model": "base",
        "models": [
            {"model": "one", "parameters": {"weight": 0.61, "density": GRADIENT}},
            {"model": "two", "parameters": {"weight": [0.37, 0.83]}},
        ],
        "parameters": {"density": 0.35, "lambda": 0.8},
    },
    "passthrough_stack": {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": "one", "layer_range": [0, 4]}]},
            {"sources": [{"model": "two", "layer_range": [1, 4], "parameters": {"scale": GRADIENT}}]},
            {"sources": [{"model": "base", "layer_range": [4, 5]}]},
        ],
    },
}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], dict[str, Tensors]]:
    """Three models of five layers, dtypes mixed from tensor to tensor and from model to model."""
    folder, rng = tmp_path_factory.mktemp("oracles"), np.random.default_rng(8)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (41, 33)}
    for layer, (part, shape) in itertools.product(range(LAYERS), PARTS.items()):
        shapes[f"model.layers.{layer}.{part}"] = shape
    shapes |= {"model.norm.weight": (33,), "lm_head.weight": (41, 33)}
    base = {name: rng.normal(0, 0.1, shape) for name, shape in shapes.items()}
    paths, models = {}, {}
    for number, model in enumerate(("base", "one", "two")):
        tensors = {
            name: encode(values + 0.03 * rng.normal(size=values.shape) * (number > 0), FLOATS[(i // 7 + number) % 3])
            for i, (name, values) in enumerate(base.items())
        }
        config = {"model_type": "llama", "num_hidden_layers": LAYERS}
        paths[model] = str(write_checkpoint(folder / model, tensors, shards=number + 1, config=config))
        models[model] = {name: raw.values() for name, raw in tensors.items()}
    return paths, models


@pytest.mark.parametrize("out_dtype", FLOATS)
@pytest.mark.parametrize("name", CONFIGS)
def test_whole_configs(
    name: str, out_dtype: str, family: tuple[dict[str, str], dict[str, Tensors]], tmp_path: Path
) -> None:
    """The grammar: slices, gradients, filters and precedence resolve as the oracle's, tensor by tensor."""
    paths, models = family
    config = CONFIGS[name]
    expected = oracle.merge(config, models)
    suture.merge(oracle.rooted(config, paths) | {"out_dtype": USER_NAMES[out_dtype]}, tmp_path / "out")
    found = read_checkpoint(tmp_path / "out")
    assert sorted(found) == sorted(expected)
    largest = max(float(np.abs(t).max()) for m in models.values() for t in m.values())
    for tensor, raw in found.items():
        assert raw.dtype == out_dtype
        exact = f64(expected[tensor])
        # A few units of f32 in the largest weight there is; what the grammar decides is larger by far.
        assert_one_rounding(raw, exact, np.full(exact.shape, 2 * largest), tensor, SUM)


@mixes
@pytest.mark.parametrize("weight", [0.5, 0.3])
def test_blended_layers(dtypes: Sequence[str], weight: float, tmp_path: Path) -> None:
    """Law 2 for swaps: a blended layer is rounded once, into the recipient's dtype; others are bytes."""
    rng = np.random.default_rng(9)
    stored: list[dict[str, Raw]] = []
    for dtype in dtypes[:2]:
        stored.append({f"layers.{i}.w": encode(rng.normal(size=(13, 79)), dtype) for i in range(6)})
    into, donor = (write_checkpoint(tmp_path / n, t) for n, t in zip(("into", "from"), stored, strict=True))
    suture.swap(into, donor, tmp_path / "out", bottom=1, top=2, transition=1, blend=weight)
    roles = swap.roles(6, bottom=1, top=2, transition=1)
    for i, role in enumerate(roles):
        name = f"layers.{i}.w"
        raw, (mine, theirs) = read_checkpoint(tmp_path / "out")[name], (t[name] for t in stored)
        assert raw.dtype == dtypes[0]
        if role == "into":
            assert raw == mine
        elif role == "donor":
            assert raw == (
                theirs if theirs.dtype == raw.dtype else encode(round_to(theirs.values(), raw.dtype), raw.dtype)
            )
        else:
            exact = weight * f64(theirs.values()) + (1 - weight) * f64(mine.values())
            size = np.abs(f64(theirs.values())) + np.abs(f64(mine.values()))
            assert_one_rounding(raw, exact, size, name)
