"""`suture vocab compare`: what two vocabularies share, near misses, digits, neighbours, and what may be exchanged."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import suture
from suture.analysis.vocab_compare import compare
from suture.cli.vocab import vocab
from suture.vocab.digits import scheme
from suture.vocab.overlap import near_misses, overlap
from suture.vocab.tokens import Vocabulary, read

from ..support.vocab_models import (
    byte_characters,
    bytes_tokenizer,
    grown,
    model,
    pieces_tokenizer,
    problems,
    spelt,
    words_tokenizer,
)
from ..support.vocabularies import Json, bpe, letters, whole, write


def rows(n: int, width: int = 8, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(n, width))


def plain(tokens: list[str], extra: list[str] | None = None) -> Json:
    """A byte-level tokenizer of these tokens alone, in their order."""
    return whole("bytes", bpe(tokens, []), extra or [])


def test_bytes_and_word_starts_are_compared(tmp_path: Path) -> None:
    """`Ġcat`, `▁cat` and `cat` at a word's beginning are one token, whatever they are called; `##at` is another than
    `at` that begins a word; a byte is one by its number too."""
    level = bytes_tokenizer([*grown(" cat"), *grown("\u043a\u043e")], ["<s>", "</s>"])
    pieces = pieces_tokenizer(["▁cat", "a", "<0x0A>", "\u043a\u043e", "▁dog"], ["<bos>", "</s>"])
    a = write(tmp_path / "a", level, {"bos": "<s>", "eos": "</s>"})
    b = write(tmp_path / "b", pieces, {"bos": "<bos>", "eos": "</s>"})
    found = compare(a, b)
    shared = found["shared"]
    # ` cat`, `a`, `ко` by bytes, newline as a byte; bos and eos by role.
    assert (shared["exact"], shared["byte"], shared["special"], shared["tokens"]) == (3, 1, 2, 6)
    assert shared["text"] == 2  # a and </s>
    assert shared["share_b"] == 6 / 8
    assert shared["jaccard"] == 6 / (shared["tokens"] / shared["share_a"] + 8 - 6)
    assert found["roles"] == [{"role": "bos", "a": "<s>", "b": "<bos>"}, {"role": "eos", "a": "</s>", "b": "</s>"}]
    by_script = {s["script"]: (s["a"], s["b"], s["shared"]) for s in found["scripts"]}
    # Of bytes, the first letter too.
    assert by_script["Cyrillic"] == (3, 1, 1)
    assert by_script["special"] == (2, 3, 2)  # <unk> too
    assert sum(s["shared"] for s in found["scripts"]) == 6
    assert found["exchange"]["answer"] == "overlap"
    turned = compare(b, a)
    assert turned["shared"]["tokens"] == 6
    assert (turned["shared"]["share_a"], turned["shared"]["share_b"]) == (shared["share_b"], shared["share_a"])
    assert not problems("vocab_compare", json.loads(json.dumps(found)))


def test_one_token_of_two_roles(tmp_path: Path) -> None:
    """It is the same as one token of the other vocabulary, not two."""
    a = write(tmp_path / "a", plain(letters(3), ["<a>", "<b>"]), {"bos": "<a>", "eos": "<b>"})
    b = write(tmp_path / "b", plain(letters(3), ["<s>"]), {"bos": "<s>", "eos": "<s>"})
    for one, other in ((a, b), (b, a)):
        found = compare(one, other)
        assert (found["shared"]["tokens"], found["shared"]["special"]) == (4, 1)


FORMS = {
    "bytes": lambda tokens: plain([spelt(f" {t[1:]}" if t[0] == "^" else t) for t in tokens]),
    "pieces": lambda tokens: pieces_tokenizer([t.replace("^", "▁") for t in tokens]),
    "words": lambda tokens: words_tokenizer([t[1:] if t[0] == "^" else f"##{t}" for t in tokens]),
}
SETS = st.lists(st.from_regex(r"\A\^?[abAB\u00e9\u043a]{1,2}\Z"), min_size=1, max_size=12, unique=True)


@settings(max_examples=60, deadline=None)
@given(SETS, SETS, st.sampled_from(list(FORMS)), st.sampled_from(list(FORMS)))
def test_tokens_are_shared_both_ways(
    tmp_path_factory: pytest.TempPathFactory, one: list[str], other: list[str], form: str, another: str
) -> None:
    """Whatever the form, the tokens of the same text and word start are shared, each with one; and so backwards."""
    place = tmp_path_factory.mktemp("pair")
    a = read(write(place / "a", FORMS[form](one)))
    b = read(write(place / "b", FORMS[another](other)))
    found = overlap(a, b)
    # The one for what is unknown is in two of the forms, and no text.
    shared = {_text(a, n) for n in found.pairs}
    assert shared - {"<unk>", "^[UNK]"} == set(one) & set(other)
    assert len(set(found.pairs.values())) == len(found.pairs)
    assert all(_text(a, n) == _text(b, m) for n, m in found.pairs.items())
    assert {m: n for n, m in overlap(b, a).pairs.items()} == found.pairs
    missed = {_text(a, m.one) for m in near_misses(a, b, found)}
    folded = {t.removeprefix("^").casefold() for t in other}
    assert missed - {"<unk>", "^[UNK]"} == {
        t for t in set(one) - set(other) if t.removeprefix("^").casefold() in folded
    }


def _text(vocabulary: Vocabulary, number: int) -> str:
    key = vocabulary.key(number)
    return "^" * key.starts + key.content.decode()


def test_near_misses(tmp_path: Path) -> None:
    """What differs in case, in word start, in both, else in the fewest letters; never a token that is shared."""
    a = write(tmp_path / "a", words_tokenizer(["Cat", "##at", "##Dog", "hous", "same", "qqqqqq"]))
    b = write(tmp_path / "b", words_tokenizer(["cat", "at", "dog", "house", "same"]))
    misses = compare(a, b)["misses"]
    assert (misses["tokens"], misses["word_start"], misses["case"], misses["both"]) == (5, 1, 1, 1)
    assert {(m["a"], m["b"], m["differs"], m["edits"]) for m in misses["examples"]} == {
        ("Cat", "cat", "case", None), ("##at", "at", "word start", None), ("##Dog", "dog", "both", None),
        ("hous", "house", "edits", 1),
    }  # fmt: skip


def test_drawn_misses_are_the_same_again(tmp_path: Path) -> None:
    """Of many tokens so many are looked at, those that the seed says."""
    a = write(tmp_path / "a", words_tokenizer([f"word{i}x" for i in range(100)]))
    b = write(tmp_path / "b", words_tokenizer([f"word{i}" for i in range(100)]))
    found = compare(a, b, misses=7)["misses"]["examples"]
    assert len(found) == 7
    assert {m["edits"] for m in found} == {1}
    assert found == compare(a, b, misses=7)["misses"]["examples"]
    assert found != compare(a, b, misses=7, seed=1)["misses"]["examples"]
    assert compare(a, b, misses=0)["misses"]["examples"] == []


def test_misses_of_bytes_can_be_read(tmp_path: Path) -> None:
    """A byte-level token is told by its characters, not by what stands for its bytes."""
    level = write(tmp_path / "a", bytes_tokenizer(grown(" \u043a\u043e")))
    pieces = write(tmp_path / "b", pieces_tokenizer(["\u043a\u043e"]))
    found = compare(level, pieces, misses=0)["misses"]["examples"]
    assert [(m["a"], m["b"], m["differs"]) for m in found] == [("▁\u043a\u043e", "\u043a\u043e", "word start")]


@pytest.mark.parametrize(
    ("other", "answer"),
    [("same", "same"), ("turned", "renumbered"), ("more", "extended"), ("less", "extended"), ("some", "overlap"),
     ("none", "none")],
)  # fmt: skip
def test_what_may_be_exchanged(other: str, answer: str, tmp_path: Path) -> None:
    """The same numbers; the same tokens under others; one with more; some alone; none."""
    first = letters(10)
    tokens = {
        "same": first, "turned": first[::-1], "more": [*first, "x", "y"], "less": first[:7],
        "some": [*first[5:], "x"], "none": ["x", "y"],
    }[other]  # fmt: skip
    a = model(tmp_path / "a", plain(first), rows(12))
    b = model(tmp_path / "b", plain(tokens), rows(16))
    exchange = compare(a, b)["exchange"]
    assert exchange["answer"] == answer
    assert (exchange["widths"], exchange["fits"]) == ([8, 8], True)
    assert any("12 and 16 rows" in text for text in exchange["because"]) == (other == "same")


def test_what_stands_against_an_exchange(tmp_path: Path) -> None:
    """Rows of another width; merges that cut text otherwise: told, with the same tokens."""
    tokens = [*letters(5), "ab", "abc", "bc"]
    one = whole("bytes", bpe(tokens, [("a", "b"), ("ab", "c"), ("b", "c")]))
    two = whole("bytes", bpe(tokens, [("b", "c"), ("a", "b"), ("ab", "c")]))
    a, b = model(tmp_path / "a", one, rows(8)), model(tmp_path / "b", two, rows(8, 6))
    found = compare(a, b)
    assert (found["exchange"]["answer"], found["exchange"]["fits"]) == ("same", False)
    assert found["differing"] == ["model.merges"]
    assert any("rows are 8 and 6 wide" in text for text in found["exchange"]["because"])
    assert any("text is cut otherwise all the same: model.merges" in text for text in found["exchange"]["because"])
    # The same merges, written the old way.
    old = whole("bytes", bpe(tokens, [("a", "b"), ("ab", "c"), ("b", "c")], pairs=False))
    assert compare(a, write(tmp_path / "c", old))["differing"] == []


def digits(kind: str) -> Json:
    """A byte-level tokenizer that cuts numbers in a way."""
    merges = [("1", "2"), ("12", "3"), ("123", "4")] if kind == "learned" else []
    made = bytes_tokenizer(merges)
    if kind in ("single digits", "threes from the left", "threes from the right"):
        ones = [byte_characters()[ord(d)] for d in "0123456789"]
        twos = [a + b for a in ones for b in ones]
        pairs = (
            [(p[0], p[1]) for p in twos] + [(p, d) for p in twos for d in ones] + [(d, p) for p in twos for d in ones]
        )
        made = whole("bytes", bpe([byte_characters()[b] for b in range(256)], [] if kind == "single digits" else pairs))
        pattern = {"single digits": r"\p{N}", "threes from the left": r"\p{N}{1,3}",
                   "threes from the right": r"\p{N}{1,3}(?=(?:\p{N}{3})*(?:\P{N}|$))"}[kind]  # fmt: skip
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        made["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, level]}
    return made


@pytest.mark.parametrize("kind", ["single digits", "threes from the left", "threes from the right", "learned"])
def test_how_numbers_are_cut(kind: str, tmp_path: Path) -> None:
    """The scheme is known by its cuts; another one is a warning, the same is none."""
    a = write(tmp_path / "a", digits(kind))
    b = write(tmp_path / "b", digits("single digits"))
    found = compare(a, b)
    assert found["digits"]["a"] is not None
    assert found["digits"]["a"]["scheme"] == kind
    parts = {
        "single digits": "1 2 3 4 5 6 7",
        "threes from the left": "123 456 7",
        "threes from the right": "1 234 567",
        "learned": "1234 5 6 7",
    }[kind]
    assert " ".join(found["digits"]["a"]["cuts"]["1234567"]) == parts
    assert found["digits"]["same"] == (kind == "single digits")
    told = [w for w in found["warnings"] if "numbers are cut otherwise" in w]
    assert len(told) == (kind != "single digits")
    assert all(f"1234567 is {parts} in" in w for w in told)


def test_numbers_that_are_whole(tmp_path: Path) -> None:
    """WordPiece may have a number as a word; one that it cannot write is unknown, and not whole."""
    assert scheme({"42": ["42"], "2024": ["2024"]}) == "whole"
    a = write(tmp_path / "a", words_tokenizer(["cat"]))
    found = compare(a, write(tmp_path / "b", digits("learned")))["digits"]["a"]
    assert found is not None
    assert found["scheme"] == "unknown"


def test_a_space_in_front_is_no_digit(tmp_path: Path) -> None:
    """The piece that SentencePiece puts in front takes none of the number."""
    tokenizer = pieces_tokenizer(["▁", *"0123456789"])
    found = compare(write(tmp_path / "a", tokenizer), write(tmp_path / "b", digits("single digits")))
    assert found["digits"]["same"] is True


def common(one: NDArray[Any], other: NDArray[Any], asked: list[int], k: int) -> float:
    """The share of common neighbours by the formula, pair by pair."""
    found = []
    for table in (one, other):
        unit = table / np.linalg.norm(table, axis=1, keepdims=True)
        nearest = []
        for i in asked:
            cosines = unit @ unit[i]
            cosines[i] = -np.inf
            nearest.append(set(np.argsort(-cosines)[:k].tolist()))
        found.append(nearest)
    return float(np.mean([len(a & b) / k for a, b in zip(*found, strict=True)]))


def test_neighbours_are_those_of_the_formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of shared tokens alone, wherever their rows are, in however many blocks; by script too."""
    order = np.random.default_rng(3).permutation(26)
    table, noise = rows(30, 16), rows(30, 16, seed=1)
    names = letters(26)
    a = model(tmp_path / "a", plain(names, ["<s>"]), table, roles={"bos": "<s>"})
    other = np.zeros((30, 16))
    other[:26] = (table[:26] + 0.5 * noise[:26])[order]
    b = model(tmp_path / "b", plain([names[i] for i in order], ["<s>"]), other, roles={"bos": "<s>"})
    expected = common(table[:26].astype(np.float32), (table + 0.5 * noise)[:26].astype(np.float32), list(range(26)), 5)
    found = compare(a, b, neighbours=5)["neighbours"]
    assert found is not None
    assert (found["shared"], found["asked"], found["k"]) == (26, 26, 5)
    assert found["share"] == pytest.approx(expected)
    assert 0.2 < expected < 0.9
    assert found["chance"] == 5 / 25
    assert found["scripts"] == [{"script": "Latin", "tokens": 26, "share": found["share"]}]
    monkeypatch.setattr("suture.analysis.neighbours.BLOCK", 26 * 3)
    assert compare(a, b, neighbours=5)["neighbours"] == found
    assert (same := compare(a, a, neighbours=5)["neighbours"]) is not None
    assert same["share"] == 1


