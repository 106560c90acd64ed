"""Every method of the catalogue agrees with its oracle of tests/reference on random small models."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import suture

from ..reference import arcee, elementwise, gram, pcb, sparse
from ..reference.emr import emr, unified
from ..reference.sce import sce
from ..reference.task_arithmetic import delta
from ..reference.ties import sign_margin
from ..reference.varm import varm
from ..support.checkpoints import Raw, encode, read_checkpoint, write_checkpoint
from ..support.merging import KINDS, Family, Tensors, assert_matches, f64, keys, make_family, recipe

TOLERANCE = 2e-6
GRAM = 2e-5
#: Decisions closer to a tie than this may fall either way in f32.
CLOSE = 1e-6
SEED = 77

Settled = dict[str, NDArray[np.bool_]]
kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Family]:
    """A base and four fine-tunes of each kind."""
    return {kind: make_family(tmp_path_factory.mktemp(kind), kind, 4, 20 + i) for i, kind in enumerate(KINDS)}


def merged(
    method: str,
    family: Family,
    out: Path,
    per_input: Mapping[str, Sequence[Any]] | None = None,
    shared: Mapping[str, Any] | None = None,
    *,
    based: bool = True,
) -> dict[str, Raw]:
    """What suture makes of the family; without `based`, of the fine-tunes alone."""
    folders = family.folders if based else family.folders[1:]
    config = recipe(method, folders, per_input or {}, shared or {}, based=based) | {"out_dtype": "float32"}
    suture.merge(config, out, settings=suture.Settings(seed=SEED))
    return read_checkpoint(out)


def each(family: Family, oracle: Callable[[NDArray[Any], list[NDArray[Any]]], NDArray[Any]]) -> Tensors:
    """An oracle of one tensor, for all."""
    return {name: oracle(base, [t[name] for t in family.tuned]) for name, base in family.base.items()}


def changes(family: Family, name: str) -> list[NDArray[np.float32]]:
    return [delta(family.base[name], t[name]) for t in family.tuned]


def decided(margin: NDArray[Any], *, ties: bool) -> NDArray[np.bool_]:
    """Where a decision does not hang on rounding; with `ties` exact ones are decided."""
    return np.asarray((margin > CLOSE) | (ties & (margin == 0.0)), dtype=np.bool_)


# Sparse task arithmetic

WEIGHTS = {"f32": (0.61, -0.37, 0.53), "bf16": (0.61, -0.37, 0.53), "grid": (1.0, -0.5, 0.5)}
DENSITIES = {"f32": (0.41, 0.77, 0.29), "bf16": (0.41, 0.77, 0.29), "grid": (0.5, 0.25, 0.5)}
GAMMAS = (0.02, 0.07, 0.0)
EPSILONS = (0.15, 0.1, 0.2)
SPARSE: list[tuple[str, dict[str, Any]]] = [
    ("task_arithmetic", {}),
    ("task_arithmetic", {"normalize": True, "lambda": 0.7}),
    ("task_arithmetic", {"consensus": "sum"}),
    ("task_arithmetic", {"reduce": "mean"}),
    ("task_arithmetic", {"sparsify": "magnitude", "rescale": True}),
    ("task_arithmetic", {"sparsify": "breadcrumbs", "consensus": "count", "normalize": True}),
    ("ties", {}),
    ("ties", {"normalize": False, "rescale": "l2", "lambda": 1.3}),
    ("ties", {"rescale": True}),
    ("ties", {"scope": "row"}),
    ("ties", {"scope": "row", "rescale": "density"}),
    ("ties", {"scope": "model"}),
    ("ties", {"consensus": "count"}),
    ("ties", {"consensus": "none"}),
    ("ties", {"reduce": "normalized", "normalize": False, "int8_mask": True}),
    ("dare_linear", {}),
    ("dare_linear", {"rescale": False, "normalize": True}),
    ("dare_linear", {"rescale": "l2"}),
    ("dare_ties", {}),
    ("dare_ties", {"rescale": "none", "consensus": "count", "normalize": True}),
    ("della", {}),
    ("della", {"rescale": False}),
    ("della", {"rescale": "l1", "normalize": False}),
    ("della_linear", {}),
    ("della_linear", {"rescale": "l2", "lambda": 0.8}),
    ("breadcrumbs", {}),
    ("breadcrumbs", {"rescale": True}),
    ("breadcrumbs", {"rescale": "density"}),
    ("breadcrumbs", {"scope": "row"}),
    ("breadcrumbs", {"scope": "model"}),
    ("breadcrumbs_ties", {}),
    ("breadcrumbs_ties", {"normalize": True, "rescale": "l2"}),
    ("cabs", {}),
    ("cabs", {"block": 64, "rescale": "density"}),
    ("cabs", {"block": 7, "rescale": True, "lambda": 1.2}),
    ("localize_and_stitch", {}),
    ("localize_and_stitch", {"scope": "tensor"}),
    ("localize_and_stitch", {"reduce": "sum", "rescale": "l1"}),
    ("lines", {}),
    ("lines", {"alpha": 0.3, "beta": 0.9}),
    ("lines", {"alpha": 0.5, "beta": 0.25, "normalize": True}),
]
SHARED_WORDS = {"lambda": "lam", "block": "block", "alpha": "alpha", "beta": "beta"}


def sparse_expected(
    method: str, options: Mapping[str, Any], family: Family, densities: Sequence[float]
) -> tuple[Tensors, Settled]:
    """The oracle's output, and where its elections are no matter of rounding."""
    labels = [folder.name for folder in family.folders[1:]]
    words = {k: v for k, v in options.items() if k not in SHARED_WORDS and k != "int8_mask"}
    found = sparse.stages(method, **words)
    preset = {"alpha": 1.0, "beta": 1.0} if method == "lines" else {}
    settings = preset | {SHARED_WORDS[k]: v for k, v in options.items() if k in SHARED_WORDS}
    shared = sparse.Shared(key=lambda i, name: keys(SEED, labels, name)[i], **settings)
    weights = WEIGHTS[family.kind]
    tuned = [sparse.Tuned(*own) for own in zip(family.tuned, weights, densities, GAMMAS, EPSILONS, strict=True)]
    expected = sparse.sparse(found, family.base, tuned, shared)
    kept = sparse.thinned(found, family.base, tuned, shared)
    if found.consensus != "sum":
        return dict(expected), {n: np.ones(values.shape, dtype=np.bool_) for n, values in family.base.items()}
    ties = family.exact and (found.rescale == "none" or (found.rescale == "density" and found.sparsify != "della"))
    return dict(expected), {n: decided(sign_margin([k[n] for k in kept], weights), ties=ties) for n in family.base}


