"""Law: regmean gives what its oracle gives from Gram matrices in files, and refuses those of something else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import suture

from ..reference.spectral.regmean import regmean
from ..support.checkpoints import encode, read_checkpoint, write_checkpoint, write_json
from ..support.measuring import MIB, run

Array = NDArray[Any]
Tensors = dict[str, Array]

SHAPES = {
    "model.layers.0.tall.weight": (93, 41),
    "model.layers.0.wide.weight": (41, 93),
    "model.layers.0.square.weight": (60, 60),
    "model.layers.0.row.weight": (1, 30),
    "model.layers.0.column.weight": (30, 1),
    "model.layers.0.experts": (3, 24, 17),
    "model.layers.0.long.weight": (2500, 7),
    "model.layers.0.large.weight": (40, 300),
    "model.layers.0.norm.weight": (77,),
    "model.embed_tokens.weight": (90, 20),
}
#: Those that have no Gram matrix.
PLAIN = {"model.layers.0.norm.weight", "model.embed_tokens.weight"}


def stored(tensors: Tensors, dtype: str) -> dict[str, Any]:
    return {
        name: encode(values if dtype == "F64" else values.astype(np.float32), dtype) for name, values in tensors.items()
    }


def rounded(values: Array, dtype: str) -> Array:
    """Values as a dtype stores them."""
    if dtype == "F64":
        return values
    return np.asarray(encode(values.astype(np.float32), dtype).values(), dtype=np.float64).reshape(values.shape)


def gram(rng: np.random.Generator, shape: tuple[int, ...], samples: int, zero: int = 0) -> Array:
    """Gram matrices of random inputs with a mean, some of them always zero."""
    n = shape[-1]
    mixed = rng.standard_normal((n, n))

    def one() -> Array:
        x = rng.standard_normal((samples, n)) @ mixed + 0.5
        x[:, :zero] = 0.0
        return np.asarray(x.T @ x)

    return np.stack([one() for _ in range(shape[0])]) if len(shape) == 3 else one()


class World:
    """A base, models tuned from it, and their Gram matrices, as files and as what these hold."""

    def __init__(
        self,
        folder: Path,
        tasks: int,
        *,
        shapes: dict[str, tuple[int, ...]] = SHAPES,
        dtype: str = "F32",
        grams: str = "F32",
        samples: int = 500,
        zero: int = 0,
        named: str = "weight",
    ) -> None:
        rng = np.random.default_rng(tasks)
        self.folder, self.tasks, self.shapes = folder, tasks, shapes
        self.base = {n: rounded(0.02 * rng.standard_normal(s), dtype) for n, s in shapes.items()}
        self.models: list[Tensors] = []
        self.grams: list[Tensors] = []
        write_checkpoint(folder / "base", stored(self.base, dtype))
        for i in range(tasks):
            model = {n: rounded(v + 0.01 * (i + 1) * rng.standard_normal(v.shape), dtype) for n, v in self.base.items()}
            own = {n: gram(rng, s, samples, min(zero, s[-1] - 1)) for n, s in shapes.items() if n not in PLAIN}
            self.models.append(model)
            self.grams.append({n: rounded(g, grams) for n, g in own.items()})
            write_checkpoint(folder / f"task-{i}", stored(model, dtype))
            self.write_grams(i, grams, named)

    def write_grams(self, i: int, dtype: str = "F32", named: str = "weight") -> None:
        """Writes the Gram matrices of a model as they are now."""
        short = {n if named == "weight" else n.removesuffix(".weight"): g for n, g in self.grams[i].items()}
        write_checkpoint(self.folder / f"gram-{i}", stored(short, dtype), shards=1 + i % 2)

    def config(self, given: dict[str, Any] | None = None, weights: list[float] | None = None, base: bool = True) -> Any:
        listed: list[dict[str, Any]] = [
            {"model": str(self.folder / f"task-{i}"), "parameters": {"gram": str(self.folder / f"gram-{i}")}}
            for i in range(self.tasks)
        ]
        for own, weight in zip(listed, weights or [], strict=False):
            own["parameters"]["weight"] = weight
        config: dict[str, Any] = {"merge_method": "regmean", "models": listed, "dtype": "float32"}
        return config | {"parameters": given or {}} | ({"base_model": str(self.folder / "base")} if base else {})

    def merged(self, out: str, config: Any, **settings: Any) -> Tensors:
        suture.merge(config, self.folder / out, settings=suture.Settings(**settings))
        found = read_checkpoint(self.folder / out)
        return {n: np.asarray(r.values(), dtype=np.float64).reshape(r.shape) for n, r in found.items()}

    def expected(self, name: str, given: dict[str, Any], weights: list[float] | None, base: bool = True) -> Array:
        """What the oracle makes of a tensor."""
        told = {("lam" if key == "lambda" else key): value for key, value in given.items()}
        start = self.base[name] if base else np.zeros_like(self.base[name])
        deltas = [m[name] - start for m in self.models]
        own = [g[name] for g in self.grams] if name in self.grams[0] else None
        if start.ndim < 3:
            return start + regmean(deltas, grams=own, weights=weights, **told)
        assert own is not None
        each = [
            regmean([d[e] for d in deltas], grams=[g[e] for g in own], weights=weights, **told)
            for e in range(len(start))
        ]
        return np.asarray(start + np.stack(each))


def off(found: Array, want: Array, size: float) -> float:
    """How far a result is from the oracle's beyond its rounding to float32, of the size of the changes."""
    slack = 1.2e-7 * float(np.linalg.norm(want))
    return max(0.0, float(np.linalg.norm(found - want)) - slack) / size


