"""`suture assemble`: parts are bytes under new names, projections their formulas, what does not fit is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import suture
from suture import Settings, SutureError, UsageError

from ..parts.whole import check_same, in_parts
from ..support.checkpoints import encode, llama_family, read_checkpoint, write_checkpoint, write_file
from ..support.lora import exact, factors, write_lora
from ..support.measuring import MIB, run
from ..support.processes import start

MODULE = "model.layers.1.mlp.up_proj"


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A model 32 wide and its fine-tune, in two shards."""
    return llama_family(tmp_path_factory.mktemp("llm"), layers=2, hidden=32, ff=64, n=1, shards=[1, 2])


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder-decoder 16 wide, with one table for both sides."""
    rng = np.random.default_rng(7)
    names = [f"{side}.block.{i}.layer.0.{n}.weight" for side in ("encoder", "decoder") for i in range(2) for n in "qk"]
    tensors = {n: encode(rng.standard_normal((16, 16)), "BF16") for n in ("shared.weight", *names)}
    config = {"model_type": "t5", "d_model": 16, "num_layers": 2, "torch_dtype": "bfloat16", "vocab_size": 16}
    files = {"tokenizer_config.json": "{}", "spiece.model": "pieces", "notes.txt": "x"}
    return write_checkpoint(tmp_path_factory.mktemp("t5") / "m", tensors, config=config, files=files)


def stack(encoder: Path, llm: Path, **more: Any) -> dict[str, Any]:
    """An encoder before a language model without embeddings, and a projection between them."""
    return {
        "parts": {
            "nllb": {"model": str(encoder), "take": ["encoder", "shared.weight"], "rename": {"encoder.": ""}},
            "up_proj": {"linear": {"from": "nllb", "to": "llama", "init": "normal"}},
            "llama": {"model": str(llm), "drop": ["model.embed_tokens", "lm_head"]},
        }
    } | more


def test_parts_are_bytes_under_their_prefixes(family: list[Path], encoder: Path, tmp_path: Path) -> None:
    """Law: what nothing is asked of is the model's to the byte, under `prefix`, renamed; all else is listed."""
    report = suture.assemble(stack(encoder, family[1]), tmp_path / "out")
    found, t5, llm = (read_checkpoint(p) for p in (tmp_path / "out", encoder, family[1]))
    want = {f"nllb.{n.removeprefix('encoder.')}": r for n, r in t5.items() if not n.startswith("decoder.")}
    want |= {f"llama.{n}": r for n, r in llm.items() if not n.startswith(("model.embed_tokens", "lm_head"))}
    assert {n: r for n, r in found.items() if not n.startswith("up_proj.")} == want
    assert found["up_proj.weight"].shape == (32, 16)
    assert found["up_proj.weight"].dtype == "BF16"
    assert not found["up_proj.bias"].values().any()
    left = {u["tensor"] for u in report.data["unused"]}
    assert left == {n for n in t5 if n.startswith("decoder.")} | {"model.embed_tokens.weight", "lm_head.weight"}
    assert any("`up_proj` is drawn: normal" in w and "trained" in w for w in report.warnings)
    assert any("no `config`" in w for w in report.warnings)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert suture.verify(tmp_path / "out")["differing"] == []


def test_a_table_of_a_tied_part_makes_no_head(family: list[Path], tmp_path: Path) -> None:
    """Law 5: the output holds what the config says and nothing more, whoever ties a head to what."""
    tied = llama_family(tmp_path / "tied", layers=1, hidden=32, ff=64, n=0, tied=True)[0]
    for order in (0, 1):
        parts = {"a": {"model": str(tied)}, "b": {"model": str(family[0]), "drop": ["lm_head"]}}
        out = tmp_path / f"out-{order}"
        suture.assemble({"parts": dict(sorted(parts.items(), reverse=bool(order)))}, out)
        want = {f"a.{n}" for n in read_checkpoint(tied)} | {f"b.{n}" for n in read_checkpoint(family[0])}
        assert set(read_checkpoint(out)) == want - {"b.lm_head.weight"}


