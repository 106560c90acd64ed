"""The best candidate as a merge config with coefficient files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from suture.errors import SutureError, UsageError
from suture.escape import shown
from suture.recipe import with_models
from suture.reference import Reference
from suture.searching.genome import Genome, Knob

#: The config, and the start of its coefficient files' names.
CONFIG, FILES = "best.yml", "best-"


def plainly(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe with its models as text that means the same from any folder.

    Raises:
        UsageError: if a model has an adapter that is added with a weight, which no name says.
    """

    def named(model: Any, at: str) -> Any:
        if isinstance(model, Reference):
            if any(weight != 1 for _, weight in model.adapters):
                message = f"{at}: `{model}` has an adapter with a weight of its own; `suture lora fold` it first"
                raise UsageError(message, at=at)
            if model.name is not None and not model.adapters:
                return model.name
            parts = (model.name or _place(model.path), *(_place(path) for path, _ in model.adapters))
            return "+".join(parts)
        return _place(model) if isinstance(model, str) else model

    made: dict[str, Any] = with_models(recipe, named)
    return made


def _place(path: str) -> str:
    """A path from any folder; of what stands for something in a store its URL."""
    return shown(os.path.abspath(path)) if os.path.exists(path) else path


def write_best(genome: Genome, genes: Sequence[float], out: Path, told: Sequence[str], merge_seed: int) -> None:
    """Write best.yml and its coefficient files into `out`, and remove those of an earlier best.

    Files are named by what they hold: a config never reads those of another.

    Raises:
        SutureError: if they cannot be written.
    """
    import yaml

    files: dict[str, str] = {}

    def filed(_: Knob, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        text = json.dumps({**value["layers"], "default": value["default"]}, indent=1) + "\n"
        name = f"{FILES}{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
        files[name] = text
        return {"file": name}

    config = genome.merge(genes, filed)
    seed = [f"with --seed {merge_seed}"] if merge_seed else []
    head = "".join(f"# {' '.join(line.split())}\n" for line in [*told, *seed])
    text = head + yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    try:
        for name, content in files.items():
            whole(out / name, content)
        whole(out / CONFIG, text)
        for old in out.glob(f"{FILES}{12 * '?'}.json"):
            if old.name not in files:
                old.unlink(missing_ok=True)
    except OSError as e:
        raise SutureError(f"{out}: cannot write the best so far: {e.strerror}; the state has it", out) from None


def whole(path: Path, text: str) -> None:
    """Write a file in one piece: whoever reads it sees the old one or the new one."""
    new = path.with_name(f".{path.name}.new")
    try:
        new.write_text(text, encoding="utf-8")
        new.replace(path)
    finally:
        with suppress(OSError):
            new.unlink(missing_ok=True)
