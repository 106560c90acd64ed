"""Twins: a shared expert and what each expert has beyond it (Twin-Merging, arXiv 2406.15479)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture
from suture import Settings, SutureError, UsageError

from ..support.checkpoints import Raw, encode
from .worlds import llama, said, tensors_of, tuned, write

EXPERTS = ("math", "law", "code")
BIASES = [f"model.layers.{i}.self_attn.q_proj.bias" for i in range(2)]
EXCLUDED = {*BIASES, "lm_head.weight"}
TABLE = "model.embed_tokens.weight"


def world(folder: Path, dtype: str = "F32", experts: int = 3) -> tuple[dict[str, Raw], dict[str, dict[str, Raw]]]:
    """A base and its fine-tunes in folders of their names; every tensor of each is changed."""
    base = llama(0, dtype)
    made = {name: tuned(base, 1 + i, same="nothing") for i, name in enumerate(EXPERTS[:experts])}
    write(folder / "base", base)
    for name, tensors in made.items():
        write(folder / name, tensors)
    return base, made


def twin(folder: Path, experts: int = 3, **options: Any) -> Path:
    """The twin of a world."""
    out = folder / str(options.pop("out", "twin"))
    given: dict[str, Any] = {"shared": "task_arithmetic", **options}
    suture.twin.make(folder / "base", [folder / name for name in EXPERTS[:experts]], out, **given)
    return out


def shared_by_hand(base: Raw, experts: list[Raw]) -> np.ndarray[Any, Any]:
    """Task arithmetic with weights 1 and lambda 0.3, in f64."""
    own = base.values().astype(np.float64)
    return own + 0.3 * sum(e.values().astype(np.float64) - own for e in experts)


def truncated(change: np.ndarray[Any, Any], rank: int) -> np.ndarray[Any, Any]:
    """The best approximation of a rank, by LAPACK."""
    u, s, vt = np.linalg.svd(change.astype(np.float64), full_matrices=False)
    return np.asarray((u[:, :rank] * s[:rank]) @ vt[:rank])


def distance(one: Raw, other: np.ndarray[Any, Any]) -> float:
    """How far apart, relative to the other."""
    return float(np.linalg.norm(one.values() - other) / np.linalg.norm(other))


def test_the_shared_expert_is_the_papers(tmp_path: Path) -> None:
    """Law: with nothing said, theta* is base + 0.3 * the sum of the changes, heads and biases included."""
    base, experts = world(tmp_path)
    made = twin(tmp_path)
    for name, raw in tensors_of(made / "shared").items():
        wanted = shared_by_hand(base[name], [e[name] for e in experts.values()])
        assert np.allclose(raw.values(), wanted, rtol=1e-6, atol=1e-7), name
    record = suture.twin.info(made)
    assert record["shared"]["parameters"] == {"weight": 1.0, "lambda": 0.3}
    assert [e["name"] for e in record["experts"]] == list(EXPERTS)


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_full_rank_and_one_hot_give_the_expert_back(tmp_path: Path, dtype: str) -> None:
    """Law: at full rank, one expert alone is that expert to 1e-5 of its size, in bf16 too, since what factors would not
    make smaller is kept whole; but for what is excluded, which is the shared expert's."""
    _, experts = world(tmp_path, dtype)
    made = twin(tmp_path, rank_share=1.0)
    assert set(suture.twin.info(made)["excluded"]) == EXCLUDED
    shared = tensors_of(made / "shared")
    for name in EXPERTS:
        suture.twin.materialise(made, tmp_path / f"only-{name}", only=name)
        out = tensors_of(tmp_path / f"only-{name}")
        assert out.keys() == experts[name].keys()
        for tensor, raw in out.items():
            if tensor in EXCLUDED:
                assert raw == shared[tensor]
            else:
                assert distance(raw, experts[name][tensor].values()) <= 1e-5, tensor
    assert (tmp_path / "only-law" / "config.json").read_bytes() == (tmp_path / "law" / "config.json").read_bytes()