def test_adapters_are_folded_in_sequence_and_rounded_once(family: list[Path], tmp_path: Path) -> None:
    """Law 2: W + s1 B1 A1 + w s2 B2 A2 in f64, rounded once; all else of the part stays to the byte."""
    rng = np.random.default_rng(0)
    own = [factors(rng, MODULE, (64, 32)) for _ in range(2)]
    for i, tensors in enumerate(own):
        write_lora(tmp_path / f"a{i}", tensors, r=4, lora_alpha=8 * (i + 1))
    adapters = [str(tmp_path / "a0"), {"path": str(tmp_path / "a1"), "weight": 0.5}]
    suture.assemble({"parts": {"llm": {"model": str(family[0]), "adapters": adapters}}}, tmp_path / "out")
    found, base = read_checkpoint(tmp_path / "out"), read_checkpoint(family[0])
    name = f"{MODULE}.weight"
    change = [exact(t[f"{MODULE}.lora_B.weight"]) @ exact(t[f"{MODULE}.lora_A.weight"]) for t in own]
    want = encode(exact(base[name]) + 2 * change[0] + 0.5 * 4 * change[1], "BF16")
    assert found[f"llm.{name}"] == want
    assert {n: r for n, r in found.items() if n != f"llm.{name}"} == {
        f"llm.{n}": r for n, r in base.items() if n != name
    }


def test_casts_are_asked_for(family: list[Path], encoder: Path, tmp_path: Path) -> None:
    """Law: parts of two dtypes are refused unless each says its own or one is given for all; a cast is one rounding."""
    wide = tmp_path / "wide"
    suture.convert(family[0], wide, settings=Settings(dtype="float32"))
    with pytest.raises(UsageError, match=r"several dtypes \(`nllb` bfloat16, `llama` float32\)"):
        suture.assemble(stack(encoder, wide), tmp_path / "no")
    config = stack(encoder, wide, config={"sub": {"of": "llama"}})
    config["parts"]["nllb"]["dtype"], config["parts"]["llama"]["dtype"] = "bfloat16", "float32"
    suture.assemble(config, tmp_path / "both")
    found = read_checkpoint(tmp_path / "both")
    assert {(n.split(".")[0], r.dtype) for n, r in found.items()} == {
        ("nllb", "BF16"), ("llama", "F32"), ("up_proj", "F32"),
    }  # fmt: skip
    suture.assemble(config, tmp_path / "all", settings=Settings(dtype="float16"))
    cast = read_checkpoint(tmp_path / "all")
    assert {r.dtype for r in cast.values()} == {"F16"}
    assert all(cast[n] == encode(r.values(), "F16") for n, r in found.items() if not n.startswith("up_proj"))
    said = [json.loads((tmp_path / o / "config.json").read_text())["sub"]["torch_dtype"] for o in ("both", "all")]
    assert said == ["float32", "float16"]


