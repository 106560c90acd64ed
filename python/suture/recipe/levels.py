"""The levels of a merge (whole, modules, slices, models): walked, changed, and looked over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from suture.errors import UsageError, near


def refuse_unknown(found: Iterable[str], passing: Iterable[str], known: Iterable[str], at: str = "") -> None:
    """Refuse the first key that does not pass, with the nearest of those `known`; `at` stands before it.

    Raises:
        UsageError: if there is one.
    """
    for key in found:
        if key not in passing:
            meant = near(key, known) or f"; expected one of {', '.join(sorted(known))}"
            raise UsageError(f"{at}{key}: unknown key{meant}", at=f"{at}{key}")


def mapped(
    node: dict[str, Any],
    parameters: Callable[[dict[str, Any]], dict[str, Any]],
    sources: Callable[[list[Any]], list[Any]],
) -> dict[str, Any]:
    """A merge with its parameters and its lists of models changed, at every level."""
    made: dict[str, Any] = {}
    for key, value in node.items():
        if key == "parameters" and isinstance(value, dict):
            if kept := parameters(value):
                made[key] = kept
        elif key in ("models", "sources", "slices") and isinstance(value, list):
            inner = [mapped(v, parameters, sources) if isinstance(v, dict) else v for v in value]
            made[key] = inner if key == "slices" else sources(inner)
        elif key == "modules" and isinstance(value, dict):
            made[key] = {k: mapped(v, parameters, sources) if isinstance(v, dict) else v for k, v in value.items()}
        else:
            made[key] = value
    return made


def model_lists(node: Any, at: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Every list of models of a merge, with its key path."""
    inside = f"{at}." if at else ""
    for key in ("models", "sources"):
        if isinstance(node.get(key), list):
            yield f"{inside}{key}", node[key]
    for i, part in enumerate(node.get("slices") if isinstance(node.get("slices"), list) else ()):
        if isinstance(part, dict):
            yield from model_lists(part, f"{inside}slices[{i}]")
    modules = node.get("modules")
    for name, part in modules.items() if isinstance(modules, dict) else ():
        if isinstance(part, dict):
            yield from model_lists(part, f"{inside}modules.{name}")


def parameters_of(node: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """The names of a merge's parameters, at every level, with a key path of each."""
    inside = f"{at}." if at else ""
    if isinstance(node.get("parameters"), dict):
        yield from ((name, f"{inside}parameters.{name}") for name in node["parameters"])
    for key in ("models", "sources", "slices"):
        for i, part in enumerate(node.get(key) if isinstance(node.get(key), list) else ()):
            if isinstance(part, dict):
                yield from parameters_of(part, f"{inside}{key}[{i}]")
    modules = node.get("modules")
    for name, part in modules.items() if isinstance(modules, dict) else ():
        if isinstance(part, dict):
            yield from parameters_of(part, f"{inside}modules.{name}")


def refuse_moved(shared: dict[str, Any]) -> None:
    """Refuse slices of a set that put layers elsewhere than where their models have them.

    Raises:
        UsageError: if there is one: what is compared is tensors of one name.
    """
    modules = shared.get("modules")
    parts = [("", shared), *(modules.items() if isinstance(modules, dict) else ())]
    for name, part in parts:
        slices = part.get("slices") if isinstance(part, dict) else None
        place, inside = 0, f"modules.{name}." if name else ""
        for i, one in enumerate(slices if isinstance(slices, list) else ()):
            at = f"{inside}slices[{i}]"
            sources = one.get("sources") if isinstance(one, dict) else None
            end = place
            for source in sources if isinstance(sources, list) else ():
                span = source.get("layer_range") if isinstance(source, dict) else None
                if not (isinstance(span, list) and len(span) == 2 and all(type(n) is int for n in span)):
                    continue  # What is no range the core refuses, by its line.
                if span[0] != place:
                    message = (
                        f"{at}: layers {span[0]} to {span[1] - 1} would be layers from {place} on, and the outputs of a"
                        " set are compared with their experts layer by layer; merge such slices without --all-of"
                    )
                    raise UsageError(message, at=at)
                end = span[1]
            place = end
