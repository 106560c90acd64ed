"""A fast place to write thousands of tiny outputs in."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """An empty folder in memory, where syncing costs nothing; on the disk where the system has no such place."""
    if not (MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 2**30):
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(prefix="suture-law-", dir=MEMORY))
    yield folder
    shutil.rmtree(folder)
