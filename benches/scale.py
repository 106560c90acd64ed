"""The model of `suture plan --estimate` against runs here, and what it says of merges of 405 B and 1 T parameters.

    python benches/scale.py            # runs of 1, 2 and 4 parts, predicted and measured; then the tables
    python benches/scale.py --tables   # the tables alone

Each part runs by itself, as on a machine of its own: what m machines would take is what the slowest of m parts takes,
and what comes before and behind it. Files are dropped from the page cache first. The tables are of hollow models:
headers and holes, of which a plan reads the headers.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common.facts import Results, facts
from common.options import options
from common.places import cold
from common.processes import Workplace
from common.tables import number, show

import suture
from suture.surgery.parts import finish, run_part
from suture.surgery.parts_folder import folder_of

SHARD = "64MB"
METHODS: dict[str, dict[str, Any]] = {
    "linear": {"weight": 0.5},
    "ties": {"weight": 0.5, "density": 0.4},
}
#: Of a machine in the tables, GB/s: read, write, computed on; and its link to the storage.
MACHINE = {"disk_read": 5e9, "disk_write": 3e9, "compute": 12e9, "network": 6e9}
MACHINES = (1, 2, 4, 8, 16, 32, 64)
Shapes = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Row:
    """A merge on so many machines, one part each: seconds predicted and measured."""

    case: str
    machines: int
    predicted: float
    measured: float
    ratio: float


def llama_405b() -> Shapes:
    """The tensors of Llama 3.1 405B."""
    hidden, ff, kv = 16384, 53248, 1024
    yield "model.embed_tokens.weight", (128256, hidden)
    for i in range(126):
        layer = f"model.layers.{i}."
        for name, rows in (("q", hidden), ("k", kv), ("v", kv)):
            yield f"{layer}self_attn.{name}_proj.weight", (rows, hidden)
        yield f"{layer}self_attn.o_proj.weight", (hidden, hidden)
        yield f"{layer}mlp.gate_proj.weight", (ff, hidden)
        yield f"{layer}mlp.up_proj.weight", (ff, hidden)
        yield f"{layer}mlp.down_proj.weight", (hidden, ff)
        yield f"{layer}input_layernorm.weight", (hidden,)
        yield f"{layer}post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (128256, hidden)


def moe_1t() -> Shapes:
    """The tensors of a mixture of 384 experts in 61 layers, 1.03 T parameters, of the shape of Kimi K2."""
    hidden, ff, dense = 7168, 2048, 18432
    yield "model.embed_tokens.weight", (163840, hidden)
    for i in range(61):
        layer = f"model.layers.{i}."
        for name, shape in (
            ("q_a_proj", (1536, hidden)),
            ("q_b_proj", (12288, 1536)),
            ("kv_a_proj_with_mqa", (576, hidden)),
            ("kv_b_proj", (16384, 512)),
            ("o_proj", (hidden, 8192)),
        ):
            yield f"{layer}self_attn.{name}.weight", shape
        yield f"{layer}input_layernorm.weight", (hidden,)
        yield f"{layer}post_attention_layernorm.weight", (hidden,)
        experts = [f"experts.{e}" for e in range(384)] + ["shared_experts"] if i else [""]
        width = ff if i else dense
        for expert in experts:
            place = f"{layer}mlp.{expert}{expert and '.'}"
            yield f"{place}gate_proj.weight", (width, hidden)
            yield f"{place}up_proj.weight", (width, hidden)
            yield f"{place}down_proj.weight", (hidden, width)
        if i:
            yield f"{layer}mlp.gate.weight", (384, hidden)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (163840, hidden)


def hollow(folder: Path, shapes: Shapes, most: int = 5_000_000_000) -> Path:
    """A model in bf16 without data, in shards of 5 GB."""
    shards: list[dict[str, Any]] = [{}]
    size = 0
    for name, shape in shapes:
        own = 2 * int(np.prod(shape, dtype=np.int64))
        if size + own > most and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][name] = {"dtype": "BF16", "shape": shape, "data_offsets": [size, size + own]}
        size += own
    folder.mkdir(parents=True)
    index: dict[str, str] = {}
    for number_, header in enumerate(shards, 1):
        file_name = f"model-{number_:05}-of-{len(shards):05}.safetensors"
        text = json.dumps(header).encode()
        with (folder / file_name).open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + max(t["data_offsets"][1] for t in header.values()))
        index |= dict.fromkeys(header, file_name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


def made(folder: Path, gigabytes: float) -> list[Path]:
    """A base and two tunes of it, bf16, of matrices of 4096 x 4096."""
    found = []
    for which in range(3):
        rng = np.random.default_rng(which)
        path = folder / ("base", "one", "two")[which]
        path.mkdir(parents=True)
        names = [f"model.layers.{i}.mlp.weight" for i in range(max(4, round(gigabytes * 1e9 / 2**25)))]
        header = {n: {"dtype": "BF16", "shape": [4096, 4096], "data_offsets": [i * 2**25, (i + 1) * 2**25]}
                  for i, n in enumerate(names)}  # fmt: skip
        text = json.dumps(header).encode()
        with (path / "model.safetensors").open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            base = np.random.default_rng(99).standard_normal((4096, 4096), np.float32)
            for _ in names:
                own = base if not which else base + np.float32(0.01) * rng.standard_normal(base.shape, np.float32)
                file.write((own.view(np.uint32) >> 16).astype("<u2").tobytes())
        found.append(path)
    return found


def config(method: str, models: Sequence[Path]) -> dict[str, Any]:
    """A merge of the tunes by a method."""
    listed = [{"model": str(m), "parameters": METHODS.get(method, {"weight": 0.5})} for m in models[1:]]
    base = {"base_model": str(models[0])} if method != "linear" else {}
    return {"merge_method": method, "models": listed, **base}


def measured(recipe: dict[str, Any], out: Path, n: int, models: Sequence[Path]) -> float:
    """Seconds of the slowest of `n` parts, each by itself and cold, and of beginning and finishing."""
    began = time.monotonic()
    first = suture.Settings(shard_size=SHARD, part=f"1/{n}")
    cold(models)
    suture.merge(recipe, out, settings=first)
    slowest = time.monotonic() - began
    for i in range(2, n + 1):
        cold(models)
        began = time.monotonic()
        run_part(folder_of(out), i)
        slowest = max(slowest, time.monotonic() - began)
    began = time.monotonic()
    finish(folder_of(out))
    return slowest + time.monotonic() - began


def tables(folder: Path) -> list[dict[str, Any]]:
    """What merges of two and three large models would take."""
    found = []
    for title, shapes in (("405 B", llama_405b), ("1 T", moe_1t)):
        all_models = [hollow(folder / f"{title.replace(' ', '')}-{i}", shapes()) for i in range(3)]
        for count in (2, 3):
            models = all_models[:count]
            recipe = {
                "merge_method": "linear",
                "models": [{"model": str(m), "parameters": {"weight": 1 / count}} for m in models],
            }
            path = folder / "config.json"
            path.write_text(json.dumps(recipe))
            plan = suture.plan(path, folder / "out", machines=MACHINES, rates=MACHINE)
            found.append({"merge": f"{title}, {count} models", "read": plan["read_bytes"], **plan["estimate"]})
    return found


def main() -> int:
    """Runs it."""
    parser = options(__doc__, reps=3)
    parser.add_argument("--tables", action="store_true", help="the tables alone")
    parser.add_argument("--gigabytes", type=float, default=0.54, help="of each model")
    args = parser.parse_args()
    place = Workplace(args.work.resolve())
    results = Results.start(args.results, "scale", facts(place, args.suture, None) | {"options": {"reps": args.reps}})
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="scale-", dir=place.folder("scale")) as name:
        folder = Path(name)
        large = tables(folder)
        show([["merge", *(f"{m}" for m in MACHINES), "waits for"], *(
            [one["merge"], *(f"{row['seconds'] / 60:.3g} min" for row in one["machines"]), one["machines"][-1]["bound"]]
            for one in large)])  # fmt: skip
        if not args.tables:
            models = made(folder / "models", args.gigabytes)
            for method in METHODS:
                recipe = config(method, models)
                path = folder / f"{method}.json"
                path.write_text(json.dumps(recipe))
                for m in (1, 2, 4):
                    for rep in range(args.reps):
                        how = suture.Settings(shard_size=SHARD)
                        told = suture.plan(path, folder / "out", settings=how, machines=[m], parts=m)
                        predicted = told["estimate"]["machines"][0]["seconds"]
                        took = measured(recipe, folder / f"{method}-{m}-{rep}", m, models)
                        rows.append(Row(method, m, predicted, took, predicted / took))
    show([["method", "machines", "predicted s", "measured s", "predicted / measured"], *(
        [r.case, str(r.machines), number(r.predicted), number(r.measured), number(r.ratio)]
        for r in rows)])  # fmt: skip
    results.document["tables"] = large
    results.save(rows, [], complete=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
