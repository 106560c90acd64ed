"""Models written as MXFP4: codes and exponents of every 32 of a row are those of the rule, whatever is done to get
the values."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import suture

from ..reference.quantised.encoders import mxfp4
from ..reference.quantised.floats import E2M1
from ..support.catalogue import DEFAULTS, Case, configure, differing
from ..support.checkpoints import Raw, read_checkpoint
from ..support.refusals import refusal
from .encoded import LONG, is_coded, model, weights

TO = suture.Settings(to="mxfp4")


def wanted(values: dict[str, NDArray[np.float32]], stored: dict[str, Raw]) -> dict[str, Raw]:
    """What the output holds."""
    out = {}
    for name, raw in stored.items():
        if not is_coded(name):
            out[name] = raw
            continue
        for end, part in zip(("_packed", "_scale"), mxfp4(values[name]), strict=True):
            out[name + end] = Raw("U8", part.shape, part.tobytes())
    return out


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_codes_and_exponents_are_those_of_the_rule(dtype: str, tmp_path: Path) -> None:
    """Law 2: the values are rounded once, group by group; rows that are no whole groups, embeddings and routers stay
    plain."""
    stored = model(tmp_path / "m", weights(1), dtype)
    suture.convert(tmp_path / "m", tmp_path / "out", settings=TO)
    values = {n: r.values().astype(np.float32) for n, r in stored.items()}
    assert not differing(read_checkpoint(tmp_path / "out"), wanted(values, stored))
    said = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert (said["quant_method"], said["format"]) == ("compressed-tensors", "mxfp4-pack-quantized")
    plain = [f"model.layers.{i}.mlp.{n}" for i in (0, 1) for n in ("gate", "odd_proj")]
    names = [name for name in said["ignore"] if not name.startswith("re:")]
    assert names == sorted(["lm_head", "model.embed_tokens", *plain])
    # What is ignored by a word (towers have other names in transformers) is no module that is coded.
    patterns = [re.compile(name[3:]) for name in said["ignore"] if name.startswith("re:")]
    assert patterns
    assert not [n for n in stored if is_coded(n) for p in patterns if p.match(n.removesuffix(".weight"))]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    """decode(encode(x)) is code times scale, and encoding that again changes no value."""
    own = weights(2)
    model(tmp_path / "m", own)
    suture.convert(tmp_path / "m", tmp_path / "q", settings=TO)
    suture.convert(tmp_path / "q", tmp_path / "plain", settings=suture.Settings(to="f32"))
    held, back = read_checkpoint(tmp_path / "q"), read_checkpoint(tmp_path / "plain")
    for name in (n for n in own if is_coded(n)):
        bytes_ = held[f"{name}_packed"].values()
        codes = np.stack([bytes_ & 15, bytes_ >> 4], -1).reshape(own[name].shape)
        scale = 2.0 ** (held[f"{name}_scale"].values().astype(np.float64) - 127)
        values = (E2M1[codes] * np.repeat(scale, 32, -1)).astype(np.float32)
        np.testing.assert_array_equal(back[name].values(), values)
    assert not suture.verify(tmp_path / "q")["differing"]
    suture.convert(tmp_path / "q", tmp_path / "again", settings=TO)
    suture.convert(tmp_path / "again", tmp_path / "twice", settings=suture.Settings(to="f32"))
    twice = read_checkpoint(tmp_path / "twice")
    for name in (n for n in own if is_coded(n)):
        np.testing.assert_array_equal(twice[name].values(), back[name].values())


def test_how_the_work_is_done_changes_no_byte(tmp_path: Path) -> None:
    """Law 3: threads, chunks, shards; leaves of digests that lie in several spans."""
    stored = model(tmp_path / "m", weights(3, (3 * LONG[0], LONG[1])))
    expected = wanted({n: r.values().astype(np.float32) for n, r in stored.items()}, stored)
    ways: list[dict[str, Any]] = [
        {"threads": 1},
        {"threads": 5, "chunk": "100KiB"},
        {"io": "pread", "shard_size": "2MB"},
    ]
    for i, more in enumerate(ways):
        suture.convert(tmp_path / "m", tmp_path / f"o{i}", settings=suture.Settings(to="mxfp4", **more))
        assert not differing(read_checkpoint(tmp_path / f"o{i}"), expected)
        assert not suture.verify(tmp_path / f"o{i}")["differing"]


@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_a_merge_written_as_mxfp4_is_the_merge_encoded(case: Case, tmp_path: Path) -> None:
    """Law 10: the values of every method are those of the plain merge."""
    paths = [tmp_path / f"m{i}" for i in range(4)]
    base = weights(10, plain=True)
    for i, path in enumerate(paths):
        change = weights(10 + i, plain=True)
        model(path, {n: (base[n] + (0.1 * change[n] if i else 0)).astype(np.float32) for n in base}, "F32")
    config = configure(case, paths)
    suture.merge(config, tmp_path / "plain")
    suture.merge(config, tmp_path / "out", settings=TO)
    stored = read_checkpoint(tmp_path / "plain")
    assert not differing(read_checkpoint(tmp_path / "out"), wanted({n: r.values() for n, r in stored.items()}, stored))


def test_what_is_not_finite_is_refused_by_name(tmp_path: Path) -> None:
    """No form holds NaN or infinity."""
    own = weights(4)
    own["model.layers.1.mlp.up_proj.weight"][5, 7] = np.nan
    model(tmp_path / "m", own)
    for nan in ("error", "allow"):
        message = refusal(
            suture.convert, tmp_path / "m", tmp_path / "out", settings=suture.Settings(to="mxfp4", nan=nan)
        )
        assert message is not None
        assert "model.layers.1.mlp.up_proj.weight" in message
        assert f"element {5 * 384 + 7}" in message
        assert not (tmp_path / "out").exists()
