"""The spread of a change: exact quantiles, concentration and thresholds, against sorting in float64."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import suture

from ..reference import delta
from ..support.checkpoints import Raw, encode
from ..support.diffing import (
    GINI,
    GINI_IN_FEW_BINS,
    agrees,
    agrees_in_spread,
    by_name,
    compare,
    computed_total,
    joined,
    only,
    tune,
)

SIZES = (1, 2, 99, 100, 101, 1000, 1023, 1024, 1025, 4096, 4097, 65537)
DTYPES = [("F32", "F32"), ("F16", "F16"), ("BF16", "BF16"), ("BF16", "F32"), ("F32", "F16"), ("F16", "BF16")]
SPREAD = (*delta.QUANTILES, "gini", "top1")


def one(folder: Path, base: Raw, tuned: Raw, **options: Any) -> dict[str, Any]:
    """The row of a lone tensor, whose figures are those of all there is."""
    model = only(compare(folder, {"a": base}, {"a": tuned}, spread=True, **options))
    row = by_name(model)["a"]
    for section in ("modules", "layers"):
        assert {name: model[section][0][name] for name in model["total"]} == model["total"]
    assert {name: row[name] for name in model["total"]} == model["total"]
    return row


def fits(row: dict[str, Any], base: Raw, tuned: Raw, gini: float = GINI) -> None:
    """Every figure of a row as the oracle has it."""
    agrees(row, base.values(), tuned.values())
    agrees_in_spread(row, base.values(), tuned.values(), gini=gini)


@pytest.mark.parametrize(("base_dtype", "tuned_dtype"), DTYPES)
def test_figures_agree_with_sorting(base_dtype: str, tuned_dtype: str, tmp_path: Path) -> None:
    """Laws 2 and 4: every figure of every size around the borders of blocks, tiles and hundreds."""
    base, tuned = {}, {}
    for seed, size in enumerate(SIZES):
        values = tune((size,), seed)
        base[f"t{seed}"], tuned[f"t{seed}"] = encode(values[0], base_dtype), encode(values[1], tuned_dtype)
    found = by_name(only(compare(tmp_path, base, tuned, spread=True)))
    assert sorted(found) == sorted(base)
    for name, row in found.items():
        fits(row, base[name], tuned[name])


def test_spread_is_asked_for(tmp_path: Path) -> None:
    """Without `spread` no row has its figures, with it the rows that are listed; `metrics` names what there is."""
    values = [encode(side, "F32") for side in tune((64, 8), 1)]
    names = ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"]
    base, tuned = (dict.fromkeys(names, side) for side in values)
    for spread in (False, True):
        found = compare(tmp_path, base, tuned, spread=spread, neurons=2, tokens=3)
        model = only(found)
        columns = [*SPREAD, *(f"above_{t}" for t in delta.THRESHOLDS)] if spread else []
        listed = [metric["name"] for metric in found["metrics"]]
        assert [name for name in listed if not name.startswith("nonfinite_")] == [*delta.FIGURES, *columns]
        assert all(metric["summary"] for metric in found["metrics"])
        for row in (model["total"], *model["tensors"], *model["modules"], *model["layers"]):
            assert [name for name in row if name in listed] == listed
        for section in ("cells", "neurons", "tokens"):
            assert model[section]
            for row in model[section]:
                assert not set(row) & {*SPREAD, *columns}
                assert set(delta.FIGURES) <= set(row)


@pytest.mark.parametrize("size", [100, 4097])
def test_ties_of_bfloat16(size: int, tmp_path: Path) -> None:
    """Law 4: where many changes have one size, the border of a quantile and of the largest hundredth is still exact."""
    rng = np.random.default_rng(size)
    base = np.full(size, 1.0, np.float32)
    tuned = base + rng.choice(np.array([0, 0, 2**-7, -(2**-7), 2**-6, 0.5], np.float32), size)
    first, second = encode(base, "BF16"), encode(tuned, "BF16")
    row = one(tmp_path, first, second)
    fits(row, first, second)
    assert {row[q] for q in delta.QUANTILES} <= {0, 2**-7, 2**-6, 0.5}


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("size", [1, 1024, 4097])
def test_no_change_has_no_spread(size: int, dtype: str, tmp_path: Path) -> None:
    """Nothing changed: all that is spread is nought, and no share of nothing is not a number."""
    values = encode(tune((size,), 3)[0], dtype)
    row = one(tmp_path, values, values)
    fits(row, values, values)
    assert {row[name] for name in SPREAD} == {0}


@pytest.mark.parametrize("change", [0.25, 0.3])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("size", [1, 100, 1025])
def test_an_equal_change_of_all_is_not_concentrated(size: int, dtype: str, change: float, tmp_path: Path) -> None:
    """Every element moved as far: each quantile is that, a hundredth holds a hundredth, the coefficient is 0."""
    signs = np.where(np.arange(size) % 3, change, -change).astype(np.float32)
    first, second = encode(np.zeros(size, np.float32), dtype), encode(signs, dtype)
    row = one(tmp_path, first, second)
    fits(row, first, second, GINI_IN_FEW_BINS)
    assert {row[q] for q in delta.QUANTILES} == {np.abs(second.values()[0])}
    assert abs(row["gini"]) <= (GINI_IN_FEW_BINS if dtype == "F32" else GINI)
    assert row["top1"] == pytest.approx(-(-size // 100) / size)


@pytest.mark.parametrize("apart", [1e-7, 1e-5, 2e-4, 6e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("size", [2, 3, 100, 4097])
def test_changes_close_to_each_other(size: int, apart: float, tmp_path: Path) -> None:
    """Law 4: however close to each other magnitudes are, all but the coefficient is exact, and that within 2e-4."""
    sizes = np.where(np.arange(size) % 4, 0.3, 0.3 * (1 + apart)).astype(np.float32)
    first, second = encode(np.zeros(size, np.float32), "F32"), encode(sizes, "F32")
    fits(one(tmp_path, first, second), first, second, GINI_IN_FEW_BINS)


@pytest.mark.parametrize("size", [1, 100, 101, 4097])
def test_a_change_of_one_element_is_all_concentration(size: int, tmp_path: Path) -> None:
    """One element changed among n: the coefficient is (n - 1)/n and the largest hundredth holds everything."""
    base = np.full(size, 0.5, np.float32)
    tuned = base.copy()
    tuned[size // 2] = 2.5
    row = one(tmp_path, encode(base, "BF16"), encode(tuned, "BF16"))
    assert row["gini"] == pytest.approx((size - 1) / size, abs=1e-6)
    assert (row["top1"], row["max_abs"]) == (1, 2)
    assert row["q999"] == (2 if size < 1000 else 0)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_what_is_not_finite_is_left_out(dtype: str, tmp_path: Path) -> None:
    """NaN and infinities of either side are in no quantile and no share."""
    base, tuned = tune((2000,), 7)
    base[::17], tuned[5::23], base[7::31], tuned[3::41] = np.nan, np.nan, np.inf, -np.inf
    first, second = encode(base, dtype), encode(tuned, dtype)
    fits(one(tmp_path, first, second), first, second)
    nothing = encode(np.array([np.nan, 1, np.inf], np.float32), dtype)
    other = encode(np.array([1, np.nan, -np.inf], np.float32), dtype)
    row = one(tmp_path, nothing, other)
    fits(row, nothing, other)
    json.dumps(row, allow_nan=False)


@pytest.mark.parametrize(("dtype", "least"), [("F32", 2.0**-149), ("BF16", 2.0**-133), ("F16", 2.0**-24)])
def test_denormals_are_numbers(dtype: str, least: float, tmp_path: Path) -> None:
    """The smallest there are: no change is taken for none, and none is flushed to zero."""
    rng = np.random.default_rng(1)
    steps = rng.integers(-60, 60, (2, 1500)).astype(np.float64) * least
    first, second = (encode(side.astype(np.float32), dtype) for side in steps)
    np.testing.assert_array_equal(first.values(), steps[0])
    # The smallest denormals share a bin whose width is that of all of them.
    fits(one(tmp_path, first, second), first, second, 0.1)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30, 1e38])
def test_spread_does_not_depend_on_the_scale(scale: float, tmp_path: Path) -> None:
    """Law 2: magnitudes whose squares leave the range of f32."""
    first, second = (encode(side, "F32") for side in tune((3000,), 5, scale))
    fits(one(tmp_path, first, second), first, second)


def test_changes_of_every_exponent(tmp_path: Path) -> None:
    """Law 4: changes from the smallest to the largest f32 in one tensor."""
    rng = np.random.default_rng(9)
    sizes = np.exp2(rng.uniform(-149, 127, 5000)).astype(np.float32)
    first, second = encode(np.zeros(5000, np.float32), "F32"), encode(sizes * rng.choice([-1, 1], 5000), "F32")
    fits(one(tmp_path, first, second), first, second)


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_a_change_beyond_f32_has_a_spread(dtype: str, tmp_path: Path) -> None:
    """Law 2: the difference of two finite values is finite; in quantiles it counts as the largest f32."""
    base, tuned = tune((500,), 2)
    base[:20], tuned[:20] = 3e38, -3e38
    first, second = encode(base, dtype), encode(tuned, dtype)
    row = one(tmp_path, first, second)
    agrees(row, first.values(), second.values())
    assert row["q99"] == float(np.finfo(np.float32).max)


def test_f64_has_a_spread(tmp_path: Path) -> None:
    """Law 2 for f64, here with values that f32 holds."""
    first, second = (encode(side, "F64") for side in tune((3001,), 6))
    row = one(tmp_path, first, second)
    wanted = [raw.values().astype(np.float32) for raw in (first, second)]
    agrees(row, wanted[0], wanted[1])
    agrees_in_spread(row, wanted[0], wanted[1])


def test_thresholds_are_as_written(tmp_path: Path) -> None:
    """`above` is strict, keeps its order and spelling, and `x` is relative to the mean size of the base."""
    base = np.full(8, 2.0, np.float32)
    tuned = base + np.array([0, 0.25, -0.25, 0.5, -0.5, 1, 2, -4], np.float32)
    above = ("1x", "0.25", "2.5E-1", "0.125x", "0", "1e-1", "0x", ".5")
    row = one(tmp_path, encode(base, "BF16"), encode(tuned, "F32"), above=",".join(above))
    agrees_in_spread(row, base, tuned, above)
    assert [row[f"above_{t}"] for t in above] == [1 / 8, 5 / 8, 5 / 8, 5 / 8, 7 / 8, 7 / 8, 7 / 8, 3 / 8]


@pytest.mark.parametrize("above", ["much", "x", "-1", "nan", "inf", "1xx", "1e-4 1e-3", "-1x"])
def test_a_threshold_that_is_none_is_refused(above: str, tmp_path: Path) -> None:
    """Law 8: what is no threshold is said to be none, before anything is read."""
    values = encode(np.ones(3, np.float32), "F32")
    with pytest.raises(suture.UsageError):
        compare(tmp_path, {"a": values}, {"a": values}, spread=True, above=above)


NAMES = {
    "model.embed_tokens.weight": (40, 24),
    "model.layers.0.mlp.up_proj.weight": (50, 24),
    "model.layers.0.mlp.down_proj.weight": (24, 50),
    "model.layers.0.input_layernorm.weight": (24,),
    "model.layers.1.mlp.up_proj.weight": (50, 24),
    "model.layers.1.mlp.down_proj.weight": (24, 50),
    "model.layers.1.input_layernorm.weight": (24,),
    "model.norm.weight": (24,),
}


def test_rollups_have_the_spread_of_everything_together(tmp_path: Path) -> None:
    """A quantile of a layer is that of its elements, whatever their dtypes and scales, and not a mean of quantiles."""
    base, tuned = {}, {}
    for seed, (name, shape) in enumerate(NAMES.items()):
        values = tune(shape, seed, 10.0 ** (seed - 4))
        if seed == 2:
            values[1][0, :5] = np.nan
        dtypes = (("BF16", "BF16"), ("F32", "F32"), ("BF16", "F32"))[seed % 3]
        base[name], tuned[name] = (encode(side, dtype) for side, dtype in zip(values, dtypes, strict=True))
    tuned["model.layers.1.mlp.up_proj.weight"] = base["model.layers.1.mlp.up_proj.weight"]
    counter = Raw("I64", (1,), bytes(8))
    base["model.layers.0.counter"], tuned["model.layers.0.counter"] = counter, Raw("I64", (1,), b"\1" + bytes(7))
    model = only(compare(tmp_path, base, tuned, spread=True, above="1e-3,0.1x"))
    groups: dict[tuple[str, str], list[tuple[NDArray[Any], NDArray[Any]]]] = {}
    for name in NAMES:
        both = (base[name].values(), tuned[name].values())
        layer, module = delta.place(name)
        for group in (("layers", layer), ("modules", module), ("total", "")):
            groups.setdefault(group, []).append(both)
    checked = 0
    for (section, key), members in groups.items():
        found = [computed_total(model)] if section == "total" else model[section]
        (row,) = [row for row in found if not key or key in (row.get("layer"), row.get("module"))]
        agrees(row, *joined(members))
        agrees_in_spread(row, *joined(members), above=("1e-3", "0.1x"))
        checked += 1
    assert checked == 3 + 5 + 1


def test_millions_of_elements(tmp_path: Path) -> None:
    """Laws 2 and 4 beyond one span: the same figures, quantiles and ties of a tensor of more than 2^22 elements."""
    size = 2**22 + 2**20 + 3
    rng = np.random.default_rng(4)
    base = rng.standard_normal(size, np.float32) * np.float32(0.02)
    tuned = base + rng.standard_normal(size, np.float32) * np.float32(2e-4)
    first, second = encode(base, "BF16"), encode(tuned, "BF16")
    row = by_name(only(compare(tmp_path, {"a": first}, {"a": second}, spread=True)))["a"]
    fits(row, first, second)
