"""Law: a trim of a published WordPiece tokenizer of 30,522 segments none of 10,000 lines otherwise."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from suture.vocab.tokens import read
from suture.vocab.trim import Asked, plan

LINES = 10_000


def test_wordpiece_of_30_522(minilm: Path, tmp_path: Path) -> None:
    """Words that it knows, knows parts of, and does not know."""
    tokenizers: Any = importlib.import_module("tokenizers")
    folder = tmp_path / "m"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(minilm / name, folder / name)
    own = read(folder)
    rng = np.random.default_rng(3)
    words = [t for t in own.ids if not t.startswith("[")]
    some = [*rng.choice(words, 1500, replace=False), "Zebra", "étude", "漢字", "☃", "xyzzy☃☃q", "q" * 120]
    share = 1 / np.arange(1, len(some) + 1)
    picked = rng.choice(rng.permutation(some), (LINES, 12), p=share / share.sum())
    joined = rng.choice(["", " "], (LINES, 12))
    lines = [
        "".join(w.removeprefix("##") + s for w, s in zip(*row, strict=True)) for row in zip(picked, joined, strict=True)
    ]
    path = tmp_path / "lines"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    found = plan(own, own.size, Asked({"lines": [path]}))
    old = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    new = tokenizers.Tokenizer.from_str(dict(found.written)["tokenizer.json"].decode())
    for one in (old, new):
        one.no_truncation()
        one.no_padding()
    unknown = 0
    for one, other in zip(old.encode_batch(lines), new.encode_batch(lines), strict=True):
        assert other.tokens == one.tokens
        assert found.table.row[other.ids].tolist() == one.ids
        unknown += one.tokens.count("[UNK]")
    assert unknown > 100
    assert found.figures["changed"] == 0
    assert dict(found.written)["vocab.txt"].decode().split("\n")[:-1] == list(found.names)
    assert found.rows < own.size / 2
