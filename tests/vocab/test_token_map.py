"""Maps of tokens: by text, bytes, edit distance and counts, against oracles; what they are written as."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from suture.errors import SutureError, UsageError
from suture.surgery.vocab_align import aligned_plan, vocab_align
from suture.vocab.columns import plain_text, written_text
from suture.vocab.rowplan import CLASSES
from suture.vocab.tokenmap import by_counts, by_distance
from suture.vocab.tokens import read
from suture.vocab.warping import counted, path_of

from ..reference import transplant as oracle
from ..support.transplants import EMBED, carried_out, model, sound, tokenizer

pytest.importorskip("tokenizers")
pytest.importorskip("rapidfuzz")

A = ["a", "b", "c", "Ġ", "ab", "Ġa", "abc", "cab", "Ġcab"]
B = ["a", "b", "c", "▁", "ab", "▁a", "abcb", "ca", "▁ca", "d"]


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, Path]:
    tokenizer(tmp_path / "a", "bytes", A)
    tokenizer(tmp_path / "b", "pieces", B)
    return tmp_path / "a", tmp_path / "b"


def mapped(found: Any) -> dict[str, str | None]:
    return {t: found.to.names.get(int(found.number[n])) for n, t in found.of.names.items()}


@pytest.mark.parametrize("method", ["exact", "bytes", "mined"])
def test_the_same_tokenizer_maps_to_itself(method: str, both: tuple[Path, Path]) -> None:
    """Every token to itself, and all are covered."""
    for folder in both:
        found, told = vocab_align(folder, folder, method=method)
        assert mapped(found) == {t: t for t in read(folder).ids}
        assert told["coverage"] == 1.0
        assert set(told["classes"]) == {"kept", "special"}


def test_what_is_exact_is_the_same_text(both: tuple[Path, Path]) -> None:
    """Marks of words are text; roles are not."""
    found, told = vocab_align(*both, method="exact")
    own = mapped(found)
    assert own["ab"] == "ab"
    assert own["Ġa"] is None
    assert own["<s>"] == "<s>"
    by_bytes, _ = vocab_align(*both, method="bytes")
    assert mapped(by_bytes)["Ġa"] == "▁a"
    assert told["classes"]["none"] == sum(v is None for v in own.values())


def test_what_is_mined_is_nearest(both: tuple[Path, Path]) -> None:
    """By Levenshtein's distance, the word start being a character; of equal ones the first."""
    found, told = vocab_align(*both, method="mined")
    of, to = found.of, found.to
    numbers = [n for n in to.names if not to.key(n).role]
    shown = {n: ("▁" if to.key(n).starts else "") + to.key(n).content.decode() for n in numbers}
    mined = [n for n in of.names if found.kind[n] == "mined"]
    assert {of.names[n] for n in mined} >= {"cab", "Ġcab"}
    for n in mined:
        text = ("▁" if of.key(n).starts else "") + of.key(n).content.decode()
        distances = [oracle.edits(text, shown[m]) for m in numbers]
        assert int(found.number[n]) == numbers[int(np.argmin(distances))]
        assert found.score[n] == min(distances)
    assert told["distance"] == np.mean([found.score[n] for n in mined])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6))
