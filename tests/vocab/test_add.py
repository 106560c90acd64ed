"""Plans of further tokens: rows, numbers, tokenizers; what models say of them is in test_grown_models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from suture.errors import SutureError, UsageError
from suture.vocab.add import add
from suture.vocab.lists import asked_in
from suture.vocab.rowplan import MIX
from suture.vocab.tokens import read

from ..support.grown import check_plan, laid, matrix
from ..support.vocabularies import bpe, letters, unigram, whole, wordpiece, write

MODELS: dict[str, Any] = {
    "bytes": bpe([*letters(5), "Ġ"], [("a", "b")]),
    "pieces": bpe(["<unk>", *letters(5), "▁"], [("a", "b")], unk_token="<unk>"),
    "Unigram": unigram({"<unk>": 0.0, "▁": -1.0, **dict.fromkeys(letters(5), -2.0)}),
    "WordPiece": wordpiece(["[UNK]", *letters(5), *(f"##{c}" for c in letters(5))]),
}


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("form", MODELS)
def test_the_tokenizer_finds_them(tmp_path: Path, form: str, special: bool) -> None:
    """All forms: new tokens get the numbers of their rows, other text the tokens that it had, and decoding skips them
    only if they are special."""
    tokenizers = pytest.importorskip("tokenizers")
    data = whole(form, MODELS[form], ["<s>"])
    folder = write(tmp_path / "m", data, {"bos": "<s>"}, special_tokens_map={"additional_special_tokens": ["<s>"]})
    old = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    size = read(folder).size
    plan = add(folder, size + 1, ["<2gl>", "<2eu>"], special=special)
    check_plan(plan, size + 1)
    assert plan.figures["tokens"] == {"<2gl>": size, "<2eu>": size + 1}
    assert plan.figures["reused_rows"] == 1
    assert not plan.undo
    assert plan.rows == size + 2
    assert any("took rows that no token had" in text for text in plan.told)
    made = tokenizers.Tokenizer.from_file(str(laid(plan, tmp_path / "out") / "tokenizer.json"))
    for text in ("ab cde", "a<s>b", "", "e d"):
        assert made.encode(text).ids == old.encode(text).ids
    assert [size, size + 1] == [i for i in made.encode("<2gl> ab<2eu>c").ids if i >= size]
    assert ("<2gl>" in made.decode(made.encode("<2gl>a").ids)) is not special
    listed = json.loads((tmp_path / "out" / "special_tokens_map.json").read_text())["additional_special_tokens"]
    assert listed == ["<s>", *(["<2gl>", "<2eu>"] if special else [])]
    assert read(tmp_path / "out").names == dict(enumerate(plan.names))


def test_rows_by_how_they_are_asked_for(tmp_path: Path) -> None:
    """Mean of all tokens without padding, a copy, a mix with signs, pieces (twice where they are there twice)."""
    pytest.importorskip("tokenizers")
    folder = write(tmp_path / "m", whole("bytes", MODELS["bytes"], ["<2pt>", "a+b"]))
    n = read(folder).size
    asked = {
        "<m>": "mean", "<c>": "copy:<2pt>", "<x>": "mix:0.7*<2pt>+0.3*b", "<y>": "mix:-.5*a+b+2e0*a", "aba": "subwords",
        "<s>": "subwords:aab b", "<m2>": "mean",
    }  # fmt: skip
    plan = add(folder, n, asked)
    check_plan(plan, n)
    made = matrix(plan.table, n)[n:]
    ids = read(folder).ids

    def row(**weights: float) -> Any:
        out = np.zeros(n)
        for text, weight in weights.items():
            out[ids[{"pt": "<2pt>", "plus": "a+b", "sp": "Ġ"}.get(text, text)]] = weight
        return out

    wanted = [
        np.full(n, 1 / n), row(pt=1), row(pt=0.7, b=0.3), row(plus=-0.5, a=2), row(ab=0.5, a=0.5),
        row(a=0.25, ab=0.25, sp=0.25, b=0.25), np.full(n, 1 / n),
    ]  # fmt: skip
    np.testing.assert_allclose(made, wanted, rtol=1e-15)
    assert plan.table.source[n] == MIX
    assert plan.table.row[n] == plan.table.row[n + 6]
    assert plan.counts() == {"kept": n, "copied": 1, "mixed": 6}
    assert plan.reasons[plan.why[n + 4]] == "the mean of its pieces `ab` `a`"


def test_rows_without_a_token_first(tmp_path: Path) -> None:
    """A gap in the numbers, then padding, then new rows; a Unigram tokenizer has no gaps."""
    data = whole("bytes", bpe(["a", "b"], []), ["<s>"])
    data["added_tokens"][0]["id"] = 4
    data["model"]["vocab"] = {"a": 0, "b": 2, "<s>": 4}
    folder = write(tmp_path / "m", data)
    plan = add(folder, 6, ["<1>", "<2>", "<3>", "<4>"])
    check_plan(plan, 6)
    assert plan.figures["tokens"] == {"<1>": 1, "<2>": 3, "<3>": 5, "<4>": 6}
    assert plan.names == ["a", "<1>", "b", "<2>", "<s>", "<3>", "<4>"]
    assert plan.table.source.tolist() == [0, MIX, 0, MIX, 0, MIX, MIX]
    assert matrix(plan.table, 6)[1].tolist() == [1 / 3, 0, 1 / 3, 0, 1 / 3, 0]
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer.from_file(str(laid(plan, tmp_path / "out") / "tokenizer.json"))
    assert made.encode("<1>a<2>b<3><s><4>").ids == [1, 0, 3, 2, 5, 4, 6]


def test_reserved_tokens_give_up_their_numbers(tmp_path: Path) -> None:
    """Those of a pattern, first; they are in no file any more, and a mean is not of them; a role is never given up."""
    data = whole("bytes", bpe(["a", "b"], []), ["<s>", "<|reserved_0|>", "<|reserved_1|>"])
    folder = write(tmp_path / "m", data, {"bos": "<s>"})
    plan = add(folder, 5, ["<2gl>"], reserved="<|reserved_*|>")
    check_plan(plan, 5)
    assert plan.names == ["a", "b", "<s>", "<2gl>", "<|reserved_1|>"]
    assert 3 not in plan.moved
    assert plan.rows == 5
    assert not plan.undo
    assert matrix(plan.table, 5)[3].tolist() == [0.25, 0.25, 0.25, 0, 0.25]
    assert "`<|reserved_0|>`" in plan.told[0]
    assert "reserved_0" not in (laid(plan, tmp_path / "out") / "tokenizer.json").read_text()
    assert add(folder, 5, ["<1>", "<2>", "<3>"], reserved="<|r*").figures["tokens"] == {"<1>": 3, "<2>": 4, "<3>": 5}
    with pytest.raises(UsageError, match="has no token like `<x\\*>`"):
        add(folder, 5, ["<1>"], reserved="<x*>")
    with pytest.raises(UsageError, match="`<s>` is not spare: it is the model's bos"):
        add(folder, 5, ["<1>"], reserved="<*")


def test_lists_of_users(tmp_path: Path) -> None:
    """Text with commas, or a file with a line each and, behind a tab, what a row is made of."""
    assert asked_in("<2gl>, <2eu>,", "mean") == {"<2gl>": "mean", "<2eu>": "mean"}
    (tmp_path / "list").write_text("<a,b>\n<2eu>\tcopy:x\n", encoding="utf-8")
    assert asked_in(str(tmp_path / "list"), "mean") == {"<a,b>": "mean", "<2eu>": "copy:x"}
    with pytest.raises(UsageError, match="`a` is listed twice"):
        asked_in("a,b,a", "mean")


def test_what_cannot_be(tmp_path: Path) -> None:
    """Tokens that are there, words with space, rows of what is no token, models without a tokenizer."""
    folder = write(tmp_path / "m", whole("bytes", MODELS["bytes"]))
    for tokens, init, sense in [
        ([], "mean", "expected at least one token"),
        (["a"], "mean", "has the token `a` already, as number 0"),
        (["<x>", "<x>"], "mean", "`<x>` is listed twice"),
        ([" x"], "mean", "without space around it"),
        (["<x>"], "median", "expected mean, copy:TOKEN, .*found `median`"),
        (["<x>"], "copy:z", "has no token `z`, asked for in `copy:z`"),
        (["<x>"], "mix:0.7*a+b", r"has no token `a\+b`"),
        (["<x>"], "mix:a", r"expected WEIGHT\*TOKEN in `mix:a`, found `a`"),
        (["<x>"], "mix:1e999*a", "expected a finite weight"),
        (["<x>"], "mix:1*a+1*a", "names `a` twice"),
    ]:
        with pytest.raises(UsageError, match=sense):
            add(folder, 7, tokens, init=init)
    with pytest.raises(SutureError, match="has no row: the tables have 3"):
        add(folder, 3, ["<x>"])
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="has no tokenizer"):
        add(tmp_path / "none", 3, ["<x>"])
    (tmp_path / "none" / "tokenizer.model").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"has no tokenizer\.json"):
        add(tmp_path / "none", 3, ["<x>"])


def test_transformers_loads_codes(tmp_path: Path) -> None:
    """A code among the special tokens of a tokenizer of transformers: one number, skipped when decoding."""
    transformers = pytest.importorskip("transformers")
    data = whole("Unigram", MODELS["Unigram"], ["<s>", "por_Latn"])
    folder = write(tmp_path / "m", data, {"bos": "<s>"})
    plan = add(folder, 9, ["glg_Latn"], init="copy:por_Latn")
    loaded = transformers.AutoTokenizer.from_pretrained(laid(plan, tmp_path / "out"))
    assert loaded.convert_tokens_to_ids("glg_Latn") == 9
    assert len(loaded) == 10
    ids = loaded("glg_Latn ab", add_special_tokens=False)["input_ids"]
    assert ids[0] == 9
    assert loaded.decode(ids, skip_special_tokens=True).strip() == "ab"


@pytest.mark.parametrize("named", ["tokz.txt", "./missing/file", "/nowhere/list.tsv"])
def test_a_file_that_is_not_there_is_no_token(named: str) -> None:
    """A misspelt name of a file is refused, and does not become a token that is called so."""
    with pytest.raises(UsageError, match="looks like a file, and there is none"):
        asked_in(named, "mean")