@kinds
@pytest.mark.parametrize(("method", "options"), SPARSE, ids=[f"{m}-{'-'.join(map(str, o))}" for m, o in SPARSE])
def test_sparse(
    method: str, options: Mapping[str, Any], kind: str, families: Mapping[str, Family], tmp_path: Path
) -> None:
    """Laws 2, 3 and 4 for sparse task arithmetic: every preset, every stage that it can be given."""
    family, densities = families[kind].first(3), DENSITIES[kind]
    per_input = {"weight": WEIGHTS[kind], "density": densities, "gamma": GAMMAS, "epsilon": EPSILONS}
    found = merged(method, family, tmp_path / "out", per_input, options)
    expected, settled = sparse_expected(method, options, family, densities)
    assert_matches(found, expected, family, tolerance=TOLERANCE, settled=settled)


@pytest.mark.parametrize("method", sparse.PRESETS)
def test_sparse_density_of_one(method: str, families: Mapping[str, Family], tmp_path: Path) -> None:
    """A density of one leaves a change whole, whatever the others' densities; cabs still takes turns."""
    family, densities = families["bf16"].first(3), (0.35, 1.0, 0.6)
    per_input = {"weight": WEIGHTS["bf16"], "density": densities, "gamma": GAMMAS, "epsilon": EPSILONS}
    found = merged(method, family, tmp_path / "out", per_input)
    expected, settled = sparse_expected(method, {}, family, densities)
    assert_matches(found, expected, family, tolerance=TOLERANCE, settled=settled)


