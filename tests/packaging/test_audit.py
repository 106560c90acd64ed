"""The audit of `make wheel` finds what it is there to find, and lets nothing pass in silence."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from . import audit

GOOD = "suture-1.0-cp310-abi3-macosx_11_0_arm64.whl"
EXTENSION = "suture/_core.abi3.so"


def wheel(folder: Path, files: Mapping[str, bytes], name: str = GOOD) -> Path:
    """A wheel of these files and, unless one is among them, an extension."""
    path = folder / name
    with zipfile.ZipFile(path, "w") as archive:
        for file, data in {EXTENSION: b"\0", **files}.items():
            archive.writestr(file, data)
    return path


def test_a_good_wheel_has_no_faults(tmp_path: Path) -> None:
    """Names of the standard library's sources, and paths that name no source, are no faults."""
    innocent = b"/rustc/0123/library/core/src/str.rs\0/rust/deps/gimli/src/lib.rs\0/proc/self/maps\0rust/core/src/a.rs"
    assert audit.faults(wheel(tmp_path, {EXTENSION: innocent})) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("suture-1.0-cp311-cp311-macosx_11_0_arm64.whl", "cp310-abi3"),
        ("suture-1.0-cp310-abi3-linux_x86_64.whl", "linux_x86_64"),
    ],
)
def test_a_wrong_name_is_found(name: str, said: str, tmp_path: Path) -> None:
    """One version of Python only, or a tag that no index takes."""
    (fault,) = audit.faults(wheel(tmp_path, {}, name))
    assert said in fault


@pytest.mark.parametrize(
    ("file", "data", "said"),
    [
        ("suture/__pycache__/a.cpython-310.pyc", b"", "one Python"),
        (EXTENSION, b"\0" + os.fsencode(audit.ROOT) + b"/rust", "of this machine"),
        ("suture/a.json", os.fsencode(Path.home() / ".cargo") + b"/registry", "of this machine"),
        (EXTENSION, b"x\0/home/someone/rust/core/src/lib.rs\0", "/home/someone/rust/core/src/lib.rs"),
        (EXTENSION, b"x\0.symtab\0.strtab\0", "not stripped"),
        ("suture/_core.cpython-311.so", b"", "expected one extension"),
    ],
)
def test_wrong_contents_are_found(file: str, data: bytes, said: str, tmp_path: Path) -> None:
    """Each kind of thing that does not belong into a wheel, where it is and what it is."""
    found = audit.faults(wheel(tmp_path, {file: data}))
    assert any(said in fault for fault in found), found


def test_a_wheel_too_large_is_found(tmp_path: Path) -> None:
    """Under 6 MB, of which none is what the models of the demo would take uncompressed."""
    (fault,) = audit.faults(wheel(tmp_path, {"suture/big": os.urandom(audit.LIMIT)}))
    assert "the limit is 6,000,000" in fault
