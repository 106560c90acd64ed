"""`suture vocab words`: vectors of words, their files, and translations that are found among them."""

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
from suture.analysis.lexicon import induce
from suture.analysis.vocab_words import words
from suture.cli.vocab import vocab

from ..support.checkpoints import parse_file
from ..support.vocab_models import bytes_tokenizer, grown, model, pieces_tokenizer, problems, words_tokenizer

WIDTH = 6
TOKENS = ["cat", "dog", "un", "##happy", "##ly", "katze", "hund"]
LINES = ["cat", "unhappy", "", "  dog  ", "zzz", "cat", "unhappyly", "cat dog"]


def rows(n: int, width: int = WIDTH, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32).astype(np.float64)


def text(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return model(tmp_path / "m", words_tokenizer(TOKENS), rows(10))


def expected() -> tuple[list[str], NDArray[np.float32]]:
    """The words of LINES and their vectors by hand; [UNK] is row 0."""
    table = rows(10)
    parts = {"cat": [1], "unhappy": [3, 4], "dog": [2], "unhappyly": [3, 4, 5], "cat dog": [1, 2]}
    return list(parts), np.array([table[own].mean(axis=0) for own in parts.values()]).astype(np.float32)


def test_vectors_are_means_of_rows(small: Path, tmp_path: Path) -> None:
    """To the bit of a sum in float64; a word given twice once; one that cannot be written left out and named."""
    found = words(small, text(tmp_path / "w.txt", LINES), out=tmp_path / "v.npy")
    names, vectors = expected()
    assert (found["words"], found["dimensions"], found["unknown"], found["repeated"]) == (5, WIDTH, ["zzz"], 1)
    assert found["rows_per_word"] == (1 + 2 + 1 + 3 + 2) / 5
    stored = np.load(tmp_path / "v.npy")
    assert (stored.dtype, stored.tobytes()) == (np.float32, vectors.tobytes())
    assert (tmp_path / "v.txt").read_text(encoding="utf-8").split("\n") == [*names, ""]
    assert found["files"] == [str(tmp_path / "v.npy"), str(tmp_path / "v.txt")]
    assert not problems("vocab_words", json.loads(json.dumps(found)))


def test_files_hold_the_same(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """word2vec's text gives float32 back, with words of several parts joined; safetensors has the words as JSON; and
    one word at a time is written as all at once."""
    listed = text(tmp_path / "w.txt", LINES)
    names, vectors = expected()
    words(small, listed, out=tmp_path / "v.vec")
    words(small, listed, out=tmp_path / "v.safetensors")
    whole = (tmp_path / "v.vec").read_bytes()
    head, *lines = whole.decode().splitlines()
    assert head == f"5 {WIDTH}"
    parsed = {line.split(" ")[0]: np.array(line.split(" ")[1:], dtype=np.float32) for line in lines}
    assert list(parsed) == [name.replace(" ", "_") for name in names]
    np.testing.assert_array_equal(np.array(list(parsed.values())), vectors)
    content = (tmp_path / "v.safetensors").read_bytes()
    (tensor,) = parse_file(content).values()
    np.testing.assert_array_equal(tensor.values(), vectors)
    size = int.from_bytes(content[:8], "little")
    assert json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["words"]) == names
    monkeypatch.setattr("suture.analysis.vocab_words.BLOCK", 1)
    words(small, listed, out=tmp_path / "w.vec")
    assert (tmp_path / "w.vec").read_bytes() == whole


def test_words_are_cut_as_behind_a_space(tmp_path: Path) -> None:
    """Where a tokenizer puts no space in front of a text, a word within one has other tokens; a lone space is none."""
    tokenizer = bytes_tokenizer([*grown(" cat")])
    table = rows(len(tokenizer["model"]["vocab"]))
    numbers = tokenizer["model"]["vocab"]
    folder = model(tmp_path / "a", tokenizer, table)
    words(folder, text(tmp_path / "w.txt", ["cat", "dog"]), out=tmp_path / "v.npy")
    found = np.load(tmp_path / "v.npy")
    np.testing.assert_array_equal(found[0], table[numbers["\u0120cat"]].astype(np.float32))
    dog = table[[numbers[c] for c in "dog"]].mean(axis=0)
    np.testing.assert_array_equal(found[1], dog.astype(np.float32))
    tokenizer = pieces_tokenizer(["▁", "▁cat", "猫"])
    folder = model(tmp_path / "b", tokenizer, table[:4])
    words(folder, text(tmp_path / "w.txt", ["cat", "猫"]), out=tmp_path / "v.npy", overwrite=True)
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), table[[2, 3]].astype(np.float32))


