"""Rows for the tokens of an output: the rules against an oracle, over random vocabularies; what is refused and told."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suture.errors import UsageError
from suture.recipe.vocabulary import Row, Tokenizer
from suture.vocab.align import Aligned, plan
from suture.vocab.differ import rows_differ

from ..reference.rows import Table, applied, tables
from ..support.vocabularies import FORMS, added, bpe, letters, unigram, whole, wordpiece, write

WIDTH = 3


def model(form: str, tokens: Sequence[str]) -> Any:
    """A model of a form, with these tokens."""
    if form == "Unigram":
        return unigram({text: -1.0 - i for i, text in enumerate(tokens)})
    return wordpiece(tokens) if form == "WordPiece" else bpe(tokens, [])


def random_tables(rows: Sequence[int]) -> list[Table]:
    rng = np.random.default_rng(7)
    return [rng.normal(size=(count, WIDTH)) for count in rows]


def wanted(source: str = "union", **more: Any) -> Tokenizer:
    return Tokenizer(source, "tokenizer", **more)


def check(found: Aligned, models: Sequence[Path], rows: Sequence[int], base: int | None, asked: Any = None) -> None:
    """The segments give the tables of the oracle, as data too, and the counts are of all rows."""
    tokens = [found.vocabularies[folder].ids for folder in models]
    stored = random_tables(rows)
    expected = tables(found.names, tokens, stored, base, asked or {}, found.rows)
    data = json.loads(json.dumps(found.as_data()))
    for segments, counts, table in zip(data["segments"], data["counts"], expected, strict=True):
        np.testing.assert_allclose(applied(segments, stored), table, atol=1e-12)
        assert sum(counts.values()) == found.rows
        assert sum(s["pad"] for s in segments if isinstance(s, dict) and "pad" in s) == counts["pad"]


WORDS = [a + b for a in ("", "x", "y", "▁", "##") for b in "abcdef"]


@st.composite
def cases(draw: st.DrawFn) -> Any:
    form = draw(st.sampled_from(FORMS))
    n = draw(st.integers(2, 3))
    words = st.lists(st.sampled_from(WORDS), min_size=3, max_size=12, unique=True)
    extra = st.lists(st.sampled_from(["<s>", "</s>", "<|x|>", "<pad>"]), max_size=3, unique=True)
    vocabularies = [(draw(words), draw(extra)) for _ in range(n)]
    sizes = [draw(st.integers(max(1, len(w) + len(e) - 2), len(w) + len(e) + 3)) for w, e in vocabularies]
    base = draw(st.none() | st.integers(0, n - 1))
    source = draw(st.sampled_from(["union", "base", "model"] if base is not None else ["union", "model"]))
    multiple = draw(st.sampled_from([None, 1, 4, 16]))
    zero = draw(st.booleans())
    row = draw(st.integers(0, sizes[0] - 1))
    return form, vocabularies, sizes, base, source, multiple, zero, row, draw(st.booleans())


@given(case=cases())
@settings(max_examples=100, deadline=None)
def test_rows_follow_the_rules(case: Any) -> None:
    """Every form, every source, padding, tokens of the config, tables smaller and larger than their tokens."""
    form, vocabularies, rows, base, source, multiple, zero, row, force = case
    with tempfile.TemporaryDirectory() as place:
        models = [
            write(Path(place) / f"m{i}", whole(form, model(form, words), extra))
            for i, (words, extra) in enumerate(vocabularies)
        ]
        asked = {
            "xa": Row("at", zero=True, force=force) if zero else Row("at", str(models[0]), row, force=force),
            "<new>": Row("at", str(models[0]), row),
        }
        named = str(models[-1]) if source == "model" else source
        found = plan(
            wanted(named, tokens=asked, pad_to_multiple_of=multiple),
            models,
            models[0],
            None if base is None else models[base],
            rows,
        )
        known = {text for words, extra in vocabularies for text in (*words, *extra)} | {"xa", "<new>"}
        lead = found.vocabularies[found.lead]
        assert {n for n in found.names if n} == (known if source == "union" else {*lead.ids, "xa", "<new>"})
        assert all(found.names[number] == text for text, number in lead.ids.items())
        assert found.tokens <= found.rows < found.tokens + (multiple or 1)
        given_row = random_tables(rows)[0][row]
        oracle = {"xa": (np.zeros(WIDTH) if zero else given_row, force), "<new>": (given_row, False)}
        check(found, models, rows, base, oracle)


def three(place: Path) -> list[Path]:
    """Of letters with an end each: the first and the second have it in common, the third's are the same but turned."""
    ends = (["</s>"], ["</s>", "<b>"], ["<c>"])
    given_words = (letters(8), letters(8), letters(8)[::-1])
    return [
        write(place / f"m{i}", whole("bytes", bpe(words, []), end))
        for i, (words, end) in enumerate(zip(given_words, ends, strict=True))
    ]


