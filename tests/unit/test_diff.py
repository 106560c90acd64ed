"""`diff` agrees with the float64 oracle, tensor by tensor and rolled up, in Python and on the command line."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import suture

from ..reference.config import layer_of
from ..reference.delta import metrics
from ..support.checkpoints import Raw, encode, write_checkpoint, write_file

RELATIVE = 1e-6
MEASURES = ("mean_abs", "max_abs", "l2", "relative_l2", "cosine")
COUNTS = ("changed", "flipped", "nonfinite", "nonfinite_base", "nonfinite_tuned")
METRICS = (*MEASURES, "changed", "flipped", "nonfinite")
FLOATS = ("F64", "F32", "F16", "BF16")
SIZES = [(1,), (7,), (127,), (128,), (129,), (31, 33), (3, 5, 7, 11), (4099,), (65537,)]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command line, as a user starts it."""
    command = [sys.executable, "-m", "suture", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def compare(base: Mapping[str, Raw], tuned: Mapping[str, Raw], folder: Path) -> dict[str, Any]:
    """`diff` of two single files."""
    folder.mkdir(exist_ok=True)
    first = write_file(folder / "base.safetensors", base)
    second = write_file(folder / "tuned.safetensors", tuned)
    return suture.diff(first, second)


def rows(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in found["tensors"]}


def agrees(row: Mapping[str, Any], base: NDArray[Any], tuned: NDArray[Any]) -> None:
    """Sums within 1e-6 relative, counts exactly."""
    wanted = metrics(base, tuned)
    for measure in MEASURES:
        value = getattr(wanted, measure)
        assert float(row[measure]) == pytest.approx(value, rel=RELATIVE, abs=0), measure
    counts = {
        "changed": wanted.changed,
        "flipped": wanted.sign_flips,
        "nonfinite_base": wanted.nan_base + wanted.inf_base,
        "nonfinite_tuned": wanted.nan_tuned + wanted.inf_tuned,
    }
    counts["nonfinite"] = counts["nonfinite_base"] + counts["nonfinite_tuned"]
    assert {name: row[name] for name in COUNTS} == counts
    assert row["elements"] == base.size


def pair(shape: tuple[int, ...], seed: int, scale: float = 1.0) -> tuple[NDArray[Any], NDArray[Any]]:
    """A tensor and its fine-tune: some elements equal, some with the other sign, some zero on one side."""
    rng = np.random.default_rng([seed, *shape])
    base = rng.normal(0, 0.02, shape).astype(np.float32) * np.float32(scale)
    tuned = base + rng.normal(0, 2e-3, shape).astype(np.float32) * np.float32(scale)
    kind = rng.integers(0, 10, shape)
    tuned = np.where(kind == 0, base, np.where(kind == 1, -base, tuned))
    return np.where(kind == 2, np.float32(0), base), np.where(kind == 3, np.float32(-0.0), tuned)


@pytest.mark.parametrize("tuned_dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("base_dtype", ["BF16", "F16", "F32"])
def test_metrics_agree_with_the_oracle(base_dtype: str, tuned_dtype: str, tmp_path: Path) -> None:
    """Law 2: inputs of one dtype or of two are widened to f32, sums accumulate in f64, whatever the length."""
    base, tuned = {}, {}
    for seed, shape in enumerate(SIZES):
        values = pair(shape, seed)
        base[f"t{seed}"], tuned[f"t{seed}"] = encode(values[0], base_dtype), encode(values[1], tuned_dtype)
    found = rows(compare(base, tuned, tmp_path))
    assert sorted(found) == sorted(base)
    for name, row in found.items():
        agrees(row, base[name].values(), tuned[name].values())
        assert (row["dtype"], tuple(row["shape"])) == (base_dtype, base[name].shape)


@pytest.mark.parametrize("other", ["F64", "F32", "BF16"])
def test_f64_is_compared(other: str, tmp_path: Path) -> None:
    """Law 2 for f64, here with values that f32 holds."""
    base, tuned = pair((513,), 3)
    first, second = encode(base, "F64"), encode(tuned, other)
    row = rows(compare({"a": first}, {"a": second}, tmp_path))["a"]
    agrees(row, base, second.values().astype(np.float32))


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-12, 1e12, 1e20, 1e30, 1e38])
def test_metrics_do_not_depend_on_the_scale(scale: float, dtype: str, tmp_path: Path) -> None:
    """Law 2: tensors whose squares leave the range of f32 (scales, optimizer state) are measured as well."""
    base, tuned = (encode(values, dtype) for values in pair((1000,), 5, scale))
    agrees(rows(compare({"a": base}, {"a": tuned}, tmp_path))["a"], base.values(), tuned.values())


def test_a_change_beyond_the_range_of_f32_is_measured(tmp_path: Path) -> None:
    """Law 2: the difference of two finite values is finite."""
    base, tuned = np.array([3e38, 1, 2], np.float32), np.array([-3e38, 1, 3], np.float32)
    row = rows(compare({"a": encode(base, "F32")}, {"a": encode(tuned, "F32")}, tmp_path))["a"]
    agrees(row, base, tuned)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("size", [5, 128, 1000, 5000])
