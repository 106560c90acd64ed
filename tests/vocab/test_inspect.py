"""`suture vocab inspect`: sizes, special tokens, scripts, how text is cut, rows that look hardly trained."""

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

import suture
from suture.analysis.stored import tables
from suture.analysis.vocab_inspect import inspect
from suture.cli.vocab import vocab
from suture.results.vocabulary import Cut, VocabInspection
from suture.vocab.fertility import measure
from suture.vocab.segmenter import segmenter
from suture.vocab.tokens import read
from suture.vocab.unused import known_unused

from ..support.checkpoints import encode, write_checkpoint
from ..support.vocab_models import (
    HEAD,
    TABLE,
    byte_characters,
    bytes_tokenizer,
    grown,
    model,
    pieces_tokenizer,
    problems,
    words_tokenizer,
)
from ..support.vocabularies import write

#: Ten lines. Words, by hand: 3 + 2 + 1 + 2 + 2 + 0 + 2 + 1 + 2 + 1 = 16.
CORPUS = [
    "the cat sat",  # the cat sat: 3 tokens
    "unhappy cat",  # un ##happy cat: 3
    "unhappily",  # un ##hap ##pi ##ly: 4
    "the кот",  # the кот: 2
    "кот коты",  # кот кот ##ы: 3
    "",  # none
    "  the   cat  ",  # the cat: 2
    "zzz",  # [UNK]: 1
    "a 7",  # a 7: 2
    "猫",  # 猫: 1
]
PIECES = ["the", "cat", "sat", "un", "##happy", "##hap", "##pi", "##ly", "кот", "##ы", "a", "7", "猫"]


def corpus(place: Path, lines: list[str] = CORPUS, name: str = "text.txt") -> Path:
    place.mkdir(parents=True, exist_ok=True)
    path = place / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def cut_of(found: VocabInspection, script: str) -> Cut:
    assert found["text"] is not None
    return next(c for c in found["text"]["scripts"] if c["script"] == script)


def test_the_fertility_of_ten_lines(tmp_path: Path) -> None:
    """Counted by hand, in CORPUS: 21 tokens for 16 words, 2 of one character beside the one of Han; 1 unknown."""
    folder = write(tmp_path / "m", words_tokenizer(PIECES))
    found = inspect(folder, text=[corpus(tmp_path)])
    assert found["text"] is not None
    assert found["text"]["lines"] == 10
    whole = found["text"]["whole"]
    characters = sum(map(len, CORPUS))
    size = sum(len(line.encode()) for line in CORPUS)
    assert (whole["words"], whole["tokens"], whole["unknown"]) == (16, 21, 1)
    assert (whole["characters"], whole["bytes"]) == (characters, size) == (66, 66 + 10 + 2)
    # a, 7, 猫, ##ы
    assert whole["single"] == 4
    # unhappy, unhappily, коты
    assert whole["continued"] == 3
    assert whole["per_word"] == 21 / 16
    assert whole["per_character"] == 21 / characters
    assert whole["per_byte"] == 21 / size
    assert whole["unknown_share"] == 1 / 21
    assert whole["single_share"] == 4 / 21
    # the cat sat, unhappy cat, unhappily, the, the cat, zzz, a: 11 words; 3 + 3 + 4 + 1 + 2 + 1 + 1 = 15 tokens.
    latin = cut_of(found, "Latin")
    assert (latin["words"], latin["tokens"], latin["unknown"], latin["single"], latin["continued"]) == (11, 15, 1, 1, 2)
    assert latin["per_word"] == 15 / 11
    assert latin["characters"] == 9 + 7 + 3 + 9 + 3 + 6 + 3 + 1
    cyrillic = cut_of(found, "Cyrillic")
    assert (cyrillic["words"], cyrillic["tokens"], cyrillic["single"], cyrillic["bytes"]) == (3, 4, 1, 20)
    assert cyrillic["per_byte"] == 4 / 20
    assert (cut_of(found, "Han")["tokens"], cut_of(found, "digits")["tokens"]) == (1, 1)


def test_bytes_are_counted_where_their_word_begins(tmp_path: Path) -> None:
    """Byte-level: the space before a word belongs to it; a character of two bytes is two tokens of its word."""
    folder = write(tmp_path / "m", bytes_tokenizer([("t", "h"), ("th", "e"), (" ", "t")]))
    # the | space, c, a, t | space, 2 bytes of é; three spaces at the end.
    found = inspect(folder, text=[corpus(tmp_path, ["the cat é   "])])
    assert found["text"] is not None
    whole = found["text"]["whole"]
    assert (whole["words"], whole["tokens"], whole["unknown"]) == (3, 1 + 4 + 3 + 3, 0)
    latin = cut_of(found, "Latin")
    # Spaces alone: before `cat` and `é` and the last three.
    assert (latin["words"], latin["tokens"], latin["continued"]) == (3, 1 + 3 + 2, 2)
    # All but `the`.
    assert (whole["single"], latin["single"]) == (10, 5)