def test_weights_that_sum_to_zero(families: Mapping[str, Family], tmp_path: Path) -> None:
    """Nothing divides by a sum of weights that is zero."""
    family = families["grid"].first(2)
    with pytest.raises(suture.SutureError):
        merged("task_arithmetic", family, tmp_path / "out", {"weight": (0.5, -0.5)}, {"normalize": True})


# Coefficients from norms and angles

NUSLERP: list[dict[str, bool]] = [
    {},
    {"nuslerp_flatten": False},
    {"nuslerp_flatten": False, "nuslerp_row_wise": True},
]


@kinds
@pytest.mark.parametrize("weights", [(0.4, 0.7), (0.5, -0.5), (1.3, -0.2)], ids=str)
@pytest.mark.parametrize("shared", NUSLERP, ids=["flat", "rows", "columns"])
@pytest.mark.parametrize("based", [False, True], ids=["models", "changes"])
def test_nuslerp(
    based: bool,
    shared: dict[str, bool],
    weights: tuple[float, float],
    kind: str,
    families: Mapping[str, Family],
    tmp_path: Path,
) -> None:
    """NuSLERP: the arc of whole tensors, of rows or of columns; weights that cancel meet in the middle."""
    family = families[kind].first(2)
    found = merged("nuslerp", family, tmp_path / "out", {"weight": weights}, shared, based=based)
    how = {key.removeprefix("nuslerp_"): value for key, value in shared.items()}
    expected = each(family, lambda b, x: gram.nuslerp(x, weights, base=b if based else None, **how))
    assert_matches(found, expected, family, tolerance=GRAM, keeps=based)


@kinds
@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("normalize", [True, False], ids=["shares", "weights"])
@pytest.mark.parametrize("based", [False, True], ids=["models", "changes"])
def test_multislerp(
    based: bool, normalize: bool, count: int, kind: str, families: Mapping[str, Family], tmp_path: Path
) -> None:
    """Multi-SLERP: the mean direction at the mean norm; a tensor that nobody changed stays."""
    family, weights = families[kind].first(count), (0.5, 0.3, 0.4, 0.25)[:count]
    if count == 1:
        weights = (1.0,)
    shared = {"normalize_weights": normalize, "eps": 1e-8}
    found = merged("multislerp", family, tmp_path / "out", {"weight": weights}, shared, based=based)
    expected = each(
        family, lambda b, x: gram.multislerp(x, weights, base=b if based else None, normalize_weights=normalize)
    )
    assert_matches(found, expected, family, tolerance=GRAM, keeps=based)


@kinds
@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("shared", [{}, {"max_iter": 1, "tol": 1e-4}], ids=["default", "one_step"])
def test_karcher(shared: dict[str, Any], count: int, kind: str, families: Mapping[str, Family], tmp_path: Path) -> None:
    """The Karcher mean, also of single elements, whose directions may only be opposite or the same."""
    family = families[kind].first(count)
    found = merged("karcher", family, tmp_path / "out", shared=shared, based=False)
    expected = each(family, lambda b, x: gram.karcher(x, **shared))
    assert_matches(found, expected, family, tolerance=GRAM, keeps=False)


@kinds
@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("filter_wise", [False, True])
def test_model_stock(filter_wise: bool, count: int, kind: str, families: Mapping[str, Family], tmp_path: Path) -> None:
    """Model Stock, a ratio for each tensor or each row."""
    family = families[kind].first(count)
    found = merged("model_stock", family, tmp_path / "out", shared={"filter_wise": filter_wise})
    expected = each(family, lambda b, x: gram.model_stock(b, x, filter_wise=filter_wise))
    assert_matches(found, expected, family, tolerance=GRAM, keeps=False)


