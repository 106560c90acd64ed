"""A small checkpoint of what was computed here, for a plan to read."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suture.errors import SutureError

if TYPE_CHECKING:
    import numpy.typing as npt


def write_tensors(folder: Path, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write tensors, as f64, into the new folder `folder`.

    Raises:
        SutureError: if there is no room.
    """
    at, header = 0, {}
    for name, values in tensors.items():
        header[name] = {"dtype": "F64", "shape": list(values.shape), "data_offsets": [at, at + 8 * values.size]}
        at += 8 * values.size
    text = json.dumps(header).encode()
    try:
        folder.mkdir(parents=True)
        with (folder / "adapter_model.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for values in tensors.values():
                file.write(values.astype("<f8").tobytes())
    except OSError as e:
        raise SutureError(f"{folder}: cannot write: {e.strerror}; set TMPDIR to a folder with room", folder) from None
