"""Run suture, the I/O floor and mergekit side by side on one family; keep the raw results."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from common.facts import Results, facts
from common.peers import MERGEKIT_FLAGS, beside_python, peer_command
from common.places import HERE, say
from common.processes import Sample, Workplace
from sets.cases import CASES
from sets.memory import MEMORY_FAMILIES, memory
from sets.speed import READ_IO, Tools, speed


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    speed_cases = [case.name for case in CASES]
    memory_cases = ["help", "plan", "many", "shards", *MEMORY_FAMILIES]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set", nargs="?", choices=["speed", "memory"], default="speed")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "suture-bench")
    parser.add_argument("--suture", default=beside_python("suture"), help="the command to measure")
    parser.add_argument("--floor", help="the command that does the same I/O without arithmetic")
    parser.add_argument("--results", type=Path, default=HERE / "runs")
    parser.add_argument("--cases", nargs="+", metavar="CASE", help=f"of {speed_cases} or {memory_cases}")
    parser.add_argument("--only", nargs="+", choices=["suture", "mergekit", "floor"], help="these tools")
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--peer-reps", type=int, default=3, help="runs of mergekit, of the last --reps")
    parser.add_argument("--floors", nargs="+", choices=READ_IO, default=[], help="read back ends to try as floor")
    parser.add_argument("--size", choices=["tiny", "1.3"], default="1.3", help="the family of the speed set")
    parser.add_argument("--cold", action="store_true", help="inputs out of the page cache before every run")
    parser.add_argument("--mergekit", type=Path, help="the mergekit-yaml command; by default installed under --work")
    parser.add_argument("--mergekit-flags", default=MERGEKIT_FLAGS)
    parser.add_argument("--keep", action="store_true", help="keep the families the memory set makes")
    args = parser.parse_args(argv)
    known = speed_cases if args.set == "speed" else memory_cases
    args.cases = args.cases or known
    if unknown := sorted(set(args.cases) - set(known)):
        parser.error(f"no such case in the {args.set} set: {', '.join(unknown)} (there are {', '.join(known)})")
    args.only = args.only or ["suture", "mergekit", "floor"]
    suture_wanted = args.set == "memory" or "suture" in args.only
    if suture_wanted and not (args.suture and shutil.which(args.suture)):
        parser.error("no suture command found: give it with --suture")
    return args


def pick_tools(place: Workplace, args: argparse.Namespace) -> Tools:
    peer_wanted = args.set == "speed" and "mergekit" in args.only
    floor = str(Path(args.floor).resolve()) if args.floor and "floor" in args.only else None
    if args.set == "speed" and "floor" in args.only and not floor:
        say("no --floor: ratios to the floor are left out")
    return Tools(
        args.suture if "suture" in args.only else None,
        peer_command(place, args.mergekit) if peer_wanted else None,
        floor,
        shlex.split(args.mergekit_flags),
    )


def main() -> int:
    args = parse()
    place = Workplace(args.work.resolve())
    tools = pick_tools(place, args)
    options = {"size": args.size, "reps": args.reps, "cold": args.cold, "mergekit_flags": args.mergekit_flags}
    document = facts(place, tools.suture, tools.mergekit) | {"options": options}
    results = Results.start(args.results, args.set + ("-cold" if args.cold else ""), document)
    run_set: Callable[[], list[Sample]] = {
        "speed": lambda: speed(place, tools, args, results),
        "memory": lambda: memory(place, args.suture, args, results),
    }[args.set]
    samples = run_set()
    return 1 if any(sample.exit_code and not sample.tool.startswith(("floor", "reads")) for sample in samples) else 0


if __name__ == "__main__":
    sys.exit(main())