@kinds
def test_metagpt(kind: str, families: Mapping[str, Family], tmp_path: Path) -> None:
    """MetaGPT: coefficients from the norms of whole models."""
    family = families[kind].first(3)
    found = merged("metagpt", family, tmp_path / "out")
    assert_matches(found, gram.metagpt(family.base, family.tuned), family, tolerance=GRAM)


@pytest.fixture
def opposed(tmp_path: Path) -> Family:
    """Changes that point the same way (`along`) and opposite ways (`against`), at norms of 1 to 4; and none."""
    rng = np.random.default_rng(31)
    base = {name: np.zeros((6, 11), dtype=np.float32) for name in ("along", "against", "unmoved")}
    drawn = rng.normal(size=(6, 11)).astype(np.float32)
    folders = [write_checkpoint(tmp_path / "base", base)]
    tuned = []
    for number, (along, against) in enumerate([(1, 1), (4, -1)]):
        tensors = {"along": along * drawn, "against": against * drawn, "unmoved": base["unmoved"]}
        tensors = {name: values.astype(np.float32) for name, values in tensors.items()}
        folders.append(write_checkpoint(tmp_path / f"tuned-{number}", tensors))
        tuned.append(tensors)
    return Family("f32", folders, base, tuned)


@pytest.mark.parametrize("based", [False, True], ids=["models", "changes"])
@pytest.mark.parametrize("shared", NUSLERP, ids=["flat", "rows", "columns"])
def test_nuslerp_without_an_arc(based: bool, shared: dict[str, bool], opposed: Family, tmp_path: Path) -> None:
    """Parallel, antipodal and zero vectors are interpolated along the line."""
    found = merged("nuslerp", opposed, tmp_path / "out", {"weight": (1.0, 3.0)}, shared, based=based)
    for name, raw in found.items():
        u, v = (f64(t[name]) for t in opposed.tuned)
        np.testing.assert_allclose(raw.values(), 0.25 * u + 0.75 * v, rtol=0, atol=GRAM, err_msg=name)


@pytest.mark.parametrize("based", [False, True], ids=["models", "changes"])
def test_multislerp_without_a_direction(based: bool, opposed: Family, tmp_path: Path) -> None:
    """Two directions that cancel are averaged as they are."""
    found = merged("multislerp", opposed, tmp_path / "out", {"weight": (0.5, 0.5)}, based=based)
    expected = each(opposed, lambda b, x: gram.multislerp(x, (0.5, 0.5)))
    assert_matches(found, expected, opposed, tolerance=GRAM, keeps=False)


def test_multislerp_refuses_directions_that_cancel(tmp_path: Path) -> None:
    """Three or more directions that cancel have no mean: an error, with the tensor's name."""
    drawn = np.random.default_rng(32).normal(size=(4, 5)).astype(np.float32)
    folders = [write_checkpoint(tmp_path / f"m{i}", {"some.weight": k * drawn}) for i, k in enumerate((1, 1, -2))]
    config = recipe("multislerp", folders, {"weight": (0.25, 0.25, 0.5)}, {}, based=False)
    with pytest.raises(suture.SutureError, match=r"some\.weight"):
        suture.merge(config, tmp_path / "out")


def test_unchanged_models_are_the_base(tmp_path: Path) -> None:
    """Where no norm says anything, nothing changes."""
    base: Tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.asarray(2.5, dtype=np.float32)}
    folders = [write_checkpoint(tmp_path / name, base) for name in ("base", "one", "two", "three")]
    for method in ("metagpt", "model_stock", "emr", "varm", "pcb", "sce"):
        suture.merge(recipe(method, folders, {}, {}, based=True), tmp_path / method)
        for name, raw in read_checkpoint(tmp_path / method).items():
            assert raw == encode(base[name], "F32"), (method, name)


# Element by element


