"""Hostile input gets an error, not a crash; odd but valid input works."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import suture

from ..support.checkpoints import DTYPE_BITS, Raw, encode, read_checkpoint, write_checkpoint, write_file
from ..support.hostile import HOSTILE, VALUES

FLOATS = {"F16", "BF16", "F32", "F64"}


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command line, as a user starts it."""
    command = [sys.executable, "-m", "suture", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    """Laws 7 and 8: exit code 1, one line that names the path, no traceback, nothing on stdout."""
    path = HOSTILE[name](tmp_path)
    done = run("inspect", "--json", path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert str(path) in lines[0]
    assert not lines[0].endswith(".")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_raises_suture_error(name: str, tmp_path: Path) -> None:
    """Law 7 in the Python API: opening raises SutureError, no other exception and no panic."""
    path = HOSTILE[name](tmp_path)
    with pytest.raises(suture.SutureError, match=r"\S"):
        suture.open(path)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_leaves_no_output(name: str, tmp_path: Path) -> None:
    """Law 6: a merge that is refused leaves nothing behind at the place of its output."""
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    path = HOSTILE[name](source)
    with pytest.raises(suture.SutureError):
        suture.merge({"merge_method": "passthrough", "models": [{"model": str(path)}]}, target)
    assert [found.name for found in tmp_path.iterdir()] == ["in"]


def sample(dtype: str) -> Raw:
    """Sixteen elements: random bytes where a dtype is only carried, finite values where computed on."""
    rng = np.random.default_rng(len(dtype) + DTYPE_BITS[dtype])
    if dtype in FLOATS:
        return encode(rng.normal(size=(4, 4)), dtype)
    if dtype == "BOOL":
        return encode(rng.integers(0, 2, (4, 4)), dtype)
    if dtype == "C64":
        return encode(rng.normal(size=(4, 4)) + 1j, dtype)
    return Raw(dtype, (4, 4), rng.bytes(16 * DTYPE_BITS[dtype] // 8))


EDGES: dict[str, dict[str, Raw]] = {
    "empty": {},
    "zero_size": {"a": Raw("F32", (0,), b""), "b": Raw("BF16", (3, 0, 2), b""), "c": encode(VALUES, "F32")},
    "only_zero_size": {"a": Raw("F16", (0, 5), b"")},
    "scalar": {"a": Raw("F32", (), VALUES[1:2].tobytes()), "b": Raw("I64", (), bytes(range(8)))},
    "every_dtype": {f"tensor.{dtype}": sample(dtype) for dtype in DTYPE_BITS},
    "odd_names": {
        "": encode(VALUES, "F32"),
        "ünï/../ \n\"'": encode(VALUES, "BF16"),
        "x" * 4000: sample("U8"),
    },
} | {dtype: {"a": sample(dtype)} for dtype in DTYPE_BITS}


@pytest.mark.parametrize("name", EDGES)
def test_edge_cases_are_inspected(name: str, tmp_path: Path) -> None:
    """Empty checkpoints, zero-size and scalar tensors and every safetensors dtype are ordinary input."""
    path = write_file(tmp_path / "model.safetensors", EDGES[name])
    done = run("inspect", "--json", "--tensors", "--stats", path)
    assert (done.returncode, done.stderr) == (0, "")
    json.loads(done.stdout)
    opened = suture.open(path)
    assert sorted(opened.names) == sorted(EDGES[name])
    for tensor, raw in EDGES[name].items():
        info = opened.info(tensor)
        assert (info.dtype, tuple(info.shape), info.nbytes) == (raw.dtype, raw.shape, len(raw.data))


@pytest.mark.parametrize("name", EDGES)
def test_edge_cases_are_carried_bit_for_bit(name: str, tmp_path: Path) -> None:
    """Law 2: what is only moved is moved as bytes, bit for bit, any dtype."""
    source = write_checkpoint(tmp_path / "in", EDGES[name])
    suture.merge({"merge_method": "passthrough", "models": [{"model": str(source)}]}, tmp_path / "out")
    assert read_checkpoint(tmp_path / "out") == EDGES[name]


@pytest.mark.parametrize(("shards", "index"), [(1, False), (1, True), (3, True), (3, False)])
def test_every_layout_opens(shards: int, index: bool, tmp_path: Path) -> None:
    """A folder opens sharded or whole, with an index or without; the order of tensors in a file is free."""
    tensors = {f"t{i}": encode(VALUES + i, "F32") for i in range(7)}
    folder = write_checkpoint(tmp_path / "model", tensors, shards=shards, index=index)
    assert sorted(suture.open(folder).names) == sorted(tensors)


ODD: dict[str, bytes] = {
    "metadata": (
        b'{"z":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"__metadata__":{"format":"pt","x":"{}"},'
        b'"a":{"shape":[1],"data_offsets":[8,12],"dtype":"F32"}}' + b" " * 77
    ),
    "space": (
        b' \n\t\r{"z":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"a":{"shape":[1],"data_offsets":[8,12],"dtype":"F32"}}\n'
    ),
    "null": (
        b'{"z":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"__metadata__":null,'
        b'"a":{"shape":[1],"data_offsets":[8,12],"dtype":"F32"}}'
    ),
    "unknown": (
        b'{"z":{"dtype":"F32","shape":[2],"x\\u001b":[[{"y":1}]],"data_offsets":[0,8],"strides":[1]},'
        b'"a":{"shape":[1],"data_offsets":[8,12],"dtype":"F32"}}'
    ),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_headers_are_read(kind: str, tmp_path: Path) -> None:
    """White space, metadata or none, any order, keys nobody knows: all valid; the last with a warning, escaped."""
    header = ODD[kind]
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + VALUES[:3].tobytes())
    opened = suture.open(path)
    np.testing.assert_array_equal(opened.numpy("z"), VALUES[:2])
    np.testing.assert_array_equal(opened.numpy("a"), VALUES[2:3])
    assert len(opened.describe()["warnings"]) == (kind == "unknown")
    done = run("inspect", path)
    assert done.returncode == 0
    assert ("warning: " in done.stderr) == (kind == "unknown")
    assert "\x1b" not in done.stderr
