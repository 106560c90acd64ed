"""Law 1 for methods of whole matrices: what they take is stated in the plan, and they take no more."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..support.checkpoints import encode, write_checkpoint
from ..support.measuring import MIB, run

pytestmark = pytest.mark.heavy

#: `regmean` wants Gram matrices, and has a test of its own (tests/unit/test_regmean.py).
NAMES = [s["name"] for s in suture.methods() if s["class"] == "matrix" and s["name"] != "regmean"]
#: What else takes memory of its own: other ways of a method, and a modifier after an ordinary one.
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in NAMES},
    "knots, ties inside": ("knots", {"inner": "ties", "density": 0.5}),
    "svc after ties": ("ties", {"weight": 1.0, "density": 0.5, "svc": 0.1}),
    "svc after tsvm": ("tsvm", {"svc": 1.0}),
    "larv before ties": ("ties", {"weight": 1.0, "density": 0.5, "larv": True}),
    "larv before tsvm": ("tsvm", {"larv": True}),
}
#: Tall, as an embedding is; wide; square.
SHAPES = {
    "model.layers.0.tall.weight": (5000, 512),
    "model.layers.0.wide.weight": (512, 3000),
    "model.layers.0.square.weight": (640, 640),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("matrices")
    rng = np.random.default_rng(3)
    base = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    made = []
    for i in range(4):
        noise = {n: np.float32(0.01 * i) * rng.standard_normal(v.shape, np.float32) for n, v in base.items()}
        tensors = {n: encode(v + noise[n], "BF16") for n, v in base.items()}
        made.append(write_checkpoint(folder / f"m{i}", tensors))
    return made


def config_of(form: str, models: list[Path], folder: Path) -> Path:
    name, parameters = FORMS[form]
    listed = [{"model": str(m)} for m in models[1:]]
    config = {"merge_method": name, "base_model": str(models[0]), "models": listed, "parameters": parameters}
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return path


def smallest(config: Path, out: Path) -> int:
    """The smallest budget that works, in MiB, as the refusal of a smaller one names it."""
    with pytest.raises(suture.SutureError, match="the smallest that works") as refused:
        suture.merge(config, out, settings=suture.Settings(memory="60MiB", threads=2), dry_run=True)
    assert re.search(r"`model\.layers\.0\.\w+\.weight` alone takes \d+ MiB", str(refused.value))
    found = re.search(r"smallest that works is (\d+) MiB", str(refused.value))
    assert found
    return int(found[1])


@pytest.mark.parametrize("form", FORMS)
def test_a_matrix_takes_no_more_than_is_said(form: str, models: list[Path], tmp_path: Path) -> None:
    """The smallest budget named works, one below it is refused, and the process stays within it and a tenth."""
    config, out = config_of(form, models, tmp_path), tmp_path / "out"
    least = smallest(config, out)
    with pytest.raises(suture.SutureError, match="the smallest that works"):
        suture.merge(config, out, settings=suture.Settings(memory=f"{least - 1}MiB", threads=2), dry_run=True)
    done = run("merge", config, out, "--threads", "2", "--memory", f"{least}MiB")
    assert done.code == 0, done.stderr
    assert done.peak <= 1.1 * least * MIB, f"{done.peak / MIB:.0f} of {least} MiB"
