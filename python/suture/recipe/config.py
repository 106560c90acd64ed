"""Reading merge configs: mergekit's YAML, with the line of every key kept for error messages."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from suture.errors import SutureError, UsageError


@dataclass
class Config:
    """A merge config as data.

    Attributes:
        recipe: the config, with model paths resolved.
        source: the file it was read from, if any.
        lines: the line of every key path, from 1.
    """

    recipe: dict[str, Any]
    source: Path | None = None
    lines: dict[str, int] = field(default_factory=dict)

    def locate(self, error: UsageError) -> UsageError:
        """The error with file and line in front, if it concerns a key of this config."""
        at = error.at
        while at and at not in self.lines:
            at = re.sub(r"(\.[^.\[\]]*|\[\d+\])$", "", at) if re.search(r"[.\[]", at) else None
        if self.source is None:
            return error
        line = f":{self.lines[at]}" if at else ""
        return UsageError(f"{self.source}{line}: {error}", self.source, error.tensor, error.at)


def load(config: Mapping[str, Any] | str | PathLike[str]) -> Config:
    """Read a config from a YAML file, or take one that is already a mapping.

    Model paths are taken from the current folder, else from the config's.

    Raises:
        SutureError: if the file cannot be read.
        UsageError: if it is not YAML, not a mapping, or names a model that is not there.
    """
    loaded = Config(_copy(config)) if isinstance(config, Mapping) else _read(Path(config))
    folder = loaded.source.parent if loaded.source else None
    try:
        _resolve_models(loaded.recipe, "", folder)
    except UsageError as e:
        raise loaded.locate(e) from None
    return loaded


def check_values(value: Any, at: str = "") -> None:
    """Check that a recipe holds nothing but numbers, text, lists and mappings.

    Raises:
        UsageError: if YAML or a caller gave something else, such as a date or a NaN; it names the key.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            check_values(item, f"{at}.{key}" if at else str(key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            check_values(item, f"{at}[{i}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{at}: expected a finite number, found {value}", at=at)
    elif isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**63:
        raise UsageError(f"{at}: the number is too large", at=at)
    elif value is not None and not isinstance(value, str | int | float):
        raise UsageError(f"{at}: expected a number, text, a list or a mapping, found {type(value).__name__}", at=at)


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _copy(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_copy(v) for v in value]
    return str(value) if isinstance(value, PathLike) else value


def _read(path: Path) -> Config:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as e:
        raise SutureError(f"{path}: cannot read the config: {e.strerror}", path) from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: the config is not text", path) from None
    lines: dict[str, int] = {}
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise UsageError(f"{path}: YAML aliases (`*name`) are not supported; write the value out", path)
        loader = yaml.SafeLoader(text)
        loader.name = str(path)
        node = loader.get_single_node()
        data = yaml.safe_load(text)
        _collect_lines(yaml, node, "", lines)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(e, "problem", None) or "not YAML"
        raise UsageError(f"{path}{line}: the config is not valid YAML: {problem}", path) from None
    except RecursionError:
        raise UsageError(f"{path}: the config is nested too deeply", path) from None
    except ValueError as e:
        raise UsageError(f"{path}: the config holds a value that cannot be read: {e}", path) from None
    if not isinstance(data, dict):
        raise UsageError(f"{path}: expected a mapping with `merge_method` and `models`", path)
    return Config(_copy(data), path, lines)


def _collect_lines(yaml: Any, node: Any, at: str, lines: dict[str, int]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = f"{at}.{key.value}" if at else str(key.value)
            if path in lines:
                message = f"`{key.value}` is given twice; the first is on line {lines[path]}"
                raise UsageError(f"{key.start_mark.name}:{key.start_mark.line + 1}: {message}", at=path)
            lines[path] = key.start_mark.line + 1
            _collect_lines(yaml, value, path, lines)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            lines[f"{at}[{i}]"] = value.start_mark.line + 1
            _collect_lines(yaml, value, f"{at}[{i}]", lines)


def _resolve_models(node: Any, at: str, folder: Path | None) -> None:
    if isinstance(node, list):
        for i, item in enumerate(node):
            _resolve_models(item, f"{at}[{i}]", folder)
    elif isinstance(node, dict):
        for key, value in node.items():
            path = f"{at}.{key}" if at else key
            if key in ("model", "base_model"):
                node[key] = _model_path(value, path, folder)
            elif key in ("models", "slices", "sources"):
                _resolve_models(value, path, folder)


def _model_path(value: Any, at: str, folder: Path | None) -> Any:
    if isinstance(value, dict):
        inner = value.get("model")
        if value.get("lora") is not None:
            raise UsageError(
                f"{at}: adapters (`lora`) are not supported yet; fold the adapter into its model first", at=at
            )
        if isinstance(inner, dict) and set(value) <= {"model", "lora", "override_architecture"}:
            value = inner.get("path")
    if not isinstance(value, str) or not value.strip():
        return value
    expanded = Path(value).expanduser()
    candidates = [expanded] if folder is None or expanded.is_absolute() else [expanded, folder / expanded]
    for path in candidates:
        if path.exists():
            return str(path)
    if "+" in value:
        message = "adapters (`model+lora`) are not supported yet; fold the adapter into its model first"
    else:
        tried = " and ".join(str(c) for c in candidates)
        message = f"no such file or folder (tried {tried}); models are paths, nothing is downloaded"
    raise UsageError(f"{at}: `{value}`: {message}", at=at)