def test_runs_are_joined(tmp_path: Path) -> None:
    """What a model has in the same order is one segment."""
    models = three(tmp_path)
    found = plan(wanted(), models[:2], models[0], None, [9, 10])
    assert [list(own) for own in found.segments] == [[[9, 0, 0], [1, 1, 9]], [[10, 1, 0]]]
    assert [dict(own)["borrowed"] for own in found.counts] == [1, 0]
    found = plan(wanted(pad_to_multiple_of=16), models, models[0], None, [9, 10, 9])
    assert found.names == [*letters(8), "</s>", "<b>", "<c>"]
    assert found.segments[2] == [
        *([1, 2, row] for row in range(7, -1, -1)),
        {"mean": [[0, 8], [1, 8]]},
        [1, 1, 9],
        [1, 2, 8],
        {"pad": 5},
    ]


def test_large_vocabularies_that_mostly_agree_are_few_segments(tmp_path: Path) -> None:
    """So that a plan stays small."""
    words = [f"w{i}" for i in range(20_000)]
    models = [
        write(tmp_path / f"m{i}", whole("bytes", bpe(words[: 20_000 - i], []), [f"<{i}>"]))
        for i in range(2)
    ]  # fmt: skip
    found = plan(wanted(), models, models[0], None, [20_064, 20_064])
    assert len(json.dumps(found.as_data())) < 500
    assert found.rows == 20_002


def test_one_vocabulary_stays_as_it_is(tmp_path: Path) -> None:
    """If nothing else is asked for and tables have as many rows: padding is kept, files are copied."""
    models = [write(tmp_path / f"m{i}", whole("bytes", bpe(letters(8), []), ["<s>"])) for i in range(2)]
    found = plan(wanted(), models, models[0], None, [16, 16])
    assert (found.same, found.rows, found.segments) == (True, 16, ())
    assert "all models have the vocabulary" in found.notes[0][1]
    found = plan(wanted(), models, models[0], None, [16, 12])
    assert (found.same, found.rows) == (False, 9)
    found = plan(wanted(pad_to_multiple_of=4), models, models[0], None, [16, 16])
    assert (found.same, found.rows, found.segments[0]) == (False, 12, [[9, 0, 0], {"pad": 3}])
    found = plan(wanted(tokens={"a": Row("at", zero=True, force=True)}), models, models[0], None, [16, 16])
    assert found.segments[1] == [{"zero": 1}, [8, 1, 1]]


def test_slow_tokenizers_are_copied_and_nothing_else(tmp_path: Path) -> None:
    """If all models have the same files; else it is said what to do."""
    models = []
    for i in range(2):
        models.append(tmp_path / f"m{i}")
        models[i].mkdir()
        (models[i] / "tokenizer.model").write_bytes(b"pieces")
    assert plan(wanted(), models, models[0], None, [9, 9]).same
    (models[1] / "tokenizer.model").write_bytes(b"others")
    for source in ("union", "base"):
        with pytest.raises(UsageError, match="load its tokenizer with transformers once and save it"):
            plan(wanted(source), models, models[0], models[0], [9, 9])


def test_tokens_nobody_has_a_row_for_are_zeros_and_told(tmp_path: Path) -> None:
    """How many, and the first few; those of the config without a source, and those beyond all tables."""
    models = [write(tmp_path / f"m{i}", whole("bytes", bpe(letters(8), []), ["<s>"])) for i in range(2)]
    found = plan(wanted(tokens={"<new>": Row("at")}), models, models[0], None, [8, 8])
    assert found.segments[1] == [[8, 1, 0], {"zero": 2}]
    assert any("no model has a row for 2 tokens (`<s>`, `<new>`)" in note for note in found.told)
    assert sum("has no rows for 1 token (`<s>`)" in note for note in found.told) == 2
    assert any("no model has 1 token (`<new>`); the config adds it" in note for note in found.told)