def solved(x: Any, y: Any, penalty: float, bias: bool) -> tuple[Any, Any]:
    """Ridge regression (Hoerl and Kennard, 1970) as least squares over rows added below: sqrt(penalty) I against 0."""
    mean_x, mean_y = (x.mean(0), y.mean(0)) if bias else (0, 0)
    rows = np.vstack([x - mean_x, np.sqrt(penalty) * np.eye(x.shape[1])])
    wanted = np.vstack([y - mean_y, np.zeros((x.shape[1], y.shape[1]))])
    weight = np.linalg.lstsq(rows, wanted, rcond=None)[0].T
    return weight, mean_y - weight @ mean_x if bias else None


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("form", ["npy32", "npy64", "npy16", "safetensors"])
def test_a_projection_is_the_ridge_regression(
    family: list[Path], encoder: Path, tmp_path: Path, form: str, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: W and b make sum |W x + b - y|^2 + lambda |W|^2 least, in f64 over any number of blocks, b unpenalised."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((301, 16)) + 3, rng.standard_normal((301, 32)) * 2 - 1
    files = []
    for name, rows in (("x", x), ("y", y)):
        if form == "safetensors":
            raw = encode(rows, "BF16")
            files.append(write_file(tmp_path / f"{name}.safetensors", {"states": raw, "other": np.zeros(3)}))
            rows[:] = raw.values()
        else:
            rows[:] = rows.astype(f"f{int(form[3:]) // 8}")
            np.save(tmp_path / f"{name}.npy", rows.astype(f"f{int(form[3:]) // 8}"))
            files.append(tmp_path / f"{name}.npy")
    named: list[Any] = [{"file": str(f), "tensor": "states"} if form == "safetensors" else str(f) for f in files]
    config = stack(encoder, family[0])
    config["parts"]["up_proj"] = {
        "linear": {"from": "nllb", "to": "llama", "ridge": 2.5, "inputs": named[0], "outputs": named[1], "bias": bias},
        "dtype": "float64",
    }
    config["parts"]["llama"]["dtype"] = config["parts"]["nllb"]["dtype"] = "bfloat16"
    weight, offset = solved(x, y, 2.5, bias)
    monkeypatch.setattr("suture.surgery.assemble_linear._ROWS", 1)
    for block in (2**21, 480):
        monkeypatch.setattr("suture.surgery.assemble_linear._BLOCK", block)
        report = suture.assemble(config, tmp_path / f"out-{block}")
        found = read_checkpoint(tmp_path / f"out-{block}")
        np.testing.assert_allclose(found["up_proj.weight"].values(), weight, rtol=1e-10, atol=1e-11)
        assert ("up_proj.bias" in found) == bias
        if bias:
            np.testing.assert_allclose(found["up_proj.bias"].values(), offset, rtol=1e-10, atol=1e-11)
    left = np.square(y - x @ weight.T - (offset if bias else 0)).sum()
    share = 1 - left / np.square(y - (y.mean(0) if bias else 0)).sum()
    notes = dict(report.data["notes"])
    assert f"ridge regression on 301 states, lambda 2.5, which explains {share:.1%}" in notes["up_proj"]
    assert not any("before it is trained" in w for w in report.warnings)
    suture.assemble(config, tmp_path / "again")
    assert read_checkpoint(tmp_path / "again") == read_checkpoint(tmp_path / "out-480")
    config["parts"]["up_proj"]["dtype"] = "bfloat16"
    suture.assemble(config, tmp_path / "short")
    assert read_checkpoint(tmp_path / "short")["up_proj.weight"] == encode(found["up_proj.weight"].values(), "BF16")


def test_a_regression_is_the_same_for_any_threads(encoder: Path, tmp_path: Path) -> None:
    """Law 3: however many threads NumPy's BLAS would take, f64 weights are the same to the bit."""
    rng = np.random.default_rng(6)
    for name, width in (("x", 300), ("y", 500)):
        np.save(tmp_path / f"{name}.npy", rng.standard_normal((3000, width)).astype("f4"))
    linear = {"ridge": 1, "inputs": "x.npy", "outputs": "y.npy"}
    parts = {"e": {"model": str(encoder), "dtype": "bfloat16"}, "p": {"linear": linear, "dtype": "float64"}}
    (tmp_path / "c.yml").write_text(yaml.safe_dump({"parts": parts}))
    for n in ("1", "2"):
        command = [sys.executable, "-m", "suture", "assemble", str(tmp_path / "c.yml"), str(tmp_path / n), "--quiet"]
        subprocess.run(command, check=True, env=os.environ | {"OPENBLAS_NUM_THREADS": n, "OMP_NUM_THREADS": n})
    assert read_checkpoint(tmp_path / "1") == read_checkpoint(tmp_path / "2")


def test_states_of_any_number_take_the_same_memory(family: list[Path], encoder: Path, tmp_path: Path) -> None:
    """Law 1: 400,000 states of 100 MB in all (200 in f64) are read a few at a time; what is held is blocks and sums."""
    rng = np.random.default_rng(5)
    some = rng.standard_normal((4000, 32)).astype("f4")
    np.save(tmp_path / "y.npy", np.tile(some, (100, 1)))
    np.save(tmp_path / "x.npy", np.tile(some[:, :16], (100, 1)))
    config = stack(encoder, family[0])
    config["parts"]["up_proj"] = {
        "linear": {"from": "nllb", "to": "llama", "ridge": 1, "inputs": "x.npy", "outputs": "y.npy"}
    }
    (tmp_path / "c.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    done = run("assemble", tmp_path / "c.yml", tmp_path / "out", "--memory", "64MiB", "--quiet")
    assert done.code == 0, done.stderr
    assert done.peak < 100 * MIB
    weight, _ = solved(some[:, :16].astype("f8"), some.astype("f8"), 0.01, True)
    np.testing.assert_allclose(read_checkpoint(tmp_path / "out")["up_proj.weight"].values(), weight, atol=4e-3)


def test_what_is_drawn_is_drawn_by_seed_and_name(family: list[Path], encoder: Path, tmp_path: Path) -> None:
    """Law 3: the same seed draws the same, another another; each init has the spread that its formula says."""

    def drawn(out: str, **linear: Any) -> Any:
        config = {"parts": {"e": {"model": str(encoder)}, "p": {"linear": {"in": 64, "out": 48, **linear}}}}
        suture.assemble(config, tmp_path / out)
        found = read_checkpoint(tmp_path / out)
        return found["p.weight"].values(), found["p.bias"].values() if "p.bias" in found else None

    one, bias = drawn("1", init="normal", std=0.5, seed=3)
    assert np.array_equal(one, drawn("2", init="normal", std=0.5, seed=3)[0])
    assert not np.array_equal(one, drawn("3", init="normal", std=0.5, seed=4)[0])
    assert abs(one.std() - 0.5) < 0.02
    assert not bias.any()
    uniform, bias = drawn("4", init="uniform")
    assert 0.12 < np.abs(uniform).max() <= 0.1251
    assert 0.1 < np.abs(bias).max() <= 0.1251
    bound = (6 / (64 + 48)) ** 0.5
    xavier, bias = drawn("5", init="xavier", bias=False)
    assert 0.97 * bound < np.abs(xavier).max() <= 1.005 * bound
    assert bias is None


def test_a_projection_may_be_of_files(family: list[Path], encoder: Path, tmp_path: Path) -> None:
    """Law: a weight and a bias of files are these values, rounded to the output's dtype; sizes are checked."""
    rng = np.random.default_rng(2)
    weight, bias = rng.standard_normal((32, 16)).astype("f4"), rng.standard_normal(32)
    np.save(tmp_path / "w.npy", weight)
    write_file(tmp_path / "b.safetensors", {"bias": bias})
    config = stack(encoder, family[0])
    linear = {"from": "nllb", "to": "llama", "weight": str(tmp_path / "w.npy"), "bias": str(tmp_path / "b.safetensors")}
    config["parts"]["up_proj"] = {"linear": linear}
    suture.assemble(config, tmp_path / "out")
    found = read_checkpoint(tmp_path / "out")
    assert found["up_proj.weight"] == encode(weight, "BF16")
    assert found["up_proj.bias"] == encode(bias, "BF16")
    np.save(tmp_path / "w.npy", weight.T)
    with pytest.raises(UsageError, match="`nllb` is 16 wide, and the weight has 32"):
        suture.assemble(config, tmp_path / "no")


def test_what_goes_beside(family: list[Path], encoder: Path, tmp_path: Path) -> None:
    """Law: config.json is what is asked for, with parts' where `of` stands; the tokenizer is the named part's alone."""
    asked = {"model_type": "stack", "encoder": {"of": "nllb", "set": {"use_cache": False}}, "llm": {"of": "llama"}}
    suture.assemble(stack(encoder, family[0], config=asked, tokenizer="nllb"), tmp_path / "out")
    t5, llm = (json.loads((p / "config.json").read_text()) for p in (encoder, family[0]))
    found = json.loads((tmp_path / "out" / "config.json").read_text())
    assert found == {"model_type": "stack", "encoder": t5 | {"use_cache": False}, "llm": llm}
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"config.json", "model.safetensors", "spiece.model", "suture.json", "tokenizer_config.json"}
    suture.assemble(stack(encoder, family[0], config="llama"), tmp_path / "part")
    assert json.loads((tmp_path / "part" / "config.json").read_text()) == llm
    suture.assemble(stack(encoder, family[0], config=str(encoder / "config.json")), tmp_path / "file")
    assert json.loads((tmp_path / "file" / "config.json").read_text()) == t5
    with pytest.raises(UsageError, match="no files of a tokenizer"):
        suture.assemble(stack(encoder / "model.safetensors", family[0], tokenizer="nllb"), tmp_path / "no")


def test_the_mask_says_what_is_trained(family: list[Path], encoder: Path, tmp_path: Path) -> None:
    """Law: with `freeze` the mask names every tensor of the output once a stage, by parts and what of them."""
    freeze = {"stages": [{"train": ["up_proj"]}, {"name": "two", "train": ["up_proj", "llama/last:1/attention"]}]}
    config = stack(encoder, family[0], freeze=freeze)
    suture.assemble(config, tmp_path / "out")
    mask = json.loads((tmp_path / "out" / "suture-mask.json").read_text())
    one, two = mask["stages"]
    every = set(read_checkpoint(tmp_path / "out"))
    assert one["train"] == ["up_proj.weight", "up_proj.bias"]
    attention = {n for n in every if n.startswith("llama.model.layers.1.self_attn.")}
    assert (two["name"], set(two["train"])) == ("two", attention | set(one["train"]))
    assert all(set(s["train"]) | set(s["freeze"]) == every for s in mask["stages"])
    assert all(len(s["train"]) + len(s["freeze"]) == len(every) for s in mask["stages"])
    assert one["train_parameters"] == 32 * 16 + 32
    out = tmp_path / "out"
    found = suture.diff(out, out, mask=out / "suture-mask.json", stage="two")
    assert found["models"][0]["mask"]["unmoved"] == [n for n in read_checkpoint(tmp_path / "out") if n in two["train"]]
    # It is of this output: nothing made of the output has it.
    suture.convert(tmp_path / "out", tmp_path / "other")
    assert not (tmp_path / "other" / "suture-mask.json").exists()
    suture.assemble(config, tmp_path / "out", settings=Settings(overwrite=True))
    for wrong, said in (
        ("lama", "did you mean `llama`"),
        ("up_proj/last:1", "is trained whole"),
        ("nllb/head", "noth"),
    ):
        with pytest.raises(UsageError, match=said):
            suture.assemble(stack(encoder, family[0], freeze={"train": [wrong]}), tmp_path / "no")


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"parts.llama.prefix": "nllb.", "parts.llama.rename": {"model.layers.0.self_attn.q_proj": "block.0.layer.0.q"}},
     r"parts `nllb` and `llama` write `nllb\.block\.0\.layer\.0\.q\.weight`; .*prefix"),
    ({"parts.nllb.rename": {"encoder.block.0": "b", "encoder.block.1": "b"}},
     r"would both be `nllb\.b\.layer\.0\.[kq]\.weight`, and differ"),
    ({"parts.nllb.take": ["encodr"]}, "`encodr` or begins with it; did you mean `encoder`"),
    ({"parts.llama.drop": ["lm_haed"]}, "did you mean `lm_head"),
    ({"parts.llama.drop": ["model", "lm_head"]}, "leaves nothing"),
    ({"parts.nllb.rename": {"encodr.": ""}}, "no tensor that is taken begins with `encodr.`; did you mean `encoder`"),
    ({"parts.up_proj.linear.in": 17}, "`nllb` is 16 wide, and the projection has 17|in: 17"),
    ({"parts.up_proj.linear.to": "lama"}, "there is no other part `lama`; did you mean `llama`"),
    ({"parts.up_proj.linear": {"init": "normal"}}, "give `in`, or the part it leads from"),
    ({"parts.up_proj.linear.init": "glorot"}, "expected one of normal, uniform, xavier"),
    ({"parts.up_proj.linear.ridge": 1}, "found ridge and init"),
    ({"parts.up_proj.take": ["x"]}, "goes with `model`"),
    ({"parts.up_proj.modle": "x"}, "unknown key; did you mean `model`"),
    ({"parts.nllb.model": "no-such-model"}, "no-such-model"),
    ({"tokenizer": "up_proj"}, "expected a part that has a model"),
    ({"config": {"of": "up_proj"}}, "is no part that has a model"),
    ({"config": "lama"}, "no such file or part: lama; did you mean `llama`"),
    ({"dtype": "bf16"}, "expected one of float32"),
    ({"freeze": {"train": []}}, "expected selectors"),
    ({"partz": 1}, "unknown key; did you mean `parts`"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "said"), MISTAKES, ids=[s for _, s in MISTAKES])