def oracle(x: NDArray[Any], y: NDArray[Any], gold: dict[int, list[int]], k: int) -> dict[str, tuple[float, float]]:
    """P@1 and MRR by cosine and by CSLS, as Conneau et al. write them, pair by pair."""
    x, y = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in (x, y))
    cosine = np.array([[float(a @ b) for b in y] for a in x])
    r_t = np.array([np.sort(row)[::-1][:k].mean() for row in cosine])
    r_s = np.array([np.sort(column)[::-1][:k].mean() for column in cosine.T])
    csls = np.array([[2 * cosine[i, j] - r_t[i] - r_s[j] for j in range(len(y))] for i in range(len(x))])
    found = {}
    for name, scores in (("cosine", cosine), ("csls", csls)):
        ranks = []
        for i, right in gold.items():
            order = np.argsort(-scores[i], kind="stable").tolist()
            first = next(j for j in order if j in right)
            ranks.append(1 + sum(j not in right for j in order[: order.index(first)]))
        found[name] = (float(np.mean([r == 1 for r in ranks])), float(np.mean([1 / r for r in ranks])))
    return found


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_csls_is_that_of_the_formula(sources: int, targets: int, k: int, seed: int) -> None:
    """Of random vectors and dictionaries, with several translations of a word."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(sources, 5)), rng.normal(size=(targets, 5))
    gold = {
        i: rng.choice(targets, rng.integers(1, min(targets, 3) + 1), replace=False).tolist() for i in range(sources)
    }
    found = induce(x, y, gold, neighbours=k)
    expected = oracle(x, y, gold, k)
    for name in ("cosine", "csls"):
        got = found[name]
        assert (got["p1"], got["mrr"]) == pytest.approx(expected[name])
    assert (found["sources"], found["targets"]) == (sources, targets)


def test_hubs_are_what_csls_is_for() -> None:
    """A target that is near everything is first by cosine; CSLS takes it back."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=(40, 12))
    x = y + 0.6 * rng.normal(size=y.shape) + 1.2
    y[0] = 1
    gold = {i: [i] for i in range(1, 40)}
    found = induce(x, y, gold)
    assert found["csls"]["p1"] > found["cosine"]["p1"] + 0.3


def test_an_identity_dictionary_is_found(small: Path, tmp_path: Path) -> None:
    """Each word is nearest to itself, by both; among words with one and the same vector too."""
    names = ["cat", "dog", "unhappy", "katze", "hund", "un"]
    pairs = text(tmp_path / "d.tsv", [f"{n}\t{n}" for n in names])
    found = words(small, dictionary=pairs)["dictionary"]
    assert found is not None
    assert (found["pairs"], found["sources"], found["targets"], found["left_out"]) == (6, 6, 6, 0)
    assert found["cosine"] == found["csls"] == {"p1": 1.0, "mrr": 1.0}
    alike = induce(np.ones((3, 4)), np.ones((3, 4)), {0: [0], 1: [1], 2: [2]})
    assert alike["cosine"] == alike["csls"] == {"p1": 1.0, "mrr": 1.0}


