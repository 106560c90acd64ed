"""Law 3 for every method there is, and for swaps: how the work is done changes no byte."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..reference.arcee import arcee_fusion
from ..reference.gram import nuslerp
from ..support.catalogue import CASES, Case, Config, configure, differing, merge, one
from ..support.checkpoints import Raw, read_checkpoint, write_checkpoint


def named(*names: str) -> list[Case]:
    """Cases by their names."""
    found = {str(case): case for case in CASES}
    return [found[name] for name in names]


#: One for each way a kernel works: of single elements, by dot products, by order, at random, by rows (here one row of
#: three spans), over the whole model.
LARGE_CASES = named(
    "linear-default",
    "slerp-default",
    "ties-default",
    "dare_ties-default",
    "model_stock-filter_wise=True",
    "arcee_fusion-default",
    "ties-scope=model",
    "pcb-default",
)
#: Whose rows, columns or blocks lie across the borders of spans.
ROWWISE = named(
    "della-default",
    "cabs-default",
    "ties-scope=row",
    "ties-sparsify=breadcrumbs,scope=row,rescale=l2",
    "nuslerp-nuslerp_flatten=False",
    "nuslerp-nuslerp_flatten=False,nuslerp_row_wise=True",
    "model_stock-filter_wise=True",
    "arcee_fusion-default",
)
#: Whose statistics are of more than a tensor, or take several scans of one: work that was begun has to be taken up.
RESUMED = [
    case
    for case in CASES
    if case.spec["class"] == "model"
    or case.set("scope") == "model"
    or (case.spec["class"] in ("gram", "order") and case.variant == "default")
]


def limit_for(sizes: Sequence[int], shards: int) -> int:
    """A shard size that spreads tensors of these sizes, in this order, over so many shards."""

    def count(limit: int) -> int:
        number, filled = 1, 0
        for size in sizes:
            if filled and filled + size > limit:
                number, filled = number + 1, 0
            filled += size
        return number

    candidates = [sum(sizes[i:j]) for i, j in itertools.combinations(range(len(sizes) + 1), 2)]
    return next(limit for limit in sorted(candidates) if limit and count(limit) == shards)


def ways(sizes: Sequence[int], smallest: str) -> Iterator[dict[str, Any]]:
    """Settings that must not change a byte: every value that matters turns up, no two ways have much in common."""
    single, seven = sum(sizes) + 1, limit_for(sizes, 7)
    yield {"threads": 1, "io": "mmap", "chunk": "4KiB", "shard_size": seven}
    yield {"threads": 2, "io": "direct", "chunk": "16MiB", "shard_size": single}
    yield {"threads": 5, "io": "pread", "chunk": "12345"}
    yield {"threads": 2, "io": "auto", "memory": smallest}
    yield {"threads": 5, "io": "direct", "chunk": "64KiB", "shard_size": seven}


def smallest_memory(run: Any) -> str:
    """The smallest budget that works on two threads, as the refusal of a smaller one names it."""
    with pytest.raises(suture.UsageError) as caught:
        run({"memory": "1MiB", "threads": 2})
    found = re.search(r"smallest that works is (\d+) MiB", str(caught.value))
    assert found, caught.value
    return f"{found[1]}MiB"


def record(out: Path) -> Any:
    """What suture.json says of the tensors, digests and all."""
    return json.loads((out / "suture.json").read_text())["tensors"]


@pytest.mark.parametrize("case", [*LARGE_CASES, "swap"], ids=str)
def test_settings_change_no_byte(case: Case | str, family: list[Path], tmp_path: Path) -> None:
    """Laws 1 and 3: threads, I/O, chunks, shards and memory change neither a byte nor a digest of a tensor."""
    out = tmp_path / "out"

    def run(settings: dict[str, Any]) -> None:
        how = suture.Settings(overwrite=True, **settings)
        if isinstance(case, str):
            options: dict[str, Any] = {"bottom": 1, "transition": 1, "blend": 0.3, "non_layer": "mean"}
            suture.swap(family[0], family[1], out, settings=how, **options)
        else:
            suture.merge(configure(case, family), out, settings=how)

    run({})
    expected, told = read_checkpoint(out), record(out)
    assert suture.verify(out)["differing"] == []
    order = sorted(told, key=suture.open(out).names.index)
    sizes = [len(expected[tensor].data) for tensor in order]
    # Pcb's five passes take their time; ties over the whole model goes the same way.
    step = 2 if "pcb" in str(case) else 1
    for settings in itertools.islice(ways(sizes, smallest_memory(run)), 0, None, step):
        run(settings)
        assert not differing(read_checkpoint(out), expected), settings
        assert record(out) == told, settings
        if "shard_size" in settings:
            wanted = 1 if settings["shard_size"] > sum(sizes) else 7
            assert len(list(out.glob("*.safetensors"))) == wanted
            assert suture.verify(out, settings=suture.Settings(threads=5))["differing"] == []


def assert_no_byte_changes(config: Config, out: Path) -> None:
    """Three ways of working that have nothing in common end in the same bytes."""
    first = merge(config, out / "a", threads=5, io="pread", chunk="20KiB", shard_size="500KB")
    told = record(out / "a")
    for name, how in [("b", {"threads": 1, "io": "mmap", "chunk": "16MiB"}), ("c", {"threads": 2, "chunk": "4KiB"})]:
        assert not differing(merge(config, out / name, **how), first), how
        assert record(out / name) == told, how


@pytest.mark.parametrize("case", CASES, ids=str)
def test_settings_change_no_byte_of_a_variant(case: Case, small: list[Path], tmp_path: Path) -> None:
    """Law 3 for every method, switch and word: rows, groups of tensors and several scans are cut up in any way."""
    assert_no_byte_changes(configure(case, small), tmp_path)


@pytest.mark.parametrize("case", ROWWISE, ids=str)
def test_settings_change_no_byte_of_rows_across_spans(case: Case, rows: list[Path], tmp_path: Path) -> None:
    """Law 3 where a row, a column or a block lies in two spans."""
    assert_no_byte_changes(configure(case, rows), tmp_path)


#: Which merge each row, or block, by itself.
APART = [
    *named("cabs-default", "ties-scope=row", "nuslerp-nuslerp_flatten=False", "model_stock-filter_wise=True"),
    Case("breadcrumbs", "scope=row", {"scope": "row"}),
]


@pytest.mark.parametrize("case", APART, ids=str)
def test_a_row_is_merged_alike_wherever_it_stands(case: Case, rows: list[Path], tmp_path: Path) -> None:
    """Rows around the border of two spans come out as they do in a tensor of their own."""
    whole = one(configure(case, rows), tmp_path / "whole")
    # The border lies in row 698. Blocks have 100 elements: rows in hundreds start with one.
    first = 600 if case.name == "cabs" else 697
    parts = []
    for path in rows:
        raw = read_checkpoint(path)["a"]
        part = Raw(raw.dtype, (700 - first, 6007), raw.data[2 * first * 6007 :])
        parts.append(write_checkpoint(tmp_path / path.name, {"a": part}))
    np.testing.assert_array_equal(one(configure(case, parts), tmp_path / "part"), whole[first:])


def test_outliers_of_rows_across_spans(rows: list[Path], tmp_path: Path) -> None:
    """Arcee fusion of rows in two spans is what the oracle says of the whole tensor."""
    (case,) = named("arcee_fusion-default")
    base, tuned = (read_checkpoint(path)["a"].values() for path in rows[:2])
    found = one(configure(case, rows) | {"out_dtype": "float32"}, tmp_path / "out")
    moved, wanted = found != base, arcee_fusion(base, tuned) != base
    assert 1000 < wanted.sum() < wanted.size / 2
    # Importance is kept in f32: at the threshold an element may go either way.
    assert (moved != wanted).sum() <= 1e-5 * wanted.size


def test_columns_across_spans(rows: list[Path], tmp_path: Path) -> None:
    """Nuslerp by columns, each of which lies in two spans, is what the oracle says of each column."""
    (case,) = named("nuslerp-nuslerp_flatten=False,nuslerp_row_wise=True")
    base, *tuned = (read_checkpoint(path)["a"].values() for path in rows[:3])
    config = configure(case, rows) | {"out_dtype": "float32"}
    weights = [m["parameters"]["weight"] for m in config["models"]]
    wanted = nuslerp(tuned, weights, base=base, flatten=False, row_wise=True)
    np.testing.assert_allclose(one(config, tmp_path / "out"), wanted, rtol=2e-6, atol=1e-8)


def journal_of(out: Path) -> Path:
    """What a run that was stopped says it has done."""
    return out.with_name(f".{out.name}.suture-partial") / ".suture-journal"


def stop(config: Config, out: Path, **settings: Any) -> None:
    """A run that ends as soon as it has finished a tensor."""

    def progress(*_: int) -> None:
        path = journal_of(out)
        if path.exists() and len(path.read_text().splitlines()) > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        suture.merge(config, out, settings=suture.Settings(**settings), progress=progress)


@pytest.mark.parametrize("case", RESUMED, ids=str)
def test_a_run_is_taken_up_where_it_stopped(case: Case, small: list[Path], tmp_path: Path) -> None:
    """Laws 3 and 6: every other tensor of a stopped run is kept, the rest made by other means, statistics and all."""
    config, out = configure(case, small), tmp_path / "out"
    expected = merge(config, tmp_path / "whole", threads=2)
    stop(config, out, threads=1, chunk="4KiB")
    head, *lines = journal_of(out).read_text().splitlines(keepends=True)
    journal_of(out).write_text("".join([head, *lines[::2]]))
    found = merge(config, out, threads=5, chunk="16MiB", io="pread")
    assert json.loads((out / "suture.json").read_text())["run"]["tensors_resumed"] == len(lines[::2]) > 0
    assert not differing(found, expected)
    assert record(out) == record(tmp_path / "whole")
    assert suture.verify(out)["differing"] == []


@pytest.mark.parametrize("case", [case for case in RESUMED if case.set("scope") == "model"], ids=str)
def test_a_run_stopped_before_it_has_made_anything(case: Case, small: list[Path], tmp_path: Path) -> None:
    """Law 6: stopped while it looks at the whole model, a run is done by the same command again."""
    config, out = configure(case, small), tmp_path / "out"

    def progress(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        suture.merge(config, out, progress=progress)
    assert not out.exists()
    assert not differing(merge(config, out), merge(config, tmp_path / "whole"))
