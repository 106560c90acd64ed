"""Law 1 where models have adapters: factors and sums are within `--memory`, and within what the plan says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import suture

from ..support.checkpoints import Raw, write_checkpoint
from ..support.lora import factors, random, write_lora
from ..support.measuring import MIB, run

BUDGET = "128MiB"
LIMIT = 160 * MIB
EXPERTS = "model.layers.0.mlp.experts"


def noise(rng: np.random.Generator, *shape: int) -> Raw:
    """Weights in bf16 at the speed of the disk."""
    size = int(np.prod(shape))
    tile = rng.integers(0x3C00, 0x3F00, 1_000_003, dtype=np.uint16)
    return Raw("BF16", shape, np.resize(tile, size).tobytes())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """What keeps the most: many ranks, rows read whole, tables, experts whose factors lie far apart."""
    folder, rng = tmp_path_factory.mktemp("models"), np.random.default_rng(0)
    linear = {f"model.layers.{i}.up_proj": (6144, 3072) for i in range(2)}
    table = {"model.embed_tokens": (40_000, 1024)}
    stacks = {f"{EXPERTS}.down_proj": (64, 1024, 640), f"{EXPERTS}.gate_up_proj": (64, 1280, 1024)}
    made: dict[str, tuple[Path, Path]] = {}

    def add(kind: str, weights: dict[str, tuple[int, ...]], adapter: dict[str, Raw], **config: object) -> None:
        names = {n if n.startswith(EXPERTS) else f"{n}.weight": s for n, s in weights.items()}
        base = write_checkpoint(folder / kind / "base", {n: noise(rng, *s) for n, s in names.items()})
        made[kind] = base, write_lora(folder / kind / "lora", adapter, **config)

    many = {k: v for name, shape in linear.items() for k, v in factors(rng, name, shape, 128).items()}
    add("many ranks", dict(linear), many, r=128)
    lengths = {f"{name}.lora_magnitude_vector": random(rng, shape[0]) for name, shape in linear.items()}
    few = {k: v for name, shape in linear.items() for k, v in factors(rng, name, shape, 16).items()}
    add("lengths", dict(linear), few | lengths, r=16, use_dora=True)
    sides = {"model.embed_tokens.lora_embedding_A": random(rng, 32, 40_000)}
    sides["model.embed_tokens.lora_embedding_B"] = random(rng, 1024, 32)
    add("table", dict(table), sides, r=32)
    across = 64 * 16
    stacked = {
        f"{EXPERTS}.base_layer.lora_A.weight": random(rng, across, 1024),
        f"{EXPERTS}.base_layer.lora_B.weight": random(rng, 1280, across),
        f"{EXPERTS}.lora_A.weight": random(rng, across, 640),
        f"{EXPERTS}.lora_B.weight": random(rng, 1024, across),
    }
    parameters = ["experts.gate_up_proj", "experts.down_proj"]
    add("experts", dict(stacks), stacked, r=16, target_parameters=parameters)
    turned = {name: (s[0], s[2], s[1]) for name, s in stacks.items()}
    add("experts, inputs first", dict(turned), stacked, r=16, target_parameters=parameters)
    return made


def merging(base: Path, lora: Path, out: Path) -> list[str | Path]:
    """Two passes over the changes of the base."""
    entry = {"model": f"{base}+{lora}", "parameters": {"weight": 0.5, "density": 0.3}}
    config = out.with_name("merge.json")
    config.write_text(json.dumps({"merge_method": "ties", "base_model": str(base), "models": [entry]}))
    return ["merge", config, out]


CALLS: dict[str, Callable[[Path, Path, Path], list[str | Path]]] = {
    "fold": lambda base, lora, out: ["lora", "fold", base, lora, out],
    "merge": merging,
}


@pytest.mark.parametrize("kind", ["many ranks", "lengths", "table", "experts", "experts, inputs first"])
@pytest.mark.parametrize("call", CALLS)
def test_the_budget_is_kept(call: str, kind: str, models: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    """Peak anonymous memory is under what the plan promises, and that under the budget."""
    base, lora = models[kind]
    arguments = CALLS[call](base, lora, tmp_path / "out")
    how = suture.Settings(threads=2, memory=BUDGET)
    if call == "fold":
        plan = suture.fold(base, [lora], tmp_path / "out", settings=how, dry_run=True)
    else:
        plan = suture.merge(arguments[1], tmp_path / "out", settings=how, dry_run=True)
    promised = plan.data["budget"]["peak_bytes"]
    done = run(*arguments, "--threads", "2", "--memory", BUDGET, "--io", "pread")
    assert done.code == 0, done.stderr
    assert done.peak <= promised < LIMIT, f"{done.peak / MIB:.0f} of {promised / MIB:.0f} MiB"


def test_reading_takes_little_too(models: dict[str, tuple[Path, Path]]) -> None:
    """`diff base base+adapter` and `inspect --stats` stream."""
    base, lora = models["experts, inputs first"]
    for call in (["diff", base, f"{base}+{lora}"], ["inspect", f"{base}+{lora}", "--stats"]):
        done = run(*call, "--threads", "2")
        assert done.code == 0, done.stderr
        assert done.peak < 128 * MIB, f"{call[0]}: {done.peak / MIB:.0f} MiB"