def test_a_dictionary_of_two_models(small: Path, tmp_path: Path) -> None:
    """Sources by the first, targets by the other; pairs without a vector are counted; as the formula has it."""
    table = rows(10, seed=7)
    other = model(tmp_path / "o", words_tokenizer(["katze", "hund", "maus"]), table)
    lines = ["cat\tkatze", "dog\thund", "un\tmaus", "cat\thund", "zzz\tmaus", "dog\tqqq", "cat\tkatze", ""]
    found = words(small, dictionary=text(tmp_path / "d.tsv", lines), other=other, neighbours=2)
    lookup = found["dictionary"]
    assert lookup is not None
    assert (lookup["pairs"], lookup["left_out"], lookup["sources"], lookup["targets"]) == (6, 2, 3, 3)
    first = rows(10)
    expected = oracle(first[[1, 2, 3]], table[[1, 2, 3]], {0: [0, 1], 1: [1], 2: [2]}, 2)
    assert (lookup["cosine"]["p1"], lookup["cosine"]["mrr"]) == pytest.approx(expected["cosine"])
    assert (lookup["csls"]["p1"], lookup["csls"]["mrr"]) == pytest.approx(expected["csls"])
    assert not problems("vocab_words", json.loads(json.dumps(found)))


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "words: give a file of words, or a dictionary"),
    "out without words": ({"dictionary": "d.tsv", "out": "v.npy"}, "out: needs words"),
    "other without a dictionary": ({"words": "w.txt", "other": "m"}, "other: needs a dictionary"),
    "neighbours": ({"dictionary": "d.tsv", "neighbours": 0}, "neighbours: expected a number from 1 on, found 0"),
    "ending": ({"words": "w.txt", "out": "v.csv"}, r"`v\.csv`: expected a name that ends in one of `\.vec`"),
    "there already": ({"words": "w.txt", "out": "w.txt"}, r"w\.txt: the list of words is read from it"),
    "list there already": ({"words": "w.txt", "out": "w.npy"}, r"w\.txt: the list of words is read from it"),
    "one word twice": ({"words": "joined.txt", "out": "v.vec"}, "`cat dog` and `cat_dog` are one word"),
    "no pair": ({"dictionary": "w.txt"}, r"w\.txt: line 1: expected two words with a tab between, found `cat`"),
    "empty": ({"dictionary": "empty.tsv"}, "has no pairs"),
    "no words": ({"words": "empty.tsv"}, "has no words"),
    "no words known": ({"dictionary": "z.tsv"}, "can write no word of the dictionary"),
    "no UTF-8": ({"words": "latin.txt"}, r"latin\.txt: line 1 is not UTF-8"),
    "missing": ({"words": "gone.txt"}, "no such file"),
    "width": ({"dictionary": "d.tsv", "other": "wide"}, "are 6 wide, those of .*wide 4; words of both have no space"),
    "no tokenizer": ({"dictionary": "d.tsv", "other": "bare"}, "bare: has no tokenizer"),
    "no row": ({"dictionary": "d.tsv", "other": "short"}, "token 3 has no row: `model.embed_tokens.weight` has 3"),
}


@pytest.mark.parametrize("name", BAD)
def test_mistakes(name: str, small: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Said by what is wrong, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    tokenizer = words_tokenizer([*TOKENS, "cat_dog", "_"])
    model(tmp_path / "wide", words_tokenizer(TOKENS), rows(8, 4))
    model(tmp_path / "short", words_tokenizer(TOKENS), rows(3))
    model(tmp_path / "bare", None, rows(8))
    into = small
    if name == "one word twice":
        into = model(tmp_path / "n", tokenizer, rows(10))
    text(tmp_path / "w.txt", ["cat", "dog"])
    text(tmp_path / "joined.txt", ["cat dog", "cat_dog"])
    text(tmp_path / "d.tsv", ["cat\tun", "dog\tkatze", "dog\tunhappy"])
    text(tmp_path / "z.tsv", ["zzz\tyyy"])
    text(tmp_path / "empty.tsv", [""])
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    before = sorted(p.name for p in tmp_path.iterdir())
    options, said = BAD[name]
    with pytest.raises(suture.SutureError, match=said):
        words(into, **options)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_missing_package(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told with the extra that has it."""
    listed = text(tmp_path / "w.txt", ["cat"])
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(suture.UsageError, match=r"pip install tokenizers"):
        words(small, listed)


def test_models_whose_tables_are_computed(small: Path, tmp_path: Path) -> None:
    """bfloat16 and half are widened, float64 is not narrowed before the mean."""
    listed = text(tmp_path / "w.txt", ["unhappy"])
    for dtype in ("BF16", "F16", "F64"):
        folder = model(tmp_path / dtype, words_tokenizer(TOKENS), rows(10), dtype=dtype)
        words(folder, listed, out=tmp_path / f"{dtype}.npy")
        stored = np.asarray(suture.open(folder)["model.embed_tokens.weight"])[[3, 4]].astype(np.float64)
        np.testing.assert_array_equal(np.load(tmp_path / f"{dtype}.npy")[0], stored.mean(axis=0).astype(np.float32))


def test_the_verb(small: Path, tmp_path: Path) -> None:
    """What is printed for people, and JSON."""
    listed = text(tmp_path / "w.txt", LINES)
    pairs = text(tmp_path / "d.tsv", ["cat\tcat", "dog\tdog"])
    call = ["words", str(small), "--words", str(listed), "--dictionary", str(pairs), "--out", str(tmp_path / "v.vec")]
    done = CliRunner().invoke(vocab, call)
    assert done.exit_code == 0, done.output
    assert "5 words of 6 numbers, 1.80 rows a word" in done.output
    assert "zzz: the vocabulary cannot write them" in done.output
    assert "2 words looked up among 2" in done.output
    assert "100.0 %" in done.output
    done = CliRunner().invoke(vocab, [*call, "--overwrite", "--json"])
    again = words(str(small), str(listed), dictionary=str(pairs), out=str(tmp_path / "v.vec"), overwrite=True)
    assert json.loads(done.stdout) == json.loads(json.dumps(again))