@kinds
@pytest.mark.parametrize("t", [0.0, 2e-3, 0.125, 10.0])
def test_nearswap(t: float, kind: str, families: Mapping[str, Family], tmp_path: Path) -> None:
    """NearSwap: all the way where the models are near, a little where they are far."""
    family = families[kind].first(1)
    found = merged("nearswap", family, tmp_path / "out", shared={"t": t})
    assert_matches(found, each(family, lambda b, x: elementwise.nearswap(b, x[0], t)), family, tolerance=TOLERANCE)


RAM: list[dict[str, float]] = [{}, {"epsilon": 0.125}]


@kinds
@pytest.mark.parametrize("count", [1, 3, 4])
@pytest.mark.parametrize("shared", RAM, ids=["default", "epsilon"])
def test_ram(shared: dict[str, float], count: int, kind: str, families: Mapping[str, Family], tmp_path: Path) -> None:
    """RAM: the mean of what is larger than epsilon, strictly."""
    family = families[kind].first(count)
    found = merged("ram", family, tmp_path / "out", shared=shared)
    assert_matches(found, each(family, lambda b, x: elementwise.ram(b, x, **shared)), family, tolerance=TOLERANCE)


RAMPLUS = [{}, {"r": 0.5, "alpha": 3.0}, {"epsilon": 0.125, "r": 0.4, "alpha": 0.9}]


@kinds
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("shared", RAMPLUS, ids=["default", "factors", "epsilon"])
def test_ramplus_tl(
    shared: dict[str, float], count: int, kind: str, families: Mapping[str, Family], tmp_path: Path
) -> None:
    """RAM+: counts over the tensor set the factor of what one model alone changed."""
    family = families[kind].first(count)
    found = merged("ramplus_tl", family, tmp_path / "out", shared=shared)
    expected = each(family, lambda b, x: elementwise.ramplus_tl(b, x, **shared))
    assert_matches(found, expected, family, tolerance=TOLERANCE)


@kinds
@pytest.mark.parametrize(("weights", "lam"), [(None, 1.0), ((0.5, 2.0, -1.0), 0.75)], ids=["default", "weighted"])
def test_magmax(
    weights: Sequence[float] | None, lam: float, kind: str, families: Mapping[str, Family], tmp_path: Path
) -> None:
    """MagMax: the largest weighted change; of equals the later model's (weights are powers of two: exact)."""
    family = families[kind].first(3)
    found = merged("magmax", family, tmp_path / "out", {"weight": weights} if weights else {}, {"lambda": lam})
    expected = each(family, lambda b, x: elementwise.magmax(b, x, weights, lam=lam))
    assert_matches(found, expected, family, tolerance=TOLERANCE)


@kinds
@pytest.mark.parametrize("alpha", [0.0, 0.3, -0.5])
def test_expo(alpha: float, kind: str, families: Mapping[str, Family], tmp_path: Path) -> None:
    """ExPO: beyond the model by a share of its change."""
    family = families[kind].first(1)
    found = merged("expo", family, tmp_path / "out", shared={"alpha": alpha})
    assert_matches(found, each(family, lambda b, x: elementwise.expo(b, x[0], alpha)), family, tolerance=TOLERANCE)


LAMBDAS = {"f32": (0.4, 0.6, 0.9), "bf16": (0.43, 0.61, 0.93), "grid": (0.5, 0.25, 1.0)}


def tall_settled(family: Family, lambdas: Sequence[float], alpha: float) -> Settled:
    """Where no mask is a matter of rounding."""
    margins = each(family, lambda b, x: elementwise.tall_margins(b, x, lambdas, alpha))
    return {n: np.asarray(decided(margin, ties=family.exact).all(axis=0)) for n, margin in margins.items()}


