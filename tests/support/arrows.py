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


def between_files(crate: Path) -> Arrows:
    """Which files of a Rust crate use which, named as modules below `crate`; what only tests use does not count.

    The file of a room (``mod.rs``) is named after the room. That its own files use what it defines is no arrow.
    """
    files = {f"crate.{_rust_module(crate, path)}".rstrip("."): path for path in crate.rglob("*.rs")}
    return {module: _used(path, module, files.keys()) for module, path in files.items() if module != "crate.lib"}


def _rust_module(crate: Path, path: Path) -> str:
    parts = path.relative_to(crate).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "mod" else parts)


def _used(path: Path, module: str, names: Iterable[str]) -> set[str]:
    known = set(names)
    code = re.sub(r"//.*", "", re.split(r"#\[cfg\(test\)\]\s*mod tests", path.read_text(encoding="utf-8"))[0])
    # `super` of a room's own file is its parent, as of any other file in it.
    parent = module if path.name == "mod.rs" and module == "crate" else module.rpartition(".")[0]
    paths: set[str] = set()
    for statement in re.findall(r"\buse\s+((?:crate|super|self)\b[^;]*);", code):
        paths.update(_expanded(re.sub(r"\s+", "", statement)))
    paths.update(re.findall(r"\b(?:crate|super)(?:::\w+)+", code))
    found = set()
    for used in paths:
        parts = used.split("::")
        while parts[0] == "super":
            parts = [*parent.split("."), *parts[1:]] if parts[1:2] != ["super"] else parts[1:]
        if parts[0] == "self":
            parts = [*module.split("."), *parts[1:]]
        name = ".".join(parts)
        while name and name not in known:
            name = name.rpartition(".")[0]
        found.add(name)
    rooms = {module.rsplit(".", i)[0] for i in range(module.count(".") + 1)}
    return {name for name in found if name and name != module and name not in rooms | {"crate"}}


def _expanded(statement: str) -> list[str]:
    """The single paths of a `use` with braces."""
    head, brace, rest = statement.partition("{")
    if not brace:
        return [statement.partition("as")[0] if re.search(r"::\w+as\w+$", statement) else statement]
    inner, depth, items = rest[: rest.rfind("}")], 0, [""]
    for c in inner:
        depth += {"{": 1, "}": -1}.get(c, 0)
        if c == "," and depth == 0:
            items.append("")
        else:
            items[-1] += c
    return [path for item in items if item for path in _expanded(head + item)]
