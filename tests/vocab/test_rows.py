"""The executor of row plans against E' = P E in NumPy: copies as bytes, sums in float64 rounded once."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import suture
from suture.surgery.rows import rewrite
from suture.vocab.rowplan import CLASSES, MIX, PAD, ZERO, RowPlan, Rows

from ..support.checkpoints import Raw, encode, read_checkpoint, write_checkpoint
from ..support.vocabularies import bpe, letters, whole, write

KINDS = list(CLASSES)
WIDTHS = {"model.embed_tokens.weight": 7, "lm_head.weight": 5, "lm_head.bias": 0, "final_logits_bias": 0}
TABLE, HEAD = "model.embed_tokens.weight", "lm_head.weight"
DTYPES = {"F32": np.float32, "F64": np.float64, "F16": np.float16}


def model(folder: Path, rows: int, dtype: str, seed: int) -> Path:
    """A model with a table, a head of its own and biases of both forms."""
    rng = np.random.default_rng(seed)
    shapes = {
        name: (1, rows) if name == "final_logits_bias" else (rows, width)[: 1 + bool(width)]
        for name, width in WIDTHS.items()
    }
    tensors = {name: encode(rng.standard_normal(shape), dtype) for name, shape in shapes.items()}
    tensors["model.layers.0.mlp.up_proj.weight"] = encode(rng.standard_normal((3, 4)), dtype)
    config = {"model_type": "llama", "vocab_size": rows, "num_hidden_layers": 1, "tie_word_embeddings": False}
    write_checkpoint(folder, tensors, config=config)
    return write(folder, whole("bytes", bpe(letters(rows), [])))


def numbers(raw: Raw) -> NDArray[np.float64]:
    """The values of a tensor, exactly."""
    if raw.dtype == "BF16":
        bits = np.frombuffer(raw.data, "<u2").astype(np.uint32) << np.uint32(16)
        return bits.view(np.float32).astype(np.float64).reshape(raw.shape)
    return np.frombuffer(raw.data, DTYPES[raw.dtype]).astype(np.float64).reshape(raw.shape)


def rounded(values: NDArray[np.float64], dtype: str) -> Raw:
    """Values in a dtype, rounded once: not by way of float32, which may end on the other side of a tie."""
    if dtype == "F16":
        return Raw(dtype, values.shape, values.astype("<f2").tobytes())
    if dtype != "BF16":
        return encode(values, dtype)
    near = values.astype(np.float32)
    wide = near.astype(np.float64)
    bits = near.view(np.uint32) - (np.abs(wide) > np.abs(values)).astype(np.uint32)
    bits |= (wide != values).astype(np.uint32)
    even = (bits >> np.uint32(16)) & np.uint32(1)
    return Raw(dtype, values.shape, ((bits + np.uint32(0x7FFF) + even) >> np.uint32(16)).astype("<u2").tobytes())


def expected(rows: Rows, tables: list[Raw], counts: list[int]) -> NDArray[np.float64]:
    """P E by the definition, row by row: [rows, width] in f64."""
    own = [numbers(t).reshape(count, -1) for t, count in zip(tables, counts, strict=True)]
    made = np.zeros((len(rows.source), own[0].shape[1]))
    for i, (source, row) in enumerate(zip(rows.source.tolist(), rows.row.tolist(), strict=True)):
        if source >= 0:
            made[i] = own[source][row]
        elif source == MIX:
            for at in range(rows.starts[row], rows.starts[row + 1]):
                made[i] += rows.weight[at] * own[0][rows.index[at]]
    real = rows.source != PAD
    if real.any():
        # One after another: NumPy's sum of a single column adds pairs, which ends in another last bit of f64.
        made[~real] = np.add.accumulate(made[real])[-1] / real.sum()
    return made


@st.composite
def plans(draw: st.DrawFn, count: int, rows: list[int]) -> Rows:
    """The rows of a table: any order of copies of two models, mixes, zeros and padding."""
    mixes = draw(st.lists(st.lists(st.integers(0, rows[0] - 1), min_size=1, max_size=6), max_size=3))
    kinds = [0, 1, ZERO, PAD, *([MIX] if mixes else [])]
    source = draw(st.lists(st.sampled_from(kinds), min_size=count, max_size=count))
    limits = {0: rows[0], 1: rows[1], MIX: len(mixes), ZERO: 1, PAD: 1}
    row = [draw(st.integers(0, limits[kind] - 1)) for kind in source]
    entries = [index for mix in mixes for index in sorted(mix)]
    weights = draw(st.lists(st.floats(-2, 2, width=32), min_size=len(entries), max_size=len(entries)))
    starts = np.cumsum([0, *map(len, mixes)])
    return Rows(
        np.array(source, dtype=np.int64),
        np.array(row, dtype=np.int64),
        starts.astype(np.int64),
        np.array(entries, dtype=np.int64),
        np.array(weights, dtype=np.float64),
        np.zeros(len(mixes)),
    )


def plan_of(models: list[Path], table: Rows, head: Rows | None) -> RowPlan:
    """A plan whose tokens are numbered anew."""
    count = len(table.source)
    return RowPlan(
        verb="test",
        options={},
        models=models,
        names=[None] * count,
        table=table,
        head=head,
        kind=np.full(count, KINDS.index("mixed"), dtype=np.int8),
        reasons=["as the test has it"],
        why=np.zeros(count, dtype=np.int32),
        moved={},
        written=[],
        copied=[("tokenizer.json", str(models[0] / "tokenizer.json"))],
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_plan_is_carried_out(data: st.DataObject) -> None:
    """Every tensor is P E, rounded once, in any dtype; heads and biases by the head's rows; the rest as it was."""
    dtype = data.draw(st.sampled_from(["F32", "F64", "F16", "BF16"]))
    rows = [data.draw(st.integers(1, 12)) for _ in range(2)]
    count = data.draw(st.integers(1, 15))
    table = data.draw(plans(count, rows))
    head = data.draw(st.none() | plans(count, rows))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        models = [model(place / f"m{i}", rows[i], dtype, i) for i in range(2)]
        how: dict[str, Any] = {
            "threads": data.draw(st.sampled_from([1, 2])),
            "io": data.draw(st.sampled_from(["mmap", "pread"])),
        }
        rewrite(plan_of(models, table, head), place / "out", settings=suture.Settings(**how))
        stored = [read_checkpoint(m) for m in models]
        made = read_checkpoint(place / "out")
        layer = "model.layers.0.mlp.up_proj.weight"
        assert made[layer] == stored[0][layer]
        for name in WIDTHS:
            own = table if name == TABLE or head is None else head
            want = expected(own, [s[name] for s in stored], rows)
            shape = (1, count) if name == "final_logits_bias" else (count, WIDTHS[name])[: 1 + bool(WIDTHS[name])]
            assert made[name] == rounded(want.reshape(shape), dtype), name