@kinds
@pytest.mark.parametrize("task", [1, 2, 3])
@pytest.mark.parametrize("alpha", [1.0, 0.75])
def test_tall_mask(alpha: float, task: int, kind: str, families: Mapping[str, Family], tmp_path: Path) -> None:
    """TALL mask: the merged change where the task's own outweighs the others', strictly."""
    family, lambdas = families[kind].first(3), LAMBDAS[kind]
    shared = {"task": task, "alpha": alpha}
    found = merged("tall_mask", family, tmp_path / "out", {"tall_lambda": lambdas}, shared)
    expected = each(family, lambda b, x: elementwise.tall_mask(b, x, lambdas, task, alpha=alpha))
    settled = tall_settled(family, lambdas, alpha)
    assert_matches(found, expected, family, tolerance=TOLERANCE, settled=settled)


@kinds
@pytest.mark.parametrize("shared", [{}, {"k": 1, "lambda": 1.0}, {"k": 3, "alpha": 0.75}], ids=str)
def test_consensus_ta(shared: dict[str, Any], kind: str, families: Mapping[str, Family], tmp_path: Path) -> None:
    """Consensus task arithmetic: what at least k masks keep."""
    family, lambdas = families[kind].first(3), LAMBDAS[kind]
    found = merged("consensus_ta", family, tmp_path / "out", {"tall_lambda": lambdas}, shared)
    how = {"lam" if key == "lambda" else key: value for key, value in shared.items()}
    expected = each(family, lambda b, x: elementwise.consensus_ta(b, x, lambdas, **how))
    settled = tall_settled(family, lambdas, shared.get("alpha", 1.0))
    assert_matches(found, expected, family, tolerance=TOLERANCE, settled=settled)


@pytest.mark.parametrize("method", ["tall_mask", "consensus_ta"])
def test_tall_default_lambda(method: str, families: Mapping[str, Family], tmp_path: Path) -> None:
    """A lambda of 0.4 for the masks, and for consensus for the sum."""
    family = families["f32"].first(2)
    found = merged(method, family, tmp_path / "out", shared={"task": 2} if method == "tall_mask" else {})
    default = (0.4, 0.4)
    tall, consensus = elementwise.tall_mask, elementwise.consensus_ta
    expected = each(family, lambda b, x: tall(b, x, default, 2) if method == "tall_mask" else consensus(b, x, default))
    assert_matches(found, expected, family, tolerance=TOLERANCE, settled=tall_settled(family, default, 1.0))


@kinds
@pytest.mark.parametrize(("weights", "floor"), [(None, 1e-6), ((0.5, 2.0, 0.8), 0.01)], ids=["default", "weighted"])
def test_fisher(
    weights: Sequence[float] | None, floor: float, kind: str, families: Mapping[str, Family], tmp_path: Path
) -> None:
    """Fisher averaging: squared gradients come from checkpoints with the same names; zeros count as the floor."""
    family, rng = families[kind].first(3), np.random.default_rng(41)
    squares, paths = [], []
    for number in range(3):
        drawn = {n: rng.exponential(0.02, v.shape) * (rng.random(v.shape) > 0.3) for n, v in family.base.items()}
        stored = {name: encode(np.asarray(values), ("F32", "BF16")[number % 2]) for name, values in drawn.items()}
        paths.append(str(write_checkpoint(tmp_path / f"fisher-{number}", stored, shards=1 + number)))
        squares.append({name: raw.values() for name, raw in stored.items()})
    per_input = {"fisher": paths} | ({"weight": weights} if weights else {})
    shared = {} if floor == 1e-6 else {"floor": floor}
    found = merged("fisher", family, tmp_path / "out", per_input, shared, based=False)
    expected = {
        name: elementwise.fisher([t[name] for t in family.tuned], [f[name] for f in squares], weights, floor=floor)
        for name in family.base
    }
    assert_matches(found, expected, family, tolerance=TOLERANCE, keeps=False)


# Order statistics

#: Where the order of variances is decided: two models, or four on the grid, where a mean is exact.
SCE_COUNTS = [("f32", 2), ("f32", 3), ("f32", 4), ("bf16", 2), ("grid", 2), ("grid", 4)]


