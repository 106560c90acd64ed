"""What a wheel must be before it is released. `make wheel` runs this; for a wheel for Linux it takes auditwheel."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

LIMIT = 6_000_000
GLIBC = (2, 28)
ROOT = Path(__file__).resolve().parents[2]
#: The source of something in the library by its full path. The standard library's own are no folders of this machine.
SOURCE = re.compile(rb"(?<![\w.+-])/(?!rustc/|rust/deps/)[\w.+ -]+(?:/[\w.+ -]+)*\.(?:rs|c|h)\b")


def faults(wheel: Path) -> list[str]:
    """All that is wrong with the wheel, one line each; nothing for a good one."""
    found = [*_named(wheel), *_holds(wheel)]
    return [*found, *_needs(wheel)] if "manylinux" in wheel.name else found


def _named(wheel: Path) -> Iterator[str]:
    tag = re.fullmatch(r"suture-[\w.+]+-cp310-abi3-(.+)\.whl", wheel.name)
    if not tag:
        yield "the name does not end in cp310-abi3 and a platform: it is not for every Python from 3.10"
        return
    linux = re.match(r"manylinux_(\d+)_(\d+)_", tag[1])
    if linux and (int(linux[1]), int(linux[2])) > GLIBC:
        yield f"the tag {tag[1]} asks for a newer glibc than {_dotted(GLIBC)}"
    if not linux and not tag[1].startswith("macosx_"):
        yield f"expected a tag manylinux_2_28 or older, or macosx, found {tag[1]}"
    size = wheel.stat().st_size
    if size >= LIMIT:
        yield f"{size:,} bytes; the limit is {LIMIT:,}"


def _holds(wheel: Path) -> Iterator[str]:
    places = [os.fsencode(place) for place in _places()]
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        extensions = [name for name in names if name.endswith((".so", ".pyd", ".dylib"))]
        if extensions != ["suture/_core.abi3.so"]:
            yield f"expected one extension, suture/_core.abi3.so, found {', '.join(extensions) or 'none'}"
        for name in names:
            if "__pycache__" in name or name.endswith(".pyc"):
                yield f"{name}: compiled by one Python, for that one alone"
            data = archive.read(name)
            for place in places:
                if place in data:
                    yield f"{name}: names the folder {os.fsdecode(place)} of this machine"
            if name in extensions:
                source = SOURCE.search(data)
                if source:
                    yield f"{name}: names a source by its full path, {os.fsdecode(source[0])}"
                if b"\0.symtab\0" in data or b"\0.debug_info\0" in data:
                    yield f"{name}: is not stripped"


def _places() -> set[Path]:
    """The folders a build leaves traces of."""
    sysroot = subprocess.run(
        ["rustc", "--print", "sysroot"], capture_output=True, text=True, check=False
    ).stdout.strip()
    cargo = os.environ.get("CARGO_HOME") or Path.home() / ".cargo"
    return {ROOT, Path(cargo), Path(sysroot) if sysroot else ROOT, Path.home() / ".rustup"}


def _needs(wheel: Path) -> Iterator[str]:
    """What auditwheel says it takes of the system."""
    command = [sys.executable, "-m", "auditwheel", "show", "--json", str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        yield f"auditwheel cannot judge it: {why}"
        return
    said = json.loads(done.stdout)
    verdict = re.match(r"manylinux_(\d+)_(\d+)_", said["overall_tag"])
    if not verdict or (int(verdict[1]), int(verdict[2])) > GLIBC:
        newest = {lib: max(versions, key=_numbers) for lib, versions in said["versioned_symbols"].items()}
        asked = ", ".join(f"{version} of {lib}" for lib, version in sorted(newest.items()))
        yield f"auditwheel: only {said['overall_tag']}, not {_dotted(GLIBC)}; it needs {asked}"
    for lib in sorted(said["external_libs"]):
        yield f"auditwheel: needs {lib}, which a system need not have"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def main() -> None:
    """Judge the wheels named on the command line."""
    bad = False
    for wheel in map(Path, sys.argv[1:]):
        found = faults(wheel)
        bad = bad or bool(found)
        for fault in found:
            print(f"error: {wheel}: {fault}", file=sys.stderr)
        if not found:
            print(f"{wheel}: {wheel.stat().st_size / 1e6:.1f} MB, {wheel.stem.split('-', 2)[2]}, nothing wrong")
    sys.exit(1 if bad or not sys.argv[1:] else 0)


if __name__ == "__main__":
    main()
