"""Where things are, and what everything shares."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
MIB = 1 << 20
COPY_BLOCK = 8 * MIB
SEED = "42"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def warm(folders: Sequence[Path]) -> None:
    buffer = bytearray(COPY_BLOCK)
    for path in weight_files(folders):
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def cold(folders: Sequence[Path]) -> None:
    os.sync()
    for path in weight_files(folders):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def weight_files(folders: Sequence[Path]) -> list[Path]:
    return sorted(path for folder in folders for end in (".safetensors", ".bin") for path in folder.glob(f"*{end}"))


def weight_bytes(folders: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in weight_files(folders))


def remove(path: Path | None) -> None:
    """Delete an output whole, and let the disk settle before the next run."""
    if path is None:
        return
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    os.sync()
