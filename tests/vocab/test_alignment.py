"""Trans-tokenization's counts and smoothing against oracles that compare every token with every other."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suture.surgery.vocab_transplant import transplant_plan
from suture.vocab.alignment import Counts, smooth, split
from suture.vocab.neighbours import sparsemax
from suture.vocab.rowplan import RowPlan

from ..reference import transplant as oracle
from ..support.transplants import EMBED, carried_out, model, sound

UNITS = st.lists(st.integers(0, 6), min_size=1, max_size=5)


@given(st.lists(st.tuples(UNITS, UNITS, st.floats(0.5, 1e6)), max_size=6))
def test_counts_are_split_as_the_paper_has_it(pairs: list[tuple[list[int], list[int], float]]) -> None:
    """Half to all pairs, half along both units, at least 1 each; of single tokens whole."""
    found: Counts = {}
    for old, new, count in pairs:
        split(found, old, new, count)
    expected = oracle.counted(pairs)
    assert found.keys() == expected.keys()
    for new_token, own in expected.items():
        assert found[new_token].keys() == own.keys()
        for old_token, share in own.items():
            np.testing.assert_allclose(found[new_token][old_token], share, rtol=1e-12)


TEXTS = st.lists(st.text("ab", min_size=1, max_size=6), min_size=1, max_size=14, unique=True)


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.data())
def test_smoothing_is_what_all_pairs_say(texts: list[str], data: st.DataObject) -> None:
    """Tokens that begin with it and the longest parts, none inside another; 2000 of one that begins a word."""
    starts = [" " * data.draw(st.booleans()) + text for text in texts]
    texts = list(dict.fromkeys(starts))
    known = data.draw(st.lists(st.sampled_from(range(len(texts))), unique=True))
    counts = {n: {k: float(v) for k, v in data.draw(st.dictionaries(st.integers(0, 3), st.integers(1, 9), min_size=1,
              max_size=3)).items()} for n in known}  # fmt: skip
    found = smooth(counts, {n: t.encode() for n, t in enumerate(texts)})
    expected = oracle.smoothed(counts, dict(enumerate(texts)))
    assert found.keys() == expected.keys()
    for number, own in expected.items():
        assert found[number].keys() == own.keys()
        for old, count in own.items():
            np.testing.assert_allclose(found[number][old], count, rtol=1e-9)


def test_smoothing_does_not_grow_with_the_square() -> None:
    """60,000 tokens, half of them without counts, take seconds: all pairs would be a billion."""
    rng = np.random.default_rng(0)
    words = list(
        dict.fromkeys(bytes(rng.integers(97, 107, size=rng.integers(2, 9)).astype(np.uint8)) for _ in range(60_000))
    )
    counts = {n: {n: 1.0} for n in range(0, len(words), 2)}
    began = time.monotonic()
    found = smooth(counts, dict(enumerate(words)))
    assert len(found) > len(words) // 3
    assert time.monotonic() - began < 20


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=1, max_size=30))
def test_sparsemax_is_the_projection(values: list[float]) -> None:
    """By bisection; it adds up to 1."""
    row = np.array(values)
    places, weights = sparsemax(row)
    made = np.zeros(len(row))
    made[places] = weights
    np.testing.assert_allclose(made, oracle.sparsemax(row), atol=1e-12)
    assert (weights > 0).all()


def test_a_support_of_nearly_all_is_found() -> None:
    """Where the largest few are not enough all are looked at."""
    row = np.full(2000, 0.5) + np.random.default_rng(0).uniform(0, 1e-5, size=2000)
    places, weights = sparsemax(row)
    assert len(places) > 1500
    np.testing.assert_allclose(weights.sum(), 1)


OLD = ["a", "b", "c", "▁", "▁a", "▁b", "ab", "▁ab", "1", "2"]
NEW = ["a", "b", "c", "x", "▁", "▁x", "xx", "xa", "▁xx", "1", "2", "12", "▁12"]


def planned(tmp_path: Path, table: str, **given: Any) -> tuple[dict[str, int], Any, dict[str, int], RowPlan, Any]:
    ids, tables = model(tmp_path / "base", "pieces", OLD)
    new, _ = model(tmp_path / "donor", "pieces", NEW)
    (tmp_path / "t.tsv").write_text(table, encoding="utf-8")
    plan = transplant_plan(tmp_path / "base", tmp_path / "donor", "alignment", {"table": tmp_path / "t.tsv", **given})
    sound(plan)
    return ids, tables, new, plan, carried_out(plan.table, [tables[EMBED]], len(plan.names))


@pytest.mark.filterwarnings("error")
def test_words_are_cut_by_both_tokenizers(tmp_path: Path) -> None:
    """A dictionary of words: each is segmented as at the beginning of a word; one that nobody knows is counted."""
    pytest.importorskip("tokenizers")
    ids, tables, new, plan, made = planned(tmp_path, "ab\txx\nq\txx\n", units="words", smooth=False)
    assert (made[new["▁xx"]] == tables[EMBED][ids["▁ab"]]).all()
    assert (plan.figures["pairs"], plan.figures["unknown"]) == (1, 1)


def test_numbers_and_parts_lend_counts(tmp_path: Path) -> None:
    """A number goes to the first token it is cut into; `▁x` and `xx` are lent by `▁xx`, which begins a word or not."""
    pytest.importorskip("tokenizers")
    ids, tables, new, plan, made = planned(tmp_path, "▁ab\t▁xx\t5\nb\tx\t3\n")
    e = tables[EMBED]
    assert (made[new["12"]] == e[ids["1"]]).all()
    # `▁x` begins `▁xx` (2000), holds `x` (1000) and `▁` (its own, 2000, a space alone).
    weight = {"▁ab": 2000.0, "b": 1000.0, "▁": 2000.0}
    row = sum(share * e[ids[token]] for token, share in weight.items()) / 5000
    np.testing.assert_allclose(made[new["▁x"]], row)
    # `xa` is lent by its parts x and a; both have counts.
    np.testing.assert_allclose(made[new["xa"]], (e[ids["b"]] + e[ids["a"]]) / 2)
    assert plan.figures["smoothed"] >= 3


def test_rare_lines_and_empty_words_are_passed_over(tmp_path: Path) -> None:
    """Below the least count, and <eps>; a log probability may stand before the count."""
    _, _, _, plan, _ = planned(
        tmp_path, "a\tx\t9\na\tx\t-0.5\t11\n<eps>\tx\t99\nb\tx\t-1\t10\n", min_count=10.0, smooth=False
    )
    assert (plan.figures["pairs"], plan.figures["rare"]) == (2, 1)