def test_a_rank_that_holds_all_in_factors(tmp_path: Path) -> None:
    """Law: where the difference has the rank that is kept, factors themselves (not whole tensors) give it back."""
    rng = np.random.default_rng(0)
    base = llama(0, "F32")
    write(tmp_path / "base", base)
    # Changes from the base of rank 1; those of two from the shared one have rank 2, and int(0.1 * 24) is 2.
    names = [n for n, raw in base.items() if len(raw.shape) == 2 and n not in EXCLUDED]
    experts: dict[str, dict[str, Raw]] = {}
    for expert in EXPERTS[:2]:
        experts[expert] = dict(base)
        for name in names:
            m, n = base[name].shape
            planted = np.outer(rng.normal(size=m), rng.normal(size=n)) / 10
            experts[expert][name] = encode(base[name].values() + planted, "F32")
        write(tmp_path / expert, experts[expert])
    made = twin(tmp_path, experts=2)
    for expert in EXPERTS[:2]:
        suture.twin.materialise(made, tmp_path / f"only-{expert}", only=expert)
        out, entries = tensors_of(tmp_path / f"only-{expert}"), said(made / "experts" / expert)["tensors"]
        for name in names:
            assert entries[name]["kept"] == "lowrank"
            assert entries[name]["figures"]["rank"] == 2
            assert entries[name]["figures"]["error"] < 1e-4
            assert distance(out[name], experts[expert][name].values()) <= 1e-5, name


def test_ranks_and_errors_are_those_of_the_share(tmp_path: Path) -> None:
    """Law: the rank is int(share * min(m, n)), at least 1, and the error the root of the dropped squares to 1e-4."""
    _, experts = world(tmp_path)
    for share in (0.01, 0.1, 0.3):
        made = twin(tmp_path, rank_share=share, out=f"twin-{share}")
        shared = tensors_of(made / "shared")
        for expert, tensors in experts.items():
            entries, held = said(made / "experts" / expert)["tensors"], tensors_of(made / "experts" / expert)
            for name, entry in entries.items():
                if len(tensors[name].shape) < 2 or name in EXCLUDED:
                    assert entry["kept"] == ("left" if name in EXCLUDED else "whole"), name
                    continue
                rank = max(1, int(share * min(tensors[name].shape)))
                u, s, vt = (held[f"{name}.{part}"].values().astype(np.float64) for part in ("U", "S", "Vt"))
                assert s.shape == (rank,)
                change = tensors[name].values().astype(np.float64) - shared[name].values()
                values = np.linalg.svd(change, compute_uv=False)
                left = np.linalg.norm(change - (u * s) @ vt)
                assert left == pytest.approx(np.sqrt((values[rank:] ** 2).sum()), rel=1e-4), name


@pytest.mark.parametrize("weights", [(0.7, 0.3, 0.0), (0.5, -0.25, 1.5), (0.0, 0.0, 0.0)])
def test_mixtures_are_the_sum(tmp_path: Path, weights: tuple[float, ...]) -> None:
    """Law: any weights give theta* + sum_t w_t v_t, v_t being the best approximation of the expert less theta*."""
    _, experts = world(tmp_path)
    made = twin(tmp_path)
    suture.twin.materialise(made, tmp_path / "out", weights=weights)
    by_name = {n: w for n, w in zip(EXPERTS, weights, strict=True) if w}
    suture.twin.materialise(made, tmp_path / "named", weights=by_name)
    out, shared = tensors_of(tmp_path / "out"), tensors_of(made / "shared")
    assert out == tensors_of(tmp_path / "named")
    for name, raw in out.items():
        wanted = shared[name].values().astype(np.float64)
        for expert, weight in zip(experts.values(), weights, strict=True):
            change = expert[name].values().astype(np.float64) - shared[name].values()
            if name in EXCLUDED:
                change = 0 * change
            wanted = wanted + weight * (change if change.ndim == 1 else truncated(change, int(0.1 * min(change.shape))))
        assert np.allclose(raw.values(), wanted, rtol=1e-4, atol=2e-5), name


