"""The three models as they come with the wheel: every bit of them, in four fifths of the room.

Sign and mantissa of a trained weight are noise, and its exponent is not: what is alike stands together, and LZMA does
the rest. An expert is told by how many numbers of bf16 each of its weights lies from the base's, not by its bits: one
step up may change them all. A wheel is to stay below 6 MB; what `suture delta extract --form xor` makes of the two
experts is a fifth larger.
"""

from __future__ import annotations

import json
import lzma
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Next to each other is alike, nothing else is; of `pb` 0 to 4 this one is the smallest.
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 0, "pb": 3}]
_WEIGHTS = "weights.xz"
_HEADER = "header.json"
_BESIDE = ("config.json", "tokenizer.json")

Bits = NDArray[np.uint16]


def pack(header: Mapping[str, Any], base: Bits, experts: list[Bits], folder: Path) -> None:
    """Write models of one header; the reverse of :func:`unpack`.

    Args:
        header: that of their safetensors files.
        base: the bits of the base's weights, in the order of the file.
        experts: those of each expert.
        folder: where to.
    """
    planes = [(base >> 7) & 0xFF, (base & 0x7F) | ((base >> 8) & 0x80)]
    for expert in experts:
        steps = _order(expert) - _order(base)
        folded = (steps << 1) ^ (steps >> 31)
        planes += [folded & 0xFF, (folded >> 8) & 0xFF, folded >> 16]
    data = b"".join(plane.astype(np.uint8).tobytes() for plane in planes)
    (folder / _WEIGHTS).write_bytes(lzma.compress(data, filters=_FILTERS))
    (folder / _HEADER).write_text(json.dumps(header, separators=(",", ":")), encoding="utf-8")


def unpack(names: tuple[str, ...], source: Path, out: Path) -> None:
    """Write the models into folders of `out`, called by `names`, the base first.

    Raises:
        OSError: if they cannot be written.
    """
    text = (source / _HEADER).read_bytes()
    planes = np.frombuffer(lzma.decompress((source / _WEIGHTS).read_bytes()), dtype=np.uint8).astype(np.int32)
    planes = planes.reshape(2 + 3 * (len(names) - 1), -1)
    base = ((planes[0] << 7) | (planes[1] & 0x7F) | ((planes[1] & 0x80) << 8)).astype(np.uint16)
    models = [base]
    for low, middle, high in planes[2:].reshape(len(names) - 1, 3, -1):
        folded = low | (middle << 8) | (high << 16)
        models.append(_bits(_order(base) + ((folded >> 1) ^ -(folded & 1))))
    for name, bits in zip(names, models, strict=True):
        place = out / name
        place.mkdir()
        with (place / "model.safetensors").open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text + bits.tobytes())
        for other in _BESIDE:
            shutil.copyfile(source / other, place / other)


def _order(bits: Bits) -> NDArray[np.int32]:
    """Where a number stands among all of bf16; both zeros stand at different places."""
    size = (bits & 0x7FFF).astype(np.int32)
    return np.where(bits & 0x8000, -1 - size, size).astype(np.int32)


def _bits(order: NDArray[np.int32]) -> Bits:
    return np.where(order < 0, 0x8000 | (-1 - order), order).astype(np.uint16)
