"""`diff` agrees with the float64 oracle, tensor by tensor and rolled up, in Python and on the command line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import suture
from suture.render.metrics import label as label_of

from ..reference.delta import FIGURES, place
from ..support.checkpoints import Raw, encode, write_checkpoint
from ..support.diffing import SECTIONS, agrees, by_name, compare, computed_total, joined, only, run, tune

FLOATS = ("F64", "F32", "F16", "BF16")
SIZES = [(1,), (7,), (127,), (128,), (129,), (31, 33), (3, 5, 7, 11), (1023,), (1024,), (1025,), (4096,), (4097,),
         (4099,), (65537,)]  # fmt: skip


def rows(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The tensors of a report of one fine-tune, by name."""
    return by_name(only(found))


@pytest.mark.parametrize("tuned_dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("base_dtype", ["BF16", "F16", "F32"])
def test_metrics_agree_with_the_oracle(base_dtype: str, tuned_dtype: str, tmp_path: Path) -> None:
    """Law 2: inputs of one dtype or of two are widened to f32, sums accumulate in f64, whatever the length."""
    base, tuned = {}, {}
    for seed, shape in enumerate(SIZES):
        values = tune(shape, seed)
        base[f"t{seed}"], tuned[f"t{seed}"] = encode(values[0], base_dtype), encode(values[1], tuned_dtype)
    found = rows(compare(tmp_path, base, tuned))
    assert sorted(found) == sorted(base)
    for name, row in found.items():
        agrees(row, base[name].values(), tuned[name].values())
        assert (row["dtype"], tuple(row["shape"])) == (base_dtype, base[name].shape)


@pytest.mark.parametrize("other", ["F64", "F32", "BF16"])
def test_f64_is_compared(other: str, tmp_path: Path) -> None:
    """Law 2 for f64, here with values that f32 holds."""
    base, tuned = tune((513,), 3)
    first, second = encode(base, "F64"), encode(tuned, other)
    row = rows(compare(tmp_path, {"a": first}, {"a": second}))["a"]
    agrees(row, base, second.values().astype(np.float32))


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-12, 1e12, 1e20, 1e30, 1e38])
def test_metrics_do_not_depend_on_the_scale(scale: float, dtype: str, tmp_path: Path) -> None:
    """Law 2: tensors whose squares leave the range of f32 (scales, optimizer state) are measured as well."""
    base, tuned = (encode(values, dtype) for values in tune((1000,), 5, scale))
    agrees(rows(compare(tmp_path, {"a": base}, {"a": tuned}))["a"], base.values(), tuned.values())


@pytest.mark.parametrize("ratio", [1e-4, 1e-2, 1e2, 1e3, 1e4, 1e6])
def test_a_cosine_does_not_depend_on_lengths(ratio: float, tmp_path: Path) -> None:
    """Law 2: the direction of a fine-tune is as exact where it is much longer or shorter than its base."""
    rng = np.random.default_rng(6)
    one, two = rng.normal(0, 0.02, (2, 3000)).astype(np.float32)
    base, tuned = one, (one + two) * np.float32(ratio)
    row = rows(compare(tmp_path, {"a": encode(base, "F32")}, {"a": encode(tuned, "F32")}))["a"]
    agrees(row, base, tuned)


def test_a_change_beyond_the_range_of_f32_is_measured(tmp_path: Path) -> None:
    """Law 2: the difference of two finite values is finite."""
    base, tuned = np.array([3e38, 1, 2], np.float32), np.array([-3e38, 1, 3], np.float32)
    row = rows(compare(tmp_path, {"a": encode(base, "F32")}, {"a": encode(tuned, "F32")}))["a"]
    agrees(row, base, tuned)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("size", [5, 128, 1000, 5000])
def test_nonfinite_elements_are_counted_and_left_out(size: int, dtype: str, tmp_path: Path) -> None:
    """NaN and infinities on either side are counted; every other figure is of the remaining pairs."""
    base, tuned = tune((size,), 7)
    base[1], tuned[1] = np.nan, np.nan
    base[2], tuned[3] = np.inf, -np.inf
    tuned[size - 1] = np.nan
    first, second = encode(base, dtype), encode(tuned, dtype)
    row = rows(compare(tmp_path, {"a": first}, {"a": second}))["a"]
    agrees(row, first.values(), second.values())
    assert not row["equal"]