def holds(world: World, found: Tensors, given: dict[str, Any], weights: list[float] | None, base: bool = True) -> None:
    for name in world.shapes:
        want = world.expected(name, given, weights, base)
        start = world.base[name] if base else 0.0
        size = max(float(np.linalg.norm(m[name] - start)) for m in world.models)
        assert off(found[name], want, size) < 1e-5, name


@pytest.mark.parametrize("tasks", [1, 2, 3, 4])
@pytest.mark.parametrize("alpha", [1.0, 0.9, 0.0])
def test_a_merge_is_the_oracles(tasks: int, alpha: float, tmp_path: Path) -> None:
    """Tall, wide, square, one row, one column, stacked, longer than a panel; with a base or none, weights, a lambda."""
    world = World(tmp_path, tasks)
    given = {"alpha": alpha}
    holds(world, world.merged("plain", world.config(given)), given, None)
    weights = [0.5, 0.0, 3.0, 1.0][:tasks]
    more = given | {"lambda": 0.6}
    holds(world, world.merged("more", world.config(more, weights)), more, weights)
    holds(world, world.merged("alone", world.config(given, weights, base=False)), given, weights, base=False)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F64"])
@pytest.mark.parametrize("alpha", [1.0, 0.9])
def test_dtypes(dtype: str, alpha: float, tmp_path: Path) -> None:
    """Weights in bf16, Gram matrices in every float dtype (as rounding leaves them), under names of modules."""
    world = World(tmp_path, 3, dtype="BF16", grams=dtype, samples=80, named="module")
    given = {"alpha": alpha}
    holds(world, world.merged("out", world.config(given)), given, None)


@pytest.mark.parametrize("alpha", [1.0, 0.9, 0.999999])
def test_few_samples_and_dead_inputs(alpha: float, tmp_path: Path) -> None:
    """Gram matrices of lower rank than inputs, and inputs that are always zero: the least change from the mean."""
    world = World(tmp_path, 2, grams="F64", samples=9, zero=5)
    given = {"alpha": alpha}
    holds(world, world.merged("out", world.config(given)), given, None)
    told = json.loads((tmp_path / "out" / "suture.json").read_text())["tensors"]["model.layers.0.wide.weight"]
    # The first inputs are zero in all samples.
    assert told["found"]["inputs"] == 93 - 5
    if alpha == 1.0:
        assert told["found"]["rank"] == 18
    if alpha == 0.9:
        assert "condition_bound" in told["found"]
    assert [f[:2] for f in told["from"]][3:] == [[f"gram-{i}", "model.layers.0.wide.weight"] for i in range(2)]


