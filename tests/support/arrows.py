"""The arrows between rooms: those ARCHITECTURE.md allows, and those the code has."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
Arrows = dict[str, set[str]]


def allowed(tree: str, text: str | None = None) -> Arrows:
    """The block ``arrows of TREE`` of ARCHITECTURE.md: a line for each room, ``room -> room room``."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8") if text is None else text
    block = re.search(rf"^```arrows of {re.escape(tree)}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert block, f"ARCHITECTURE.md has no block `arrows of {tree}`"
    arrows: Arrows = {}
    for line in block[1].splitlines():
        room, arrow, others = line.partition("->")
        assert arrow, f"expected `room -> room room`, found `{line}`"
        assert room.strip() not in arrows, f"{room.strip()} is listed twice"
        arrows[room.strip()] = set(others.split())
    return arrows


def between_modules(package: Path) -> Arrows:
    """Which modules of a Python package import which, wherever the import stands: in a function, for types alone."""
    files = {_module(package, path): path for path in package.rglob("*.py")}
    names = files.keys() | {f"{package.name}.{path.stem}" for path in package.glob("*.pyi")}
    return {module: _imported(path, module, package.name, names) for module, path in files.items()}


def between_rooms(modules: Mapping[str, Iterable[str]]) -> Arrows:
    """The same between rooms, the packages and modules at the top; the package itself is the room ``__init__``."""
    arrows: Arrows = {}
    for module, others in modules.items():
        targets = arrows.setdefault(_room(module), set())
        targets.update(_room(other) for other in others)
    return {room: others - {room} for room, others in arrows.items()}


def circle(arrows: Mapping[str, Iterable[str]]) -> list[str]:
    """The nodes of a circle, in order; nothing if there is none."""
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str]:
        if node in path:
            return path[path.index(node) :]
        if node in done:
            return []
        for other in sorted(arrows.get(node, ())):
            if found := walk(other, [*path, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(arrows) if (found := walk(node, []))), [])


def _module(package: Path, path: Path) -> str:
    parts = [package.name, *path.relative_to(package).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def _imported(path: Path, module: str, package: str, names: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import; write the whole name"
            # What is imported may be a module of its own.
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in names else str(node.module) for name in inner}
    own = {name for name in found if name == package or name.startswith(f"{package}.")}
    return own - {module}
