"""Options that benchmarks of suture alone have in common."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from family import SIZES

from common.peers import beside_python
from common.places import HERE


def options(description: str | None, reps: int) -> argparse.ArgumentParser:
    """A parser of where to work, what to measure, how often, and on models of which size."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "suture-bench")
    parser.add_argument("--suture", default=beside_python("suture"), help="the command to measure")
    parser.add_argument("--results", type=Path, default=HERE / "runs")
    parser.add_argument("--reps", type=int, default=reps)
    parser.add_argument("--size", choices=list(SIZES), default="0.4")
    return parser
