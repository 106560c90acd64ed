"""``suture --version --verbose``: what a report of a fault should hold. Nothing is imported to find its version."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterator
from importlib import metadata

from suture._core import build_json


def lines() -> Iterator[str]:
    """How the core was built, what the processor offers, and what is installed beside."""
    built = json.loads(build_json())
    yield _line("commit", built["commit"] or "not known")
    yield _line("compiler", f"{built['rustc'] or 'rustc, version not known'}, for {built['target']}")
    yield _line("profile", f"{built['profile']}, opt-level {built['opt_level']}, LTO {built['lto']}")
    yield _line("processor", " ".join(built["processor"]) or platform.machine())
    yield _line("kernels", built["kernels"])
    libc = " ".join(platform.libc_ver())
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    yield _line("python", f"{platform.python_version()}, {system}" + (f", {libc}" if libc.strip() else ""))
    for extra, names in _requirements().items():
        told = ", ".join(map(_installed, names))
        yield _line(extra or "packages", told.removeprefix(f"{extra} "))


def _line(name: str, value: str) -> str:
    return f"  {name:<9} {value}"


def _requirements() -> dict[str, list[str]]:
    """The packages suture asks for: by extra, those it always needs first, those of its developers not at all."""
    try:
        asked = metadata.requires("suture") or []
    except metadata.PackageNotFoundError:
        asked = []
    found: dict[str, list[str]] = {"": []}
    for requirement in asked:
        name = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)", requirement)
        if name and not (extra and extra[1] == "dev"):
            found.setdefault(extra[1] if extra else "", []).append(name[0])
    return {extra: names for extra, names in found.items() if names}


def _installed(name: str) -> str:
    try:
        return f"{name} {metadata.version(name)}"
    except metadata.PackageNotFoundError:
        return f"{name} not installed"
