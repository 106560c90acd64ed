"""Models written as FP8: codes and scales of every tile are those of the formula, whatever is done to get the
values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import suture

from ..reference.quantised import scaled
from ..reference.quantised.encoders import fp8
from ..reference.quantised.floats import E4M3
from ..support.catalogue import CASES, DEFAULTS, Case, configure, differing
from ..support.checkpoints import Raw, read_checkpoint
from ..support.refusals import refusal
from .encoded import LONG, is_coded, model, weights

TO = suture.Settings(to="fp8")


def wanted(values: dict[str, NDArray[np.float32]], stored: dict[str, Raw]) -> dict[str, Raw]:
    """What the output holds: codes and scales of the values of matrices in layers, and all else as it is stored."""
    out = {}
    for name, raw in stored.items():
        if not is_coded(name):
            out[name] = raw
            continue
        codes, scales = fp8(values[name])
        out[name] = Raw("F8_E4M3", codes.shape, codes.tobytes())
        out[f"{name}_scale_inv"] = Raw("F32", scales.shape, scales.tobytes())
    return out


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_codes_and_scales_are_those_of_the_formula(dtype: str, tmp_path: Path) -> None:
    """Law 2: the values are rounded once, tile by tile; what loaders of the form keep plain stays as it is, and the
    config says so."""
    own = weights(1)
    if dtype == "F16":
        own["model.layers.0.mlp.up_proj.weight"][128:256, :128] *= np.float32(1e-34)
    stored = model(tmp_path / "m", own, dtype)
    suture.convert(tmp_path / "m", tmp_path / "out", settings=TO)
    values = {n: r.values().astype(np.float32) for n, r in stored.items()}
    assert read_checkpoint(tmp_path / "out") == wanted(values, stored)
    said = json.loads((tmp_path / "out" / "config.json").read_text())
    assert said["torch_dtype"] == {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}[dtype]
    quantised = said["quantization_config"]
    assert quantised["quant_method"] == "fp8"
    assert quantised["weight_block_size"] == [128, 128]
    plain = [f"model.layers.{i}.mlp.{n}" for i in (0, 1) for n in ("gate", "odd_proj")]
    assert quantised["modules_to_not_convert"] == sorted(["lm_head", "model.embed_tokens", *plain])


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    """decode(encode(x)): suture's own decoder gives code times scale; encoding that again changes no code that is not
    at an edge."""
    own = weights(2)
    model(tmp_path / "m", own)
    suture.convert(tmp_path / "m", tmp_path / "q", settings=TO)
    suture.convert(tmp_path / "q", tmp_path / "plain", settings=suture.Settings(to="f32"))
    held, back = read_checkpoint(tmp_path / "q"), read_checkpoint(tmp_path / "plain")
    for name in (n for n in own if is_coded(n)):
        codes = np.frombuffer(held[name].data, np.uint8).reshape(held[name].shape)
        scales = held[f"{name}_scale_inv"].values()
        np.testing.assert_array_equal(back[name].values(), scaled.tiles(E4M3[codes], scales, (128, 128)))
    assert "quantization_config" not in json.loads((tmp_path / "plain" / "config.json").read_text())
    assert not suture.verify(tmp_path / "q")["differing"]


def test_how_the_work_is_done_changes_no_byte(tmp_path: Path) -> None:
    """Law 3: threads, chunks, shards and ways to read; tiles that lie in two spans."""
    own = weights(3, LONG)
    stored = model(tmp_path / "m", own)
    expected = wanted({n: r.values().astype(np.float32) for n, r in stored.items()}, stored)
    ways: list[dict[str, Any]] = [
        {"threads": 1},
        {"threads": 5, "chunk": "100KiB"},
        {"io": "pread", "shard_size": "2MB"},
        {"memory": "160MiB", "threads": 2},
    ]
    for i, more in enumerate(ways):
        suture.convert(tmp_path / "m", tmp_path / f"o{i}", settings=suture.Settings(to="fp8", **more))
        assert read_checkpoint(tmp_path / f"o{i}") == expected


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and three fine-tunes in f32, many of whose changes are equal."""
    folder, base = tmp_path_factory.mktemp("family"), weights(10, plain=True)
    paths = [folder / f"m{i}" for i in range(4)]
    for i, path in enumerate(paths):
        change = weights(10 + i, plain=True) if i else base
        model(path, {n: (0.9 * base[n] + np.round(change[n] * 20) / 200).astype(np.float32) for n in base}, "F32")
    return paths


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_merge_written_as_fp8_is_the_merge_encoded(case: Case, family: list[Path], tmp_path: Path) -> None:
    """Law 10: the values of every method (random, thinned, of groups, of whole matrices, scaled by layer) are the
    plain merge's."""
    config = configure(case, family)
    suture.merge(config, tmp_path / "plain")
    suture.merge(config, tmp_path / "out", settings=TO)
    stored = read_checkpoint(tmp_path / "plain")
    expected = wanted({n: r.values() for n, r in stored.items()}, stored)
    assert not differing(read_checkpoint(tmp_path / "out"), expected)


@pytest.mark.parametrize("name", ["ties", "dare_ties", "linear", "pcb", "slerp"])
def test_ties_and_draws_go_over_the_borders_of_spans(name: str, tmp_path: Path) -> None:
    """The scan that finds the scales sees the same of elements that are equal, and of random ones, as what writes the
    codes."""
    paths = [tmp_path / f"m{i}" for i in range(4)]
    for i, path in enumerate(paths):
        model(path, {n: np.round(v * 20) / 20 for n, v in weights(30 + i, LONG, plain=True).items()}, "F32")
    case = next(c for c in DEFAULTS if c.name == name)
    config = configure(case, paths)
    suture.merge(config, tmp_path / "plain")
    suture.merge(config, tmp_path / "out", settings=suture.Settings(to="fp8", threads=3, chunk="200KiB"))
    stored = read_checkpoint(tmp_path / "plain")
    assert not differing(read_checkpoint(tmp_path / "out"), wanted({n: r.values() for n, r in stored.items()}, stored))


def test_swaps(tmp_path: Path) -> None:
    """A swap written as fp8 holds the donor's layer and the recipient's rest, encoded; quantised recipients are
    decoded first."""
    a, b = (model(tmp_path / f"m{i}", weights(20 + i)) for i in range(2))
    suture.swap(tmp_path / "m0", tmp_path / "m1", tmp_path / "out", layers=[1], settings=TO)
    mixed = {n: (b if "layers.1." in n else a)[n] for n in a}
    assert read_checkpoint(tmp_path / "out") == wanted({n: r.values() for n, r in mixed.items()}, mixed)


def test_what_is_not_finite_is_refused_by_name(tmp_path: Path) -> None:
    """No form holds NaN or infinity: an input that has one is refused, let through or not, and nothing is written."""
    own = weights(4)
    own["model.layers.1.mlp.up_proj.weight"][5, 7] = np.inf
    model(tmp_path / "m", own)
    for nan in ("error", "allow"):
        message = refusal(suture.convert, tmp_path / "m", tmp_path / "out", settings=suture.Settings(to="fp8", nan=nan))
        assert message is not None
        assert "model.layers.1.mlp.up_proj.weight" in message
        assert f"element {5 * 384 + 7}" in message
        assert not (tmp_path / "out").exists()
