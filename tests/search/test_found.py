"""What a search finds, and what it is as a config."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture
from suture.searching import genome_of

from ..support.checkpoints import write_checkpoint
from .common import config, searched, tensors

pytest.importorskip("cmaes")


def test_hidden_coefficients_are_recovered(tmp_path: Path) -> None:
    """Law: the weight of every layer and model of a target is found to 1e-2, within 2,000 evaluations."""
    hidden = [[0.2, 0.9, 0.4, 0.7], [0.8, 0.1, 0.6, 0.3]]
    made = config(tmp_path, lambda i: {"layers": dict(enumerate(hidden[i])), "default": hidden[i][0]})
    suture.merge(made, tmp_path / "target")
    objective = f"distance:{tmp_path / 'target'}"
    found = suture.search(searched(tmp_path), tmp_path / "out", objective=objective, budget=700)
    assert found.best is not None
    np.testing.assert_allclose(np.reshape(found.best["genes"], (2, 4)), hidden, atol=1e-2)
    scores = [c["score"] or 0.0 for c in found.data["candidates"]]
    assert found.score == min(scores) < scores[0] / 20


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties", "dare_ties", "slerp"])
@pytest.mark.parametrize("smooth", [False, True])
def test_constant_coefficients_are_the_plain_merge(tmp_path: Path, method: str, smooth: bool) -> None:
    """Law: genes that are all one number write the bytes of the merge with that number, whatever the groups."""
    value = 0.3
    one = {"search": [0, 1], "layer_granularity": 3, "smooth": smooth}
    by_class = [{"filter": "mlp", "value": one}, {"value": one}]
    if method == "slerp":
        config(tmp_path, lambda _: 1)
        models = [{"model": str(tmp_path / f"tuned-{i}")} for i in (1, 2)]
        plain: dict[str, Any] = {"merge_method": "slerp", "base_model": models[0]["model"], "models": models}
        wanted, plain = plain | {"parameters": {"t": by_class}}, plain | {"parameters": {"t": value}}
    else:
        wanted, plain = config(tmp_path, lambda _: by_class, method), config(tmp_path, lambda _: value, method)
    genome = genome_of(wanted)
    assert len(genome.genes) == (4 if method == "slerp" else 8)
    suture.merge(plain, tmp_path / "plain")
    suture.merge(genome.merge([value] * len(genome.genes)), tmp_path / "found")
    assert tensors(tmp_path / "found") == tensors(tmp_path / "plain")


def test_the_best_is_made_again_by_its_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: `suture merge OUT/best.yml` writes the bytes that were judged, from any folder."""
    monkeypatch.chdir(tmp_path)
    given = searched(Path())
    found = suture.search(
        given, "out", evaluate=lambda p: -float(len(p.name)) - p.stat().st_ino % 7, budget=9, keep=True
    )
    assert found.best is not None
    assert len(list((tmp_path / "out" / "candidates").iterdir())) == 9
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    suture.merge(tmp_path / found.config, "again")
    assert tensors(elsewhere / "again") == tensors(tmp_path / "out" / "candidates" / f"{found.best['number']:06}")
    files = [p.name for p in (tmp_path / "out").iterdir() if p.name.startswith("best-")]
    assert sorted(files) == sorted(set(files))
    assert all(name in (tmp_path / found.config).read_text() for name in files)


def test_groups_filters_and_smoothing() -> None:
    """Groups of layers are cut from the first, the last may be shorter; smoothed ones go evenly from first to last."""
    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(5)]
    genome = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("suture.searching.genome._layers", lambda _: list(range(len(names))))
        parameters = {
            "weight": [{"filter": "mlp", "value": {"search": [0, 1], "layer_granularity": 2}}, {"value": 0.5}],
            "density": {"search": [0.1, 1], "layer_granularity": 2, "smooth": True, "start": 1},
            "gamma": {"search": [None, None]},
        }
        genome = genome_of({"base_model": "b", "models": [{"model": "x/m", "parameters": parameters}]})
    assert [g.name for g in genome.genes][:3] == [
        f"weight of m, mlp, {g}" for g in ("layers 0-1", "layers 2-3", "layer 4")
    ]
    made = genome.merge([0.1, 0.2, 0.3, 0.2, 0.6, 1.0, 7.0])["models"][0]["parameters"]
    assert made["weight"][0]["value"]["layers"] == {"0": 0.1, "1": 0.1, "2": 0.2, "3": 0.2, "4": 0.3}
    assert made["gamma"] == 7.0
    smoothed = list(made["density"]["layers"].values())
    np.testing.assert_allclose(smoothed, np.interp(np.linspace(0, 2, 5), range(3), [0.2, 0.6, 1.0]), rtol=1e-15)
    assert all(a < b for a, b in pairwise(smoothed))
    assert [g.start for g in genome.genes] == [0.5, 0.5, 0.5, 1, 1, 1, 0.5]


def test_objectives_are_their_formulas(tmp_path: Path) -> None:
    """Each figure is what its formula gives of whole models in NumPy, in f64."""
    rng = np.random.default_rng(5)
    shapes = {f"model.layers.{i}.mlp.up_proj.weight": (9, 5) for i in range(2)} | {"model.norm.weight": (5,)}
    base, a, b, target = ({n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()} for _ in range(4))
    for name, held in {"base": base, "a": a, "b": b, "target": target}.items():
        write_checkpoint(tmp_path / name, held)
    models = [
        {"model": str(tmp_path / name), "parameters": {"weight": {"search": [0, 1], "start": w}}}
        for name, w in (("a", 0.75), ("b", 0.25))
    ]
    given = {"merge_method": "task_arithmetic", "base_model": str(tmp_path / "base"), "models": models}

    def flat(held: dict[str, Any]) -> Any:
        return np.concatenate([held[n].astype(np.float64).ravel() for n in shapes])

    x, da, db = flat(base), flat(a) - flat(base), flat(b) - flat(base)
    made = (x + 0.75 * da + 0.25 * db).astype(np.float32).astype(np.float64)
    d = made - x

    def cosine(u: Any, v: Any) -> float:
        return float(u @ v / np.linalg.norm(u) / np.linalg.norm(v))

    t = flat(target)
    expected = {
        f"distance:{tmp_path / 'target'}": np.linalg.norm(made - t) / np.linalg.norm(t),
        "balance": 1 - min(cosine(d, da), cosine(d, db)),
        "interference": np.mean([np.abs(m[np.sign(m) != np.sign(d)]).sum() / np.abs(m).sum() for m in (da, db)]),
    }
    for i, (name, value) in enumerate(expected.items()):
        found = suture.search(given, tmp_path / f"out{i}", objective=name, budget=1)
        assert found.score == pytest.approx(value, rel=1e-6)


def test_one_gene(tmp_path: Path) -> None:
    """A single number is searched too, and its bounds hold."""
    given = config(tmp_path, lambda i: {"search": [0.2, 0.4]} if i else 0.5)
    found = suture.search(given, tmp_path / "out", objective="balance", budget=20, sigma=1)
    genes = [c["genes"] for c in found.data["candidates"]]
    assert {len(g) for g in genes} == {1}
    assert genes[0] == [pytest.approx(0.3)]
    assert all(0.2 <= g[0] <= 0.4 for g in genes)
    assert json.loads(json.dumps(found.data))["best"] == found.data["best"]