def test_heads_of_their_own(tmp_path: Path) -> None:
    """Law: asked for, heads and biases are kept whole: one expert alone has its own, bit for bit."""
    _, experts = world(tmp_path)
    made = twin(tmp_path, heads="whole")
    assert set(suture.twin.info(made)["whole"]) == EXCLUDED
    suture.twin.materialise(made, tmp_path / "out", only="law")
    out = tensors_of(tmp_path / "out")
    for name in EXCLUDED:
        assert out[name] == experts["law"][name], name


def test_heads_of_classifiers_are_heads(tmp_path: Path) -> None:
    """Law: what is excluded are heads of classifiers too, and biases by the last part of a name only."""
    rng = np.random.default_rng(0)
    inside = ["bert.encoder.layer.0.attention.relative_attention_bias.weight", "bert.encoder.layer.0.w.weight"]
    outside = ["classifier.weight", "classifier.bias", "bert.encoder.layer.0.w.bias"]
    base = {n: encode(rng.normal(0, 1, (12,) if n.endswith("bias") else (12, 16)), "F32") for n in inside + outside}
    base["bert.position_ids"] = Raw("I64", (4,), np.arange(4).tobytes())
    for i, folder in enumerate(("base", "math", "law")):
        own = {n: encode(r.values() + 0.1 * i, "F32") if r.dtype == "F32" else r for n, r in base.items()}
        write(tmp_path / folder, own)
    made = twin(tmp_path, experts=2)
    assert set(suture.twin.info(made)["excluded"]) == {*outside, "bert.position_ids"}


def test_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    """Law: the arithmetic that is told is that of the files, and factors take r (m + n + 1) numbers a matrix."""
    _, experts = world(tmp_path)
    made = twin(tmp_path)
    record = suture.twin.info(made)

    def weights(folder: Path) -> int:
        return sum(f.stat().st_size for f in folder.glob("*.safetensors"))

    assert record["shared"]["bytes"] == weights(made / "shared")
    assert record["bytes"] == sum(f.stat().st_size for f in made.rglob("*.safetensors"))
    for told in record["experts"]:
        folder = made / "experts" / told["name"]
        assert told["bytes"] == weights(folder)
        assert told["own_bytes"] == weights(tmp_path / told["name"])
        shapes = {n: r.shape for n, r in experts[told["name"]].items() if n not in EXCLUDED}
        factors = [int(0.1 * min(s)) * (sum(s) + 1) for s in shapes.values() if len(s) == 2]
        norms = [s[0] for s in shapes.values() if len(s) == 1]
        assert sum(len(r.data) for r in tensors_of(folder).values()) == 4 * (sum(factors) + sum(norms))
    assert record["own_bytes"] == sum(told["own_bytes"] for told in record["experts"])
    found = sorted(f.relative_to(made).as_posix() for f in made.rglob("*") if f.is_file())
    assert found == sorted([*record["files"], "twin.json"])


def test_factors_in_bf16_take_half(tmp_path: Path) -> None:
    """Law: `dtype` is that of factors alone: the shared expert stays what it is, mixtures are as near as bf16 is."""
    world(tmp_path)
    wide = twin(tmp_path)
    half = twin(tmp_path, out="half", settings=Settings(dtype="bfloat16"))
    assert tensors_of(wide / "shared") == tensors_of(half / "shared")
    one, other = (tensors_of(made / "experts" / "law") for made in (wide, half))
    for name, raw in one.items():
        factor = name.rpartition(".")[2] in ("U", "S", "Vt")
        assert other[name].dtype == ("BF16" if factor else "F32")
        assert len(other[name].data) * (2 if factor else 1) == len(raw.data)
    for made in (wide, half):
        suture.twin.materialise(made, tmp_path / f"only-{made.name}", only="law")
    one, other = (tensors_of(tmp_path / f"only-{made.name}") for made in (wide, half))
    shared = tensors_of(wide / "shared")
    for name, raw in one.items():
        assert other[name].dtype == "F32"
        change = raw.values() - shared[name].values()
        # Each of U, S and V' is rounded by at most 2^-9 of itself.
        assert np.linalg.norm(other[name].values() - raw.values()) <= 4 * 2**-9 * np.linalg.norm(change) + 1e-6


