"""Layer swapping in miniature: train, tune, swap, merge and test, over seeds.

python study.py --pair clone --seeds 0 1 2 3 4 --jobs 2
python study.py --report ../runs/....json          # print the tables of a finished run again
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import merges
import model as llama
import torch
from alignment import alignment
from data import KNOWN, Batch, Operands, problem
from evaluate import abilities, answers, known_each
from language import HELD_OUT, Pair
from report import tables
from setups import SETUPS, Setup
from train import train

import suture

Record = dict[str, Any]
RUNS = Path(__file__).resolve().parents[1] / "runs"


def one_seed(name: str, seed: int, place: Path) -> Record:
    """Everything for one seed: the base, the experts, all merged models, and what each can do."""
    torch.set_num_threads(1)
    start = time.monotonic()
    setup = SETUPS[name]
    pair = setup.pair()
    operands = Operands.split(pair.modulus, setup.length)
    tokenizer = pair.vocabulary.tokenizer()
    base = llama.Llama.fresh(setup.shape, len(pair.vocabulary.ids), seed)
    losses = {"base": train(base, setup.base, pair, operands.train, 1000 + seed)}
    llama.save(base, place / "base", tokenizer)
    experts = {"language": setup.language} | setup.tasks
    for offset, (expert, recipe) in enumerate(experts.items()):
        tuned = copy.deepcopy(base)
        losses[expert] = train(tuned, recipe, pair, operands.train, 2000 + 100 * offset + seed)
        llama.save(tuned, place / expert, tokenizer)
    record: Record = {
        "pair": name,
        "seed": seed,
        "parameters": sum(p.numel() for p in base.parameters()),
        "losses": losses,
        "alignment": {
            f"{model} {op}": [asdict(s) for s in alignment(llama.load(place / model), pair, (op,), operands.validation)]
            for model in ("base", "language", *setup.tasks)
            for op in ("do plus", HELD_OUT)
        },
        "known": known_each(base, pair, operands.validation[:200]),
        "trained_seconds": time.monotonic() - start,
        "conditions": {},
    }
    for task in setup.tasks:
        trio = merges.Trio(place / "base", place / task, place / "language")
        record["conditions"][task] = {
            "changes": merges.relative_changes(trio),
            "models": list(condition(trio, pair, operands, place / f"merged-{task}", full=task == setup.main)),
        }
    record["seconds"] = time.monotonic() - start
    return record


def condition(trio: merges.Trio, pair: Pair, operands: Operands, place: Path, full: bool) -> Iterator[Record]:
    """Abilities of the three models and of all that is merged from them."""
    chosen_on = [problem(pair.b, HELD_OUT, xs, pair.modulus) for xs in operands.validation[:300].tolist()]
    parents = [merges.Made(n, n, {}, p) for n, p in asdict(trio).items()]
    for made in (*parents, *merges.merged(trio, place, full)):
        net = llama.load(made.folder)
        yield {
            "name": made.name,
            "family": made.family,
            "settings": made.settings,
            "validation": {"task_b": answers(net, chosen_on).exact},
            "test": abilities(net, pair, operands.test, 200, 20),
        }
        if made.folder.is_relative_to(place):
            shutil.rmtree(made.folder)


def embed(name: str, place: Path, out: Path) -> None:
    """bf16 copies of one seed's three models, and test problems: the task and the known operations, in A and in B."""
    setup = SETUPS[name]
    pair = setup.pair()
    operands = Operands.split(pair.modulus, setup.length)
    for model, source in (("base", "base"), ("task", setup.main), ("language", "language")):
        net = llama.load(place / source)
        llama.save(net, out / model, pair.vocabulary.tokenizer(), torch.bfloat16)
    sets = {}
    for side, language in (("a", pair.a), ("b", pair.b)):
        asked = {"task": [(HELD_OUT, xs) for xs in operands.test.tolist()]}
        asked["known"] = [(op, xs) for op in KNOWN for xs in operands.test[:40].tolist()]
        for ability, problems in asked.items():
            rows = [problem(language, op, xs, pair.modulus) for op, xs in problems]
            sets[f"{ability}_{side}"] = Batch.of(rows).json()
    document = {"operation": HELD_OUT, "languages": {"a": pair.a.name, "b": pair.b.name}, "sets": sets}
    (out / "test.json").write_text(json.dumps(document, separators=(",", ":")) + "\n", encoding="utf-8")


def described(setup: Setup) -> Record:
    """A setup as JSON data."""
    return {
        "pair": setup.describe, "length": setup.length, "shape": asdict(setup.shape), "base": asdict(setup.base),
        "tasks": {task: asdict(recipe) for task, recipe in setup.tasks.items()},
        "language": asdict(setup.language), "main": setup.main,
    }  # fmt: skip


def rounded(value: Any, digits: int = 5) -> Any:
    """The same data with its floats rounded: to five decimals they hold more than a thousand problems can tell."""
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, dict):
        return {key: rounded(v, digits) for key, v in value.items()}
    return [rounded(v, digits) for v in value] if isinstance(value, list | tuple) else value


def run(pairs: Sequence[str], seeds: Sequence[int], work: Path, out: Path, jobs: int, keep: Path | None) -> Record:
    """All pairs and seeds; the results are written again after each."""
    document: Record = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "load_at_start": os.getloadavg()[0]},
        "versions": {"suture": suture.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "jobs": jobs,
        "setups": {name: described(SETUPS[name]) for name in pairs},
        "records": [],
    }
    begin = time.monotonic()
    with ProcessPoolExecutor(jobs) as pool:
        todo = {
            pool.submit(one_seed, name, seed, work / f"{name}-{seed}"): (name, seed) for name in pairs for seed in seeds
        }
        for done in as_completed(todo):
            record = done.result()
            name, seed = todo[done]
            print(f"{name} seed {seed}: {record['seconds']:.0f} s", flush=True)
            if keep is not None and seed == min(seeds):
                embed(name, work / f"{name}-{seed}", keep / name)
            document["records"].append(record)
            document["records"].sort(key=lambda r: (r["pair"], r["seed"]))
            document["seconds"] = time.monotonic() - begin
            document["complete"] = len(document["records"]) == len(todo)
            part = out.with_suffix(".part")
            part.write_text(json.dumps(rounded(document)) + "\n", encoding="utf-8")
            part.replace(out)
    return document


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", nargs="+", choices=sorted(SETUPS), default=["clone", "real"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--work", type=Path, help="folder for the checkpoints; a temporary one by default")
    parser.add_argument("--out", type=Path, help="file for the raw results; a new one in benches/runs by default")
    parser.add_argument("--keep", type=Path, help="folder for bf16 copies of the first seed's models and its test set")
    parser.add_argument("--report", type=Path, help="print the tables of these raw results, and run nothing")
    options = parser.parse_args()
    if options.report:
        print(tables(json.loads(options.report.read_text(encoding="utf-8"))))
        return
    out = options.out or RUNS / f"{datetime.now().strftime('%Y-%m-%d-%H%M%S')}-layer-swap-study.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        document = run(options.pair, options.seeds, work, out, options.jobs, options.keep)
    print(tables(document))
    print(f"raw results: {out.name}")


if __name__ == "__main__":
    main()
