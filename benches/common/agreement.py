"""How far the outputs of two tools agree, element by element."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from family import WORD_BYTES

from common.places import weight_files

COMPARE_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class Agreement:
    """Where dtypes differ, the wider side was rounded to the narrower one's."""

    tensors: int
    equal_share: float
    beyond_ulp_share: float
    max_abs_difference: float
    worst_tensor: str | None
    only_one_side: list[str]
    shapes_differ: list[str]
    dtypes_differ: list[str]


@dataclass(frozen=True)
class Stored:
    path: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]
    elements: int

    def bits(self, start: int, n: int, dtype: str) -> npt.NDArray[Any]:
        """The words of some elements, in this dtype or the narrower one asked for."""
        width = WORD_BYTES[self.dtype]
        words: npt.NDArray[Any] = np.fromfile(self.path, f"<u{width}", n, offset=self.offset + width * start)
        if dtype == self.dtype:
            return words
        rounded: npt.NDArray[Any] = (words + ((words >> 16) & 1) + 0x7FFF) >> 16  # bf16, nearest even
        return rounded.astype(np.uint16)


def stored_tensors(folder: Path, skip: str) -> dict[str, Stored]:
    found = {}
    for path in weight_files([folder]):
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            table: dict[str, Any] = json.loads(file.read(size))
        table.pop("__metadata__", None)
        for name, entry in table.items():
            if entry["dtype"] not in WORD_BYTES:
                raise ValueError(f"{path}: {name}: expected one of {list(WORD_BYTES)}, found {entry['dtype']}")
            begin, end = entry["data_offsets"]
            elements = (end - begin) // WORD_BYTES[entry["dtype"]]
            if not re.search(skip, name):
                found[name] = Stored(path, 8 + size + begin, entry["dtype"], tuple(entry["shape"]), elements)
    return found


def values(bits: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    wide = bits.astype(np.uint32) << 16 if bits.itemsize == 2 else bits
    return wide.view(np.float32)


def steps(bits: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Numbers that follow each other as the floats do, both zeros at 0."""
    signed = bits.view(f"<i{bits.itemsize}").astype(np.int64)
    return np.where(signed < 0, -(1 << (8 * bits.itemsize - 1)) - signed, signed)


def compare(left: Path, right: Path, skip: str = "^$") -> Agreement:
    """Element by element; a step is the distance to the next number of the dtype."""
    a, b = stored_tensors(left, skip), stored_tensors(right, skip)
    shared = sorted(a.keys() & b.keys())
    alike = [name for name in shared if a[name].shape == b[name].shape]
    elements, equal, beyond, worst, worst_tensor = 0, 0, 0, 0.0, None
    for name in alike:
        x, y = a[name], b[name]
        dtype = min(x.dtype, y.dtype, key=lambda dtype: WORD_BYTES[dtype])
        for start in range(0, x.elements, COMPARE_ELEMENTS):
            n = min(COMPARE_ELEMENTS, x.elements - start)
            p, q = x.bits(start, n, dtype), y.bits(start, n, dtype)
            differs = np.flatnonzero(p != q)
            equal += n - differs.size
            if differs.size:
                p, q = p[differs], q[differs]
                beyond += int(np.count_nonzero(np.abs(steps(p) - steps(q)) > 1))
                largest = float(np.max(np.abs(values(p) - values(q))))
                if not largest <= worst:  # so that a NaN is seen
                    worst, worst_tensor = largest, name
        elements += x.elements
    return Agreement(
        len(alike),
        equal / max(elements, 1),
        beyond / max(elements, 1),
        worst,
        worst_tensor,
        sorted(a.keys() ^ b.keys()),
        sorted(set(shared) - set(alike)),
        [name for name in shared if a[name].dtype != b[name].dtype],
    )
