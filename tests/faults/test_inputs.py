"""Models that do not go together, or hold what cannot be merged, are told by name before anything is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..support.checkpoints import (
    NUMPY_DTYPES,
    Raw,
    Tensor,
    as_raw,
    encode,
    llama_config,
    llama_family,
    read_checkpoint,
    write_checkpoint,
    write_file,
)

METHODS: dict[str, dict[str, Any]] = {
    "linear": {"weight": 0.5},
    "slerp": {"t": 0.4},
    "task_arithmetic": {"weight": 0.5},
    "ties": {"weight": 0.5, "density": 0.5},
    "dare_linear": {"weight": 0.5, "density": 0.5},
    "dare_ties": {"weight": 0.5, "density": 0.5},
}
LAYERS = "model.layers.{}.mlp.up_proj.weight"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def recipe(method: str, first: Path, second: Path) -> dict[str, Any]:
    """Two models merged by a method; the first is the base where one is needed."""
    config: dict[str, Any] = {"merge_method": method, "parameters": METHODS[method]}
    config["models"] = [{"model": str(first)}, {"model": str(second)}]
    return config if method == "linear" else config | {"base_model": str(first)}


def model(folder: Path, change: Mapping[str, Tensor | None] | None = None, *, seed: int = 0) -> Path:
    """A model of three layers with an embedding, some tensors put in or (`None`) left out."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, Tensor] = {EMBEDDING: encode(rng.normal(size=(7, 5)), "BF16")}
    tensors |= {LAYERS.format(i): encode(rng.normal(size=(11, 5)), "BF16") for i in range(3)}
    tensors["model.norm.weight"] = encode(np.ones(5), "BF16")
    merged: dict[str, Tensor | None] = {**tensors, **(change or {})}
    return write_checkpoint(folder, {name: t for name, t in merged.items() if t is not None})


