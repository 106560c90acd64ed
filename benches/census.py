"""Which public merge configs run: every config of a folder, dry and real, on small models of the shapes it asks for.

    python benches/census.py CONFIGS

CONFIGS holds YAML files and `expect.json`: for each what kind it is, whether mergekit 0.1.5 takes it, and how many
layers its models have. The models are called `m1`, `m2`, ... in them, the adapters `l1`, ...; every other model has
words of its own in its tokenizer, so that unions are unions. It fails if a config that mergekit takes does not run, or
one that it refuses does.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

import suture
from tests.support.checkpoints import encode, llama_config, llama_shapes, write_checkpoint

VOCAB, SHARED = 64, 50
TEMPLATE = "{{ messages }}"


def tokenizer(folder: Path, seed: int) -> None:
    """A tokenizer of words; those of odd models end otherwise."""
    words = {f"{'u' if seed % 2 and i >= SHARED else 't'}{i}": i for i in range(VOCAB)}
    model = {"type": "BPE", "vocab": words, "merges": []}
    data: dict[str, Any] = {
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "decoder": None,
        "model": model,
    }
    (folder / "tokenizer.json").write_text(json.dumps(data))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))


def model(place: Path, layers: int, seed: int) -> Path:
    """A Llama of so many layers."""
    folder = place / f"model-{layers}-{seed}"
    if not folder.exists():
        rng = np.random.default_rng(seed)
        shapes = llama_shapes(layers, 8, 2, 1, 8, VOCAB, False)
        tensors = {n: encode(rng.normal(0, 0.02, s).astype(np.float32), "BF16") for n, s in shapes.items()}
        write_checkpoint(folder, tensors, config=llama_config(layers, 8, 2, 1, 8, VOCAB, False, "BF16"))
        tokenizer(folder, seed)
    return folder


def adapter(place: Path, layers: int, seed: int) -> Path:
    """An adapter of it."""
    folder = place / f"adapter-{layers}-{seed}"
    if not folder.exists():
        rng = np.random.default_rng(1000 + seed)
        tensors = {}
        for layer in range(layers):
            module = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
            for factor, shape in (("A", (2, 8)), ("B", (8, 2))):
                values = rng.normal(0, 0.02, shape).astype(np.float32)
                tensors[f"{module}.lora_{factor}.weight"] = encode(values, "F32")
        write_checkpoint(folder, tensors)
        (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    return folder


def tried(config: Path, expected: dict[str, Any], place: Path, dry: bool) -> str | None:
    """Why a config does not run; None if it does."""
    run = place / "run"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    text = config.read_text()
    for letter, make in (("m", model), ("l", adapter)):
        for i, name in enumerate(sorted(set(re.findall(rf"\b{letter}\d+\b", text)))):
            (run / name).symlink_to(make(place, expected["layers"], i))
    (run / config.name).write_text(text)
    os.chdir(run)
    settings = suture.Settings(overwrite=True, ignore_unknown=not expected["known"])
    try:
        suture.merge(config.name, "out", settings=settings, dry_run=dry)
    except suture.SutureError as e:
        return str(e)
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", type=Path)
    parser.add_argument("--lenient", default="", help="configs that hold a name nobody knows, by number: 014,050")
    args = parser.parse_args()
    source = args.configs.resolve()
    expectations = json.loads((source / "expect.json").read_text())
    counted: Counter[tuple[bool, bool]] = Counter()
    wrong = []
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for config in sorted(source.glob("*.yml")):
            expected = expectations[config.name]
            expected["known"] = config.stem not in args.lenient.split(",")
            legal = expected["kind"] in ("merge", "multi") and expected["mergekit"] == "ok"
            problems = [tried(config, expected, place, dry) for dry in (True, False)]
            runs = problems == [None, None]
            counted[legal, runs] += 1
            if legal != runs or (problems[0] is None) != (problems[1] is None):
                wrong.append((config.name, expected["mergekit"], problems))
            elif not runs:
                print(f"{config.name}: {problems[0]}"[:200])
        os.chdir(source)
    for found in wrong:
        print("WRONG", *found, file=sys.stderr)
    print(f"taken by mergekit: {counted[True, True]} run, {counted[True, False]} do not")
    print(f"not taken by it: {counted[False, False]} are refused, {counted[False, True]} run")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
