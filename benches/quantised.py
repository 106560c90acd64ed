"""`python benches/quantised.py [FORM...]`: how fast each form is decoded, on one thread, to bf16, from the page"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import suture
from tests.quantised.worlds import FORMS, stem_of
from tests.reference.quantised.ggml import TYPES, blocks
from tests.support.checkpoints import encode, llama_config, write_checkpoint
from tests.support.gguf import Stored, write_gguf

ROWS, COLUMNS = 2880, 2048


def measured(path: Path, weight: str) -> str:
    """The best of five readings of a weight."""
    model = suture.Checkpoint.plain(path)._core
    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        size = len(model.read(weight))
        best = min(best, time.process_time() - began)
    return f"{size / best / 1e9:5.2f} GB/s, {best / size * 2e9:5.2f} ns an element"


def hugging_face(name: str, folder: Path) -> tuple[Path, str]:
    """A weight of a form, and its name."""
    form = FORMS[name]
    weight = form.make(np.random.default_rng(0), ROWS, COLUMNS)
    stem = stem_of(form, 0)
    config = llama_config(1, 16, 2, 2, 32, 8, False, "BF16") | {"quantization_config": dict(form.said)}
    stored = {stem + ending: t for ending, t in weight.stored.items()}
    return write_checkpoint(folder / "model", stored, config=config), stem + weight.plain


def gguf(kind: str, folder: Path) -> tuple[Path, str]:
    """A weight of a type of GGML, and its name."""
    raw = blocks(kind, ROWS * COLUMNS // TYPES[kind].elements, 0)
    stored = {"blk.0.ffn_up.weight": Stored(kind, (ROWS, COLUMNS), raw, None)}
    metadata = {"general.architecture": "qwen3", "qwen3.block_count": 1}
    return write_gguf(folder / "m.gguf", metadata, stored), "model.layers.0.mlp.up_proj.weight"


def merged(form: str) -> None:
    """How long merges of models of 0.3 GB (as bf16) take that are stored in a form, against the same as bf16."""
    with tempfile.TemporaryDirectory() as name:
        folder, rng = Path(name), np.random.default_rng(0)
        config = llama_config(8, 2048, 16, 16, 8192, 256, False, "BF16")
        for i in range(3):
            stems = (f"model.layers.{k}.mlp.up_proj.weight" for k in range(10))
            stored = {n: encode(rng.normal(0, 0.02, (8192, 2048)), "BF16") for n in stems}
            write_checkpoint(folder / f"bf16-{i}", stored, config=config)
            suture.convert(folder / f"bf16-{i}", folder / f"{form}-{i}", settings=suture.Settings(to=form))
        for method in ("linear", "ties", "task_arithmetic", "slerp"):
            took = []
            for kind in ("bf16", form):
                paths = [str(folder / f"{kind}-{i}") for i in range(3)]
                inputs = paths[:2] if method in ("linear", "slerp") else paths[1:]
                parameters = {"weight": 0.5} | ({"density": 0.5} if method == "ties" else {})
                entries = [{"model": p} | ({} if method == "slerp" else {"parameters": parameters}) for p in inputs]
                recipe: dict[str, Any] = {"merge_method": method, "models": entries, "to": "bf16"}
                recipe |= {} if method == "linear" else {"base_model": paths[0]}
                recipe |= {"parameters": {"t": 0.5}} if method == "slerp" else {}
                best = float("inf")
                for _ in range(3):
                    began = time.perf_counter()
                    suture.merge(recipe, folder / "out", settings=suture.Settings(threads=2, overwrite=True))
                    best = min(best, time.perf_counter() - began)
                took.append(best)
            print(f"{method:16} bf16 {took[0]:5.2f} s, {form} {took[1]:5.2f} s: {took[1] / took[0]:4.2f} x", flush=True)


def main() -> None:
    """Print a line for each form; of `merge FORM` a line for each of some methods."""
    if sys.argv[1:2] == ["merge"]:
        merged(sys.argv[2])
        return
    for name in sys.argv[1:] or [*FORMS, *(f"gguf:{kind}" for kind in TYPES)]:
        with tempfile.TemporaryDirectory() as folder:
            of, kind = (gguf, name.removeprefix("gguf:")) if name.startswith("gguf:") else (hugging_face, name)
            print(f"{name:22} {measured(*of(kind, Path(folder)))}", flush=True)


main()
