"""Law 1: taking deltas and putting them in stays within `--memory`, whatever the size of the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ..support.checkpoints import Raw, write_checkpoint
from ..support.measuring import MIB, run

BUDGET = 192


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models of 256 MiB in bf16, one tensor of them large."""
    folder, rng = tmp_path_factory.mktemp("models"), np.random.default_rng(0)
    shapes = {"model.layers.0.a.weight": (32768, 2048)} | {
        f"model.layers.{i}.b.weight": (2048, 2048) for i in range(1, 17)
    }

    def tensors(seed: int) -> dict[str, Raw]:
        made = {}
        for name, shape in shapes.items():
            low = np.random.default_rng(seed).integers(0, 16, 999_983, dtype=np.uint16)
            high = rng.integers(0x3C00, 0x3F00, 1, dtype=np.uint16)
            size = int(np.prod(shape))
            made[name] = Raw("BF16", shape, (np.resize(low, size) | (high & 0xFF00)).tobytes())
        return made

    rng = np.random.default_rng(0)
    base = write_checkpoint(folder / "base", tensors(1))
    rng = np.random.default_rng(0)
    return base, write_checkpoint(folder / "tuned", tensors(2))


@pytest.mark.parametrize(
    ("form", "options"),
    [("xor", []), ("sparse", ["--density", "0.3"]), ("sparse", ["--exact"]), ("bits", []), ("bits", ["--exact"])],
)
def test_a_delta_stays_within_its_memory(
    tmp_path: Path, models: tuple[Path, Path], form: str, options: list[str]
) -> None:
    """Extract, apply and revert: the peak of anonymous memory is below the budget."""
    base, fine = models
    size = f"{BUDGET}MiB"
    commands: list[list[str | Path]] = [
        ["delta", "extract", base, fine, tmp_path / "d", "--form", form, *options],
        ["delta", "apply", base, tmp_path / "d", tmp_path / "out"],
    ]
    for command in commands:
        done = run(*command, "--memory", size, "--threads", "2", "--io", "pread", "--quiet")
        assert done.code == 0, done.stderr
        assert done.peak < BUDGET * MIB, f"{command[1]}: {done.peak / MIB:.0f} MiB"


@pytest.mark.parametrize(
    "form",
    [
        ["sparse", "--density", "0.1"],
        pytest.param(["lowrank", "--rank", "256"], marks=pytest.mark.heavy),
        ["xor"],
    ],
)
def test_a_sum_stays_within_its_memory(tmp_path: Path, models: tuple[Path, Path], form: list[str]) -> None:
    """Compose: what the smallest budget that works says is true of the peak."""
    base, fine = models
    for name, two in (("d", (base, fine)), ("e", (base, fine) if form[0] != "xor" else (fine, base))):
        assert run("delta", "extract", *two, tmp_path / name, "--form", *form, "--quiet").code == 0
    command: list[str | Path] = ["delta", "compose", tmp_path / "d", tmp_path / "e", tmp_path / "sum", "--quiet"]
    refused = run(*command, "--memory", "1MiB")
    assert refused.code == 2, refused.stderr
    least = int(refused.stderr.split("smallest that works is ")[1].split(" ")[0])
    done = run(*command, "--memory", f"{least}MiB")
    assert done.code == 0, done.stderr
    assert done.peak < least * MIB, f"{done.peak / MIB:.0f} of {least} MiB"
    assert done.peak > 0.3 * least * MIB, f"{done.peak / MIB:.0f} of {least} MiB"
