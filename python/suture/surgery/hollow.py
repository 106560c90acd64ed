"""A stand-in for a model that is not made yet: its headers and side files, and holes where its data will be.

So a merge that uses it can be planned before it is there.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path

from suture.errors import SutureError
from suture.results import Surgery

_INDEX = "model.safetensors.index.json"


def write_hollow(
    folder: Path, plan: Surgery, written: Sequence[tuple[str, bytes]], copied: Sequence[tuple[str, str]]
) -> None:
    """Write into the new folder `folder` what `plan` will make, without its data.

    Raises:
        SutureError: if the temporary folder does not take it.
    """
    weights: dict[str, str] = {}
    try:
        folder.mkdir(parents=True)
        for number, shard in enumerate(plan["shards"]):
            tensors = sorted((t for t in plan["tensors"] if t["shard"] == number), key=lambda t: int(t["offset"]))
            # Data lie side by side, so that each tensor ends where the next begins.
            starts = [*(t["offset"] for t in tensors), shard["bytes"]]
            header = {
                t["name"]: {
                    "dtype": t["dtype"],
                    "shape": t["shape"],
                    "data_offsets": [starts[i] - starts[0], starts[i + 1] - starts[0]],
                }
                for i, t in enumerate(tensors)
            }
            text = json.dumps(header).encode()
            with (folder / shard["file"]).open("wb") as file:
                file.write(struct.pack("<Q", len(text)) + text)
                file.truncate(8 + len(text) + starts[-1] - starts[0])
            weights |= dict.fromkeys(header, shard["file"])
        if len(plan["shards"]) > 1:
            (folder / _INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weights}), encoding="utf-8")
        for name, content in written:
            _beside(folder, name).write_bytes(content)
        for name, source in copied:
            _beside(folder, name).symlink_to(Path(source).resolve())
    except OSError as e:
        raise SutureError(f"{folder}: cannot write the headers to plan with: {e.strerror}", folder) from None


def _beside(folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
