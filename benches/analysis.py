"""`suture diff` against the bare reading of its inputs, and against mergelens: times and figures, in one run.

    python benches/analysis.py --floor target/release/examples/floor

The floor reads every input once, by its fastest back end. mergelens==2.0.3 (from PyPI, in an environment of its own)
computes its cosine and L2 only, on the smaller family: on the larger one it takes half an hour.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from common.facts import Results, facts
from common.peers import beside_python, peer_command
from common.places import HERE, cold, warm
from common.processes import Command, Sample, Workplace, fastest, medians, peaks, side_by_side
from common.tables import number, show
from family import SIZES, TUNES, Family, make

LENS_TARGET = 15.0
EVERYTHING = ("--heads", "--neurons", "16", "--spread")


@dataclass(frozen=True)
class Case:
    name: str
    tuned: tuple[str, ...]
    options: tuple[str, ...] = ()
    target: float | None = None


CASES = [
    Case("diff", TUNES[:1], target=1.6),
    Case("diff, heads, neurons, spread", TUNES[:1], EVERYTHING, 2.5),
    Case("diff of three", TUNES, target=1.6),
    Case("diff of three, heads, neurons, spread", TUNES, EVERYTHING),
]


@dataclass(frozen=True)
class Row:
    case: str
    floor_mode: str | None
    floor: float | None
    suture: float | None
    ratio: float | None
    target: float | None
    mergelens: float | None = None
    speedup: float | None = None
    speedup_target: float | None = None
    largest_difference: float | None = None
    anon_mib: float | None = None


def commands(case: Case, models: dict[str, Path], suture: str, floor: str) -> dict[str, Command]:
    """suture's command, and the floor's by every back end."""
    paths = [str(models[name]) for name in ("base", *case.tuned)]
    found = {"suture": Command([suture, "diff", *paths, *case.options, "--json"])}
    reads = [word for path in paths for word in ("--read", path)]
    return found | {f"floor {io}": Command([floor, *reads, "--io", io]) for io in ("mmap", "pread", "direct")}


def row(case: Case, samples: list[Sample]) -> Row:
    seconds = medians(samples, case.name)
    mode = fastest(seconds, "floor")
    floor = seconds[mode or ""]
    memory = peaks(samples, case.name).get("suture")
    return Row(case.name, mode, floor, seconds["suture"], seconds["suture"] / floor, case.target, anon_mib=memory)


def beside_lens(place: Workplace, models: dict[str, Path], suture: str, peer: str) -> tuple[Row, list[Sample]]:
    """Both tools on one fine-tune, once, and the largest difference of their figures."""
    out = place.folder("out") / "lens.json"
    base, tuned = str(models["base"]), str(models[TUNES[0]])
    metrics = ["-m", "cosine_similarity", "-m", "l2_distance", "--no-strategy", "--json", str(out)]
    both = {
        "suture": Command([suture, "diff", base, tuned, "--json"]),
        "mergelens": Command([peer, "compare", base, tuned, *metrics]),
    }
    case = "against mergelens"
    samples = list(side_by_side(place, case, both, 1, lambda: warm([models["base"], models[TUNES[0]]]), (), 1))
    seconds = medians(samples, case)
    done = subprocess.run(both["suture"].line, capture_output=True, text=True, check=True)
    ours = {t["name"]: t for t in json.loads(done.stdout)["models"][0]["tensors"]}
    theirs = json.loads(out.read_text())["tensor_metrics"]
    apart = [
        abs(float(ours[t["tensor_name"]][mine]) - t[other])
        for t in theirs
        for mine, other in (("cosine", "cosine_similarity"), ("relative_l2", "l2_distance"))
    ]
    speedup = seconds["mergelens"] / seconds["suture"]
    found = Row(case, None, None, seconds["suture"], None, None, seconds["mergelens"], speedup, LENS_TARGET, max(apart))
    return found, samples


def table(rows: list[Row]) -> list[list[str]]:
    def verdict(r: Row) -> str:
        if r.target is not None and r.ratio is not None:
            return f"{r.target:g} {'ok' if r.ratio <= r.target else 'MISSED'}"
        if r.speedup is not None:
            return f"{LENS_TARGET:g} {'ok' if r.speedup >= LENS_TARGET else 'MISSED'}"
        return "-"

    head = ["case", "suture, s", "floor, s", "by", "ratio", "mergelens, s", "times", "target", "figures apart", "MiB"]
    return [head] + [
        [r.case, number(r.suture), number(r.floor), r.floor_mode or "-", number(r.ratio), number(r.mergelens, 1),
         number(r.speedup, 1), verdict(r), "-" if r.largest_difference is None else f"{r.largest_difference:.1e}",
         number(r.anon_mib, 0)]
        for r in rows
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "suture-bench")
    parser.add_argument("--suture", default=beside_python("suture"), help="the command to measure")
    parser.add_argument("--floor", required=True, help="the command that does the same I/O without arithmetic")
    parser.add_argument("--mergelens", type=Path, help="the mergelens command; by default installed under --work")
    parser.add_argument("--results", type=Path, default=HERE / "runs")
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--size", choices=list(SIZES), default="1.3", help="the family timed against the floor")
    parser.add_argument("--lens-size", choices=list(SIZES), default="0.3", help="the family for mergelens")
    parser.add_argument("--cold", action="store_true", help="inputs out of the page cache before every run")
    args = parser.parse_args()
    place = Workplace(args.work.resolve())
    floor = str(Path(args.floor).resolve())
    document = facts(place, args.suture, None) | {"options": {"size": args.size, "reps": args.reps, "cold": args.cold}}
    results = Results.start(args.results, "analysis" + ("-cold" if args.cold else ""), document)
    rows: list[Row] = []
    samples: list[Sample] = []
    models = {folder.name: folder for folder in make(place.folder("family") / args.size, Family(SIZES[args.size]))}
    prepare = cold if args.cold else warm
    for case in CASES:
        used = [models[name] for name in ("base", *case.tuned)]
        made = commands(case, models, args.suture, floor)
        samples += side_by_side(place, case.name, made, args.reps, partial(prepare, used), (), args.reps)
        rows.append(row(case, samples))
        results.save(rows, samples)
    if not args.cold:
        peer = peer_command(place, args.mergelens, "mergelens")
        size = args.lens_size
        small = {folder.name: folder for folder in make(place.folder("family") / size, Family(SIZES[size]))}
        found, more = beside_lens(place, small, args.suture, peer)
        rows.append(found)
        samples += more
    results.save(rows, samples, complete=True)
    show(table(rows))
    return 1 if any(s.exit_code for s in samples) else 0


if __name__ == "__main__":
    sys.exit(main())
