"""Plans of clones (Schäfer et al., arXiv 2404.07982); what models say of them is in test_grown_models."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from suture.errors import SutureError, UsageError
from suture.vocab.clone import clone
from suture.vocab.lists import tokens_in
from suture.vocab.rowplan import MIX, PAD

from ..support.grown import check_plan, matrix
from ..support.vocabularies import bpe, whole, write


def test_all_rows_are_there_twice(tmp_path: Path) -> None:
    """P = [I; I], special ones and padding too; the tokenizer's files are copied and numbers stay."""
    folder = write(tmp_path / "m", whole("bytes", bpe(["a", "b", "Ġ"], [("a", "b")]), ["<s>"]), {"bos": "<s>"})
    plan = clone(folder, 7, shift=True)
    check_plan(plan, 7)
    assert (matrix(plan.table, 7) == np.concatenate([np.eye(7), np.eye(7)])).all()
    assert plan.counts() == {"kept": 5, "copied": 7, "padding": 2}
    assert plan.undo
    assert not plan.written
    assert plan.names == ["a", "b", "Ġ", "ab", "<s>", None, None]
    assert plan.moved == {i: i for i in range(7)}
    assert {name for name, _ in plan.copied} == {"tokenizer.json", "tokenizer_config.json"}
    assert (clone(folder, 7).table.row == plan.table.row).all()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_share_is_the_papers(tmp_path: Path, share: float) -> None:
    """The first int(share V) of range(V) shuffled by random.Random(0), written here from the paper's code."""
    folder = write(tmp_path / "m", whole("bytes", bpe([chr(97 + i) for i in range(26)], [])))
    numbers = list(range(30))
    random.Random(0).shuffle(numbers)
    wanted = sorted(numbers[: int(share * 30)])
    plan = clone(folder, 30, share=share)
    check_plan(plan, 30)
    assert plan.table.row[30:].tolist() == wanted
    shifted = clone(folder, 30, share=share, shift=True)
    check_plan(shifted, 30)
    assert shifted.rows == 60
    assert np.flatnonzero(shifted.table.source[30:] == 0).tolist() == wanted
    assert shifted.table.row[30:][wanted].tolist() == wanted
    assert (shifted.table.source[30:] == PAD).sum() == 30 - len(wanted)
    other = clone(folder, 30, share=0.5, seed=3)
    assert other.table.row[30:].tolist() != clone(folder, 30, share=0.5).table.row[30:].tolist()


def test_listed_tokens(tmp_path: Path) -> None:
    """Those of a file, each once, in the order of numbers; with noise each is a mix of itself alone."""
    folder = write(tmp_path / "m", whole("bytes", bpe(["a", "b", "Ġ"], [("a", "b")])))
    (tmp_path / "list").write_text("ab\na\nab\n\n", encoding="utf-8")
    plan = clone(folder, 4, tokens=tokens_in(tmp_path / "list"))
    check_plan(plan, 4)
    assert plan.table.row[4:].tolist() == [0, 3]
    noisy = clone(folder, 4, tokens=["ab"], noise=0.25, seed=5)
    check_plan(noisy, 4)
    assert noisy.table.source.tolist() == [0, 0, 0, 0, MIX]
    assert noisy.table.noise.tolist() == [0.25]
    assert noisy.table.index.tolist() == [3]
    assert noisy.options["seed"] == 5
    assert noisy.undo
    assert any("not exact" in text for text in noisy.told)


def test_what_cannot_be(tmp_path: Path) -> None:
    """Options that do not go together, unknown tokens, tokens without a row, lists that are no text."""
    folder = write(tmp_path / "m", whole("bytes", bpe(["a", "b"], [])))
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"share": 0.0}, "share: expected a share above 0, at most 1; found 0.0"),
        ({"share": 0.01}, "share: 0.01 of 2 rows is none"),
        ({"noise": -1.0}, "noise: expected a number, 0 or above"),
        ({"noise": math.nan}, "noise: expected a number, 0 or above"),
        ({"tokens": ["a"], "share": 0.5}, "give either a share or tokens"),
        ({"tokens": ["a"], "shift": True}, "give either shift or tokens"),
        ({"tokens": []}, "expected at least one token"),
        ({"tokens": ["a", "z"]}, r"tokens: .* has no token `z`"),
    ]
    for options, sense in wrong:
        with pytest.raises(UsageError, match=sense):
            clone(folder, 2, **options)
    with pytest.raises(SutureError, match=r"token 1 \(`b`\) has no row: the tables have 1"):
        clone(folder, 1)
    (tmp_path / "list").write_bytes(b"a\n\xff\n")
    with pytest.raises(SutureError, match=r"line 2: is not UTF-8 \(byte 0xff\)"):
        tokens_in(tmp_path / "list")
    (tmp_path / "list").write_bytes(b"\n")
    with pytest.raises(UsageError, match="has no tokens"):
        tokens_in(tmp_path / "list")
    with pytest.raises(UsageError, match="no such file"):
        tokens_in(tmp_path / "none")


def test_a_model_without_a_tokenizer(tmp_path: Path) -> None:
    """Its rows have clones as well; only tokens by their names cannot be asked for."""
    (tmp_path / "m").mkdir()
    assert clone(tmp_path / "m", 5).rows == 10
    with pytest.raises(UsageError, match="has no tokenizer"):
        clone(tmp_path / "m", 5, tokens=["a"])
