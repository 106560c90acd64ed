"""Run the example configs with suture and with mergekit, compare what they wrote, print a Markdown table."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.agreement import Agreement, compare
from common.facts import Results, facts
from common.peers import MERGEKIT_FLAGS, beside_python, peer_command
from common.places import HERE, SEED, remove, warm
from common.processes import Command, Sample, Workplace, medians, side_by_side
from common.tables import number, show_markdown
from family import SIZES, TORCH_NAMES, Family, make

FOLDER = HERE.parent / "examples"
EXAMPLES = ("linear", "ties_gradients", "slerp_gradients", "stack_layers", "ties_instruct", "arcee_fusion")
TUNES = ("math", "code", "instruct")
DTYPES = ("BF16", "F32")


def make_models(place: Path, size: str, dtype: str) -> list[Path]:
    """The models that the examples name, under `models`, where both tools then run."""
    return make(place / "models", Family(SIZES[size], TUNES, dtype=dtype))


@dataclass(frozen=True)
class Row:
    example: str
    dtype: str
    suture: float | None
    mergekit: float | None
    agreement: Agreement | None
    layers: tuple[int | None, int | None]

    @property
    def speedup(self) -> float | None:
        return self.mergekit / self.suture if self.mergekit and self.suture else None


@dataclass(frozen=True)
class Bench:
    place: Workplace
    suture: str
    mergekit: str
    mergekit_flags: Sequence[str]
    reps: int
    size: str
    samples: list[Sample]

    def config(self, example: str, dtype: str) -> Path:
        """The example as it is, or a copy with the other dtype."""
        path = FOLDER / f"{example}.yaml"
        if dtype == "BF16":
            return path
        text, found = re.subn(r"^dtype: bfloat16$", f"dtype: {TORCH_NAMES[dtype]}", path.read_text(), flags=re.M)
        if found != 1:
            raise ValueError(f"{path}: no line `dtype: bfloat16`")
        copy = self.place.folder(f"examples/configs-{dtype}") / path.name
        copy.write_text(text)
        return copy

    def run(self, example: str, dtype: str) -> Row:
        folder = self.place.folder(f"examples/{self.size}-{dtype}")
        models = make_models(folder, self.size, dtype)
        ours, theirs = folder / "out-suture", folder / "out-mergekit"
        config = str(self.config(example, dtype))
        flags = [*self.mergekit_flags, "--random-seed", SEED]
        commands = {
            "suture": Command([self.suture, "merge", config, ours.name, "--quiet"], ours, folder),
            "mergekit": Command([self.mergekit, config, theirs.name, *flags], theirs, folder),
        }
        case = f"{example} {dtype}"
        self.samples.extend(
            side_by_side(self.place, case, commands, self.reps, lambda: warm(models), list(commands), self.reps)
        )
        both = ours.is_dir() and theirs.is_dir()
        row = Row(
            example,
            dtype,
            medians(self.samples, case).get("suture"),
            medians(self.samples, case).get("mergekit"),
            compare(ours, theirs) if both else None,
            (layer_count(ours), layer_count(theirs)),
        )
        remove(ours)
        remove(theirs)
        return row


def layer_count(folder: Path) -> int | None:
    """What config.json says."""
    path = folder / "config.json"
    if not path.exists():
        return None
    count: int = json.loads(path.read_text())["num_hidden_layers"]
    return count


def share(value: float) -> str:
    return f"{100 * value:.4f} %"


def layout_cell(found: Agreement) -> str:
    """Whether names, shapes and dtypes are the same."""
    odd = {"names": found.only_one_side, "shapes": found.shapes_differ, "dtypes": found.dtypes_differ}
    return ", ".join(f"{len(names)} {what} differ" for what, names in odd.items() if names) or "same"


def layers_cell(layers: tuple[int | None, int | None]) -> str:
    ours, theirs = layers
    return str(ours) if ours == theirs else f"{ours} / {theirs}"


def table(rows: Sequence[Row]) -> list[list[str]]:
    titles = [
        "example",
        "dtype",
        "tensors",
        "names, shapes, dtypes",
        "layers",
        "bit-equal",
        "more than a step apart",
        "largest difference",
        "suture s",
        "mergekit s",
        "x faster",
    ]
    lines = [titles]
    for row in rows:
        found = row.agreement
        agreement = ["-"] * 2 if found is None else [str(found.tensors), layout_cell(found)]
        values = ["-"] * 3
        if found is not None:
            values = [share(found.equal_share), share(found.beyond_ulp_share), f"{found.max_abs_difference:.1e}"]
        times = [number(row.suture), number(row.mergekit), number(row.speedup, 1)]
        lines.append([row.example, row.dtype, *agreement, layers_cell(row.layers), *values, *times])
    return lines


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--make", type=Path, metavar="DIR", help="write the models to DIR/models, and run nothing")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "suture-bench")
    parser.add_argument("--suture", default=beside_python("suture"), help="the command to measure")
    parser.add_argument("--mergekit", type=Path, help="the mergekit-yaml command; by default installed under --work")
    parser.add_argument("--mergekit-flags", default=MERGEKIT_FLAGS)
    parser.add_argument("--results", type=Path, default=HERE / "runs")
    parser.add_argument("--examples", nargs="+", choices=EXAMPLES, default=EXAMPLES, metavar="NAME")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES, help="of the models and of the maths")
    parser.add_argument("--size", choices=["tiny", "0.3"], help="GB a model in bf16; 0.3, and with --make tiny")
    parser.add_argument("--reps", type=int, default=3)
    args = parser.parse_args(argv)
    args.size = args.size or ("tiny" if args.make else "0.3")
    if not args.suture and not args.make:
        parser.error("no suture command found: give it with --suture")
    return args


def main() -> int:
    args = parse()
    if args.make:
        for path in make_models(args.make, args.size, "BF16"):
            print(path)
        return 0
    place = Workplace(args.work.resolve())
    bench = Bench(
        place,
        args.suture,
        peer_command(place, args.mergekit),
        shlex.split(args.mergekit_flags),
        args.reps,
        args.size,
        [],
    )
    options: dict[str, Any] = {"size": args.size, "reps": args.reps, "mergekit_flags": args.mergekit_flags}
    results = Results.start(args.results, "examples", facts(place, bench.suture, bench.mergekit) | {"options": options})
    rows: list[Row] = []
    wanted = [(example, dtype) for dtype in args.dtypes for example in args.examples]
    for example, dtype in wanted:
        rows.append(bench.run(example, dtype))
        results.save(rows, bench.samples, complete=len(rows) == len(wanted))
    show_markdown(table(rows))
    return 1 if any(sample.exit_code for sample in bench.samples) else 0


if __name__ == "__main__":
    sys.exit(main())