def test_other_ways_to_write_a_space_are_told(tmp_path: Path) -> None:
    """Equal words are then different tokens."""
    models = [write(tmp_path / form, whole(form, model(form, letters(4)))) for form in ("bytes", "bytes", "pieces")]
    found = plan(wanted(pad_to_multiple_of=8), models, models[0], None, [4, 4, 4])
    assert [note for note in found.told if "otherwise" in note] == [
        f"{models[2]}: writes spaces and bytes otherwise than {models[0]}; words are other tokens there"
    ]


def test_numbers_without_a_token_are_padding(tmp_path: Path) -> None:
    """Of the model whose vocabulary it is too: the row means nothing."""
    data = whole("bytes", bpe(letters(4), []))
    data["added_tokens"] = [added(6, "<s>")]
    models = [write(tmp_path / "a", data), write(tmp_path / "b", whole("bytes", bpe(letters(4), []), ["<s>"]))]
    found = plan(wanted("base"), models, models[0], models[0], [8, 5])
    assert found.segments[0] == [[4, 0, 0], {"pad": 2}, [1, 0, 6]]
    assert found.segments[1] == [[4, 1, 0], {"pad": 2}, [1, 1, 4]]
    check(found, models, [8, 5], 0)


def test_a_base_that_is_not_merged_lends_its_tokens(tmp_path: Path) -> None:
    """And so does any other model; rows are of those that are merged."""
    models = three(tmp_path)
    for source in ("base", str(models[2])):
        found = plan(wanted(source), models[:2], models[0], models[2], [9, 10])
        assert found.names == [*letters(8)[::-1], "<c>"]
        check(found, models[:2], [9, 10], None)
        assert found.counts[0]["zero"] == 1


def test_what_cannot_be_planned_is_refused(tmp_path: Path) -> None:
    """A model without tokenizer, sources that are no model of the merge or have no such token or row."""
    models = three(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="none has no tokenizer"):
        plan(wanted(), [*models, tmp_path / "none"], models[0], None, [9, 10, 9, 9])
    # Without a base, what lends its config is meant.
    assert plan(wanted("base"), models, models[0], None, [9, 10, 9]).lead == models[0]
    for row, message in (
        (Row("here", str(tmp_path / "none")), "is none of the models that are merged"),
        (Row("here", str(models[2]), "<b>"), "has no token `<b>`"),
        (Row("here", str(models[2])), "has no token `<b>`"),
        (Row("here", str(models[2]), 9), "token 9 of .* has no row; its table has 9 rows"),
    ):
        with pytest.raises(UsageError, match=message) as raised:
            plan(wanted(tokens={"<b>": row}), models, models[0], None, [9, 10, 9])
        assert raised.value.at == "here"


def test_a_path_can_be_written_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base and sources of tokens are models of the merge, whatever their path looks like."""
    models = three(tmp_path)
    monkeypatch.chdir(tmp_path)
    asked = {"<b>": Row("here", "m1/../m1")}
    found = plan(wanted(tokens=asked), models, models[0], Path("m1"), [9, 10, 9])
    check(found, models, [9, 10, 9], 1)


def test_rows_that_differ_are_named(tmp_path: Path) -> None:
    """By how many, which tokens, and whether they are only padding; files that cannot be read do not matter."""
    models = three(tmp_path)
    (tmp_path / "none").mkdir()
    a, b, c = models
    none = tmp_path / "none"
    assert rows_differ([a, b], [9, 9]) == ""
    assert rows_differ([a, b], [9, 12]) == f"{b} has 3 rows more than {a}: 1 token (`<b>`), 2 of padding"
    assert rows_differ([a, b, c], [16, 9, 16]) == f"{a} has 7 rows more than {b}: only padding"
    assert rows_differ([c, b], [9, 10]) == f"{b} has 1 row more than {c}: 1 token (`<b>`)"
    assert rows_differ([a, none], [9, 10]).endswith("cannot be told, as its tokenizer cannot be read")
    many = write(tmp_path / "many", whole("bytes", bpe(letters(8), []), [f"<{i}>" for i in range(9)]))
    assert "9 tokens (`<0>`, `<1>`, `<2>`, `<3>`, `<4>` and 4 more)" in rows_differ([a, many], [8, 17])