def test_mistakes_are_refused(
    family: list[Path], encoder: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    """Law 8: a mistake is exit code 2, with file and line, and what was meant; nothing is written or left."""
    config = stack(encoder, family[0])
    for place, value in change.items():
        *way, last = place.split(".")
        at: Any = config
        for key in way:
            at = at[key]
        at[last] = value
    (tmp_path / "c.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    with pytest.raises(UsageError, match=said) as e:
        suture.assemble(tmp_path / "c.yml", tmp_path / "out")
    assert str(e.value).startswith(f"{tmp_path / 'c.yml'}:")
    assert [p.name for p in tmp_path.iterdir()] == ["c.yml"]


def test_states_that_do_not_fit_are_refused(family: list[Path], encoder: Path, tmp_path: Path) -> None:
    """Law 8: states of other sizes, NaN in a state with its row, a lambda that decides nothing, too little memory."""
    rng = np.random.default_rng(3)
    good = {"x": rng.standard_normal((40, 16)), "y": rng.standard_normal((40, 32))}
    (tmp_path / "states").mkdir()

    def refused(said: str, kind: type[SutureError], memory: str | None = None, ridge: float = 1.0, **rows: Any) -> None:
        for name, values in (good | rows).items():
            np.save(tmp_path / "states" / f"{name}.npy", values)
        config = stack(encoder, family[0])
        files = {k: str(tmp_path / "states" / f"{n}.npy") for k, n in (("inputs", "x"), ("outputs", "y"))}
        config["parts"]["up_proj"] = {"linear": {"from": "nllb", "to": "llama", "ridge": ridge, **files}}
        with pytest.raises(kind, match=said):
            suture.assemble(config, tmp_path / "out", settings=Settings(memory=memory))
        assert [p.name for p in tmp_path.iterdir()] == ["states"]

    odd = good["x"].copy()
    odd[17, 3] = np.nan
    refused("row 17 holds NaN", SutureError, x=odd)
    refused("has 40 rows and .* 39; each row", UsageError, y=good["y"][:39])
    refused("`nllb` is 16 wide, and the states has 15 columns", UsageError, x=good["x"][:, :15])
    refused("`llama` is 32 wide, and the states has 31", UsageError, y=good["y"][:, :31])
    refused("expected floats", SutureError, x=good["x"].astype(int))
    refused("is nothing beside states", UsageError, ridge=1e-30)
    refused("from 16 to 32 takes .* of memory, and --memory gives", UsageError, memory="64KiB")


def test_a_place_that_is_taken_is_refused(family: list[Path], encoder: Path, tmp_path: Path) -> None:
    """Law 6: what is in the way is refused, dry as a warning, and nothing that was computed is left beside it."""
    suture.assemble(stack(encoder, family[0]), tmp_path / "out")
    with pytest.raises(SutureError, match="exists"):
        suture.assemble(stack(encoder, family[1]), tmp_path / "out")
    dry = suture.assemble(stack(encoder, family[1]), tmp_path / "out", dry_run=True)
    assert any("exists" in w for w in dry.warnings)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_parts_of_an_output_and_plans(family: list[Path], encoder: Path, tmp_path: Path) -> None:
    """Law 3: made in parts by several, the output's bytes are those of one run; a dry run leaves nothing."""
    config = stack(encoder, family[0], config="llama", tokenizer="nllb", freeze={"train": ["up_proj"]})
    dry = suture.assemble(config, tmp_path / "whole", dry_run=True)
    assert [*tmp_path.iterdir()] == []

    def verb(out: Path, how: Settings) -> Any:
        return suture.assemble(config, out, settings=how)

    done = verb(tmp_path / "whole", Settings(shard_size=20_000))
    assert {t.name for t in dry.tensors} == {t.name for t in done.tensors}
    mask = (tmp_path / "whole" / "suture-mask.json").read_bytes()
    (tmp_path / "parts").mkdir()
    in_parts(verb, tmp_path / "parts" / "whole", 3, order=[3, 1, 2], shard_size=20_000)
    assert (tmp_path / "parts" / "whole" / "suture-mask.json").read_bytes() == mask
    check_same(tmp_path / "whole", tmp_path / "parts" / "whole")


def test_quantised_in_and_out(tmp_path: Path) -> None:
    """Law 10: a quantised part is its decoded weights, and no config says otherwise; an output is encoded as any is."""
    model = llama_family(tmp_path, layers=1, hidden=128, ff=128, n=0)[0]
    suture.convert(model, tmp_path / "coded", settings=Settings(to="fp8"))
    suture.convert(tmp_path / "coded", tmp_path / "plain", settings=Settings(to="bf16"))

    def one(name: str, out: str, **how: Any) -> Any:
        parts = {"m": {"model": str(tmp_path / name), "prefix": ""}}
        suture.assemble({"parts": parts, "config": {"of": "m"}}, tmp_path / out, settings=Settings(**how))
        return json.loads((tmp_path / out / "config.json").read_text())

    assert "quantization_config" in json.loads((tmp_path / "coded" / "config.json").read_text())
    assert one("coded", "one") == one("plain", "two")
    assert read_checkpoint(tmp_path / "one") == read_checkpoint(tmp_path / "two") == read_checkpoint(tmp_path / "plain")
    again = one("plain", "three", to="fp8")
    suture.convert(tmp_path / "plain", tmp_path / "four", settings=Settings(to="fp8"))
    assert read_checkpoint(tmp_path / "three") == read_checkpoint(tmp_path / "four")
    assert (
        again["quantization_config"]
        == json.loads((tmp_path / "four" / "config.json").read_text())["quantization_config"]
    )
    with pytest.raises(UsageError, match="architectures that GGUF knows"):
        one("plain", "five", to="gguf:q8_0")


BLOCKS = re.findall(r"```yaml\n(.*?)```", (Path(__file__).parents[2] / "docs" / "modules.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("number", [i for i, text in enumerate(BLOCKS) if "parts:" in text])
def test_the_configs_that_are_shown_run(number: int, family: list[Path], tmp_path: Path) -> None:
    """What docs/modules.md shows works once the models are there, beside the config."""
    rng = np.random.default_rng(8)
    config = {"model_type": "mt5", "d_model": 16}
    for name, begin, table in (("nllb", "model.encoder.", "model.shared"), ("mt5", "encoder.block.", "shared")):
        own = {
            f"{table}.weight": (12, 16),
            **{f"{begin}{i}.q.weight": (16, 16) for i in range(2)},
            "lm_head.weight": (12, 16),
        }
        tensors = {n: encode(rng.standard_normal(s), "BF16") for n, s in own.items()}
        write_checkpoint(tmp_path / name, tensors, config=config, files={"tokenizer.json": "{}"})
    shutil.copytree(family[0], tmp_path / "llama")
    for name in ("mntp", "simcse"):
        write_lora(tmp_path / name, factors(rng, MODULE, (64, 32)), r=4, lora_alpha=8)
    for name, width in (("encoder", 16), ("llama", 32)):
        np.save(tmp_path / f"{name}.npy", rng.standard_normal((50, width)))
    (tmp_path / "c.yml").write_text(BLOCKS[number])
    report = suture.assemble(tmp_path / "c.yml", tmp_path / "out")
    assert not report.warnings
    assert {"config.json", "tokenizer.json"} <= {p.name for p in (tmp_path / "out").iterdir()}


def test_a_single_file(family: list[Path], encoder: Path, tmp_path: Path) -> None:
    """Law: an output may be one file of tensors; what would go beside it is refused."""
    suture.assemble(stack(encoder, family[0]), tmp_path / "out.safetensors")
    suture.assemble(stack(encoder, family[0]), tmp_path / "out")
    assert read_checkpoint(tmp_path / "out.safetensors") == read_checkpoint(tmp_path / "out")
    with pytest.raises(UsageError, match="give a folder"):
        suture.assemble(stack(encoder, family[0], config="llama"), tmp_path / "two.safetensors")


def test_killed_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    """Law 6: killed while it writes, the same command goes on with what was made, the projection too."""
    llm = llama_family(tmp_path, layers=4, hidden=512, heads=8, kv_heads=8, ff=2048, vocab=512, n=1)
    config = {
        "parts": {"a": {"model": str(llm[0])}, "p": {"linear": {"from": "a", "to": "b", "init": "normal"}},
                  "b": {"model": str(llm[1])}}
    }  # fmt: skip
    (tmp_path / "c.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    done = run("assemble", tmp_path / "c.yml", tmp_path / "whole", "--memory", "48MiB", "--quiet", "--io", "pread")
    assert done.code == 0, done.stderr
    assert done.peak < 80 * MIB
    out = tmp_path / "out"
    command = [sys.executable, "-m", "suture", "assemble", str(tmp_path / "c.yml"), str(out)]
    command += ["--chunk", "4KiB", "--threads", "1", "--io", "pread"]
    journal = tmp_path / ".out.suture-partial" / ".suture-journal"
    process = start(command)
    try:
        end = time.monotonic() + 60
        while not (journal.is_file() and journal.read_bytes().count(b"\n") > 2):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.001)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not out.exists()
    assert any(p.name.startswith(".out.suture-given-") for p in tmp_path.iterdir())
    again = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == 0, again.stderr
    assert read_checkpoint(out) == read_checkpoint(tmp_path / "whole")
    assert json.loads((out / "suture.json").read_text())["run"]["tensors_resumed"] > 0
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]
