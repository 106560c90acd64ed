"""Bad checkpoints, one generator each: `HOSTILE[name](folder)` writes one and returns the path to open."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoints import INDEX_NAME, file_bytes, pack, write_file, write_json

Generator = Callable[[Path], Path]
HOSTILE: dict[str, Generator] = {}

HEADER_BOUND = 100_000_000
DEPTH = 100_000
VALUES = np.arange(4, dtype=np.float32)


def hostile(generator: Generator) -> Generator:
    """Register a generator by its own name."""
    HOSTILE[generator.__name__] = generator
    return generator


def entry(start: int, end: int, shape: list[Any] | None = None, dtype: str = "F32") -> dict[str, Any]:
    """A header entry; by default as many float32 elements as the range holds."""
    return {
        "dtype": dtype,
        "shape": [(end - start) // 4] if shape is None else shape,
        "data_offsets": [start, end],
    }


def with_header(folder: Path, header: Any, data: bytes = b"") -> Path:
    """A file with this header, as JSON or as the bytes given."""
    path = folder / "model.safetensors"
    path.write_bytes(pack(header if isinstance(header, bytes) else json.dumps(header).encode(), data))
    return path


def with_index(folder: Path, weight_map: Any) -> Path:
    """A folder with one good shard, which holds tensor `a`, and this weight map."""
    write_file(folder / "model-00001-of-00001.safetensors", {"a": VALUES})
    write_json(folder / INDEX_NAME, {"metadata": {"total_size": 16}, "weight_map": weight_map})
    return folder


@hostile
def empty_file(folder: Path) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(b"")
    return path


@hostile
def seven_byte_file(folder: Path) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(b"\x02\0\0\0\0\0\0")
    return path


@hostile
def zero_length_header(folder: Path) -> Path:
    return with_header(folder, b"")


@hostile
def truncated_header(folder: Path) -> Path:
    path = folder / "model.safetensors"
    whole = file_bytes({"a": VALUES})
    path.write_bytes(whole[: 8 + 20])
    return path


@hostile
def header_longer_than_file(folder: Path) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes((1000).to_bytes(8, "little") + b'{"a":')
    return path


@hostile
def header_length_of_all_ones(folder: Path) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(b"\xff" * 8 + b"{}")
    return path


@hostile
def header_over_the_bound(folder: Path) -> Path:
    """The file really is that long (sparse), so nothing but the bound refuses it."""
    path = folder / "model.safetensors"
    path.write_bytes((HEADER_BOUND + 1).to_bytes(8, "little") + b"{}")
    os.truncate(path, 8 + HEADER_BOUND + 1)
    return path


@hostile
def header_not_json(folder: Path) -> Path:
    return with_header(folder, b'{"a": nonsense}')


@hostile
def header_not_utf8(folder: Path) -> Path:
    return with_header(folder, b'{"\xff\xfe": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}')


@hostile
def header_not_an_object(folder: Path) -> Path:
    return with_header(folder, [1, 2, 3])


@hostile
def entry_not_an_object(folder: Path) -> Path:
    return with_header(folder, {"a": 7})


@hostile
def entry_without_offsets(folder: Path) -> Path:
    return with_header(folder, {"a": {"dtype": "F32", "shape": [0]}})


@hostile
def duplicate_names(folder: Path) -> Path:
    one, two = json.dumps(entry(0, 16)), json.dumps(entry(16, 32))
    return with_header(folder, f'{{"a": {one}, "a": {two}}}'.encode(), bytes(32))


@hostile
def duplicate_names_by_escape(folder: Path) -> Path:
    one, two = json.dumps(entry(0, 16)), json.dumps(entry(16, 32))
    return with_header(folder, f'{{"a": {one}, "\\u0061": {two}}}'.encode(), bytes(32))


@hostile
def gap_at_the_start(folder: Path) -> Path:
    return with_header(folder, {"a": entry(8, 24)}, bytes(24))


@hostile
def gap_between_tensors(folder: Path) -> Path:
    return with_header(folder, {"a": entry(0, 16), "b": entry(20, 36)}, bytes(36))


@hostile
def overlap(folder: Path) -> Path:
    return with_header(folder, {"a": entry(0, 16), "b": entry(12, 28)}, bytes(28))


@hostile
def same_range_twice(folder: Path) -> Path:
    return with_header(folder, {"a": entry(0, 16), "b": entry(0, 16)}, bytes(16))


@hostile
def offsets_beyond_the_file(folder: Path) -> Path:
    return with_header(folder, {"a": entry(0, 16), "b": entry(16, 32)}, bytes(24))


@hostile
def offsets_beyond_any_file(folder: Path) -> Path:
    return with_header(folder, {"a": entry(2**64 - 17, 2**64 - 1, [4])}, bytes(16))


@hostile
def offsets_reversed(folder: Path) -> Path:
    return with_header(folder, {"a": entry(16, 0, [4])}, bytes(16))


@hostile
def trailing_bytes(folder: Path) -> Path:
    return with_header(folder, {"a": entry(0, 16)}, bytes(20))


@hostile
def size_not_of_the_shape(folder: Path) -> Path:
    return with_header(folder, {"a": entry(0, 16, [5])}, bytes(16))


@hostile
def size_not_of_the_dtype(folder: Path) -> Path:
    return with_header(folder, {"a": entry(0, 16, [4], "F16")}, bytes(16))


@hostile
def half_a_byte(folder: Path) -> Path:
    """Three 4-bit elements fill no whole number of bytes."""
    return with_header(folder, {"a": entry(0, 2, [3], "F4")}, bytes(2))


@hostile
def unknown_dtype(folder: Path) -> Path:
    return with_header(folder, {"a": entry(0, 16, [4], "F33")}, bytes(16))


@hostile
def negative_shape(folder: Path) -> Path:
    return with_header(folder, {"a": entry(0, 16, [-2, -2])}, bytes(16))


@hostile
def fractional_shape(folder: Path) -> Path:
    return with_header(folder, {"a": entry(0, 16, [4.5])}, bytes(16))


@hostile
def element_count_overflows(folder: Path) -> Path:
    """The product of the shape is 0 modulo 2**64, which fits the empty range."""
    return with_header(folder, {"a": entry(0, 0, [2**32, 2**32])})


@hostile
def byte_count_overflows(folder: Path) -> Path:
    """The element count fits 64 bits, four bytes of each do not."""
    return with_header(folder, {"a": entry(0, 0, [2**62])})


@hostile
def deep_nesting(folder: Path) -> Path:
    return with_header(folder, b'{"a": ' + b"[" * DEPTH + b"]" * DEPTH + b"}")


@hostile
def deep_nesting_in_metadata(folder: Path) -> Path:
    return with_header(folder, b'{"__metadata__": ' + b'{"x": ' * DEPTH + b"1" + b"}" * DEPTH + b"}")


@hostile
def folder_without_weights(folder: Path) -> Path:
    write_json(folder / "config.json", {})
    return folder


@hostile
def same_tensor_in_two_shards(folder: Path) -> Path:
    for number in (1, 2):
        write_file(folder / f"model-0000{number}-of-00002.safetensors", {"a": VALUES * number})
    return folder


@hostile
def index_not_json(folder: Path) -> Path:
    with_index(folder, {})
    (folder / INDEX_NAME).write_text('{"weight_map": {"a": ')
    return folder


@hostile
def index_not_an_object(folder: Path) -> Path:
    with_index(folder, {})
    return write_json(folder / INDEX_NAME, ["a"]).parent


@hostile
def index_nested_deeply(folder: Path) -> Path:
    with_index(folder, {})
    (folder / INDEX_NAME).write_text('{"metadata": ' + "[" * DEPTH + "]" * DEPTH + ', "weight_map": {}}')
    return folder


@hostile
def weight_map_missing(folder: Path) -> Path:
    with_index(folder, {})
    return write_json(folder / INDEX_NAME, {"metadata": {"total_size": 16}}).parent


@hostile
def weight_map_not_of_names(folder: Path) -> Path:
    return with_index(folder, {"a": 1})


@hostile
def shard_missing(folder: Path) -> Path:
    name = "model-00001-of-00001.safetensors"
    return with_index(folder, {"a": name, "b": "model-00002-of-00002.safetensors"})


@hostile
def shard_without_the_tensor(folder: Path) -> Path:
    name = "model-00001-of-00001.safetensors"
    return with_index(folder, {"a": name, "b": name})


@hostile
def shard_outside_the_folder(folder: Path) -> Path:
    """The shard exists and is good: only its place is wrong."""
    write_file(folder / "outside.safetensors", {"b": VALUES})
    inside = folder / "model"
    inside.mkdir()
    return with_index(inside, {"a": "model-00001-of-00001.safetensors", "b": "../outside.safetensors"})


@hostile
def shard_outside_by_detour(folder: Path) -> Path:
    write_file(folder / "outside.safetensors", {"b": VALUES})
    inside = folder / "model"
    (inside / "sub").mkdir(parents=True)
    return with_index(inside, {"a": "model-00001-of-00001.safetensors", "b": "sub/../../outside.safetensors"})


@hostile
def shard_by_absolute_path(folder: Path) -> Path:
    outside = write_file(folder / "outside.safetensors", {"b": VALUES})
    inside = folder / "model"
    inside.mkdir()
    return with_index(inside, {"a": "model-00001-of-00001.safetensors", "b": str(outside.resolve())})


@hostile
def bad_shard_behind_a_good_index(folder: Path) -> Path:
    name = "model-00001-of-00001.safetensors"
    with_index(folder, {"a": name})
    (folder / name).write_bytes(file_bytes({"a": VALUES})[:-1])
    return folder
