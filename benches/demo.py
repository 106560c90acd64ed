"""`make demo`: a small family of checkpoints taken through inspect, diff, swap, merge and verify, as a user would.

The weights are noise; where the fine-tunes differ from the base is planted: the task expert moved its middle layers,
the language expert its outer ones. Nothing is trained, so nothing is claimed about what such a swap does to a model.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
from family import BLOCK, POOL, SIZES, Family, Weights, write_model

FOLDER = Path("demo")
EXPERTS = ("base", "task", "language")
TIES = """\
merge_method: ties
base_model: base
models:
  - model: task
    parameters: {density: 0.4, weight: 0.6}
  - model: language
    parameters:
      density: 0.4
      weight: [0.8, 0.2, 0.2, 0.8]   # a gradient over the layers
dtype: bfloat16
"""
TYPO = TIES.replace("density: 0.4, weight", "densty: 0.4, weight")


class Planted(Weights):
    """Weights whose change is planted: of the task expert in the middle layers, of the language expert outside them."""

    def delta_std(self, name: str, random: np.random.Generator) -> float:
        parts = name.split(".")
        layer = int(parts[2]) if parts[1] == "layers" else None
        middle = layer is not None and 3 <= layer < 10
        strong = middle == (EXPERTS[self.model] == "task") and layer is not None
        attention = "self_attn" in name and EXPERTS[self.model] == "task"
        return float((2e-3 if attention else 1e-3) if strong else 1e-4)


def main() -> None:
    family = Family(SIZES["tiny"], tunes=EXPERTS[1:])
    pool = np.random.default_rng(0).standard_normal(POOL + BLOCK, np.float32)
    FOLDER.mkdir(exist_ok=True)
    for i, name in enumerate(EXPERTS):
        if not (FOLDER / name / "config.json").exists():
            write_model(FOLDER / name, family, Planted(pool, 0, i))
    (FOLDER / "ties.yml").write_text(TIES)
    (FOLDER / "typo.yml").write_text(TYPO)
    say(f"three small checkpoints are in {FOLDER}/: a base, a task expert, a language expert")
    run("inspect base")
    say("what did each fine-tune change?")
    run("diff base task")
    run("diff base language --by layer")
    say("the outer layers of the language expert into the task expert, a layer blended at each border")
    run("swap --into task --from language swapped --bottom 3 --top 2 --transition 1 --dry-run")
    run("swap --into task --from language swapped --bottom 3 --top 2 --transition 1 --overwrite")
    say("a merge, with a mistake in the config first")
    run("merge typo.yml merged", expect=2)
    run("merge ties.yml merged --memory 256MiB --overwrite")
    say("is what was written still what is there?")
    run("verify swapped")
    run("verify merged")
    say(f"everything is in {FOLDER}/; `suture --help` shows the rest, `make clean` removes it")


def say(text: str) -> None:
    print(f"\n# {text}", flush=True)


def run(command: str, expect: int = 0) -> None:
    print(f"\n$ suture {command}", flush=True)
    suture = Path(sys.executable).parent.resolve() / "suture"
    done = subprocess.run([suture, *shlex.split(command)], cwd=FOLDER, check=False)
    if done.returncode != expect:
        sys.exit(f"expected exit code {expect}, found {done.returncode}")


if __name__ == "__main__":
    main()