def test_nothing_but_nonfinite_elements(tmp_path: Path) -> None:
    """No pair is left to measure: no change, and nothing that is not a number in the report."""
    base, tuned = np.array([np.nan, np.inf], np.float32), np.array([np.nan, -np.inf], np.float32)
    row = rows(compare(tmp_path, {"a": encode(base, "F32")}, {"a": encode(tuned, "F32")}))["a"]
    agrees(row, base, tuned)


def test_a_change_from_nothing_is_infinite(tmp_path: Path) -> None:
    """Relative to a base of zeros any change is infinite: said as `inf`, since JSON has no infinity."""
    zeros, ones = np.zeros(9, np.float32), np.ones(9, np.float32)
    found = compare(tmp_path, {"a": encode(zeros, "F32")}, {"a": encode(ones, "BF16")})
    agrees(rows(found)["a"], zeros, ones)
    assert rows(found)["a"]["relative_l2"] == "inf"
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_equal_tensors_are_equal(dtype: str, tmp_path: Path) -> None:
    """Equal bytes are recognised, NaN included; of two dtypes tensors may have equal values and are not equal."""
    values = tune((1001,), 11)[0]
    values[3] = np.nan
    stored = encode(values, dtype)
    row = rows(compare(tmp_path, {"a": stored}, {"a": stored}))["a"]
    agrees(row, stored.values(), stored.values())
    assert row["equal"]
    wide = encode(stored.values(), "F64")
    row = rows(compare(tmp_path, {"a": stored}, {"a": wide}))["a"]
    assert (row["equal"], row["changed"], row["l2"], row["cosine"]) == (False, 0, 0, 1)


def test_one_element_among_millions_is_found(tmp_path: Path) -> None:
    """The comparison has no gap between its chunks, spans and files: a change anywhere is seen."""
    size = 2**22 + 2**20 + 3
    base = encode(np.full(size, 0.5, np.float32), "BF16")
    for at in (0, 2**20 - 1, 2**20, 2**22 - 1, 2**22, size - 1):
        changed = bytearray(base.data)
        changed[2 * at + 1] ^= 0x80
        row = rows(compare(tmp_path, {"a": base}, {"a": Raw("BF16", (size,), bytes(changed))}))["a"]
        assert (row["changed"], row["flipped"], row["max_abs"], row["l2"]) == (1 / size, 1 / size, 1, 1), at


def test_threads_and_io_do_not_change_a_figure(tmp_path: Path) -> None:
    """Law 3: the same report from any number of threads and any back end, whatever the sharding."""
    values = {f"model.layers.{i}.up_proj.weight": tune((700, 1001 + i), i) for i in range(7)}
    folders = [
        write_checkpoint(
            tmp_path / f"{side}-{shards}",
            {name: encode(both[side], "BF16") for name, both in values.items()},
            shards=shards,
        )
        for side, shards in ((0, 1), (1, 1), (1, 3))
    ]
    reports = []
    for threads, io, tuned in ((1, "auto", 1), (2, "mmap", 2), (5, "pread", 1), (3, "direct", 2)):
        settings = suture.Settings(threads=threads, io=io)
        model = only(suture.diff(folders[0], folders[tuned], settings=settings))
        reports.append({key: model[key] for key in ("ancestry", "total", *SECTIONS)})
    assert all(report == reports[0] for report in reports)


@pytest.mark.parametrize("dtype", ["BOOL", "U8", "I8", "I16", "U16", "I32", "U32", "I64", "U64", "F8_E4M3", "C64"])
def test_tensors_without_arithmetic_are_counted(dtype: str, tmp_path: Path) -> None:
    """Law 5: what is not computed on is compared as bytes: equal or not, and how many elements differ."""
    width = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "I32": 4, "U32": 4}.get(dtype, 8)
    base = bytes(range(10)) * width
    tuned = bytearray(base)
    tuned[0] ^= 1
    tuned[width * 9] ^= 1
    first, second = Raw(dtype, (2, 5), base), Raw(dtype, (2, 5), bytes(tuned))
    found = rows(compare(tmp_path, {"a": first, "b": first}, {"a": first, "b": second}))
    assert [(found[name]["equal"], found[name]["changed"]) for name in "ab"] == [(True, 0), (False, 0.2)]
    assert all(found[name]["elements"] == 10 and found[name]["l2"] is found[name]["cosine"] is None for name in "ab")