def test_pieces_are_counted_with_their_space(tmp_path: Path) -> None:
    """Unigram: the space is part of the first piece, or put in front of the text; the unknown is by its number."""
    folder = write(tmp_path / "m", pieces_tokenizer(["▁", "▁the", "▁cat", "s", "猫"]))
    found = inspect(folder, text=[corpus(tmp_path, ["the cats", "猫 the", "q"])])
    assert found["text"] is not None
    # ▁the ▁cat s | ▁ 猫 ▁the | ▁ <unk>
    assert (found["text"]["whole"]["words"], found["text"]["whole"]["tokens"]) == (5, 8)
    assert found["text"]["whole"]["unknown"] == 1
    assert (cut_of(found, "Latin")["tokens"], cut_of(found, "Han")["tokens"]) == (6, 2)


def test_words_that_are_dropped(tmp_path: Path) -> None:
    """A BPE without bytes or an unknown token leaves out what it cannot write: told, by script too."""
    folder = write(tmp_path / "m", bytes_tokenizer([*grown("кот")], all_bytes=False))
    found = inspect(folder, text=[corpus(tmp_path, ["zz кот", "y"])])
    assert found["text"] is not None
    assert (found["text"]["whole"]["lost"], cut_of(found, "Latin")["lost"], cut_of(found, "Cyrillic")["lost"]) == (
        2,
        2,
        0,
    )
    assert any("2 words of the text have no token" in w for w in found["warnings"])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=30), max_size=6))