def test_warping_is_cheapest(rows: int, columns: int, seed: int) -> None:
    """The path costs what the recursion says, begins and ends in the corners, and makes no leaps."""
    costs = np.random.default_rng(seed).integers(0, 5, size=(rows, columns)).astype(np.int32)
    path = path_of(costs)
    assert sum(int(costs[i, j]) for i, j in path) == oracle.warped(costs)[0]
    assert (path[0], path[-1]) == ((0, 0), (rows - 1, columns - 1))
    assert {(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(path)} <= {(0, 1), (1, 0), (1, 1)}


def test_counts_are_of_tokens_that_stand_beside_each_other(tmp_path: Path) -> None:
    """The map takes the token seen most; of as many the nearest; what the text does not hold goes by its bytes."""
    tokenizer(tmp_path / "a", "Unigram", ["a", "b", "c", "▁", "▁cab", "abc", "d"])
    tokenizer(tmp_path / "b", "Unigram", ["a", "b", "c", "▁", "▁ca", "d"])
    (tmp_path / "t.txt").write_text("cab cab\n\ncab a\n", encoding="utf-8")
    of, to = read(tmp_path / "a"), read(tmp_path / "b")
    counts = counted(of, to, [tmp_path / "t.txt"])
    own = {of.names[n]: {to.names[m]: c for m, c in c.items()} for n, c in counts.items()}
    # Of `▁cab ▁ a` and `▁ca b ▁ a` the `b` goes with the space: distance 1, not 2.
    assert own == {"▁cab": {"▁ca": 3, "b": 2}, "▁": {"b": 1, "▁": 1}, "a": {"a": 1}}
    found, told = vocab_align(tmp_path / "a", tmp_path / "b", method="stats", texts=[tmp_path / "t.txt"])
    number = of.ids["▁cab"]
    assert mapped(found)["▁cab"] == "▁ca"
    assert mapped(found)["▁"] == "▁"
    assert (found.kind[number], found.score[number]) == ("counted", 3)
    assert found.kind[of.ids["d"]] == "kept"
    assert found.number[of.ids["abc"]] == -1
    assert told["classes"] == {"counted": 3, "kept": 4, "none": 1, "special": 2}


def test_statistics_choose_by_count_and_mined_by_letters(tmp_path: Path) -> None:
    """On five tokens by hand: one is seen with another most, and is spelt like a third."""
    tokenizer(tmp_path / "a", "Unigram", ["k", "w"])
    tokenizer(tmp_path / "b", "Unigram", ["xyz", "kk", "yyyy"])
    of, to = read(tmp_path / "a"), read(tmp_path / "b")
    k, x, kk, y = of.ids["k"], to.ids["xyz"], to.ids["kk"], to.ids["yyyy"]
    assert mapped(by_counts(of, to, {k: {x: 9, kk: 2}}))["k"] == "xyz"
    assert mapped(by_distance(of, to))["k"] == "kk"
    assert mapped(by_counts(of, to, {k: {kk: 3, y: 3}}))["k"] == "kk"
    assert mapped(by_counts(of, to, {k: {x: 9, y: 1}}))["k"] == "xyz"
    assert mapped(by_counts(of, to, {}, reference=True))["w"] == "</s>"


def test_the_published_choice_is_the_rarer_of_two(tmp_path: Path) -> None:
    """Of the same distance: sigmoid(1) is less than sigmoid(5); we take what was seen more."""
    tokenizer(tmp_path / "a", "Unigram", ["k"])
    tokenizer(tmp_path / "b", "Unigram", ["x", "y"])
    of, to = read(tmp_path / "a"), read(tmp_path / "b")
    seen = {of.ids["k"]: {to.ids["x"]: 5, to.ids["y"]: 1}}
    assert mapped(by_counts(of, to, seen))["k"] == "x"
    assert mapped(by_counts(of, to, seen, reference=True))["k"] == "y"


def test_the_table_can_be_read_again(tmp_path: Path, both: tuple[Path, Path]) -> None:
    """Titles, then a line a token; what would break a line is written otherwise."""
    _, told = vocab_align(*both, method="mined", output=tmp_path / "map.tsv")
    lines = (tmp_path / "map.tsv").read_text(encoding="utf-8").split("\n")
    assert lines[0].split("\t") == ["token", "id", "match", "match_id", "class", "score"]
    rows = [line.split("\t") for line in lines[1:-1]]
    assert [int(row[1]) for row in rows] == list(range(told["tokens"]))
    ids, others = read(both[0]).ids, read(both[1]).ids
    for token, number, match, other, kind, score in rows:
        assert ids[plain_text(token)] == int(number)
        assert (match == "") == (other == "") == (kind == "none")
        assert not match or others[plain_text(match)] == int(other)
        assert (score != "") == (kind == "mined")
    with pytest.raises(UsageError, match=r"map\.tsv: exists"):
        vocab_align(*both, method="mined", output=tmp_path / "map.tsv")
    vocab_align(*both, method="bytes", output=tmp_path / "map.tsv", overwrite=True)


@settings(max_examples=50, deadline=None)
@given(st.text("\\\t\n\rtnab\u2028", max_size=12))
def test_tokens_survive_being_written(text: str) -> None:
    r"""Tabs, lines and backslashes come back; nothing that ends a line or a column is left."""
    assert not set("\t\n\r") & set(written_text(text))
    assert plain_text(written_text(text)) == text


def test_a_map_is_a_row_plan(tmp_path: Path) -> None:
    """The other model with this tokenizer: each row that of its match, pieces where there is none."""
    model(tmp_path / "a", "bytes", A)
    ids, tables = model(tmp_path / "b", "pieces", B, seed=3)
    found, _ = vocab_align(tmp_path / "a", tmp_path / "b", method="mined")
    plan = aligned_plan(found, tmp_path / "b", tmp_path / "a", "mined")
    sound(plan)
    assert plan.verb == "align"
    made = carried_out(plan.table, [tables[EMBED]], len(plan.names))
    for token, match in mapped(found).items():
        assert match is not None
        assert (made[found.of.ids[token]] == tables[EMBED][ids[match]]).all()
    names = list(CLASSES)
    assert names[plan.kind[found.of.ids["cab"]]] == "copied"
    assert found.of.ids["cab"] not in plan.moved.values()
    assert plan.reasons[plan.why[found.of.ids["cab"]]] == "the nearest token of the map"


def test_what_is_wrong_is_refused(both: tuple[Path, Path], tmp_path: Path) -> None:
    """Texts that are none, or belong to another method."""
    (tmp_path / "t.txt").write_bytes(b"ok\n\xff\n")
    with pytest.raises(SutureError, match=r"t\.txt: line 2 is not UTF-8"):
        vocab_align(*both, method="stats", texts=[tmp_path / "t.txt"])
    (tmp_path / "e.txt").write_bytes(b"\n\n")
    with pytest.raises(SutureError, match="no text in it"):
        vocab_align(*both, method="stats", texts=[tmp_path / "e.txt"])
    with pytest.raises(UsageError, match="are missing; give --text"):
        vocab_align(*both, method="stats")
    with pytest.raises(UsageError, match="are of the method stats, not of mined"):
        vocab_align(*both, method="mined", texts=[tmp_path / "t.txt"])
    with pytest.raises(UsageError, match="fuzzy: belongs to method bytes"):
        vocab_align(*both, method="exact", fuzzy=True)
    with pytest.raises(UsageError, match="did you mean `mined`"):
        vocab_align(*both, method="minded")
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="has no tokenizer"):
        vocab_align(both[0], tmp_path / "none", method="bytes")


def test_the_command_prints_and_writes(both: tuple[Path, Path], tmp_path: Path) -> None:
    """The table on stdout, or in a file and its figures as text or JSON."""
    from suture.cli.vocab.align import align

    run = CliRunner().invoke
    printed = run(align, [*map(str, both), "--method", "bytes"])
    assert printed.exit_code == 0
    assert printed.stdout.splitlines()[0].startswith("token\tid\t")
    told = run(align, [*map(str, both), "--method", "mined", "-o", str(tmp_path / "m.tsv")])
    assert "100.0 % have a match" in told.output
    as_json = run(align, [*map(str, both), "--method", "mined", "-o", str(tmp_path / "n.tsv"), "--json"])
    assert json.loads(as_json.stdout)["coverage"] == 1.0
    assert (tmp_path / "m.tsv").read_text() == (tmp_path / "n.tsv").read_text()
