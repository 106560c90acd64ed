"""Law 1 where models are quantised: what is decoded, and what is stored the other way round, is within `--memory`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ..quantised.worlds import MX, raw
from ..support.checkpoints import Raw, llama_config, write_checkpoint
from ..support.measuring import MIB, run

BUDGET = "128MiB"
LIMIT = 160 * MIB
X = "model.layers.0.mlp.up_proj"


def noise(rng: np.random.Generator, dtype: str, *shape: int) -> Raw:
    width = {"U8": 1, "F8_E4M3": 1, "I32": 4}[dtype]
    tile = rng.integers(0, 0x70, 1_000_003, dtype=np.uint8)
    return Raw(dtype, shape, np.resize(tile, int(np.prod(shape)) * width).tobytes())


def ones(*shape: int, dtype: str = "F16") -> Raw:
    return raw(dtype, np.ones(shape, {"F16": "<f2", "F32": "<f4"}[dtype]))


def fp8(rng: np.random.Generator) -> dict[str, Raw]:
    return {f"{X}.weight": noise(rng, "F8_E4M3", 8192, 16384), f"{X}.weight_scale_inv": ones(64, 128, dtype="F32")}


def gpt_oss(rng: np.random.Generator) -> dict[str, Raw]:
    name = "model.layers.0.mlp.experts.gate_up_proj"
    return {f"{name}_blocks": noise(rng, "U8", 16, 2880, 90, 16), f"{name}_scales": noise(rng, "U8", 16, 2880, 90)}


def gptq(rng: np.random.Generator) -> dict[str, Raw]:
    order = np.random.default_rng(0).permutation(16384) // 128
    return {f"{X}.qweight": noise(rng, "I32", 2048, 8192), f"{X}.qzeros": noise(rng, "I32", 128, 1024),
            f"{X}.scales": ones(128, 8192), f"{X}.g_idx": raw("I32", order.astype("<i4"))}  # fmt: skip


def awq(rng: np.random.Generator) -> dict[str, Raw]:
    return {f"{X}.qweight": noise(rng, "I32", 16384, 1024), f"{X}.qzeros": noise(rng, "I32", 128, 1024),
            f"{X}.scales": ones(128, 8192)}  # fmt: skip


CASES: dict[str, tuple[Callable[[np.random.Generator], dict[str, Raw]], Any]] = {
    "fp8": (fp8, {"quant_method": "fp8", "weight_block_size": [128, 128]}),
    "gpt-oss": (gpt_oss, MX),
    "gptq": (gptq, {"quant_method": "gptq", "bits": 4, "group_size": 128}),
    "awq": (awq, {"quant_method": "awq", "bits": 4, "group_size": 128}),
}


@pytest.mark.parametrize("io", ["mmap", "pread", "direct"])
@pytest.mark.parametrize("case", CASES)
def test_decoding_stays_in_the_budget(case: str, io: str, tmp_path: Path) -> None:
    """Law 1: peak anonymous memory stays under what was given, whatever lies in the way it is not read."""
    make, said = CASES[case]
    config = llama_config(1, 16, 2, 2, 32, 8, False, "BF16") | {"quantization_config": said}
    model = write_checkpoint(tmp_path / "in", make(np.random.default_rng(0)), config=config)
    found = run("convert", model, tmp_path / "out", "--memory", BUDGET, "--threads", "2", "--io", io, "-q")
    assert found.code == 0, found.stderr
    assert found.peak <= LIMIT, f"{found.peak / MIB:.0f} MiB"


@pytest.mark.parametrize("form", ["fp8", "mxfp4", "gguf:q8_0"])
@pytest.mark.parametrize("threads", ["1", "2"])
def test_encoding_stays_in_the_budget(form: str, threads: str, tmp_path: Path) -> None:
    """Law 1: scales of tiles, leaves of digests that lie in several spans, and rows that change places are counted."""
    rng = np.random.default_rng(0)
    bits = (rng.integers(0, 2**16, 1_000_003, dtype=np.uint16) & 0x83FF) | 0x3C00
    shape = (4096, 8192)
    stored = {
        "model.layers.0.self_attn.q_proj.weight": Raw("BF16", shape, np.resize(bits, shape).tobytes()),
        "model.layers.0.mlp.up_proj.weight": Raw("BF16", (2 * shape[0], shape[1]), np.resize(bits, 2**26).tobytes()),
    }
    config = llama_config(1, 4096, 32, 32, 32, 8, False, "BF16")
    model = write_checkpoint(tmp_path / "in", stored, config=config)
    found = run("convert", model, tmp_path / "out", "--to", form, "--memory", BUDGET, "--threads", threads, "-q")
    assert found.code == 0, found.stderr
    assert found.peak <= LIMIT, f"{found.peak / MIB:.0f} MiB"