def test_nonfinite_elements_are_counted_and_left_out(size: int, dtype: str, tmp_path: Path) -> None:
    """NaN and infinities on either side are counted; every other figure is of the remaining pairs."""
    base, tuned = pair((size,), 7)
    base[1], tuned[1] = np.nan, np.nan
    base[2], tuned[3] = np.inf, -np.inf
    tuned[size - 1] = np.nan
    first, second = encode(base, dtype), encode(tuned, dtype)
    row = rows(compare({"a": first}, {"a": second}, tmp_path))["a"]
    agrees(row, first.values(), second.values())
    assert not row["equal"]


def test_nothing_but_nonfinite_elements(tmp_path: Path) -> None:
    """No pair is left to measure: no change, and nothing that is not a number in the report."""
    base, tuned = np.array([np.nan, np.inf], np.float32), np.array([np.nan, -np.inf], np.float32)
    row = rows(compare({"a": encode(base, "F32")}, {"a": encode(tuned, "F32")}, tmp_path))["a"]
    agrees(row, base, tuned)


def test_a_change_from_nothing_is_infinite(tmp_path: Path) -> None:
    """Relative to a base of zeros any change is infinite: said as `inf`, since JSON has no infinity."""
    zeros, ones = np.zeros(9, np.float32), np.ones(9, np.float32)
    found = compare({"a": encode(zeros, "F32")}, {"a": encode(ones, "BF16")}, tmp_path)
    agrees(rows(found)["a"], zeros, ones)
    assert rows(found)["a"]["relative_l2"] == "inf"
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_equal_tensors_are_equal(dtype: str, tmp_path: Path) -> None:
    """Equal bytes are recognised, NaN included; of two dtypes tensors may have equal values and are not equal."""
    values = pair((1001,), 11)[0]
    values[3] = np.nan
    stored = encode(values, dtype)
    row = rows(compare({"a": stored}, {"a": stored}, tmp_path))["a"]
    agrees(row, stored.values(), stored.values())
    assert row["equal"]
    wide = encode(stored.values(), "F64")
    row = rows(compare({"a": stored}, {"a": wide}, tmp_path))["a"]
    assert (row["equal"], row["changed"], row["l2"], row["cosine"]) == (False, 0, 0, 1)


def test_one_element_among_millions_is_found(tmp_path: Path) -> None:
    """The comparison has no gap between its chunks, spans and files: a change anywhere is seen."""
    size = 2**22 + 2**20 + 3
    base = encode(np.full(size, 0.5, np.float32), "BF16")
    for at in (0, 2**20 - 1, 2**20, 2**22 - 1, 2**22, size - 1):
        changed = bytearray(base.data)
        changed[2 * at + 1] ^= 0x80
        row = rows(compare({"a": base}, {"a": Raw("BF16", (size,), bytes(changed))}, tmp_path))["a"]
        assert (row["changed"], row["flipped"], row["max_abs"], row["l2"]) == (1 / size, 1 / size, 1, 1), at


def test_threads_and_io_do_not_change_a_figure(tmp_path: Path) -> None:
    """Law 3: the same report from any number of threads and any back end, whatever the sharding."""
    values = {f"model.layers.{i}.up_proj.weight": pair((700, 1001 + i), i) for i in range(7)}
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
        found = suture.diff(folders[0], folders[tuned], settings=settings)
        reports.append({key: found[key] for key in ("total", "tensors", "modules", "layers", "cells")})
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
    found = rows(compare({"a": first, "b": first}, {"a": first, "b": second}, tmp_path))
    assert [(found[name]["equal"], found[name]["changed"]) for name in "ab"] == [(True, 0), (False, 0.2)]
    assert all(found[name]["elements"] == 10 and found[name]["l2"] == 0 for name in "ab")


def test_tensors_of_one_side_are_listed(tmp_path: Path) -> None:
    """Law 5: a tensor of only one checkpoint, or of another shape or kind, is listed and not passed over."""
    ones = encode(np.ones(6, np.float32), "F32")
    base = {"both": ones, "gone": ones, "wide": Raw("F32", (2, 3), ones.data), "kind": Raw("I32", (6,), ones.data)}
    tuned = {"both": ones, "new": ones, "wide": Raw("F32", (3, 2), ones.data), "kind": ones}
    found = compare(base, tuned, tmp_path)
    assert (found["only_base"], found["only_tuned"]) == (["gone"], ["new"])
    assert sorted(found["reshaped"]) == ["kind", "wide"]
    assert sorted(rows(found)) == ["both"]
    done = run("diff", tmp_path / "base.safetensors", tmp_path / "tuned.safetensors")
    assert done.returncode == 0, done.stderr
    for name in ("gone", "new", "wide", "kind"):
        assert name in done.stdout


def test_nothing_in_common_is_a_mistake(tmp_path: Path) -> None:
    """Law 8: comparing the wrong two checkpoints is said, not shown as an empty table."""
    ones = encode(np.ones(6, np.float32), "F32")
    with pytest.raises(suture.UsageError, match="no tensor in common"):
        compare({"a": ones}, {"b": ones}, tmp_path)


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