@pytest.mark.parametrize("method", ["linear", "ties", "slerp", "model_stock"])
def test_any_method_makes_the_shared_expert(tmp_path: Path, method: str) -> None:
    """Law: the shared expert is what `merge` makes by the same method; values by commas are one an expert."""
    world(tmp_path)
    cases: dict[str, dict[str, Any]] = {
        "linear": {"weight": [0.8, 0.2]}, "ties": {"weight": [0.5, 0.7], "density": 0.4}, "slerp": {"t": 0.3}
    }  # fmt: skip
    parameters = cases.get(method, {})
    made = twin(tmp_path, experts=2, shared=method, parameters=parameters)
    models: list[dict[str, Any]] = [{"model": str(tmp_path / name)} for name in EXPERTS[:2]]
    config: dict[str, Any] = {"merge_method": method, "models": models, "parameters": dict(parameters)}
    if isinstance(parameters.get("weight"), list):
        for model, weight in zip(models, config["parameters"].pop("weight"), strict=True):
            model["parameters"] = {"weight": weight}
    if method != "linear":
        config["base_model"] = str(tmp_path / ("math" if method == "slerp" else "base"))
    suture.merge(config, tmp_path / "merged")
    assert tensors_of(made / "shared") == tensors_of(tmp_path / "merged")


def test_the_same_bytes_on_any_threads(tmp_path: Path) -> None:
    """Law 3: threads do not matter."""
    world(tmp_path)
    one, two = (twin(tmp_path, out=f"twin-{n}", settings=Settings(threads=n)) for n in (1, 2))
    for file in one.rglob("*.safetensors"):
        assert file.read_bytes() == (two / file.relative_to(one)).read_bytes(), file


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shared": "task_arithmatic"}, "task_arithmetic"),
        ({"parameters": {"lamda": 1}}, "lamda"),
        ({"parameters": {"weight": [1, 2]}}, "weight: expected one value for each of 3 experts, found 2"),
        ({"rank_share": 0}, "rank_share: expected a share above 0"),
        ({"rank_share": 1.5}, "rank_share: expected a share above 0"),
        ({"form": "sdv"}, "form: expected svd, magnitude or random, found `sdv`"),
        ({"form": "magnitude", "rank_share": 0.1}, "rank_share: is of the form svd, and `magnitude` takes none"),
        ({"form": "random", "exact_svd": True}, "exact_svd: is of the form svd, and `random` takes none"),
        ({"form": "random", "settings": Settings(dtype="bfloat16")}, "dtype: is of the form svd"),
        ({"density": 0.1}, "density: is of the form magnitude and random, and `svd` takes none"),
        ({"form": "magnitude", "density": 1.5}, "density: expected a share above 0, at most 1; found 1.5"),
        ({"heads": "own"}, "heads: expected shared or whole"),
        ({"out": "base/twin"}, "overlaps with the input"),
        ({"out": "nowhere/twin"}, "does not exist"),
        ({"out": "twin.safetensors"}, "a twin is a folder"),
        ({"settings": Settings(memory="8MiB")}, "too little"),
    ],
)
def test_wrong_use_is_told_before_anything_is_made(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    """Law 8: mistakes are told by their names, and leave nothing."""
    world(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SutureError, match=message):
        twin(tmp_path, **options)
    assert sorted(tmp_path.rglob("*")) == before


def test_experts_of_one_name_are_refused(tmp_path: Path) -> None:
    """Bad input: two experts are called the same."""
    base, _ = world(tmp_path)
    (tmp_path / "other").mkdir()
    write(tmp_path / "other" / "law", tuned(base, 9))
    experts = [tmp_path / "law", tmp_path / "other" / "law"]
    with pytest.raises(UsageError, match="two experts are called `law`"):
        suture.twin.make(tmp_path / "base", experts, tmp_path / "twin", shared="linear")


def test_wrong_weights_and_names(tmp_path: Path) -> None:
    """Bad input: weights of another number, names that there are not, both or neither."""
    world(tmp_path)
    made = twin(tmp_path)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"weights": [0.5, 0.5]}, r"one for each of 3 experts \(math, law, code\), found 2"),
        ({"weights": [0.5, 0.5, float("nan")]}, "expected finite numbers, found nan for `code`"),
        ({"weights": {"lore": 1}}, "no expert `lore`; expected one of `math`, `law`, `code`"),
        ({"only": "lore"}, "only: no expert `lore`"),
        ({}, "found neither"),
        ({"only": "law", "weights": [1, 0, 0]}, "found both"),
    ]
    for given, message in cases:
        with pytest.raises(UsageError, match=message):
            suture.twin.materialise(made, tmp_path / "out", **given)
    with pytest.raises(SutureError, match="is no twin"):
        suture.twin.materialise(tmp_path / "base", tmp_path / "out", only="law")
    assert not (tmp_path / "out").exists()


