"""Laws of what comes out of a merge, for every method there is: who must be given back, and what must not matter."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..support.catalogue import (
    CASES,
    DEFAULTS,
    HOMOGENEOUS,
    LARGE,
    Case,
    Config,
    configure,
    copies,
    differing,
    grams,
    merge,
    model,
    near,
    one,
)
from ..support.checkpoints import Raw, encode, read_checkpoint, write_checkpoint


def special_values(dtype: str) -> Raw:
    """Ordinary values, the largest, the smallest and subnormal ones, and zeros, of a dtype."""
    rng = np.random.default_rng(5)
    values = rng.standard_normal(5003).astype(np.float32)
    if dtype == "F64":
        return encode(values, dtype)
    width = {"F32": 4, "F16": 2, "BF16": 2}[dtype]
    edge = {"F32": 0x7F7FFFFF, "F16": 0x7BFF, "BF16": 0x7F7F}[dtype]
    sign = 1 << (8 * width - 1)
    small = {"F32": 0x00800000, "F16": 0x0400, "BF16": 0x0080}[dtype]
    bits = [edge, edge | sign, 1, 1 | sign, small - 1, small, small | sign, 0]
    data = encode(values, dtype).data + np.array(bits, dtype=f"<u{width}").tobytes()
    return Raw(dtype, (values.size + len(bits),), data)


def identity_config(case: Case, source: Path, folder: Path) -> Config:
    """A merge of a base with copies of itself; where there is no base, by parameters that are not to change a model."""
    models = [source, *copies(source, folder, 3)]
    return configure(case, models, only_required=not case.changes)


#: Without a base parameters may matter: weights that are not normalised, or a scale, do change a model.
IDENTITIES = [case for case in CASES if case.changes or not case.parameters or case.name == "karcher"]


@pytest.mark.parametrize("case", IDENTITIES, ids=str)
def test_merging_a_model_with_itself_changes_nothing(case: Case, tmp_path: Path) -> None:
    """Identity: all experts equal to the base give the base, bit for bit, whatever the parameters."""
    tensors = {dtype: special_values(dtype) for dtype in ("F32", "F16", "BF16", "F64")}
    tensors["one"] = encode(np.array([0.1]), "F32")
    tensors["tiny"] = encode(np.array([[1e-7, -2e-9], [3e-8, 0.0]]), "F32")
    base = write_checkpoint(tmp_path / "base", tensors)
    assert not differing(merge(identity_config(case, base, tmp_path), tmp_path / "out"), tensors)


@pytest.mark.parametrize("case", IDENTITIES, ids=str)
def test_identity_keeps_negative_zero(case: Case, tmp_path: Path) -> None:
    """Identity, bit for bit: a zero keeps its sign."""
    zeros = np.array([[-0.0, 0.0, 1.0, -0.0], [-0.0, -0.0, -0.0, -0.0]], np.float32)
    tensors = {dtype: encode(zeros, dtype) for dtype in ("F32", "F16", "BF16")}
    base = write_checkpoint(tmp_path / "base", tensors)
    assert not differing(merge(identity_config(case, base, tmp_path), tmp_path / "out"), tensors)


def weighted(name: str, weights: Sequence[float], *, based: bool = True, **parameters: Any) -> Case:
    """A case whose weights are given."""
    return Case(name, f"{weights}", {**parameters, "weight": list(weights)}, based=based)


#: Beside the catalogue: weights and scales that give a model back, and such as do not.
GIVING_BACK = [
    *CASES,
    weighted("linear", (0.5, 0.2, 0.3), normalize=False),
    weighted("linear", (0.5, 0.2, 0.4), normalize=False),
    weighted("multislerp", (0.5, 0.2, 0.3), normalize_weights=False, based=False),
    weighted("multislerp", (0.5, 0.2, 0.4), normalize_weights=False, based=False),
    weighted("multislerp", (0.5, 0.2, 0.4), normalize_weights=False),
    Case("passthrough", "scale=1", {"scale": 1.0}),
    Case("emr", "masks", {"task": 1, "masks": True}),
]


@pytest.mark.parametrize("case", GIVING_BACK, ids=str)
def test_what_cannot_be_computed_on_is_carried_by_what_gives_back(case: Case, tmp_path: Path) -> None:
    """Identity: 8-bit floats that all models share are carried over by the very merges that give equal floats back."""
    rng = np.random.default_rng(13)
    floats = {
        dtype: encode(rng.standard_normal((3, 1003)).astype(np.float32), dtype) for dtype in ("F32", "F16", "BF16")
    }
    small = {"experts": Raw("F8_E4M3", (2, 3), bytes(range(0x30, 0x36)))}
    configs = []
    for number, tensors in enumerate([floats, floats | small]):
        folder = tmp_path / str(number)
        source = write_checkpoint(folder / "base", tensors)
        given = {k: v for k, v in case.parameters.items() if k != "weight"}
        config = configure(Case(case.name, case.variant, given, case.based), [source, *copies(source, folder, 3)])
        for listed, weight in zip(config["models"], case.parameters.get("weight", []), strict=False):
            listed["parameters"]["weight"] = weight
        configs.append(config)
    if not differing(merge(configs[0], tmp_path / "floats"), floats):
        assert not differing(merge(configs[1], tmp_path / "both"), floats | small)
    else:
        with pytest.raises(suture.SutureError, match="experts"):
            merge(configs[1], tmp_path / "both")


#: Numbers with which one model is given back whole; all others have their defaults.
WHOLE: dict[str, Any] = {"weight": 1.0, "density": 1.0, "lambda": 1.0, "scale": 1.0}
WHOLE_OF: dict[str, dict[str, Any]] = {
    "slerp": {"t": 1.0},
    # Farther than any change.
    "nearswap": {"t": 100.0},
    # Not beyond the model.
    "expo": {"alpha": 0.0},
    # No factor grows with depth.
    "lines": {"beta": 0.0},
    # No change is too small to count.
    "ram": {"epsilon": 0.0},
    "ramplus_tl": {"epsilon": 0.0},
    # The model there is.
    "tall_mask": {"task": 1},
    "consensus_ta": {"k": 1},
}
NOT_GIVEN_BACK = {
    "pcb": "shares of scores run from 0 to 1: the least of those kept, of the only model too, counts for nothing",
    "arcee_fusion": "it takes outliers only",
}
ALONE = [
    case
    for case in CASES
    if case.name not in NOT_GIVEN_BACK
    # Nuslerp and model_stock are defined for two models and more.
    and case.spec["inputs"][0] <= (2 if case.spec["base"] == "first" else 1)
]


@pytest.mark.parametrize("case", ALONE, ids=str)
def test_one_expert_of_full_weight_is_given_back(case: Case, tmp_path: Path) -> None:
    """N = 1: one expert with weight and density one (or t one) comes out as it went in, bit for bit.

    Base and expert are within a factor of two, where differences are exact in f32.
    """
    rng = np.random.default_rng(6)
    values = rng.standard_normal(3 * 1024 + 5).astype(np.float32)
    base = {dtype: encode(values, dtype) for dtype in ("F32", "F16", "BF16")}
    tuned = {dtype: encode(near(raw.values(), rng, 0.4), dtype) for dtype, raw in base.items()}
    models = [write_checkpoint(tmp_path / "base", base), write_checkpoint(tmp_path / "tuned", tuned)]
    assert not differing(merge(whole(case, models), tmp_path / "out"), tuned)


#: What thins changes or elects their signs takes them in f32, since it orders them by their bits.
IN_F32 = ("magnitude", "breadcrumbs", "della", "cabs")


@pytest.mark.parametrize("case", [case for case in ALONE if not case.parameters], ids=str)
def test_one_expert_far_smaller_than_its_base_is_given_back(case: Case, tmp_path: Path) -> None:
    """Law 2, N = 1: in f64 changes from a base of 1 keep an expert of 1e-5; in f32 they do up to an ulp of the base."""
    rng = np.random.default_rng(14)
    base = 1 + rng.random(3001).astype(np.float32)
    expert = (1e-5 * rng.standard_normal(base.size)).astype(np.float32)
    models = [model(tmp_path / "base", a=base), model(tmp_path / "tuned", a=expert)]
    found = one(whole(case, models), tmp_path / "out")
    in_f32 = case.set("sparsify") in IN_F32 or case.set("consensus") not in (None, "none")
    # Another method works on the changes as coordinates, in f32.
    in_f32 |= case.set("inner") is not None
    lost = np.spacing(base) if in_f32 else np.spacing(np.abs(expert)) + np.float32(2.0**-50)
    assert (np.abs(found - expert) <= lost).all()


def whole(case: Case, models: Sequence[Path]) -> Config:
    """A merge that gives the only expert back."""
    config = configure(case, models, only_required=True)
    numbers = {name: found for name, found in WHOLE.items() if name in case.names} | WHOLE_OF.get(case.name, {})
    config["parameters"] |= numbers
    config["models"] = [{"model": str(models[1]), "parameters": {}}]
    if "gram" in case.names:
        config["models"][0]["parameters"]["gram"] = str(grams(models[1]))
    if "fisher" in case.names:
        config["models"][0]["parameters"]["fisher"] = str(models[1])
    if "masks" in case.names and case.name == "mask":
        everything = {
            name: Raw("BOOL", raw.shape, bytes([1]) * raw.values().size)
            for name, raw in read_checkpoint(models[1]).items()
        }
        config["models"][0]["parameters"]["masks"] = str(write_checkpoint(models[1].parent / "mask", everything))
    return config


ORDERED = {
    "cabs": "by definition: earlier models take their elements first",
    "opcm": "by definition: each task goes without what it shares with those before it",
}
PERMUTED = [
    case
    for case in CASES
    if case.experts > 1 and not {case.name, case.set("sparsify"), case.set("inner")} & set(ORDERED)
]


@pytest.mark.parametrize("case", PERMUTED, ids=str)
def test_order_of_experts_does_not_matter(case: Case, tmp_path: Path) -> None:
    """Permutation: experts listed in another order, parameters and all, give the same within one f32 ulp."""
    rng = np.random.default_rng(7)
    base = rng.standard_normal(20_011).astype(np.float32).reshape(1, 20_011)
    models = [model(tmp_path / "base", a=base)]
    models += [model(tmp_path / f"tuned-{i}", a=near(base, rng, 0.1)) for i in range(case.experts)]
    first = one(configure(case, models), tmp_path / "first")
    assert (first != base).any()
    for order in list(itertools.permutations(range(case.experts)))[1::2]:
        other = one(configure(case, models, order=order), tmp_path / "".join(map(str, order)))
        assert (np.abs(first - other) <= np.spacing(np.abs(first))).all(), order


UNEVEN = [(0.1, 0.2, 0.3), (0.5, 0.3, 0.2), (1.0, 0.7, 0.3), (0.6, 0.1, 0.5)]
#: Magmax depends on the order only where weighted changes are equally large, which they are for no weights here.
CANCELLING = [
    (case, weights)
    for case in PERMUTED
    if case.changes and case.experts > 2
    # What is hard is to elect a sign.
    for weights in (UNEVEN if case.set("consensus") not in (None, "none") and not case.parameters else UNEVEN[:1])
]


@pytest.mark.parametrize(("case", "weights"), CANCELLING, ids=str)
def test_order_does_not_matter_for_changes_that_cancel(weights: tuple[float, ...], case: Case, tmp_path: Path) -> None:
    """Permutation where it is hard: fine-tunes in bf16 move by one step, and weighted steps cancel."""
    signs = np.array(list(itertools.product([-1, 0, 1], repeat=3)), dtype=np.float32).T
    base = np.repeat(np.array([1.0, 0.5, 1.5], np.float32), signs.shape[1])
    step = np.float32(2.0**-7)
    models = [model(tmp_path / "base", a=base)]
    models += [model(tmp_path / f"tuned-{i}", a=base + np.tile(s, 3) * step) for i, s in enumerate(signs)]
    results = []
    for order in itertools.permutations(range(3)):
        config = configure(case, models, only_required=True, order=order)
        if "weight" in case.names:
            for place, i in enumerate(order):
                config["models"][place]["parameters"]["weight"] = weights[i]
        results.append(one(config, tmp_path / "".join(map(str, order))))
    for other in results[1:]:
        assert (np.abs(results[0] - other) <= np.spacing(np.abs(results[0]))).all()


@pytest.mark.parametrize("case", [c for c in PERMUTED if c in DEFAULTS and c.changes and c.experts > 2], ids=str)
def test_order_does_not_matter_for_changes_of_unlike_size(case: Case, tmp_path: Path) -> None:
    """Laws 2 and permutation: sums are taken in f64, so that a small change survives two large ones that cancel."""
    rows = np.array(list(itertools.permutations([2.0**27, 1.0, -(2.0**27) + 8])), dtype=np.float32).T
    models = [model(tmp_path / "base", a=np.zeros(6, np.float32))]
    models += [model(tmp_path / f"tuned-{i}", a=row) for i, row in enumerate(rows)]
    results = []
    for order in itertools.permutations(range(3)):
        config = configure(case, models, only_required=True, order=order)
        if "weight" in case.names:
            config["parameters"]["weight"] = 1.0
            for listed in config["models"]:
                listed["parameters"].pop("weight", None)
        results.append(one(config, tmp_path / "".join(map(str, order))))
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("case", HOMOGENEOUS, ids=str)
def test_changes_scale_on_a_base_of_zeros(case: Case, tmp_path: Path) -> None:
    """Scale law, exactly: on a base of zeros, changes 2**k times as large give a result 2**k times as large."""
    rng = np.random.default_rng(8)
    changes = [rng.standard_normal((5, 1003)).astype(np.float32) for _ in range(3)]
    results = []
    for number, factor in enumerate([1.0, 2.0**-20, 2.0**-60, 2.0**20]):
        folder = tmp_path / str(number)
        models = [model(folder / "base", a=np.zeros((5, 1003), np.float32))]
        models += [model(folder / f"tuned-{i}", a=c * np.float32(factor)) for i, c in enumerate(changes)]
        results.append(one(configure(case, models), folder / "out") / np.float32(factor))
    assert results[0].any()
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


#: What has a factor on its result scales the models themselves where there is no base.
BASED = [case for case in HOMOGENEOUS if case.changes or "lambda" not in case.names]


@pytest.mark.parametrize("case", BASED, ids=str)
def test_changes_scale_on_an_ordinary_base(case: Case, tmp_path: Path) -> None:
    """Scale law: changes of 1e-3 and of 1e-6 on weights of 0.1 are merged alike, up to the rounding of the sum."""
    rng = np.random.default_rng(9)
    size, grain = (3, 7001), np.float32(2.0**-14)
    base = (rng.integers(-(2**10), 2**10, size) * 2.0**-12).astype(np.float32)
    # The models have something in common: of changes in unlike directions some methods take over next to nothing.
    common = rng.integers(-32, 33, size)
    steps = [(common + rng.integers(-32, 33, size)).astype(np.float32) for _ in range(3)]
    found = []
    for number, factor in enumerate([1.0, 2.0**-10]):
        folder = tmp_path / str(number)
        models = [model(folder / "base", a=base)]
        models += [model(folder / f"tuned-{i}", a=base + s * grain * np.float32(factor)) for i, s in enumerate(steps)]
        merged = one(configure(case, models), folder / "out")
        found.append((merged.astype(np.float64) - base) / factor)
    assert np.abs(found[0]).max() > 2.0**-14
    half_ulp = np.spacing(np.abs(base) + np.float32(2.0**-5)).astype(np.float64) / 2
    # Rounding of the small sum weighs 2**10 times as much; the products in f32 add their own, much smaller.
    assert (np.abs(found[0] - found[1]) <= half_ulp * (1 + 2.0**10) + 1e-6 * np.abs(found[0])).all()


def involved(case: Case) -> list[str]:
    """The inputs of a merge by a method: models, and the checkpoints beside them."""
    models = [f"m{i}" for i in range(1 + case.experts)]
    if not case.changes and case.spec["base"] != "first":
        models = models[1:]
    kinds = {p["kind"]["kind"] for p in case.spec["parameters"]}
    return models + ([f"f{i + 1}" for i in range(case.experts)] if "checkpoint" in kinds else [])


#: Both of one module.
TENSORS = ("model.layers.0.mlp.a", "model.layers.0.mlp.b")


def write_broken(folder: Path, where: str, tensor: str, bad: float, size: int) -> tuple[list[Path], list[Path]]:
    """Models, and checkpoints beside them, of two tensors; element 8192 of one tensor in one of them is `bad`."""
    rng = np.random.default_rng(10)
    found = []
    for name in [*(f"m{i}" for i in range(4)), *(f"f{i}" for i in range(1, 4))]:
        tensors = {t: rng.standard_normal(size).astype(np.float32) for t in TENSORS}
        if name == where:
            tensors[tensor][8192] = bad
        found.append(write_checkpoint(folder / name, tensors))
    return found[:4], found[4:]


#: Of the variants, those whose statistics are taken over more than a tensor: they see the NaN before it is looked for.
SEEING = [*DEFAULTS, *[c for c in CASES if c.parameters and (c.spec["class"] == "model" or c.set("scope") == "model")]]


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
@pytest.mark.parametrize("tensor", TENSORS)
@pytest.mark.parametrize("case", SEEING, ids=str)
def test_nan_is_refused_in_every_input(case: Case, tensor: str, bad: float, tmp_path: Path) -> None:
    """Law 7: NaN and infinities in any input of any method are named, whether the element would be kept or not."""
    for where in involved(case):
        folder = tmp_path / where
        models, beside = write_broken(folder, where, tensor, bad, 9001)
        # On one thread the first tensor is made before the second is looked at.
        with pytest.raises(suture.SutureError, match=rf"{where}\S*: tensor `{tensor}`: element 8192 is NaN"):
            suture.merge(configure(case, models, beside=beside), folder / "out", settings=suture.Settings(threads=1))
        assert not (folder / "out").exists()


@pytest.mark.parametrize("case", SEEING, ids=str)
def test_a_model_of_nothing_but_nan_is_refused(case: Case, tmp_path: Path) -> None:
    """Law 7: no ordinary number anywhere in a model, and the first element is named."""
    good = np.linspace(0.5, 1.5, 2049, dtype=np.float32)
    values = [np.full_like(good, np.nan) if i == case.experts else good * (1 + i) for i in range(4)]
    models = [model(tmp_path / f"m{i}", a=v, b=v) for i, v in enumerate(values)]
    with pytest.raises(suture.SutureError, match=rf"m{case.experts}\S*: tensor `[ab]`: element 0 is NaN"):
        suture.merge(configure(case, models), tmp_path / "out")


@pytest.mark.parametrize("case", [c for c in SEEING if c.changes and c.variant != "baseless"], ids=str)
def test_nan_let_through_comes_through(case: Case, tmp_path: Path) -> None:
    """`--nan allow`: where a whole tensor is NaN in all models, so is the result; there is no error and no panic."""
    rng = np.random.default_rng(12)
    base = {name: rng.standard_normal(3001).astype(np.float32) for name in ("a", "b")}
    base["a"][:] = np.nan
    models = [model(tmp_path / f"m{i}", **{n: near(v, rng, 0.1) for n, v in base.items()}) for i in range(4)]
    assert np.isnan(one(configure(case, models), tmp_path / "out", nan="allow")).all()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_nan_of_any_input_comes_through(case: Case, tmp_path: Path) -> None:
    """`--nan allow`: where one input has a NaN, whichever it is, so has the result, kept or dropped."""
    for where in involved(case):
        folder = tmp_path / where
        models, beside = write_broken(folder, where, TENSORS[0], np.nan, 9001)
        merged = merge(configure(case, models, beside=beside), folder / "out", nan="allow")
        assert np.isnan(merged[TENSORS[0]].values()[8192]), where


FAR = [
    c for c in DEFAULTS if c.name in ("linear", "slerp", "ties", "dare_ties", "sce", "arcee_fusion", "pcb", "metagpt")
]


@pytest.mark.parametrize("case", FAR, ids=str)
def test_nan_is_found_far_into_a_tensor(case: Case, family: list[Path], tmp_path: Path) -> None:
    """Law 7: the position is that in the tensor, in whatever span of it the NaN lies."""
    last = case.experts
    tensors = read_checkpoint(family[last])
    raw = tensors["model.embed_tokens.weight"]
    data = bytearray(raw.data)
    data[2 * (LARGE - 2) : 2 * (LARGE - 1)] = b"\xc0\x7f"
    tensors["model.embed_tokens.weight"] = Raw(raw.dtype, raw.shape, bytes(data))
    models: Sequence[Path] = [*family[:last], write_checkpoint(tmp_path / "broken", tensors), *family[last + 1 :]]
    with pytest.raises(suture.SutureError, match=rf"broken\S*: tensor `model.embed_tokens.weight`: .* {LARGE - 2} "):
        suture.merge(configure(case, models), tmp_path / "out")