def majority_settled(family: Family) -> Settled:
    """Where the sign of the sum of changes is no matter of rounding."""
    equal = [1.0] * len(family.tuned)
    return {name: decided(sign_margin(changes(family, name), equal), ties=True) for name in family.base}


@pytest.mark.parametrize("mask", ["deltas", "weights"])
@pytest.mark.parametrize("topk", [0.1, 0.37, 0.5])
@pytest.mark.parametrize(("kind", "count"), SCE_COUNTS)
def test_sce(kind: str, count: int, topk: float, mask: str, families: Mapping[str, Family], tmp_path: Path) -> None:
    """Law 4 for SCE: exactly k of the elements that vary, in mergekit's reading and in FuseChat's code's."""
    family = families[kind].first(count)
    found = merged("sce", family, tmp_path / "out", shared={"select_topk": topk, "mask": mask})
    expected = each(family, lambda b, x: sce(b, x, topk=topk, mask=mask))
    assert_matches(found, expected, family, tolerance=TOLERANCE, settled=majority_settled(family))


@kinds
def test_sce_of_everything(kind: str, families: Mapping[str, Family], tmp_path: Path) -> None:
    """SCE without selection: weights by energy, however small the changes are."""
    family = families[kind].first(3)
    found = merged("sce", family, tmp_path / "out")
    assert_matches(found, each(family, sce), family, tolerance=TOLERANCE, settled=majority_settled(family))


@kinds
def test_arcee_fusion(kind: str, families: Mapping[str, Family], tmp_path: Path) -> None:
    """Law 4 for Arcee Fusion: exact quantiles of an importance in f64."""
    family = families[kind].first(1)
    found = merged("arcee_fusion", family, tmp_path / "out")
    expected = each(family, lambda b, x: arcee.arcee_fusion(b, x[0]))
    settled: Settled = {}
    for name, base in family.base.items():
        settled[name] = np.ones(base.shape, dtype=np.bool_)
        if base.size > 3:
            weight = arcee.importance(base, family.tuned[0][name])
            limit = arcee.threshold(weight)
            settled[name] = np.asarray((np.abs(weight - limit) > CLOSE * limit) | (limit == 0.0), dtype=np.bool_)
    # In a vector importance is a multiple of the change: coarse changes lie at the limit itself.
    assert_matches(found, expected, family, tolerance=TOLERANCE, settled=settled, at_most=0.25)


# Whole models


def pcb_settled(family: Family, ratio: float, clip: float) -> Settled:
    """Where no score is at the threshold by a rounding only."""
    scored = pcb.scores(pcb.flat(family.base, family.tuned), clip)
    limits = pcb.thresholds(scored, ratio)[:, None]
    margin = np.abs(scored - limits) / (scored.max(axis=1, keepdims=True) - limits)
    parts = np.split(decided(margin, ties=True).all(axis=0), np.cumsum([v.size for v in family.base.values()])[:-1])
    return {n: part.reshape(v.shape) for (n, v), part in zip(family.base.items(), parts, strict=True)}


PCB: list[tuple[dict[str, float], Sequence[float] | None]] = [
    ({}, None),
    ({"ratio": 0.35, "clip": 0.01, "lambda": 1.2}, (0.8, 1.1, 1.3)),
    ({"ratio": 1.0}, None),
]


@kinds
@pytest.mark.parametrize(("shared", "weights"), PCB, ids=["default", "weighted", "everything"])
def test_pcb(
    shared: dict[str, float],
    weights: Sequence[float] | None,
    kind: str,
    families: Mapping[str, Family],
    tmp_path: Path,
) -> None:
    """PCB: quantiles and extremes over all tensors of a model together."""
    family = families[kind].first(3)
    found = merged("pcb", family, tmp_path / "out", {"weight": weights} if weights else {}, shared)
    how = {"lam" if key == "lambda" else key: value for key, value in shared.items()}
    expected = pcb.pcb(family.base, family.tuned, weights, **how)
    settled = pcb_settled(family, shared.get("ratio", 0.1), shared.get("clip", 1e-4))
    assert_matches(found, expected, family, tolerance=TOLERANCE, settled=settled)


