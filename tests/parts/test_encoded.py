"""Outputs in a quantised form are made in parts as in one run: a weight's codes and scales lie in one shard."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import suture

from ..quantised.encoded import model, weights
from ..support.catalogue import CASES, configure
from .whole import check_same, in_parts


@pytest.mark.parametrize("form", ["fp8", "mxfp4"])
@pytest.mark.parametrize("name", ["linear-default", "ties-scope=model", "ties-scope=model,larv=continuous"])
def test_parts_of_encoded_outputs(form: str, name: str, tmp_path: Path) -> None:
    """Law 3, with statistics of the whole model and layers that are measured, which rounds find for codes and scales
    alike."""
    paths = [tmp_path / f"m{i}" for i in range(4)]
    base = weights(40, plain=True)
    for i, path in enumerate(paths):
        own = weights(40 + i, plain=True)
        change = 0.0 if i == 0 else 0.1
        model(path, {n: (base[n] + change * np.round(v * 20) / 20).astype(np.float32) for n, v in own.items()})
    case = next(c for c in CASES if str(c) == name)
    config = configure(case, paths)
    suture.merge(config, tmp_path / "whole", settings=suture.Settings(to=form, shard_size=120_000))
    (tmp_path / "parts").mkdir()

    def merge(out: Path, settings: suture.Settings) -> None:
        suture.merge(config, out, settings=settings)

    in_parts(merge, tmp_path / "parts" / "whole", 3, to=form, shard_size=120_000)
    check_same(tmp_path / "whole", tmp_path / "parts" / "whole")
    shards = json.loads((tmp_path / "whole" / "model.safetensors.index.json").read_text())["weight_map"]
    for tensor, shard in shards.items():
        weight = tensor.removesuffix("_scale_inv").removesuffix("_scale")
        assert shards.get(weight, shards.get(f"{weight}_packed")) == shard


def test_a_gguf_file_in_parts(tmp_path: Path) -> None:
    """One file is one part; the others have nothing to do."""
    from ..quantised.test_encode_gguf import model as llama
    from ..quantised.test_encode_gguf import weights as values

    llama(tmp_path / "m", values(1))
    suture.convert(tmp_path / "m", tmp_path / "whole", settings=suture.Settings(to="gguf:q8_0"))
    (tmp_path / "parts").mkdir()

    def convert(out: Path, settings: suture.Settings) -> None:
        suture.convert(tmp_path / "m", out, settings=settings)

    in_parts(convert, tmp_path / "parts" / "whole", 2, to="gguf:q8_0")
    check_same(tmp_path / "whole", tmp_path / "parts" / "whole")
