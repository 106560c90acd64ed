"""Rows of a table, moved by plans, against copying the model.

    python benches/vocabulary.py [--rows 256000] [--width 8192]

One table in bf16. `convert` copies the model as it is. Plans of copies are carried out by `suture vocab apply`: every
other run of a few hundred rows (as a trim), all rows shuffled (the worst there is), and sums of 64 rows each for 1,000
new rows. What is compared is bytes written a second, of the whole process; the rows are checked.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from common.facts import Results, facts
from common.options import options
from common.places import warm
from common.processes import Command, Sample, Workplace, medians, peaks, side_by_side
from common.tables import against, number, show
from numpy.typing import NDArray

from suture.vocab.kept import kept
from suture.vocab.rowplan import MIX, RowPlan, Rows
from suture.vocab.tokens import read

TABLE = "model.embed_tokens.weight"
TARGET = 0.8
MIXES, ENTRIES = 1000, 64


@dataclass(frozen=True)
class Row:
    """A case: seconds, bytes written a second against those of copying, and the most anonymous memory."""

    case: str
    seconds: float
    gigabytes: float
    of_copying: float
    mib: float
    equal: bool


def model(folder: Path, rows: int, width: int) -> Path:
    """A model of one table, whose tokens are words."""
    folder.mkdir(parents=True, exist_ok=True)
    header = {TABLE: {"dtype": "BF16", "shape": [rows, width], "data_offsets": [0, rows * width * 2]}}
    text = json.dumps(header).encode()
    rng = np.random.default_rng(3)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for first in range(0, rows, 4096):
            count = min(4096, rows - first)
            file.write(rng.integers(0x3C00, 0x3F00, (count, width), dtype=np.uint16).tobytes())
    vocab = {f"w{i}": i for i in range(rows)}
    whole = {"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w0"}}
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": rows}))
    return folder


def plan_of(folder: Path, rows: int, table: Rows, path: Path) -> Path:
    """A plan as a file."""
    count = len(table.source)
    plan = RowPlan(
        verb="trim",
        options={},
        models=[folder],
        names=[f"w{i}" for i in range(count)],
        table=table,
        kind=np.zeros(count, dtype=np.int8),
        reasons=["as the benchmark has it"],
        why=np.zeros(count, dtype=np.int32),
        moved={},
        written=[],
        copied=[("tokenizer.json", str(folder / "tokenizer.json"))],
    )
    path.write_bytes(kept(plan, read(folder), rows))
    return path


def plans(rows: int) -> dict[str, Rows]:
    """The rows of each case."""
    rng = np.random.default_rng(5)
    blocks = np.arange(rows) // 300
    entries = np.sort(rng.integers(0, rows, (MIXES, ENTRIES)), axis=1)
    mixed = Rows(
        np.concatenate([np.zeros(rows, np.int64), np.full(MIXES, MIX)]),
        np.concatenate([np.arange(rows), np.arange(MIXES)]),
        np.arange(MIXES + 1, dtype=np.int64) * ENTRIES,
        entries.reshape(-1),
        rng.standard_normal(MIXES * ENTRIES),
        np.zeros(MIXES),
    )
    return {
        "every other 300": Rows.copies(np.flatnonzero(blocks % 2 == 0)),
        "shuffled": Rows.copies(rng.permutation(rows)),
        f"{MIXES:,} sums of {ENTRIES}": mixed,
    }


def equal(model: Path, out: Path, table: Rows, width: int) -> bool:
    """Whether a sample of the copied rows has their bytes."""

    def of(folder: Path) -> NDArray[np.uint16]:
        path = folder / "model.safetensors"
        size = int.from_bytes(path.open("rb").read(8), "little")
        return np.memmap(path, np.uint16, "r", 8 + size).reshape(-1, width)

    mine, theirs = of(out), of(model)
    sample: Sequence[int] = np.linspace(0, len(table.source) - 1, 500).astype(int).tolist()
    copied = [i for i in sample if table.source[i] == 0]
    return len(mine) == len(table.source) and all((mine[i] == theirs[table.row[i]]).all() for i in copied)


def main() -> int:
    """Runs it."""
    parser = options(__doc__, reps=3)
    parser.add_argument("--rows", type=int, default=256_000)
    parser.add_argument("--width", type=int, default=8192)
    args = parser.parse_args()
    place = Workplace(args.work.resolve())
    document = facts(place, args.suture, None) | {"options": {"rows": args.rows, "width": args.width}}
    results = Results.start(args.results, "vocabulary", document)
    folder = place.folder("vocabulary")
    source = model(folder / "model", args.rows, args.width)
    cases = plans(args.rows)
    out = place.folder("out")
    samples: list[Sample] = []
    found: list[Row] = []
    for title, table in cases.items():
        path = plan_of(source, args.rows, table, folder / "plan.json")
        commands = {
            "copy": Command([args.suture, "convert", str(source), str(out / "copy"), "--quiet"], out / "copy"),
            "plan": Command(
                [args.suture, "vocab", "apply", str(path), str(source), str(out / "plan"), "--quiet"], out / "plan"
            ),
        }
        keep = ("copy", "plan")
        samples += side_by_side(place, title, commands, args.reps, partial(warm, [source]), keep, 1)
        seconds, memory = medians(samples, title), peaks(samples, title)
        written = len(table.source) * args.width * 2 / 1e9
        rate = written / seconds["plan"]
        copying = args.rows * args.width * 2 / 1e9 / seconds["copy"]
        same = equal(source, out / "plan", table, args.width)
        found.append(Row(title, seconds["plan"], rate, rate / copying, memory["plan"], same))
        results.save(found, samples)
    results.save(found, samples, complete=True)
    head = ["case", "s", "GB/s written", "of copying", "MiB", "rows equal"]
    show([head, *([
        r.case, number(r.seconds), number(r.gigabytes), against(r.of_copying, TARGET, at_most=False), number(r.mib, 0),
        str(r.equal),
    ] for r in found)])  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