@kinds
@pytest.mark.parametrize("task", [0, 1, 3])
def test_emr(task: int, kind: str, families: Mapping[str, Family], tmp_path: Path) -> None:
    """EMR: the elected change, and what mask and scale give back for a task."""
    family = families[kind].first(3)
    found = merged("emr", family, tmp_path / "out", shared={"task": task} if task else {})
    expected = emr(family.base, family.tuned, task=task)
    assert_matches(found, expected, family, tolerance=TOLERANCE, settled=majority_settled(family))


@kinds
def test_emr_masks_give_the_model_back(kind: str, families: Mapping[str, Family], tmp_path: Path) -> None:
    """EMR's masks are BOOL tensors, its scale is in the report; with the unified model they make the task's model."""
    family = families[kind].first(3)
    merged("emr", family, tmp_path / "unified")
    masks = merged("emr", family, tmp_path / "masks", shared={"task": 2, "masks": True})
    assert {raw.dtype for raw in masks.values()} == {"BOOL"}
    changes = [{name: delta(base, t[name]) for name, base in family.base.items()} for t in family.tuned]
    settled = majority_settled(family)
    for name, raw in masks.items():
        agrees = changes[1][name] * unified([c[name] for c in changes]) > 0
        np.testing.assert_array_equal(raw.values()[settled[name]], agrees[settled[name]])
    report = json.loads((tmp_path / "masks" / "suture.json").read_text())
    (scale,) = {tensor["found"]["scale"] for tensor in report["tensors"].values()}
    config = {
        "merge_method": "mask",
        "base_model": str(family.folders[0]),
        "models": [
            {
                "model": str(tmp_path / "unified"),
                "parameters": {"weight": scale, "masks": str(tmp_path / "masks")},
            }
        ],
        "out_dtype": "float32",
    }
    suture.merge(config, tmp_path / "back")
    expected = emr(family.base, family.tuned, task=2)
    assert_matches(read_checkpoint(tmp_path / "back"), expected, family, tolerance=TOLERANCE, settled=settled)


@kinds
@pytest.mark.parametrize("weights", [None, (0.5, -2.0, 0.8)], ids=["default", "weighted"])
def test_mask(weights: Sequence[float] | None, kind: str, families: Mapping[str, Family], tmp_path: Path) -> None:
    """Masks from checkpoints, as booleans or as numbers, multiply the changes; the output has the models' dtype."""
    family, rng = families[kind].first(3), np.random.default_rng(43)
    masks, paths = [], []
    for number in range(3):
        drawn = {name: rng.random(values.shape) < 0.4 for name, values in family.base.items()}
        stored = {
            name: Raw("BOOL", keep.shape, keep.tobytes()) if number % 2 else encode(keep.astype(np.float32), "BF16")
            for name, keep in drawn.items()
        }
        paths.append(str(write_checkpoint(tmp_path / f"mask-{number}", stored)))
        masks.append(drawn)
    per_input = {"masks": paths} | ({"weight": weights} if weights else {})
    found = merged("mask", family, tmp_path / "out", per_input)
    expected = {
        name: elementwise.mask(base, [t[name] for t in family.tuned], [m[name] for m in masks], weights)
        for name, base in family.base.items()
    }
    assert_matches(found, expected, family, tolerance=TOLERANCE)


@kinds
@pytest.mark.parametrize("granularity", ["item", "param", "module", "layer", "model"])
def test_varm(granularity: str, kind: str, families: Mapping[str, Family], tmp_path: Path) -> None:
    """VaRM: weights by the mean squared change of an element, tensor, module, layer or model."""
    family = families[kind].first(3)
    found = merged("varm", family, tmp_path / "out", shared={"granularity": granularity})
    expected = varm(family.base, family.tuned, granularity=granularity)
    assert_matches(found, expected, family, tolerance=TOLERANCE)
