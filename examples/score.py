"""Scores a candidate of a search of the demo's models: `--evaluate 'python examples/score.py {model}'`.

Prints the share of problems that it solves in language B, of every other problem of the demo's test; with `--held-out`
of the other half, which the search has not seen.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from suture.demo import MODELS
from suture.demo.llama import Llama

test = json.loads((MODELS / "test.json").read_text(encoding="utf-8"))["sets"]["B"]
half = slice(int("--held-out" in sys.argv), None, 2)
print(Llama.load(Path(sys.argv[1])).exact(test["ids"][half], test["answer"][half]))