def test_no_data_at_all(tmp_path: Path) -> None:
    """Gram matrices of zeros: the weighted mean."""
    world = World(tmp_path, 2)
    for i, own in enumerate(world.grams):
        own.update({n: np.zeros_like(g) for n, g in own.items()})
        world.write_grams(i)
    holds(world, world.merged("out", world.config()), {}, None)


def test_equal_models_come_out_as_they_are(tmp_path: Path) -> None:
    """Whatever the Gram matrices, and bit for bit; in bf16 too, with a base and without."""
    world = World(tmp_path, 3, dtype="BF16", samples=20)
    for i in range(3):
        write_checkpoint(tmp_path / f"task-{i}", stored(world.models[0], "BF16"))
    for base in (True, False):
        found = world.merged(f"out-{base}", world.config({"alpha": 1.0}, base=base))
        assert all(np.array_equal(found[n], world.models[0][n]) for n in world.shapes)


def test_bytes_do_not_depend_on_how(tmp_path: Path) -> None:
    """The same bytes for any threads, chunks, memory and way of reading; what is written is what the report says."""
    world = World(tmp_path, 3, grams="F64", samples=9)
    config = world.config({"alpha": 0.97})
    suture.merge(config, tmp_path / "first")
    first = read_checkpoint(tmp_path / "first")
    ways: list[dict[str, Any]] = [
        {"threads": 1},
        {"threads": 3, "chunk": 1024},
        {"memory": "120MiB"},
        {"io": "pread"},
    ]
    for i, settings in enumerate(ways):
        suture.merge(config, tmp_path / f"again-{i}", settings=suture.Settings(**settings))
        assert read_checkpoint(tmp_path / f"again-{i}") == first
    assert not suture.verify(tmp_path / "first")["differing"]


def changed(world: World, change: str) -> None:
    """Spoils the Gram matrices of the second model."""
    name = "model.layers.0.wide.weight"
    own = world.grams[1]
    if change == "missing":
        del own[name]
    elif change == "shape":
        own[name] = own[name][:41, :41]
    elif change == "nan":
        own[name][3, 4] = np.nan
    elif change == "negative":
        own[name][3, 3] = -1.0
    elif change == "asymmetric":
        own[name] = np.abs(np.random.default_rng(1).standard_normal(own[name].shape))
    elif change == "stacked":
        own["model.layers.0.experts"] = own["model.layers.0.experts"][0]
    elif change == "norm":
        own["model.layers.0.norm.weight"] = np.eye(77)
    elif change == "names":
        world.grams[1] = {n + ".inputs": g for n, g in own.items()}
    world.write_grams(1, "I32" if change == "dtype" else "F32")


MISTAKES = {
    "missing": ("gram-1", "`model.layers.0.wide.weight`", "has no Gram matrix in this file", "gram-0"),
    "shape": ("gram-1", "wide.weight", "has shape [41, 41], expected [93, 93]", "[41, 93]", "inputs first"),
    "nan": ("gram-1", "wide.weight", "NaN or infinite", "283"),
    "negative": ("gram-1", "wide.weight", "below zero"),
    "asymmetric": ("gram-1", "wide.weight", "not symmetric"),
    "stacked": ("gram-1", "experts", "has shape [17, 17], expected [3, 17, 17]"),
    "dtype": ("gram-1", "model.layers.0", "is I32; expected a float dtype"),
    "norm": ("gram-1", "norm.weight", "of shape [77]", "two dimensions"),
    "names": ("gram-1", "has no Gram matrix"),
}