def module_of(name: str) -> str:
    """What a tensor is called inside its layer, numbers as `*`."""
    layer = layer_of(name)
    inner = name if layer is None else name.split(f"layers.{layer}.", 1)[1]
    inner = inner.removesuffix(".weight").removesuffix(".bias")
    return ".".join("*" if part.isdigit() else part for part in inner.split("."))


def layer_label(name: str) -> str:
    layer = layer_of(name)
    return "-" if layer is None else str(layer)


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, tuple[Raw, Raw]]]:
    """Two small mixture-of-experts checkpoints of several dtypes, with NaN and an integer buffer."""
    folder = tmp_path_factory.mktemp("moe")
    tensors = {}
    for seed, (name, shape) in enumerate(SHAPES.items()):
        values = pair(shape, seed, 1 + seed)
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
        ("modules", lambda name: (module_of(name),)),
        ("layers", lambda name: (layer_label(name),)),
        ("cells", lambda name: (layer_label(name), module_of(name))),
    ],
    ids=["modules", "layers", "cells"],
)
def test_rollups_are_the_metrics_of_everything_together(
    section: str, key: Callable[[str], tuple[str, ...]], moe: tuple[Path, Path, dict[str, tuple[Raw, Raw]]]
) -> None:
    """A module's or a layer's figures are those of its float tensors laid end to end; experts count as one."""
    base, tuned, tensors = moe
    found = suture.diff(base, tuned)
    groups: dict[tuple[str, ...], list[tuple[Raw, Raw]]] = {}
    for name, both in tensors.items():
        if both[0].dtype in FLOATS:
            groups.setdefault(key(name), []).append(both)
    labels = [tuple(row[part] for part in ("layer", "module") if part in row) for row in found[section]]
    assert sorted(labels) == sorted(groups)
    for label, row in zip(labels, found[section], strict=True):
        agrees(row, *joined(groups[label]))
    agrees(found["total"], *joined([both for group in groups.values() for both in group]))


def joined(pairs: list[tuple[Raw, Raw]]) -> tuple[NDArray[Any], NDArray[Any]]:
    sides = [[both[side].values().ravel() for both in pairs] for side in (0, 1)]
    return np.concatenate(sides[0]), np.concatenate(sides[1])


def test_experts_and_layers_are_ordered(moe: tuple[Path, Path, dict[str, tuple[Raw, Raw]]]) -> None:
    """Experts roll up under `*`; layers come by number, and what is outside them last."""
    found = suture.diff(*moe[:2])
    assert "block_sparse_moe.experts.*.w1" in [row["module"] for row in found["modules"]]
    assert [row["layer"] for row in found["layers"]] == ["0", "2", "10", "-"]


def test_csv_holds_what_json_holds(moe: tuple[Path, Path, dict[str, tuple[Raw, Raw]]], tmp_path: Path) -> None:
    """`--csv` writes the table, all digits, of tensors or of what `--by` says."""
    base, tuned, _ = moe
    found = suture.diff(base, tuned)
    sections = {"tensor": "tensors", "layer": "layers", "module": "modules"}
    for by, section in sections.items():
        target = tmp_path / f"{by}.csv"
        done = run("diff", base, tuned, "--by", by, "--csv", target, "--quiet")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        with target.open(newline="", encoding="utf-8") as file:
            written = list(csv.DictReader(file))
        assert len(written) == len(found[section])
        for line, row in zip(written, found[section], strict=True):
            assert set(line) == set(row)
            assert [float(line[name]) for name in METRICS] == [float(row[name]) for name in METRICS]
            label = "name" if by == "tensor" else by
            assert line[label] == row[label]
    assert "x" in (tmp_path / "tensor.csv").read_text().splitlines()[1]
    done = run("diff", base, tuned, "--csv", tmp_path / "no" / "such" / "folder.csv")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize("metric", METRICS)
def test_sort_puts_the_largest_change_first(metric: str, moe: tuple[Path, Path, dict[str, tuple[Raw, Raw]]]) -> None:
    """`--sort` orders by change: the largest first, and for the cosine the smallest."""
    done = run("diff", moe[0], moe[1], "--by", "module", "--sort", metric, "--json")
    assert done.returncode == 0, done.stderr
    values = [float(row[metric]) for row in json.loads(done.stdout)["modules"]]
    assert values == sorted(values, reverse=metric != "cosine")
    assert len(set(values)) > 1


@pytest.mark.parametrize(("by", "section"), [("layer", "layers"), ("module", "modules"), ("tensor", "tensors")])
def test_by_prints_a_line_for_each(by: str, section: str, moe: tuple[Path, Path, dict[str, tuple[Raw, Raw]]]) -> None:
    """`--by` is a table: a line for each, in the order of the report, and one for all."""
    found = suture.diff(*moe[:2])
    done = run("diff", moe[0], moe[1], "--by", by)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split() == [by, *METRICS]
    first = [line.split()[0] for line in lines[1:]]
    assert first == [row["name" if by == "tensor" else by] for row in found[section]] + ["all"]
