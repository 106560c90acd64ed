"""The Python API in the hands of people: what a shell shows of it, and checkpoints as mappings."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import suture

from ..support.checkpoints import encode, llama_family, write_file


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and two fine-tunes."""
    return llama_family(
        tmp_path_factory.mktemp("models"), layers=2, n=2, hidden=8, heads=2, kv_heads=1, ff=12, vocab=10
    )


def test_a_report_is_shown_in_a_line(models: list[Path], tmp_path: Path) -> None:
    """What was done, how many tensors, where, and how long it took where that is known; never the whole text."""
    out = tmp_path / "out"
    planned = suture.swap(models[1], models[2], out, bottom=1, dry_run=True)
    count = len(planned.tensors)
    assert repr(planned) == f"<Report: swap planned, {count} tensors for {str(out)!r}>"
    done = suture.swap(models[1], models[2], out, bottom=1)
    assert repr(replace(done, seconds=None)) == f"<Report: swap, {count} tensors in {str(out)!r}>"
    assert repr(replace(done, seconds=1.23456)) == f"<Report: swap, {count} tensors in {str(out)!r}, 1.23 s>"
    assert str(replace(done, seconds=1)) == repr(replace(done, seconds=1))


def test_a_report_of_several_outputs(models: list[Path], tmp_path: Path) -> None:
    """The tensors of all of them."""
    config = {"merge_method": "linear", "models": [{"model": str(m), "parameters": {"weight": 1}} for m in models]}
    report = suture.merge(config | {"outputs": {"a": {}, "b": {}}}, tmp_path / "out", dry_run=True)
    count = sum(len(part.tensors) for part in report.parts.values())
    assert repr(report).startswith(f"<Report: 2 outputs planned, {count} tensors for ")


def test_a_path_is_harmless_in_a_report(models: list[Path], tmp_path: Path) -> None:
    """Law 7: whatever a folder is called."""
    report = suture.swap(models[1], models[2], tmp_path / "\x1b[2Jout", bottom=1, dry_run=True)
    assert repr(report).isprintable()
    assert repr(suture.open(models[0])).isprintable()


def test_a_checkpoint_is_a_mapping(tmp_path: Path) -> None:
    """Names to arrays, as `numpy` reads them; nothing is read before it is asked for."""
    tensors = {"b": encode(np.arange(6.0).reshape(2, 3), "BF16"), "a": encode(np.ones(4), "F32")}
    checkpoint = suture.open(write_file(tmp_path / "m.safetensors", tensors))
    assert len(checkpoint) == 2
    assert list(checkpoint) == checkpoint.keys() == checkpoint.names
    assert set(checkpoint) == {"a", "b"}
    np.testing.assert_array_equal(checkpoint["b"], np.arange(6.0).reshape(2, 3))
    assert {name: values.shape for name, values in dict(checkpoint).items()} == {"a": (4,), "b": (2, 3)}
    assert "a" in checkpoint
    for name in ("c", "", "\udc80", 1, None):
        assert name not in checkpoint
    with pytest.raises(suture.UsageError, match=r"m\.safetensors: no tensor `c`"):
        checkpoint["c"]
    assert repr(checkpoint) == f"<Checkpoint: {str(tmp_path / 'm.safetensors')!r}, 2 tensors>"


def test_an_empty_checkpoint_is_a_mapping_too(tmp_path: Path) -> None:
    """Of nothing."""
    checkpoint = suture.open(write_file(tmp_path / "m.safetensors", {}))
    assert (len(checkpoint), list(checkpoint), "a" in checkpoint) == (0, [], False)
    assert repr(checkpoint).endswith(", 0 tensors>")


def test_dir_lists_what_is_public() -> None:
    """Law 9: all public names are listed, and listing them imports none."""
    code = (
        "import json, sys, suture\n"
        "names = dir(suture)\n"
        "print(json.dumps([names, [m for m in sys.modules if m.startswith(('suture.', 'numpy'))]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    names, loaded = json.loads(done.stdout)
    assert {n for n in names if not n.startswith("_")} == {n for n in suture.__all__ if not n.startswith("_")}
    assert set(loaded) <= {"suture._core", "suture.errors", "suture.escape"}


def test_help_lists_the_functions() -> None:
    """`help(suture)` has every public function with its arguments, and every class."""
    code = "import pydoc, suture; print(pydoc.render_doc(suture, renderer=pydoc.plaintext))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    functions = done.stdout.split("\nFUNCTIONS\n")[1].split("\nDATA\n")[0]
    for name in ("convert", "diff", "inspect", "merge", "methods", "open", "propose", "revert", "swap", "verify"):
        assert f"\n    {name}(" in "\n" + functions
        assert f":func:`{name}`" in done.stdout
    for name in ("Checkpoint", "Report", "Settings", "TensorInfo", "SutureError", "UsageError"):
        assert f"class {name}(" in done.stdout