def test_a_model_that_cannot_be_computed_on_has_changed(tmp_path: Path) -> None:
    """Law 5: what is compared by its bytes counts in the shares of the whole, and is told in a line of its own."""
    numbers, ones = np.random.default_rng(0).integers(0, 100, (2, 600), dtype=np.uint8), encode(np.ones(300), "F32")
    eight = [Raw("F8_E4M3", (600,), n.tobytes()) for n in numbers]
    model = only(compare(tmp_path, {"a": eight[0], "b": ones}, {"a": eight[1], "b": ones}))
    differing = int((numbers[0] != numbers[1]).sum())
    assert model["total"]["elements"] == 900
    assert model["total"]["changed"] == pytest.approx(differing / 900)
    assert model["uncomputed"] == {
        "tensors": 1, "elements": 600, "tensors_changed": 1, "elements_changed": differing, "dtypes": ["F8_E4M3"],
    }  # fmt: skip
    done = run("diff", tmp_path / "base.safetensors", tmp_path / "tuned-1.safetensors")
    assert f"compared by their bytes, as F8_E4M3: 1 tensor, 1 changed ({differing:,} of 600 elements)" in done.stdout
    assert "0.0% of elements changed" not in done.stdout


def test_tensors_of_one_side_are_listed(tmp_path: Path) -> None:
    """Law 5: a tensor of only one checkpoint, or of another shape or kind, is listed and not passed over."""
    ones = encode(np.ones(6, np.float32), "F32")
    base = {"both": ones, "gone": ones, "wide": Raw("F32", (2, 3), ones.data), "kind": Raw("I32", (6,), ones.data)}
    tuned = {"both": ones, "new": ones, "wide": Raw("F32", (3, 2), ones.data), "kind": ones}
    model = only(compare(tmp_path, base, tuned))
    assert (model["only_base"], model["only_tuned"]) == (["gone"], ["new"])
    assert sorted(model["reshaped"]) == ["kind", "wide"]
    assert sorted(by_name(model)) == ["both"]
    done = run("diff", tmp_path / "base.safetensors", tmp_path / "tuned-1.safetensors")
    assert done.returncode == 0, done.stderr
    for name in ("gone", "new", "wide", "kind"):
        assert name in done.stdout


def test_nothing_in_common_is_a_mistake(tmp_path: Path) -> None:
    """Law 8: comparing the wrong two checkpoints is said, not shown as an empty table."""
    ones = encode(np.ones(6, np.float32), "F32")
    with pytest.raises(suture.UsageError, match="no tensor in common"):
        compare(tmp_path, {"a": ones}, {"b": ones})
    with pytest.raises(suture.UsageError, match="no tensor of one shape in common"):
        compare(tmp_path, {"a": ones}, {"a": encode(np.ones(7, np.float32), "F32")})


SHAPES = {
    "model.embed_tokens.weight": (37, 11),
    "model.layers.0.self_attn.q_proj.weight": (11, 11),
    "model.layers.0.self_attn.q_proj.bias": (11,),
    "model.layers.0.block_sparse_moe.gate.weight": (3, 11),
    "model.layers.0.block_sparse_moe.experts.0.w1.weight": (13, 11),
    "model.layers.0.block_sparse_moe.experts.1.w1.weight": (13, 11),
    "model.layers.0.block_sparse_moe.experts.10.w1.weight": (13, 11),
    "model.layers.0.input_layernorm.weight": (11,),
    "model.layers.2.self_attn.q_proj.weight": (11, 11),
    "model.layers.2.block_sparse_moe.experts.0.w1.weight": (13, 11),
    "model.layers.2.input_layernorm.weight": (11,),
    "model.layers.10.self_attn.q_proj.weight": (11, 11),
    "model.norm.weight": (11,),
    "lm_head.weight": (37, 11),
}


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, tuple[Raw, Raw]]]:
    """Two small mixture-of-experts checkpoints of several dtypes, with NaN and an integer buffer."""
    folder = tmp_path_factory.mktemp("moe")
    tensors = {}
    for seed, (name, shape) in enumerate(SHAPES.items()):
        values = tune(shape, seed, 1 + seed)
        if seed == 3:
            values[1][0, 0] = np.nan
        dtypes = ("BF16", "F32") if seed % 4 == 0 else ("BF16", "BF16")
        tensors[name] = (encode(values[0], dtypes[0]), encode(values[1], dtypes[1]))
    counter = Raw("I64", (1,), bytes(8))
    tensors["model.layers.0.counter"] = (counter, Raw("I64", (1,), b"\1" + bytes(7)))
    paths = [
        write_checkpoint(folder / name, {key: both[side] for key, both in tensors.items()}, shards=2 - side)
        for side, name in enumerate(("base", "tuned"))
    ]
    return paths[0], paths[1], tensors


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("modules", lambda name: place(name)[1:]),
        ("layers", lambda name: place(name)[:1]),
        ("cells", place),
    ],
    ids=["modules", "layers", "cells"],
)
def test_rollups_are_the_metrics_of_everything_together(
    section: str, key: Callable[[str], tuple[str, ...]], moe: tuple[Path, Path, dict[str, tuple[Raw, Raw]]]
) -> None:
    """A module's or a layer's figures are those of its float tensors laid end to end; experts count as one."""
    base, tuned, tensors = moe
    model = only(suture.diff(base, tuned))
    groups: dict[tuple[str, ...], list[tuple[NDArray[Any], NDArray[Any]]]] = {}
    for name, both in tensors.items():
        if both[0].dtype in FLOATS:
            groups.setdefault(key(name), []).append((both[0].values(), both[1].values()))
    labels = [tuple(row[part] for part in ("layer", "module") if part in row) for row in model[section]]
    assert sorted(labels) == sorted(groups)
    for label, row in zip(labels, model[section], strict=True):
        agrees(row, *joined(groups[label]))
    agrees(computed_total(model), *joined([both for group in groups.values() for both in group]))


