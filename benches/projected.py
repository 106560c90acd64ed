"""How long merges of large models would take by the speed of the disk: computed from a kept cold run, not measured.

The time is what has to be read and written, at the given speed, times what suture took over the fastest floor in that
run. It says nothing of disks that are faster than two cores compute.

    python benches/projected.py benches/runs/2026-11-27-052355-speed-cold.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common.kept import Kept
from common.tables import markdown

SIZES = {"7B": 14e9, "70B": 140e9}
"""Bytes of a model in bf16."""
MOVED = {"linear": ("`linear` of three", 4), "swap": ("`swap`", 2)}
"""What is read and written, in models."""
SPEEDS = (0.5, 1, 2, 4)
"""Gigabytes a second, read and written together."""


def told(seconds: float) -> str:
    """A time, in seconds or minutes."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def table(rows: list[dict[str, object]]) -> str:
    """The Markdown table of the cases that the run has."""
    ratios = {str(row["case"]): float(str(row["ratio"])) for row in rows}
    lines = [["computed", *(f"{s} GB/s" for s in SPEEDS)]]
    for case, (name, models) in MOVED.items():
        for size, nbytes in SIZES.items():
            times = [told(models * nbytes / (speed * 1e9) * ratios[case]) for speed in SPEEDS]
            lines.append([f"{name}, {size} ({ratios[case]:.2f} times the floor)", *times])
    return markdown(lines)


def main() -> None:
    """Print the table of a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    print(table(Kept.read(parser.parse_args().run).rows))


if __name__ == "__main__":
    main()
