"""Law: every command of docs/cross-lingual.md runs, in its order, on small models."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from suture.cli import cli

from ..support.arrows import ROOT
from ..support.texts import SENTENCES, laid, tiny

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("altair")
pytest.importorskip("uroman")
PAGE = ROOT / "docs" / "cross-lingual.md"


def tuned(base: Path, out: Path, layers: list[int], seed: int) -> Path:
    """The base with noise on some layers."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(base, out)
    rng, tensors = np.random.default_rng(seed), load_file(base / "model.safetensors")
    for name in sorted(tensors):
        if any(f".layers.{i}." in name for i in layers) and tensors[name].ndim > 1:
            tensors[name] = (tensors[name] + 0.05 * rng.normal(size=tensors[name].shape)).astype(np.float32)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def commands() -> list[str]:
    return re.findall(r"^    (suture .*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def test_the_page_has_commands() -> None:
    """Those of every step, and of every verb of `suture text`."""
    from suture.cli.text import VERBS

    assert len(commands()) > 15
    assert all(any(line.startswith(f"suture text {verb}") for line in commands()) for verb in VERBS)


def test_every_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands on the page; what is written is there in the end."""
    monkeypatch.chdir(tmp_path)
    base = tiny(tmp_path / "base", layers=6)
    tuned(base, tmp_path / "math", [2, 3], 1)
    tuned(base, tmp_path / "swahili", [0, 1, 5], 2)
    laid(tmp_path / "texts", {language: SENTENCES[language] for language in ("en", "sw")})
    pairs = [(s, t) for s in ("en", "sw", "ru", "fi") for t in ("en", "sw", "ru", "fi") if s != t]
    rows = [f"{s},{t},{i % 3},{i * 7 % 5},{i}" for i, (s, t) in enumerate(pairs)]
    (tmp_path / "pairs.csv").write_text("\n".join(["source,target,syntax,overlap,score", *rows]) + "\n")
    for line in commands():
        words = shlex.split(line)
        to = Path(words[words.index(">") + 1]) if ">" in words else None
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
            cli.main(words[1 : words.index(">") if to else None], standalone_mode=False)
        if to:
            to.write_text(printed.getvalue(), encoding="utf-8")
    written = ("curves.html", "changes.html", "base.json", "fit.json", "run.sh", "merged", "gram-math.safetensors")
    assert all((tmp_path / name).exists() for name in written)