def test_what_is_there_stays(tmp_path: Path) -> None:
    """Law 6: a twin is replaced only on demand, and only if nothing but a twin is there; nothing is left beside it."""
    world(tmp_path)
    made = twin(tmp_path)
    before = (made / "twin.json").read_bytes()
    with pytest.raises(SutureError, match="is there already"):
        twin(tmp_path)
    assert (made / "twin.json").read_bytes() == before
    twin(tmp_path, rank_share=0.2, settings=Settings(overwrite=True))
    assert suture.twin.info(made)["rank_share"] == 0.2
    (made / "shared" / "notes.txt").write_text("mine")
    with pytest.raises(SutureError, match=r"holds `shared/notes.txt`.*will not delete"):
        twin(tmp_path, settings=Settings(overwrite=True))
    (tmp_path / "spare").mkdir()
    (tmp_path / "spare" / "x").write_text("mine")
    with pytest.raises(SutureError, match="is no twin"):
        twin(tmp_path, out="spare", settings=Settings(overwrite=True))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["base", *EXPERTS, "twin", "spare"])


@pytest.mark.parametrize("error", [SutureError("no room"), KeyboardInterrupt()])
def test_a_failed_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Law 6: what fails behind the merge, at the second difference, leaves no twin and no half of one."""
    world(tmp_path)
    whole, seen = suture.delta.extract, []

    def failing(*args: Any, **options: Any) -> Any:
        if not options.get("dry_run"):
            seen.append(sorted(p.name for p in Path(args[2]).parents[1].iterdir()))
            if len(seen) == 2:
                raise error
        return whole(*args, **options)

    monkeypatch.setattr(suture.delta, "extract", failing)
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(type(error)):
        twin(tmp_path)
    assert seen == [["experts", "shared"]] * 2
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_run_that_is_killed(tmp_path: Path) -> None:
    """Law 6: kill -9 at any time leaves a whole twin or none under its name, and what is left is told of."""
    rng = np.random.default_rng(0)
    base = {f"model.layers.{i}.w.weight": encode(rng.normal(0, 1, (512, 512)), "F32") for i in range(8)}
    write(tmp_path / "base", base)
    for i, name in enumerate(EXPERTS[:2]):
        write(tmp_path / name, tuned(base, 1 + i, same="nothing"))
    left, out = tmp_path / ".twin.suture-twin", tmp_path / "twin"
    places = [str(tmp_path / name) for name in ("base", *EXPERTS[:2])]
    command = [sys.executable, "-m", "suture", "twin", "make", *places, str(out), "--shared", "linear", "--quiet"]
    command += ["--threads", "1", "--parameter", "weight=1"]
    for wait in (0.1, 0.4, 0.8):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        time.sleep(wait)
        process.kill()
        process.wait()
        if out.exists():
            suture.twin.materialise(out, tmp_path / f"out-{wait}", only="law")
            shutil.rmtree(out)
        shutil.rmtree(left, ignore_errors=True)
    subprocess.run(command, check=True, env=os.environ)
    suture.twin.materialise(out, tmp_path / "out", only="law")
    assert not left.exists()


def test_a_killed_run_is_told(tmp_path: Path) -> None:
    """Law 6: what a killed run leaves is not taken for a twin, and not deleted unasked."""
    world(tmp_path)
    (tmp_path / ".twin.suture-twin" / "shared").mkdir(parents=True)
    with pytest.raises(SutureError, match=r"\.twin\.suture-twin: is of a run that was killed, or that still works"):
        twin(tmp_path)
    (tmp_path / ".twin.suture-twin" / "shared").rmdir()
    (tmp_path / ".twin.suture-twin").rename(tmp_path / ".twin.suture-old")
    twin(tmp_path)
    with pytest.raises(SutureError, match=r"\.twin\.suture-old: is what a killed run was replacing"):
        twin(tmp_path, settings=Settings(overwrite=True))
    with pytest.raises(SutureError, match="is no twin"):
        suture.twin.materialise(tmp_path / ".twin.suture-old", tmp_path / "out", only="law")


def test_a_damaged_or_moved_shared_model_is_found(tmp_path: Path) -> None:
    """Law 7: differences are of this shared model alone; another is refused by the tensor's name."""
    world(tmp_path)
    made = twin(tmp_path)
    for file in (made / "shared").glob("*.safetensors"):
        file.write_bytes(next((tmp_path / "base").glob("*.safetensors")).read_bytes())
    with pytest.raises(SutureError, match="belongs to another model, `shared`"):
        suture.twin.materialise(made, tmp_path / "out", only="law")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "expected schema 1, found 2"),
        ({"experts": []}, "not as a twin has it"),
        ({"experts": [{"name": "../law", "bytes": 1, "own_bytes": 1}]}, "not as a twin has it"),
        ({"files": None}, "not as a twin has it"),
    ],
)
def test_a_record_that_is_none(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """Law 7: twin.json is read with care; a name leads nowhere out of the folder."""
    world(tmp_path)
    made = twin(tmp_path)
    record = json.loads((made / "twin.json").read_text())
    (made / "twin.json").write_text(json.dumps(record | change))
    with pytest.raises(SutureError, match=message):
        suture.twin.info(made)


def test_a_parameter_is_said_once(tmp_path: Path) -> None:
    """Law 8: one of two values would be dropped unsaid."""
    world(tmp_path)
    words = ["twin", "make", "base", "math", "twin", "--shared", "ties"]
    words += ["--parameter", "density=0.2", "--parameter", "density=0.3"]
    done = subprocess.run(
        [sys.executable, "-m", "suture", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "--parameter: `density` is given twice; values for each expert go in one: density=0.6,0.4" in done.stderr
    assert not (tmp_path / "twin").exists()


def test_the_command_line(tmp_path: Path) -> None:
    """The verbs do what the functions do; a user's mistake is a sentence and exit code 2."""
    world(tmp_path, experts=2)

    def run(*args: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "suture", "twin", *map(str, args)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ, check=False)

    done = run("make", "base", "math", "law", "made", "--shared", "ties", "--parameter", "weight=0.5,0.7")
    assert done.returncode == 0, done.stderr
    assert "shared" in done.stderr
    assert "excluded" in done.stderr
    same = twin(tmp_path, experts=2, shared="ties", parameters={"weight": [0.5, 0.7]})
    assert tensors_of(tmp_path / "made" / "shared") == tensors_of(same / "shared")
    assert run("materialise", "made", "out", "--only", "law").returncode == 0
    assert run("materialise", "made", "half", "--weights", "0.7,0.3").returncode == 0
    suture.twin.materialise(same, tmp_path / "again", weights=[0.7, 0.3])
    assert tensors_of(tmp_path / "half") == tensors_of(tmp_path / "again")
    assert json.loads(run("info", "made", "--json").stdout)["experts"][1]["name"] == "law"
    assert "ties" in run("info", "made").stdout
    wrong = run("materialise", "made", "more", "--weights", "1")
    assert wrong.returncode == 2
    assert "found 1" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    wrong = run("make", "base", "math", "law", "made2", "--shared", "ties", "--parameter", "weight")
    assert wrong.returncode == 2
    assert "NAME=VALUE" in wrong.stderr
