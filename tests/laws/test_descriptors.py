"""Every verb works on models of more shards than a process may have files open, and does the same."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ..support.checkpoints import Raw, encode, tree_digest, write_checkpoint, write_json

SHARDS, LIMIT = 300, 256
#: What `ulimit -Sn 256` and `ulimit -Hn 256` leave a process: the second cannot be raised.
LIMITS = {"soft": (LIMIT, None), "hard": (LIMIT, LIMIT)}


@dataclass(frozen=True)
class Models:
    """A base and three fine-tunes of 300 shards each, a checkpoint with digests, and a config."""

    base: Path
    one: Path
    two: Path
    three: Path
    config: Path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    folder, rng = tmp_path_factory.mktemp("shards"), np.random.default_rng(2)
    shapes = {
        f"model.layers.{layer}.{part}.weight": (6, 8)
        for layer in range(SHARDS // 6)
        for part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj",
                     "mlp.down_proj")
    }  # fmt: skip
    base = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    paths: dict[str, Path] = {}
    for number, label in enumerate(("base", "one", "two", "three")):
        tensors: dict[str, Raw] = {}
        for place, (name, values) in enumerate(base.items()):
            # Fine-tunes that changed layers apart, so that rules which choose layers have something to choose.
            size = 0.1 * number * (1 + (place * number) % 7)
            tensors[name] = encode(values + size * rng.standard_normal(values.shape), "F32")
        config = {"model_type": "llama", "num_hidden_layers": SHARDS // 6}
        paths[label] = write_checkpoint(folder / label, tensors, shards=SHARDS, config=config)
    entries = [{"model": str(paths[n]), "parameters": {"weight": 0.5}} for n in ("one", "two", "three")]
    recipe = {
        "merge_method": "ties",
        "base_model": str(paths["base"]),
        "models": entries,
        "parameters": {"density": 0.5},
    }
    yield Models(config=write_json(folder / "merge.yml", recipe), **paths)
    shutil.rmtree(folder)


def run(*arguments: str | Path, limits: tuple[int, int | None] | None) -> subprocess.CompletedProcess[str]:
    """The command line, with so many files that may be open."""

    def before() -> None:
        if limits is not None:
            soft, hard = limits
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard or resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    command = [sys.executable, "-m", "suture", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, preexec_fn=before)


Verb = Callable[[Models, Path], list[str | Path]]
READING: dict[str, Verb] = {
    "inspect": lambda m, _: ["inspect", m.one, "--stats"],
    "diff": lambda m, _: ["diff", m.base, m.one],
    "diff several": lambda m, _: ["diff", m.base, m.one, m.two, m.three],
    "swap --auto, planned": lambda m, o: ["swap", "--into", m.one, "--from", m.two, o, "--auto", m.base, "--dry-run"],
}
WRITING: dict[str, Verb] = {
    "swap": lambda m, o: ["swap", "--into", m.one, "--from", m.two, o, "--bottom", "9", "--transition", "2"],
    "swap --auto": lambda m, o: ["swap", "--into", m.one, "--from", m.two, o, "--auto", m.base],
    "swap of donors": lambda m, o: [
        "swap", "--into", m.base, "--from", f"{m.one}=0-9", "--from", f"{m.two}=10-19", "--from", f"{m.three}=20-49", o
    ],
    "revert": lambda m, o: ["revert", m.base, m.one, o, "--layers", "3-40"],
    "convert": lambda m, o: ["convert", m.one, o],
    "merge": lambda m, o: ["merge", m.config, o],
    "merge into shards": lambda m, o: ["merge", m.config, o, "--shard-size", "200"],
}  # fmt: skip


def figures(text: str, out: Path) -> Any:
    """What a verb says, without where it was asked to write."""
    data = json.loads(text.replace(str(out), "OUT"))
    for part in ("budget", "run"):
        data.pop(part, None)
    return data


@pytest.mark.parametrize("verb", READING)
def test_reading_many_shards(verb: str, models: Models, place: Path) -> None:
    """Descriptors: the figures are those of a process that may open all at once."""
    call = [*READING[verb](models, place / "out"), "--json"]
    free = run(*call, limits=None)
    assert free.returncode == 0, free.stderr
    for name, limits in LIMITS.items():
        done = run(*call, limits=limits)
        assert done.returncode == 0, f"{name}: {done.stderr}"
        assert figures(done.stdout, place / "out") == figures(free.stdout, place / "out"), name


@pytest.mark.parametrize("verb", WRITING)
def test_writing_many_shards(verb: str, models: Models, place: Path) -> None:
    """Descriptors: the bytes are those of a process that may open all at once; and the output can be verified."""
    free = place / "free"
    done = run(*WRITING[verb](models, free), limits=None)
    assert done.returncode == 0, done.stderr
    # What holds where the limit is fast holds where it can be raised; that is tried where most files are open.
    for name, limits in (
        LIMITS.items() if verb in ("swap of donors", "merge into shards") else [("hard", LIMITS["hard"])]
    ):
        out = place / name
        done = run(*WRITING[verb](models, out), limits=limits)
        assert done.returncode == 0, f"{name}: {done.stderr}"
        assert tree_digest(out) == tree_digest(free), name
        checked = run("verify", out, limits=limits)
        assert checked.returncode == 0, f"{name}, verify: {checked.stderr}"


@pytest.mark.parametrize("io", ["mmap", "pread", "direct"])
def test_every_way_of_reading_many_shards(io: str, models: Models, place: Path) -> None:
    """Descriptors: maps, reads and reads around the cache alike."""
    outs = []
    for name, limits in (("free", None), ("hard", LIMITS["hard"])):
        outs.append(place / name)
        done = run(*WRITING["merge"](models, outs[-1]), "--io", io, limits=limits)
        assert done.returncode == 0, f"{name}: {done.stderr}"
    assert tree_digest(outs[0]) == tree_digest(outs[1])


@pytest.mark.parametrize("limits", LIMITS)
def test_a_run_stopped_among_many_shards_is_taken_up(limits: str, models: Models, place: Path) -> None:
    """Descriptors and law 6: what a stopped run made is read back under the same limit."""
    script = place / "run.py"
    script.write_text(
        "import sys, suture\n"
        "from pathlib import Path\n"
        "config, out = sys.argv[1:]\n"
        "def stop(*_):\n"
        "    raise KeyboardInterrupt\n"
        "try:\n"
        "    suture.merge(config, out, progress=stop)\n"
        "except KeyboardInterrupt:\n"
        "    suture.merge(config, out)\n"
    )
    soft, hard = LIMITS[limits]

    def before() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard or resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    command = [sys.executable, str(script), str(models.config), str(place / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, preexec_fn=before)
    assert done.returncode == 0, done.stderr
    assert run(*WRITING["merge"](models, place / "free"), limits=None).returncode == 0
    assert tree_digest(place / "out") == tree_digest(place / "free")
