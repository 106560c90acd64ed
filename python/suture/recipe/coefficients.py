"""Values for every layer from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from suture.errors import UsageError
from suture.reference import existing


def with_coefficients(node: Any, folder: Path | None, at: str = "") -> Any:
    """A config with its coefficient files read."""
    if isinstance(node, list):
        return [with_coefficients(item, folder, f"{at}[{i}]") for i, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    if "file" in node and set(node) <= {"file", "default"}:
        return _coefficients(node, at, folder)
    return {key: with_coefficients(value, folder, f"{at}.{key}" if at else key) for key, value in node.items()}


def _coefficients(node: dict[str, Any], at: str, folder: Path | None) -> dict[str, Any]:
    """A per-layer coefficient file, as the recipe has it.

    It is JSON or YAML (a list, or a mapping from layer to value, which may hold `default`), or CSV with the columns
    layer and value.
    """
    path = existing(str(node["file"]), folder)
    if path is None:
        raise UsageError(f"{at}.file: no such file `{node['file']}`", at=f"{at}.file")
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".csv":
            import csv

            rows: Any = {row["layer"]: float(row["value"]) for row in csv.DictReader(text.splitlines())}
        else:
            import yaml

            rows = yaml.safe_load(text)
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UsageError(f"{at}.file: {path}: cannot be read as coefficients: {e}", at=f"{at}.file") from None
    except Exception as e:  # yaml's errors, without importing yaml for a CSV file
        raise UsageError(f"{at}.file: {path}: not valid YAML or JSON: {e}", at=f"{at}.file") from None
    if isinstance(rows, list):
        rows = dict(enumerate(rows))
    if not isinstance(rows, dict):
        raise UsageError(f"{at}.file: {path}: expected a value for each layer", at=f"{at}.file")
    layers = {str(k): v for k, v in rows.items()}
    default = node.get("default", layers.pop("default", None))
    return {"layers": layers} | ({} if default is None else {"default": default})