def run(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command line, as a user starts it."""
    command = [sys.executable, "-m", "suture", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=cwd)


def assert_merge_refused(config: dict[str, Any], out: Path, *says: str, **settings: Any) -> None:
    """SutureError that is no usage error and says all of `says`; OUT is not there, and nothing opens as it."""
    with pytest.raises(suture.SutureError) as caught:
        suture.merge(config, out, settings=suture.Settings(**settings))
    assert not isinstance(caught.value, suture.UsageError), caught.value
    for text in says:
        assert text in str(caught.value), f"`{text}` is not in: {caught.value}"
    assert_nothing_usable(out)


def assert_nothing_usable(out: Path) -> None:
    """Law 6 after a failure."""
    assert not out.exists()
    partial = out.with_name(f".{out.name}.suture-partial")
    if partial.exists():
        with pytest.raises(suture.SutureError):
            suture.open(partial)


SHAPE = encode(np.ones((11, 6)), "BF16")
TRANSPOSED = encode(np.ones((5, 11)), "BF16")
EXTRA = encode(np.ones(3), "BF16")
MISMATCHES: dict[str, tuple[dict[str, Raw | None], tuple[str, ...]]] = {
    "shape": ({LAYERS.format(1): SHAPE}, (LAYERS.format(1), "[11, 6]", "[11, 5]")),
    "shape_of_as_many_elements": ({LAYERS.format(2): TRANSPOSED}, (LAYERS.format(2), "[5, 11]", "[11, 5]")),
    "missing": ({LAYERS.format(1): None}, (LAYERS.format(1), "missing")),
    "missing_outside_the_layers": ({"model.norm.weight": None}, ("model.norm.weight", "missing")),
    "extra": ({"model.layers.1.mlp.bias": EXTRA}, ("model.layers.1.mlp.bias", "missing")),
    "extra_outside_the_layers": ({"visual.proj": EXTRA}, ("visual.proj", "missing")),
    "more_layers": ({LAYERS.format(3): encode(np.ones((11, 5)), "BF16")}, (" layers", "4", "3")),
    "fewer_layers": ({LAYERS.format(2): None}, (" layers", "2", "3")),
}


@pytest.mark.parametrize("swapped", [False, True], ids=["second_differs", "first_differs"])
@pytest.mark.parametrize("name", MISMATCHES)
@pytest.mark.parametrize("method", ["linear", "ties"])
def test_models_that_do_not_match_are_refused(method: str, name: str, swapped: bool, tmp_path: Path) -> None:
    """Laws 5 and 8: a tensor or layer that only one model has is no silent loss but an error that names it."""
    change, says = MISMATCHES[name]
    models = model(tmp_path / "plain"), model(tmp_path / "changed", change)
    first, second = models[::-1] if swapped else models
    with pytest.raises(suture.SutureError) as caught:
        suture.merge(recipe(method, first, second), tmp_path / "out")
    for text in says:
        if not (swapped and text.startswith("[")):
            assert text in str(caught.value), f"`{text}` is not in: {caught.value}"
    assert str(tmp_path) in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["changed", "plain"]


@pytest.mark.parametrize("name", [name for name in MISMATCHES if not name.endswith("outside_the_layers")])
def test_swap_of_models_that_do_not_match_is_refused(name: str, tmp_path: Path) -> None:
    """The same for a swap of every layer: what cannot be taken whole is not taken at all."""
    change, says = MISMATCHES[name]
    into, donor = model(tmp_path / "into"), model(tmp_path / "from", change)
    done = run("swap", "--into", into, "--from", donor, tmp_path / "out", "--layers", "0-2")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1), done.stderr
    assert done.stderr.startswith("error: ")
    for text in says:
        assert text in done.stderr, f"`{text}` is not in: {done.stderr}"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["from", "into"]


BAD = {"nan": np.nan, "inf": np.inf, "minus_inf": -np.inf}


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F64"])
@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("method", METHODS)
def test_nonfinite_input_is_named(method: str, value: str, dtype: str, tmp_path: Path) -> None:
    """Law 7: NaN and infinities are reported with file, tensor and index before they reach the disk."""
    values = np.linspace(-1, 1, 3000)
    broken = values.copy()
    broken[[1237, 2999]] = BAD[value]
    write_checkpoint(tmp_path / "good", {"a": encode(values, dtype), "b": encode(values * 1.5, dtype)})
    write_checkpoint(tmp_path / "bad", {"a": encode(values * 1.25, dtype), "b": encode(broken, dtype)})
    for first, second in [("good", "bad"), ("bad", "good")]:
        config = recipe(method, tmp_path / first, tmp_path / second)
        says = (str(tmp_path / "bad" / "model.safetensors"), "tensor `b`", "element 1237 ", "--nan allow")
        assert_merge_refused(config, tmp_path / "out", *says)
    config = recipe(method, tmp_path / "good", tmp_path / "bad")
    suture.merge(config, tmp_path / "out", settings=suture.Settings(nan="allow"))
    found = suture.open(tmp_path / "out").numpy("b")
    # An input that DARE drops or TIES trims leaves no trace, so only what is left alone is certain.
    assert np.isfinite(np.delete(found, [1237, 2999])).all() or method == "slerp"
    if method in ("linear", "task_arithmetic"):
        assert not np.isfinite(found[[1237, 2999]]).any()


@pytest.mark.parametrize("allow", [False, True])
def test_nonfinite_copies_are_named_or_copied(allow: bool, tmp_path: Path) -> None:
    """Laws 2 and 7: a tensor that is only moved is checked too; with --nan allow it moves bit for bit."""
    noisy = np.array([0x7FC00001, 0xFFFFFFFF, 0x7F800001], dtype=np.uint32).view(np.float32)
    tensors = {LAYERS.format(i): encode(np.ones(4), "F32") for i in range(2)}
    tensors[LAYERS.format(1)] = Raw("F32", (4,), np.float32(1).tobytes() + noisy.tobytes())
    into = write_checkpoint(tmp_path / "into", tensors)
    donor = write_checkpoint(tmp_path / "from", tensors)
    options = ["--nan", "allow"] if allow else []
    done = run("swap", "--into", into, "--from", donor, tmp_path / "out", "--layers", "1", *options)
    if allow:
        assert done.returncode == 0, done.stderr
        assert read_checkpoint(tmp_path / "out") == tensors
        return
    assert done.returncode == 1
    assert str(donor / "model.safetensors") in done.stderr
    assert LAYERS.format(1) in done.stderr
    assert "element 1 " in done.stderr
    assert_nothing_usable(tmp_path / "out")


def test_mended_checkpoint_merges(tmp_path: Path) -> None:
    """After a NaN the same command works once the input is mended, and nothing of the first try is left."""
    values = np.linspace(-1, 1, 50, dtype=np.float32)
    write_checkpoint(tmp_path / "good", {"a": values, "b": values})
    write_checkpoint(tmp_path / "bad", {"a": values, "b": np.append(values[1:], np.float32(np.nan))})
    config = recipe("linear", tmp_path / "good", tmp_path / "bad")
    assert_merge_refused(config, tmp_path / "out", "tensor `b`", "element 49 ")
    write_checkpoint(tmp_path / "bad", {"a": values, "b": values[::-1].copy()})
    suture.merge(config, tmp_path / "out")
    np.testing.assert_array_equal(suture.open(tmp_path / "out").numpy("b"), np.zeros(50, np.float32))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad", "good", "out"]


@pytest.mark.parametrize("method", ["linear", "passthrough", "task_arithmetic"])
def test_overflow_of_the_output_dtype_is_named(method: str, tmp_path: Path) -> None:
    """Law 7: a finite result that the output's dtype cannot hold is an error, not an infinity on disk."""
    values = np.zeros(5000, dtype=np.float32)
    base = write_checkpoint(tmp_path / "base", {"a": values})
    values[4321] = 70000.0
    large = write_checkpoint(tmp_path / "large", {"a": values})
    config: dict[str, Any] = {"merge_method": method, "out_dtype": "float16", "models": [{"model": str(large)}]}
    if method != "passthrough":
        config["parameters"] = {"weight": 1.0}
    if method == "task_arithmetic":
        config["base_model"] = str(base)
    assert_merge_refused(config, tmp_path / "out", "tensor `a`", "element 4321 ", "F16", "--nan allow")
    suture.merge(config, tmp_path / "out", settings=suture.Settings(nan="allow"))
    assert np.flatnonzero(np.isinf(suture.open(tmp_path / "out").numpy("a"))).tolist() == [4321]


def test_overflow_of_f16_inputs_is_named(tmp_path: Path) -> None:
    """The same where the inputs are f16 already and their sum is too large."""
    for name in ("one", "two"):
        write_checkpoint(tmp_path / name, {"a": encode(np.array([1.0, 60000.0]), "F16")})
    config = recipe("linear", tmp_path / "one", tmp_path / "two")
    config["parameters"] = {"weight": 1.0, "normalize": False}
    assert_merge_refused(config, tmp_path / "out", "tensor `a`", "element 1 ", "F16")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["I64", "I8", "U8", "BOOL", "C64"])
