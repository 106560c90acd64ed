"""Law 1 over the registry: the smallest `--memory` that a plan takes is kept, whatever the shape of its tensors."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import suture

from ..support.catalogue import CASES, DEFAULTS, SPAN, Case, configure
from ..support.checkpoints import Raw, write_checkpoint
from ..support.layered import with_depth
from ..support.measuring import MIB, run

#: A little over a span in one dimension; a long row for each thread, and rows of one; of many models a smaller one, and
#: a small one for methods of whole matrices, some of which decompose all models at once: of the other they would take
#: 11 GiB and ten minutes; a row that is longer than a span.
SHAPES: dict[str, tuple[int, ...]] = {
    "1-D": (SPAN + 5,),
    "rows": (2, SPAN),
    "tall": (SPAN + 3, 1),
    "many": (1031, 1031),
    "joined": (161, 161),
    "row": (1, SPAN + SPAN // 2),
}
MANY = 12
THREADS = 2
#: What is known to keep the most for each shape: tried every time.
GREEDY = {
    "1-D": ("pcb-default", "ties-scope=model"),
    "rows": ("della-default", "arcee_fusion-default", "nuslerp-nuslerp_flatten=False,nuslerp_row_wise=True"),
    "tall": ("model_stock-filter_wise=True",),
    "many": ("della-default", "metagpt-default", "emr-default"),
}
#: Of the sparse presets, which are one pipeline.
PRESETS = ("dare_ties", "cabs", "breadcrumbs")


def write_model(folder: Path, shape: tuple[int, ...], seed: int) -> Path:
    """A tensor of bf16 whose fine-tunes differ in the last bits."""
    rng = np.random.default_rng(seed)
    bits = np.random.default_rng(0).integers(0x3C00, 0x3F00, shape, dtype=np.uint16)
    bits ^= rng.integers(0, 2**5, shape, dtype=np.uint16) if seed else np.uint16(0)
    raw = Raw("BF16", shape, bits.tobytes())
    return write_checkpoint(folder / f"m{seed}", {"model.layers.0.mlp.up_proj.weight": raw})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[Path]]]:
    """A base and three fine-tunes of each shape; twelve of that for many inputs."""
    folder = tmp_path_factory.mktemp("shapes")
    yield {
        name: [write_model(folder / name, shape, n) for n in range(1 + (MANY if name in ("many", "joined") else 3))]
        for name, shape in SHAPES.items()
    }
    shutil.rmtree(folder)


def recipe(case: Case, models: list[Path]) -> dict[str, Any] | None:
    """A merge of as many models as there are, or as the method takes; none where it does not take many."""
    config = with_depth(configure(case, models), on=False)
    first, most = config["models"], case.spec["inputs"][1] - (case.spec["base"] == "first")
    if len(models) <= MANY:
        return config
    if most < MANY:
        return None
    # The parameters of the first three over and over.
    config["models"] = [
        {
            "model": str(m),
            # Gram matrices stay those of the three.
            "parameters": {k: str(m) if isinstance(v, str) and k != "gram" else v for k, v in own.items()},
        }
        for m, own in zip(models[1:], (first * MANY)[:MANY], strict=True)
        for own in [own["parameters"]]
    ]
    return config


def check(case: Case, shape: str, models: dict[str, list[Path]], place: Path) -> None:
    """The smallest budget that the plan names is kept."""
    config = recipe(case, models[shape])
    if config is None:
        pytest.skip("takes no more than a few models")
    path = place / "merge.yml"
    path.write_text(yaml.safe_dump(config))
    settings = suture.Settings(threads=THREADS, memory="1MiB")
    with pytest.raises(suture.UsageError) as caught:
        suture.merge(path, place / "out", settings=settings, dry_run=True)
    told = re.search(r"smallest that works is (\d+) MiB", str(caught.value))
    assert told, caught.value
    done = run("merge", path, place / "out", "--threads", str(THREADS), "--memory", f"{told[1]}MiB")
    assert done.code == 0, done.stderr
    assert done.peak <= int(told[1]) * MIB, f"{done.peak / MIB:.1f} of {told[1]} MiB"


def chosen() -> list[tuple[Case, str]]:
    """Every method of its own kind by one shape, in turn, and those that keep the most by theirs."""
    shapes = list(SHAPES)
    apart = [case for case in DEFAULTS if "sparsify" not in case.names or case.name in PRESETS]
    found = [(case, shapes[number % 3]) for number, case in enumerate(apart) if case.variant == "default"]
    named = {str(case): case for case in CASES}
    found += [(named[name], shape) for shape, names in GREEDY.items() for name in names]
    return list(dict.fromkeys(found))


def rest() -> Iterator[tuple[Case, str]]:
    """All others; of methods of whole matrices, which take seconds each, variants by one shape."""
    for case in CASES:
        whole = case.spec["class"] == "matrix" or bool(case.set("svc")) or case.set("larv") not in (None, "none")
        for shape in SHAPES:
            if shape == ("many" if whole else "joined"):
                continue
            if not whole or case.variant == "default" or shape == "tall":
                yield case, shape


CHOSEN = chosen()
REST = [pair for pair in rest() if pair not in CHOSEN]


@pytest.mark.parametrize(("case", "shape"), CHOSEN, ids=str)
def test_the_smallest_budget_is_kept(case: Case, shape: str, models: dict[str, list[Path]], place: Path) -> None:
    """Law 1: long rows, rows of one, many inputs: the smallest budget that works is not exceeded."""
    check(case, shape, models, place)


@pytest.mark.heavy
@pytest.mark.parametrize(("case", "shape"), REST, ids=str)
def test_the_smallest_budget_is_kept_by_all(case: Case, shape: str, models: dict[str, list[Path]], place: Path) -> None:
    """Law 1 for every method, switch and word by every shape."""
    check(case, shape, models, place)
