"""What tests of searches share: a family of four layers, and evaluators."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from ..support.layered import write_layered

#: Prints a number that is a function of the candidate's bytes alone.
DIGEST = (
    "import hashlib, pathlib, sys;"
    "b = b''.join(p.read_bytes() for p in sorted(pathlib.Path(sys.argv[1]).glob('*.safetensors')));"
    "print('score', int(hashlib.sha256(b).hexdigest()[:8], 16) / 2**32)"
)


def command(code: str = DIGEST) -> str:
    """A command line that runs Python code."""
    return f'{sys.executable} -c "{code}" {{model}}'


def config(folder: Path, weight: Callable[[int], Any], method: str = "task_arithmetic") -> dict[str, Any]:
    """A merge of two fine-tunes of four layers, which are made unless they are there."""
    if not (folder / "base").exists():
        write_layered(folder, count=2)
    models = [{"model": str(folder / f"tuned-{i + 1}"), "parameters": {"weight": weight(i)}} for i in range(2)]
    based = {} if method == "linear" else {"base_model": str(folder / "base")}
    return {"merge_method": method, **based, "models": models}


def searched(folder: Path, **more: Any) -> dict[str, Any]:
    """The same with a number for each layer and model to search."""
    return config(folder, lambda _: {"search": [0, 1], "layer_granularity": 1, **more})


def written(folder: Path, given: dict[str, Any]) -> Path:
    """A config as a file."""
    path = folder / "config.yml"
    path.write_text(yaml.safe_dump(given))
    return path


def trajectory(state: Path) -> list[tuple[int, str, float | None]]:
    """Number, genes and score of every candidate, as they were written down."""
    with sqlite3.connect(state) as db:
        return db.execute("select number, genes, score from candidates order by number").fetchall()


def tensors(folder: Path) -> list[bytes]:
    """The bytes of the files that hold tensors."""
    return [p.read_bytes() for p in sorted(folder.glob("*.safetensors"))]