def test_integers_are_carried_or_refused(dtype: str, method: str, tmp_path: Path) -> None:
    """Laws 2 and 7: what cannot be computed on is copied where all models agree, else named."""
    same = as_raw((np.arange(3000) % 2).astype(NUMPY_DTYPES[dtype]))
    other = bytearray(same.data)
    other[-1] ^= 1
    weights = {"w": encode(np.ones(4), "F32")}
    first = write_checkpoint(tmp_path / "first", {"ids": same, **weights})
    second = write_checkpoint(tmp_path / "second", {"ids": same, **weights})
    suture.merge(recipe(method, first, second), tmp_path / "out")
    assert read_checkpoint(tmp_path / "out")["ids"] == same
    third = write_checkpoint(tmp_path / "third", {"ids": Raw(dtype, same.shape, bytes(other)), **weights})
    says = (str(third), "tensor `ids`", dtype, "differs from")
    assert_merge_refused(recipe(method, first, third), tmp_path / "new", *says)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F8_E8M0", "F4"])
def test_small_floats_are_not_merged(dtype: str, tmp_path: Path) -> None:
    """Law 7: 8-bit floats are carried, never averaged: where they are equal in all models, or there is only one; else a
    merge says so by name."""
    raw, other = (Raw(dtype, (8,), bytes(range(i, i + (4 if dtype == "F4" else 8)))) for i in (0, 1))
    first, second = (write_checkpoint(tmp_path / name, {"q": raw}) for name in ("first", "second"))
    third = write_checkpoint(tmp_path / "third", {"q": other})
    assert_merge_refused(recipe("linear", first, third), tmp_path / "out", "tensor `q`", dtype, "dequantise")
    half = {"merge_method": "passthrough", "models": [{"model": str(first), "parameters": {"scale": 0.5}}]}
    assert_merge_refused(half, tmp_path / "out", "tensor `q`", dtype, "dequantise")
    for i, config in enumerate(
        [recipe("linear", first, second), {"merge_method": "passthrough", "models": [{"model": str(first)}]}]
    ):
        suture.merge(config, tmp_path / f"out{i}")
        assert read_checkpoint(tmp_path / f"out{i}") == {"q": raw}