@pytest.mark.parametrize("change", MISTAKES)
def test_wrong_gram_matrices(change: str, tmp_path: Path) -> None:
    """Each is an error that names the file, the tensor, what was expected and what was found; nothing is written."""
    world = World(tmp_path, 2)
    changed(world, change)
    with pytest.raises(suture.SutureError) as wrong:
        suture.merge(world.config(), tmp_path / "out")
    assert not [part for part in MISTAKES[change] if part not in str(wrong.value)], str(wrong.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("weights", [[-1.0, 2.0], [0.0, 0.0]])
def test_weights_are_amounts_of_data(weights: list[float], tmp_path: Path) -> None:
    world = World(tmp_path, 2)
    with pytest.raises(suture.UsageError, match="weight"):
        suture.merge(world.config(weights=weights), tmp_path / "out")


def test_files_of_other_tensors(tmp_path: Path) -> None:
    """Files that match nothing are an error, not a mean; what of a file nothing reads is told."""
    world = World(tmp_path, 2)
    for own in world.grams:
        own["model.layers.0.gone.weight"] = np.eye(3)
    for i in range(2):
        world.write_grams(i)
    report = suture.merge(world.config(), tmp_path / "out")
    assert any("1 Gram matrix is" in w and "gone" in w for w in report.warnings), report.warnings
    for i, own in enumerate(world.grams):
        world.grams[i] = {n + ".inputs": g for n, g in own.items()}
        world.write_grams(i)
    with pytest.raises(suture.SutureError, match="no Gram matrix of any merged tensor"):
        suture.merge(world.config(), tmp_path / "other")


def test_the_plan_tells(tmp_path: Path) -> None:
    """What is merged how is a note; Gram matrices count as read; memory that cannot hold them is refused by name."""
    world = World(tmp_path, 2, shapes={**SHAPES, "model.layers.0.huge.weight": (2, 2000)})
    plan = suture.merge(world.config(), tmp_path / "out", dry_run=True)
    told = dict(plan.data["notes"])["inputs"]
    grams = sum(4 * g.size for own in world.grams for g in own.values())
    assert plan.data["read_bytes"] >= grams + sum(4 * v.size for m in (world.base, *world.models) for v in m.values())
    assert "9 tensors by the Gram matrices" in told
    assert "2 tensors by the weighted mean" in told
    with pytest.raises(suture.UsageError, match=r"huge\.weight` alone takes"):
        suture.merge(world.config(), tmp_path / "out", settings=suture.Settings(memory="100MiB"))


def test_memory_as_the_plan_says(tmp_path: Path) -> None:
    """Law 1: a wide layer, inverted by eigenvectors too, takes no more than the least memory that the plan allows."""
    rng = np.random.default_rng(0)
    name, listed = "model.layers.0.mlp.down_proj.weight", []
    for i in range(3):
        x = rng.standard_normal((100, 1200)).astype(np.float32)
        write_checkpoint(tmp_path / f"m{i}", {name: rng.standard_normal((1500, 1200)).astype(np.float32)})
        write_checkpoint(tmp_path / f"g{i}", {name: x.T @ x})
        listed.append({"model": str(tmp_path / f"m{i}"), "parameters": {"gram": str(tmp_path / f"g{i}")}})
    for alpha in (0.9, 1.0):
        config = {"merge_method": "regmean", "models": listed, "parameters": {"alpha": alpha}}
        path = write_json(tmp_path / f"c-{alpha}.yml", config)
        refused = run("merge", path, tmp_path / "out", "--memory", "70MiB", "--threads", "2")
        assert refused.code == 2
        smallest = re.search(
            r"smallest that works is (\d+) MiB \(`model.layers.0.mlp.down_proj.weight`", refused.stderr
        )
        assert smallest is not None, refused.stderr
        done = run("merge", path, tmp_path / f"out-{alpha}", "--memory", f"{smallest[1]}MiB", "--threads", "2")
        assert done.code == 0, done.stderr
        # Room for what the allocator keeps.
        assert done.peak < 1.1 * int(smallest[1]) * MIB