def test_parts_add_up(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    """Scripts have all words; their tokens and those of spaces are all tokens; nothing is unknown to bytes."""
    folder = tmp_path_factory.getbasetemp() / "bytes"
    if not folder.exists():
        write(folder, bytes_tokenizer([(" ", "t"), ("e", "r")]))
    vocabulary = read(folder)
    cut = segmenter(folder)
    found = measure(vocabulary, cut, lines)
    assert found.lines == len(lines)
    assert found.whole.words == sum(c.words for c in found.scripts.values()) == sum(len(t.split()) for t in lines)
    assert found.whole.tokens == sum(len(cut.encode(t, add_special_tokens=False).ids) for t in lines)
    assert sum(c.tokens for c in found.scripts.values()) <= found.whole.tokens
    assert sum(c.characters for c in found.scripts.values()) == sum(len("".join(t.split())) for t in lines)
    assert found.whole.unknown == 0


def rows(n: int, width: int = 128, seed: int = 0) -> Any:
    """Rows of about one length, in all directions."""
    found = np.random.default_rng(seed).normal(size=(n, width))
    return 2.0 * found / np.linalg.norm(found, axis=1, keepdims=True)


def test_planted_rows_are_found(tmp_path: Path) -> None:
    """Rows of a low norm, rows in the direction of padding, and no other; by the head too, where it is its own."""
    tokenizer = bytes_tokenizer([("t", "h"), ("th", "e"), ("i", "n")], ["<s>"])
    table = rows(272)
    table[[40, 258]] *= [[0.1], [0.4]]
    padding = rows(1, seed=5)[0]
    table[260:] = padding * 0.5 + rows(12, seed=6) * 0.01
    table[[50, 256]] = padding
    head = rows(272, seed=9)
    head[30] = 0
    folder = model(tmp_path / "m", tokenizer, table, head=head, roles={"bos": "<s>"})
    found = inspect(folder)
    assert not problems("vocab_inspect", json.loads(json.dumps(found)))
    first, second = found["tables"]
    assert (first["name"], first["role"], second["name"], second["role"]) == (TABLE, "embedding", HEAD, "head")
    # Bytes that no text has: 13.
    assert first["unused"] == {"no byte of UTF-8": 13, "padding": 12}
    names = byte_characters()
    low = {r["id"]: r for r in first["undertrained"]}
    # The directions of 13 bytes at random hide nothing: the padding agrees.
    assert low.keys() == {40, 258, 50, 256}
    assert (low[40]["low"], low[40]["near"], low[50]["low"], low[50]["near"]) == (True, False, False, True)
    assert [r["id"] for r in first["undertrained"]][:2] == [40, 258]
    assert low[40]["token"] == names[40]
    np.testing.assert_allclose(low[40]["norm"], 0.2, rtol=1e-6)
    np.testing.assert_allclose(first["norms"]["median"], 2, rtol=1e-6)
    np.testing.assert_allclose(first["low"], 1, rtol=1e-6)
    # The mean direction of known-unused rows, by the formula.
    unused = [*(b for b in range(256) if b in (0xC0, 0xC1) or b >= 0xF5), *range(260, 272)]
    stored = table.astype(np.float32).astype(np.float64)
    middle = np.delete(stored, unused, axis=0).mean(axis=0)
    one, other = stored[50] - middle, stored[unused].mean(axis=0) - middle
    expected = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert low[50]["cosine"] == pytest.approx(expected, rel=1e-5)
    assert first["equal"] == 1
    assert second["zero"] == 1
    assert [r["id"] for r in second["undertrained"] if r["low"]] == [30]


def test_rows_that_are_no_numbers(tmp_path: Path) -> None:
    """NaN and infinities are counted, and change nothing of the rest."""
    tokenizer = bytes_tokenizer([("t", "h")])
    table = rows(270)
    table[5] *= 0.1
    clean = inspect(model(tmp_path / "a", tokenizer, table))["tables"][0]
    table[[7, 262]] = np.inf
    table[8, 3] = np.nan
    found = inspect(model(tmp_path / "b", tokenizer, table))["tables"][0]
    assert (clean["nonfinite"], found["nonfinite"]) == (0, 3)
    assert found["norms"]["median"] == pytest.approx(clean["norms"]["median"])
    assert [r["id"] for r in found["undertrained"]] == [r["id"] for r in clean["undertrained"]] == [5]


def test_reserved_tokens_are_known_to_be_unused(tmp_path: Path) -> None:
    """By the names that models give them; no other name with a number is taken for one."""
    kept = ["[unused1]", "<unused_12>", "<|reserved_special_token_7|>", "<SPECIAL_9>", "<|unused3|>", "<reserved-4>"]
    others = ["<extra_id_1>", "unused1", "<|im_start|>", "[CLS]", "<0xC0>", "<pad>", "<2de>"]
    folder = write(tmp_path / "m", words_tokenizer([*kept, *others]))
    assert {read(folder).names[n]: why for n, why in known_unused(read(folder), 14).items()} == dict.fromkeys(
        kept, "reserved"
    )


ROWS = 19
#: Names, shapes, and what each is: as row plans take them.
TENSORS: dict[str, tuple[tuple[int, ...], str | None]] = {
    "lm_head.weight": ((ROWS, 8), "head"),
    "lm_head.bias": ((ROWS,), "beside"),
    "final_logits_bias": ((1, ROWS), "beside"),
    "something.nobody.knows": ((ROWS, 3), "beside"),
    "embeddings.position_embeddings.weight": ((ROWS, 8), None),
    "model.norm.weight": ((8,), None),
}


@pytest.mark.parametrize("inside", [False, True])
def test_what_has_a_row_for_each_token(inside: bool, tmp_path: Path) -> None:
    """By names; by length where nothing in a layer is as long."""
    layer = {"model.layers.0.mlp.up_proj.weight": np.ones((ROWS if inside else 4, 8))}
    stored = {TABLE: np.ones((ROWS, 8)), **{n: np.ones(shape) for n, (shape, _) in TENSORS.items()}, **layer}
    write_checkpoint(tmp_path / "m", {n: encode(t, "F32") for n, t in stored.items()})
    found = {t.name: (t.role, t.rows) for t in tables(suture.open(tmp_path / "m"))}
    expected = {TABLE: ("embedding", ROWS)} | {n: (role, ROWS) for n, (_, role) in TENSORS.items() if role}
    if inside:
        del expected["something.nobody.knows"]
    assert found == expected


def test_a_sound_table_has_none(tmp_path: Path) -> None:
    """No share of the table is called hardly trained because it must be; a common direction tells nothing."""
    tokenizer = bytes_tokenizer([("t", "h")])
    found = inspect(model(tmp_path / "m", tokenizer, rows(257)))
    assert found["tables"][0]["undertrained"] == []
    found = inspect(model(tmp_path / "n", tokenizer, rows(257) * 0.1 + 1))
    assert found["tables"][0]["undertrained"] == []
    assert found["tables"][0]["near"] == 0.5
    # Padding that is the mean of the tokens has no direction of its own.
    table = rows(270) + 1
    never = [0xC0, 0xC1, *range(0xF5, 0x100)]
    table[[*never, *range(257, 270)]] = np.delete(table[:257], never, axis=0).mean(axis=0)
    found = inspect(model(tmp_path / "o", tokenizer, table))
    assert (found["tables"][0]["near"], found["tables"][0]["undertrained"]) == (None, [])


def test_blocks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table read row by row gives the figures of one read whole; in bfloat16."""
    folder = model(tmp_path / "m", bytes_tokenizer([("t", "h")]), rows(270), dtype="BF16")
    found = inspect(folder)
    monkeypatch.setattr("suture.vocab.tables.BLOCK", 64)
    again = inspect(folder)
    assert found["tables"][0]["unused"] == again["tables"][0]["unused"]
    for key in ("low", "near", "norms"):
        one, other = (t["tables"][0][key] for t in (found, again))
        assert one == pytest.approx(other, rel=1e-5)


def test_sizes(tmp_path: Path) -> None:
    """Numbers without a token, rows behind the last, tokens without a row."""
    tokenizer = words_tokenizer(PIECES)
    del tokenizer["model"]["vocab"]["sat"]
    found = inspect(model(tmp_path / "m", tokenizer, rows(20)))
    assert found["sizes"] == {"tokens": 13, "numbers": 14, "holes": 1, "rows": 20, "padding": 6, "beyond": 0}
    assert found["tables"][0]["unused"] == {"padding": 6, "no token": 1}
    assert any("1 numbers have no token" in w for w in found["warnings"])
    found = inspect(model(tmp_path / "n", tokenizer, rows(10)))
    assert (found["sizes"]["padding"], found["sizes"]["beyond"]) == (0, 4)
    assert any("4 tokens have numbers beyond the 10 rows" in w for w in found["warnings"])


def test_what_it_is(tmp_path: Path) -> None:
    """Form, special tokens by role, scripts of tokens: a tokenizer alone is enough."""
    tokenizer = pieces_tokenizer(["▁the", "кот", "<0x41>", "<0x42>", "12", "▁"], ["<s>", "<mask>"])
    tokenizer["model"]["byte_fallback"] = True
    found = inspect(write(tmp_path / "m", tokenizer, {"bos": "<s>", "eos": "<s>", "pad": "gone"}))
    assert found["kind"] == {
        "form": "Unigram", "marks": "pieces", "byte_level": False, "byte_fallback": True, "byte_tokens": 2,
    }  # fmt: skip
    assert found["special"] == [
        {"role": "bos", "token": "<s>", "id": 7}, {"role": "eos", "token": "<s>", "id": 7},
        {"role": "", "token": "<mask>", "id": 8},
    ]  # fmt: skip
    assert {s["script"]: s["tokens"] for s in found["scripts"]} == {
        "Latin": 3, "special": 3, "Cyrillic": 1, "digits": 1, "spaces": 1,
    }  # fmt: skip
    assert sum(s["tokens"] for s in found["scripts"]) == found["sizes"]["tokens"]
    assert (found["sizes"]["rows"], found["tables"], found["text"]) == (None, [], None)
    assert not problems("vocab_inspect", json.loads(json.dumps(found)))


def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No tokenizer, one that only another library reads, text that is none: said by path and line."""
    bare = model(tmp_path / "bare", None, rows(5))
    with pytest.raises(suture.UsageError, match=r"bare: has no tokenizer; expected a tokenizer\.json"):
        inspect(bare)
    (bare / "tokenizer.model").write_bytes(b"x")
    with pytest.raises(suture.UsageError, match=r"load its tokenizer with transformers once and save it"):
        inspect(bare)
    good = model(tmp_path / "good", words_tokenizer(PIECES), rows(14))
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"fine\nalso \xe9\n")
    with pytest.raises(suture.SutureError, match=r"bad\.txt: line 2 is not UTF-8 \(byte 6 of it\)"):
        inspect(good, text=[bad])
    with pytest.raises(suture.UsageError, match=r"gone\.txt`: no such file"):
        inspect(good, text=[tmp_path / "gone.txt"])
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(suture.UsageError, match=r"pip install tokenizers"):
        inspect(good, text=[corpus(tmp_path)])
    # Without text it is not needed.
    assert inspect(good)["text"] is None


def test_quantised_tables_are_passed_over(tmp_path: Path) -> None:
    """A dtype that is not computed on is told, and the rest is there."""
    folder = model(tmp_path / "m", words_tokenizer(PIECES), np.ones((14, 4)), dtype="U8")
    found = inspect(folder)
    assert found["tables"] == []
    assert any("is U8" in w for w in found["warnings"])


def test_the_verb(tmp_path: Path) -> None:
    """What is printed for people has the figures; JSON is what the function returns."""
    table = rows(20)
    table[3] *= 0.01
    folder = model(tmp_path / "m", words_tokenizer(PIECES), table)
    text = corpus(tmp_path)
    done = CliRunner().invoke(vocab, ["inspect", str(folder), "--text", str(text)])
    assert done.exit_code == 0, done.output
    assert "WordPiece, 14 tokens, 20 rows, 6 of padding" in done.output
    assert "1 token hardly trained" in done.output
    assert "1.31" in done.output
    done = CliRunner().invoke(vocab, ["inspect", str(folder), "--text", str(text), "--json"])
    assert json.loads(done.stdout) == json.loads(json.dumps(inspect(folder, text=[str(text)])))
    assert CliRunner().invoke(vocab, ["inspect", str(folder), "-q"]).output == ""