def test_noise_is_as_large_as_it_says_and_drawn_by_its_seed(tmp_path: Path) -> None:
    """Of many rows the noise has the asked deviation, as a share of each row's size; another seed draws others."""
    rows, count = 64, 64
    folder = tmp_path / "m"
    rng = np.random.default_rng(1)
    values = rng.standard_normal((rows, 512)).astype(np.float32)
    write_checkpoint(folder, {TABLE: encode(values, "F32")}, config={"model_type": "llama", "vocab_size": rows})
    write(folder, whole("bytes", bpe(letters(rows), [])))
    mixes = np.arange(count, dtype=np.int64)
    table = Rows(np.full(count, MIX), mixes, np.arange(count + 1), mixes, np.ones(count), np.full(count, 0.1))
    made: list[NDArray[np.float64]] = []
    for seed in (0, 0, 1):
        plan = plan_of([folder], table, None)
        out = tmp_path / f"out{len(made)}"
        rewrite(RowPlan(**{**vars(plan), "options": {"seed": seed}}), out)
        made.append(numbers(read_checkpoint(out)[TABLE]) - values)
    size = np.sqrt((values.astype(np.float64) ** 2).mean(axis=1, keepdims=True))
    drawn = made[0] / size
    assert abs(drawn.std() - 0.1) < 0.002
    assert abs(drawn.mean()) < 0.002
    assert (made[0] == made[1]).all()
    assert abs(np.corrcoef(made[0].ravel(), made[2].ravel())[0, 1]) < 0.03
    assert abs(np.corrcoef(made[0][0], made[0][1])[0, 1]) < 0.2


@pytest.mark.parametrize("chunk", ["72MiB", "256MiB"])
def test_long_rows_and_memory(chunk: str, tmp_path: Path) -> None:
    """Rows that are longer than a chunk, and the least memory, give the same bytes as all at once."""
    rows, width = 9, 2**19 + 5
    folder = tmp_path / "m"
    values = np.random.default_rng(2).standard_normal((rows, width)).astype(np.float32)
    write_checkpoint(folder, {TABLE: encode(values, "BF16")}, config={"model_type": "llama", "vocab_size": rows})
    write(folder, whole("bytes", bpe(letters(rows), [])))
    source = np.array([0, 0, MIX, MIX, PAD, ZERO])
    table = Rows(
        source,
        np.array([8, 0, 0, 1, 0, 0]),
        np.array([0, 2, 5]),
        np.array([1, 3, 0, 2, 8]),
        np.array([0.5, -1, 1, 1, 0.25]),
        np.zeros(2),
    )
    rewrite(plan_of([folder], table, None), tmp_path / "out", settings=suture.Settings(memory=chunk, threads=2))
    stored = read_checkpoint(folder)[TABLE]
    assert read_checkpoint(tmp_path / "out")[TABLE] == rounded(expected(table, [stored], [rows]), "BF16")
