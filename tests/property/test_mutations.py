"""Random damage to a valid checkpoint: an error or a correct read, never a panic (law 7)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import suture

from ..support.checkpoints import (
    INDEX_NAME,
    Raw,
    encode,
    file_bytes,
    read_checkpoint,
    read_shards,
    write_checkpoint,
)

VALUES = np.linspace(-3, 3, 12, dtype=np.float32).reshape(3, 4)
TENSORS = {
    "model.embed_tokens.weight": encode(VALUES, "F32"),
    "model.layers.0.mlp.up_proj.weight": encode(VALUES, "BF16"),
    "model.layers.1.mlp.up_proj.weight": encode(VALUES[:1], "F16"),
    "model.norm.weight": Raw("I64", (), bytes(8)),
    "scale": Raw("F8_E4M3", (4,), b"\x01\x02\x03\x04"),
}
TOKENS = [
    b"-1",
    b"0",
    b"1e9",
    b"18446744073709551615",
    b"null",
    b"[]",
    b"{}",
    b'""',
    b",",
    b"F64",
    b"U8",
    b"\xff",
]


@st.composite
def damaged(draw: st.DrawFn, whole: bytes, hot: int) -> bytes:
    """`whole` after one to six edits; half of them fall into its first `hot` bytes."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 6))):
        limit = min(hot, len(content)) if draw(st.booleans()) else len(content)
        at = draw(st.integers(0, max(limit - 1, 0)))
        kind = draw(st.sampled_from(["flip", "set", "insert", "token", "delete", "copy", "cut"]))
        if kind == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set" and content:
            content[at] = draw(st.integers(0, 255))
        elif kind == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "token":
            token = draw(st.sampled_from(TOKENS))
            content[at : at + draw(st.integers(0, len(token)))] = token
        elif kind == "delete":
            del content[at : at + draw(st.integers(1, 16))]
        elif kind == "copy":
            content[at:at] = content[at : at + draw(st.integers(1, 64))]
        elif kind == "cut":
            del content[at:]
    return bytes(content)


def read_all(path: Path) -> dict[str, tuple[str, tuple[int, ...], NDArray[Any] | None]] | None:
    """Everything suture reads, None where it refuses the checkpoint; any other exception fails the test."""
    try:
        opened = suture.open(path)
    except suture.SutureError:
        return None
    except BaseException as error:
        raise AssertionError(f"{type(error).__name__}: {error}") from error
    found: dict[str, tuple[str, tuple[int, ...], NDArray[Any] | None]] = {}
    for name in opened.names:
        info = opened.info(name)
        try:
            values: NDArray[Any] | None = np.asarray(opened.numpy(name))
        except suture.SutureError:
            values = None
        except BaseException as error:
            raise AssertionError(f"{type(error).__name__}: {error}") from error
        found[name] = (info.dtype, tuple(info.shape), values)
    return found


def check(path: Path) -> None:
    """What suture reads is what the bytes say; nothing that an index lists is left out."""
    found = read_all(path)
    if found is None:
        return
    listed = read_checkpoint(path)
    stored = listed if path.is_file() else read_shards(path)
    assert set(listed) <= set(found) <= set(stored)
    for name, (dtype, shape, values) in found.items():
        raw = stored[name]
        assert (dtype, shape) == (raw.dtype, raw.shape)
        if values is not None and values.nbytes == len(raw.data):
            assert values.tobytes() == raw.data
        elif values is not None and dtype in ("BF16", "F16"):
            np.testing.assert_array_equal(values, raw.values())


FILE = file_bytes(TENSORS, {"format": "pt"})
HEADER_END = 8 + int.from_bytes(FILE[:8], "little")
RELAXED = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def test_the_undamaged_file_is_read() -> None:
    """The property below is not empty: without damage every tensor is there."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(FILE)
        assert read_all(path) is not None
        check(path)


@RELAXED
@given(damaged(FILE, HEADER_END))
def test_damaged_file(content: bytes) -> None:
    """Law 7 for a single file, with the damage mostly in its header."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(content)
        check(path)


@RELAXED
@given(st.data())
def test_damaged_index(data: st.DataObject) -> None:
    """Law 7 for the index of a sharded folder."""
    with tempfile.TemporaryDirectory() as folder:
        model = write_checkpoint(Path(folder) / "model", TENSORS, shards=2)
        whole = (model / INDEX_NAME).read_bytes()
        (model / INDEX_NAME).write_bytes(data.draw(damaged(whole, len(whole))))
        check(model)


@RELAXED
@given(st.binary(max_size=200))
def test_arbitrary_bytes(content: bytes) -> None:
    """Law 7 for a file that never was a checkpoint; its length field fits, so that its header is parsed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(len(content).to_bytes(8, "little") + content)
        check(path)