def test_float_against_integer_is_refused(tmp_path: Path) -> None:
    """A tensor that is float here and integer there has no average."""
    first = write_checkpoint(tmp_path / "first", {"a": np.ones(4, np.float32)})
    second = write_checkpoint(tmp_path / "second", {"a": np.ones(4, np.int32)})
    for pair in [(first, second), (second, first)]:
        assert_merge_refused(recipe("linear", *pair), tmp_path / "out", "tensor `a`", "I32")


@pytest.mark.parametrize("tied_first", [False, True])
@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_tied_head_meets_its_own(method: str, tied_first: bool, tmp_path: Path) -> None:
    """Law 5: where only one model has a head of its own the output has one, and its config says so."""
    sizes: dict[str, Any] = {"layers": 2, "hidden": 8, "heads": 2, "kv_heads": 1, "ff": 12, "vocab": 10}
    tied = llama_family(tmp_path / "a", n=0, tied=True, dtype="f32", seed=1, **sizes)[0]
    own = llama_family(tmp_path / "b", n=0, tied=False, dtype="f32", seed=2, **sizes)[0]
    first, second = (tied, own) if tied_first else (own, tied)
    report = suture.merge(recipe(method, first, second), tmp_path / "out")
    one, two, out = (read_checkpoint(folder) for folder in (first, second, tmp_path / "out"))
    assert sorted(out) == sorted(read_checkpoint(own))
    expected = (one.get(HEAD, one[EMBEDDING]).values() + two.get(HEAD, two[EMBEDDING]).values()) / 2
    np.testing.assert_allclose(out[HEAD].values(), expected, rtol=0, atol=1e-7)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    wanted = llama_config(**sizes, tied=False, dtype="F32")
    assert config == wanted
    assert any("its head" in warning for warning in report.warnings) == tied_first


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth"])
def test_pickles_are_not_executed(suffix: str, tmp_path: Path) -> None:
    """Law 7: a pickle that is no archive of torch.save is refused by name, with what to do; nothing of it is run."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / f"pytorch_model{suffix}").write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    for verb, count in (("inspect", 1), ("diff", 2)):
        done = run(verb, *[folder] * count, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: ")
        for text in (str(folder), "never executed", "save it again with torch.save"):
            assert text in done.stderr
    config = {"merge_method": "passthrough", "models": [{"model": str(folder)}]}
    assert_merge_refused(config, tmp_path / "out", str(folder), "save it again with torch.save")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_lone_files_merge(tmp_path: Path) -> None:
    """Single files are models too, even beside each other in one folder with the output."""
    files = [write_file(tmp_path / f"{name}.safetensors", {"a": np.full(3, n, np.float32)})
             for n, name in enumerate(("one", "two"))]  # fmt: skip
    suture.merge(recipe("linear", *files), tmp_path / "out")
    np.testing.assert_array_equal(suture.open(tmp_path / "out").numpy("a"), np.full(3, 0.5, np.float32))
