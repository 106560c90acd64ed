"""What a search costs beside writing, and what it finds for the layer swap of the demo.

    python benches/search.py cost [--size 0.3] [--candidates 100] [--last N]     # beside writes and one reading
    python benches/search.py swap [--budget 150] [--splits 5]         # the demo's models, against `swap --auto`

It needs the extra `search`. `cost`: task arithmetic of two fine-tunes, 4 groups of layers x 2 models x 2 classes;
the judge is a constant. The floor reads every input once, and writes the bytes of an output, synced, and
removes them, as often. `swap`: problems of the demo's test are split by a seed; a search sees one half, all are scored
on the other.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
from common.facts import facts
from common.places import HERE, cold
from common.processes import Workplace
from family import SIZES, Family, make

import suture
from suture.demo import MODELS, Experiment
from suture.demo.llama import Llama

STEP = 1 << 24


def read_from_disk() -> int:
    """Bytes that this process had the disk read so far."""
    return int(next(x for x in Path("/proc/self/io").read_text().splitlines() if x.startswith("read_bytes")).split()[1])


def genome(models: list[Path], last: int | None) -> dict[str, Any]:
    """Four groups of layers, two classes, two models; or the last layers alone, each by itself."""
    layers = json.loads((models[0] / "config.json").read_text())["num_hidden_layers"]
    one: dict[str, Any] = {"search": [0, 1], "layer_granularity": -(-layers // 4)}
    weight: list[dict[str, Any]] = [{"filter": "mlp", "value": one}, {"value": one}]
    if last is not None:
        own = [f"layers.{i}." for i in range(layers - last, layers)]
        weight = [*({"filter": name, "value": {"search": [0, 1]}} for name in own), {"value": 0.5}]
    listed = [{"model": str(m), "parameters": {"weight": weight}} for m in models[1:]]
    return {"merge_method": "task_arithmetic", "base_model": str(models[0]), "models": listed}


def floor(models: list[Path], size: int, times: int, out: Path) -> tuple[float, float]:
    """Seconds to read the models, and to write and sync `size` bytes so often."""
    began = time.monotonic()
    for path in (f for m in models for f in sorted(m.glob("*.safetensors"))):
        with path.open("rb", buffering=0) as file:
            while file.read(STEP):
                pass
    read, began = time.monotonic() - began, time.monotonic()
    block = np.random.default_rng(0).bytes(STEP)
    for _ in range(times):
        with out.open("wb", buffering=0) as file:
            for start in range(0, size, STEP):
                file.write(block[: min(STEP, size - start)])
            os.fsync(file.fileno())
        out.unlink()
    return read, time.monotonic() - began


def cost(work: Path, size: str, candidates: int, last: int | None) -> dict[str, Any]:
    models = make(work / size, Family(SIZES[size], ("ft1", "ft2")))
    given = genome(models, last)
    cold(models)
    before, began = read_from_disk(), time.monotonic()
    rmtree(work / "out", ignore_errors=True)
    found = suture.search(given, work / "out", evaluate=lambda _: 0.0, budget=candidates)
    took, read = time.monotonic() - began, read_from_disk() - before
    total = sum(f.stat().st_size for m in models for f in m.glob("*.safetensors"))
    cold(models)
    reading, writing = floor(models, total // len(models), candidates, work / "floor")
    return {
        "genes": len(found.data["genes"]),
        "candidates": candidates,
        "first": found.data["candidates"][0]["made"],
        "each": sum(c["made"] for c in found.data["candidates"][1:]) / max(candidates - 1, 1),
        "kept_share": found.data["kept_bytes"] / (max(candidates - 1, 1) * found.data["candidate_bytes"]),
        "model_bytes": total // len(models),
        "seconds": took,
        "floor": {"reading": reading, "writing": writing},
        "times_the_floor": took / (reading + writing),
        "read_of_the_inputs": read / total,
    }


def spaces(e: Experiment) -> dict[str, dict[str, Any]]:
    """What is searched: how far each layer goes to the language expert, or how much of either expert it has."""

    def each(start: float) -> list[Any]:
        whole = {"search": [0, 1], "start": start}
        return [{"filter": "model.layers", "value": {**whole, "layer_granularity": 1}}, {"value": whole}]

    pair = [{"model": str(m)} for m in (e.task, e.language)]
    sums = [{**m, "parameters": {"weight": each(0.5)}} for m in pair]
    return {
        "slerp, t by layer": {
            "merge_method": "slerp",
            "base_model": str(e.task),
            "models": pair,
            "parameters": {"t": each(0.5)},
        },
        "task arithmetic, weights by layer and model": {
            "merge_method": "task_arithmetic",
            "base_model": str(e.base),
            "models": sums,
        },
    }


def swap(work: Path, budget: int, splits: int) -> dict[str, Any]:
    e = Experiment(work / "demo")
    e.prepare()
    rules: dict[str, dict[str, Any]] = {
        "swap --auto by layer": {"auto": "layer", "base": e.base},
        "swap --auto by edges": {"auto": "edges", "base": e.base, "non_layer": "from"},
        "swap as the study chose it": {"top": 2, "non_layer": "from"},
    }
    for i, options in enumerate(rules.values()):
        suture.swap(e.task, e.language, work / f"rule-{i}", settings=suture.Settings(overwrite=True), **options)
    test = json.loads((MODELS / "test.json").read_text())["sets"]["B"]
    ids, answer = np.array(test["ids"], dtype=object), np.array(test["answer"])

    def judge(rows: Any) -> Callable[[Path], float]:
        return lambda place: Llama.load(place).exact(list(ids[rows]), list(answer[rows]))

    results: dict[str, list[float]] = {name: [] for name in (*rules, *spaces(e))}
    seen: dict[str, list[float]] = {name: [] for name in spaces(e)}
    for split in range(splits):
        order = np.random.default_rng(split).permutation(len(ids))
        search_rows, held_out = order[: len(ids) // 2], order[len(ids) // 2 :]
        for i, name in enumerate(rules):
            results[name].append(judge(held_out)(work / f"rule-{i}"))
        for i, (name, config) in enumerate(spaces(e).items()):
            out = work / f"found-{i}-{split}"
            rmtree(out, ignore_errors=True)
            found = suture.search(config, out, evaluate=judge(search_rows), budget=budget, seed=split)
            suture.merge(found.config, work / "best", settings=suture.Settings(overwrite=True))
            seen[name].append(found.score or 0.0)
            results[name].append(judge(held_out)(work / "best"))
        print(json.dumps({name: scores[-1] for name, scores in results.items()}), flush=True)
    mean = {name: sum(scores) / len(scores) for name, scores in results.items()}
    return {"budget": budget, "held_out": results, "searched": seen, "mean_held_out": mean}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["cost", "swap"])
    parser.add_argument("--size", choices=SIZES, default="0.3")
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--last", type=int, help="of `cost`: genes in so many of the last layers alone")
    parser.add_argument("--budget", type=int, default=150)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "suture-search-bench")
    parser.add_argument("--results", type=Path, default=HERE / "runs")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    told = facts(Workplace(args.work), None, None)
    if args.what == "cost":
        found = cost(args.work, args.size, args.candidates, args.last)
    else:
        found = swap(args.work, args.budget, args.splits)
    asked = {k: v for k, v in vars(args).items() if k not in ("work", "results")}
    path = args.results / f"{time.strftime('%Y-%m-%d-%H%M%S', time.gmtime())}-search-{args.what}.json"
    path.write_text(json.dumps({**told, "asked": asked, "found": found}, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))
    print(f"raw results: {path}")


if __name__ == "__main__":
    main()