def test_asked_tokens_are_drawn_by_the_seed(tmp_path: Path) -> None:
    """Told, the same again, and their neighbours are looked for among all."""
    table, other = rows(200, 8), rows(200, 8, seed=1)
    tokenizer = words_tokenizer([f"w{i}" for i in range(199)])
    a, b = model(tmp_path / "a", tokenizer, table), model(tmp_path / "b", tokenizer, other)
    found = compare(a, b, neighbours=10, sample=40, seed=4)["neighbours"]
    assert found is not None
    assert (found["shared"], found["asked"], found["seed"]) == (200, 40, 4)
    drawn = sorted(np.random.default_rng(4).choice(200, 40, replace=False).tolist())
    assert found["share"] == pytest.approx(common(table, other, drawn, 10))
    assert found == compare(a, b, neighbours=10, sample=40, seed=4)["neighbours"]


def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options out of range, weights that are not there, packages that are missing."""
    a = model(tmp_path / "a", plain(letters(5)), rows(5))
    b = write(tmp_path / "b", plain(letters(5)))
    with pytest.raises(suture.UsageError, match="neighbours: expected a number from 0 on, found -1"):
        compare(a, a, neighbours=-1)
    with pytest.raises(suture.UsageError, match="neighbours: expected a number from 1 to 4, the shared tokens but one"):
        compare(a, a, neighbours=5)
    with pytest.raises(suture.UsageError, match="neighbours: needs the weights of both models"):
        compare(a, b, neighbours=2)
    c = write(tmp_path / "c", plain(["x", *letters(3)]))
    monkeypatch.setitem(sys.modules, "rapidfuzz", None)
    with pytest.raises(suture.UsageError, match=r"pip install rapidfuzz"):
        compare(a, c)
    assert compare(a, c, misses=0)["shared"]["tokens"] == 3
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    found = compare(a, b)
    assert found["digits"] == {"a": None, "b": None, "same": None}
    assert any("how it cuts numbers is not known" in w for w in found["warnings"])


def test_the_verb(tmp_path: Path) -> None:
    """What is printed for people has the verdict; JSON is what the function returns."""
    tokens = letters(20)
    a = model(tmp_path / "a", plain(tokens), rows(20))
    b = model(tmp_path / "b", plain([*tokens[1:], "Q"]), rows(20, seed=2))
    call = ["compare", str(a), str(b), "--neighbours", "3"]
    done = CliRunner().invoke(vocab, call)
    assert done.exit_code == 0, done.output
    wide = model(tmp_path / "wide", plain(tokens), rows(20, 9))
    told = CliRunner().invoke(vocab, ["compare", str(a), str(wide)]).output
    assert "exchanging rows: no, they are not of one width" in told
    assert "exchanging rows: of shared tokens alone" in done.output
    assert "19 tokens (19 by their bytes), 95.0 % and 95.0 %" in done.output
    assert "of the 3 nearest are the same (16.7 % by chance)" in done.output
    done = CliRunner().invoke(vocab, [*call, "--json"])
    assert json.loads(done.stdout) == json.loads(json.dumps(compare(str(a), str(b), neighbours=3)))
