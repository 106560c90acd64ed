"""Law: every method gives on tensors that torch holds what the core gives on files, over its variants and dtypes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import suture.torch
from tests.support.catalogue import CASES, SPECS, Case, configure, merge
from tests.support.checkpoints import Raw, encode, write_checkpoint
from tests.support.merging import SHAPES

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64, "BOOL": torch.bool}
#: Methods whose sums over a tensor are taken in another order: their results may differ by more than a rounding.
SUMS = {name for name, spec in SPECS.items() if spec["class"] in ("gram", "model")} | {"sce", "arcee_fusion"}


def as_torch(raw: Raw) -> torch.Tensor:
    """A stored tensor as torch has it."""
    flat = torch.frombuffer(bytearray(raw.data), dtype=DTYPES[raw.dtype]) if raw.data else torch.empty(0, dtype=DTYPES[raw.dtype])
    return flat.reshape(raw.shape)


def family(folder: Path, dtype: str, seed: int = 0) -> tuple[list[Path], list[dict[str, torch.Tensor]]]:
    """A base and three fine-tunes, as files and as tensors; some changes are equal, some zero."""
    rng = np.random.default_rng(seed)
    base = {name: rng.normal(0, 0.05, shape).astype(np.float32) for name, shape in SHAPES.items()}
    paths, held = [], []
    for i in range(4):
        model = {}
        for name, values in base.items():
            noise = np.round(rng.normal(0, 4, values.shape)).astype(np.float32) * 2**-9 if i else np.zeros_like(values)
            model[name] = encode(np.asarray(values + noise, dtype=np.float32), dtype)
        paths.append(write_checkpoint(folder / ("base" if not i else f"tuned-{i}"), model))
        held.append({name: as_torch(raw) for name, raw in model.items()})
    return paths, held


def resident(config: dict[str, Any], held: dict[str, dict[str, torch.Tensor]], **more: Any) -> dict[str, torch.Tensor]:
    """The merge of a config on tensors."""
    models = {Path(m["model"]).name: held[m["model"]] for m in config["models"]}
    each = [{k: held.get(v, v) if isinstance(v, str) else v for k, v in m["parameters"].items()} for m in config["models"]]
    base = held[config["base_model"]] if "base_model" in config else None
    return suture.torch.merge(models, config["merge_method"], base=base, parameters=config["parameters"], each=each, **more)


def steps(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """By how many representable numbers two tensors differ."""
    width = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    least = torch.iinfo(width).min

    def ordered(x: torch.Tensor) -> torch.Tensor:
        bits = x.reshape(-1).view(width).long()
        return torch.where(bits < 0, least - bits, bits)

    return (ordered(a) - ordered(b)).abs()


def differs(case: Case, name: str, found: torch.Tensor, expected: torch.Tensor) -> str | None:
    """What is wrong with a tensor; None if nothing is."""
    if found.dtype != expected.dtype or found.shape != expected.shape:
        return f"{name}: {found.dtype} {found.shape}, expected {expected.dtype} {expected.shape}"
    nan = found.isnan() if found.is_floating_point() else torch.zeros_like(found, dtype=torch.bool)
    if not torch.equal(nan, expected.isnan() if found.is_floating_point() else nan):
        return f"{name}: NaN elsewhere"
    if not found.is_floating_point():
        return None if torch.equal(found, expected) else f"{name}: differs"
    off = steps(found, expected) > 1
    off = off.reshape(found.shape) & ~nan
    if case.name in SUMS:
        off &= ~torch.isclose(found.double(), expected.double(), rtol=1e-5, atol=1e-7)
    share = float(off.double().mean()) if off.numel() else 0.0
    allowed = 1e-3 if case.name == "arcee_fusion" else 0.0
    return f"{name}: {share:.2%} of {off.numel()} differ" if share > allowed else None


@pytest.mark.parametrize("case", CASES, ids=str)
def test_torch_gives_what_the_core_gives(case: Case, tmp_path: Path) -> None:
    for dtype in ("F32", "BF16"):
        paths, held = family(tmp_path / dtype, dtype)
        config = configure(case, paths)
        config.pop("exclude", None)
        expected = merge(config, tmp_path / f"out-{dtype}")
        found = resident(config, dict(zip(map(str, paths), held, strict=True)))
        assert set(found) == set(expected)
        wrong = [w for n, raw in expected.items() if (w := differs(case, n, found[n], as_torch(raw)))]
        assert not wrong, wrong