def test_experts_and_layers_are_ordered(moe: tuple[Path, Path, dict[str, tuple[Raw, Raw]]]) -> None:
    """Experts roll up under `*`; layers come by number, and what is outside them last."""
    model = only(suture.diff(*moe[:2]))
    assert "block_sparse_moe.experts.*.w1" in [row["module"] for row in model["modules"]]
    assert [row["layer"] for row in model["layers"]] == ["0", "2", "10", "-"]


def test_csv_holds_what_json_holds(moe: tuple[Path, Path, dict[str, tuple[Raw, Raw]]], tmp_path: Path) -> None:
    """`--csv` writes the table, all digits, of tensors or of what `--by` says."""
    base, tuned, _ = moe
    model = only(suture.diff(base, tuned))
    sections = {"tensor": "tensors", "layer": "layers", "module": "modules"}
    for by, section in sections.items():
        target = tmp_path / f"{by}.csv"
        done = run("diff", base, tuned, "--by", by, "--csv", target, "--quiet")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        with target.open(newline="", encoding="utf-8") as file:
            written = list(csv.DictReader(file))
        assert len(written) == len(model[section])
        for line, row in zip(written, model[section], strict=True):
            assert set(line) == set(row)
            assert [line[name] and float(line[name]) for name in FIGURES] == [
                "" if row[name] is None else float(row[name]) for name in FIGURES
            ]
            named = "name" if by == "tensor" else by
            assert line[named] == row[named]
    assert "x" in (tmp_path / "tensor.csv").read_text().splitlines()[1]
    done = run("diff", base, tuned, "--csv", tmp_path / "no" / "such" / "folder.csv")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize("metric", FIGURES)
def test_sort_puts_the_largest_change_first(metric: str, moe: tuple[Path, Path, dict[str, tuple[Raw, Raw]]]) -> None:
    """`--sort` orders by change: the largest first, and of what is smaller the more changed, the smallest."""
    done = run("diff", moe[0], moe[1], "--by", "module", "--sort", metric, "--json")
    assert done.returncode == 0, done.stderr
    values = [float(row[metric]) for row in only(json.loads(done.stdout))["modules"]]
    assert values == sorted(values, reverse=metric not in ("cosine", "unchanged"))
    assert len(set(values)) > 1


@pytest.mark.parametrize(("by", "section"), [("layer", "layers"), ("module", "modules"), ("tensor", "tensors")])
def test_by_prints_a_line_for_each(by: str, section: str, moe: tuple[Path, Path, dict[str, tuple[Raw, Raw]]]) -> None:
    """`--by` is a table: a line for each, in the order of the report, and one for all."""
    model = only(suture.diff(*moe[:2]))
    done = run("diff", moe[0], moe[1], "--by", by)
    assert done.returncode == 0
    assert {line.split()[0] for line in done.stderr.splitlines()} == {"warning:"}
    lines = done.stdout.splitlines()
    assert lines[0].split() == [by, *" ".join(label_of(name) for name in FIGURES).split()]
    assert lines[-1].split()[:2] == ["compared", "by"]
    first = [line.split()[0] for line in lines[1:-1]]
    assert first == [row["name" if by == "tensor" else by] for row in model[section]] + ["all"]
