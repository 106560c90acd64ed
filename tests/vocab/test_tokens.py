"""Reading vocabularies: every form, the files of older libraries, and files that are not sound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from suture.errors import SutureError
from suture.vocab.tokens import read

from ..support.vocabularies import FORMS, added, bpe, letters, unigram, whole, wordpiece, write

MODELS: dict[str, Any] = {
    "bytes": bpe(["a", "b", "Ġ", "Ã", "©"], [("a", "b"), ("Ġ", "a"), ("Ã", "©")]),
    "pieces": bpe(["<unk>", "<0xE9>", "▁", "a", "b", "é"], [("▁", "a"), ("a", "b")], byte_fallback=True),
    "Unigram": unigram({"<unk>": 0.0, "▁a": -1.0, "ab": -2.0, "é": -3.5}),
    "WordPiece": wordpiece(["[UNK]", "a", "##ab", "é", "ab"]),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read(form: str, tmp_path: Path) -> None:
    """Tokens of the model and added ones, by their numbers; kinds and roles."""
    data = whole(form, MODELS[form], ["<s>", "<x>"], plain=["plain"])
    found = read(write(tmp_path, data, {"bos": "<s>", "pad": "<nowhere>"}))
    size = len(MODELS[form]["vocab"])
    assert found.size == size + 3
    assert list(found.names) == list(range(size + 3))
    assert [found.names[size + i] for i in range(3)] == ["<s>", "<x>", "plain"]
    assert found.roles == {"bos": "<s>"}
    kinds = [found.kind(i) for i in range(found.size)]
    assert kinds[size:] == ["special", "special", "added"]
    assert set(kinds[:size]) == ({"normal", "byte"} if form == "pieces" else {"normal"})
    assert found.key(size) == ("bos", False, b"", False)
    assert found.key(size + 1) == ("special", False, b"<x>", False)


def test_tokens_of_different_forms_are_compared_by_bytes(tmp_path: Path) -> None:
    """The byte characters of GPT-2, the mark of SentencePiece, `##` and `<0xNN>` are ways to write bytes and spaces."""
    found = {form: read(write(tmp_path / form, whole(form, MODELS[form]))) for form in FORMS}

    def key(form: str, text: str) -> tuple[bool, bytes]:
        own = found[form].key(found[form].ids[text])
        return own.starts, own.content

    e = "é".encode()
    assert key("bytes", "Ã©") == key("pieces", "é") == key("Unigram", "é") == (False, e)
    assert key("WordPiece", "é") == (True, e)
    assert key("bytes", "Ġa") == key("pieces", "▁a") == key("Unigram", "▁a") == key("WordPiece", "a") == (True, b"a")
    assert key("bytes", "ab") == key("pieces", "ab") == key("WordPiece", "##ab") == (False, b"ab")
    assert key("pieces", "<0xE9>") == (False, b"\xe9")
    assert key("bytes", "Ã") == (False, b"\xc3")
    assert key("bytes", "Ġ") == key("pieces", "▁") == (True, b"")


def test_older_files_are_read(tmp_path: Path) -> None:
    """vocab.json with merges.txt is byte-level BPE, vocab.txt WordPiece; a token may be a character that ends lines."""
    write(tmp_path / "gpt2", None, {"eos": "<|end|>"}, vocab={"a": 0, "b": 1, "ab": 2}, added_tokens={"<|end|>": 3})
    (tmp_path / "gpt2" / "merges.txt").write_text("#version: 0.2\na b\n")
    found = read(tmp_path / "gpt2")
    assert (found.form, found.marks, found.names) == ("BPE", "bytes", {0: "a", 1: "b", 2: "ab", 3: "<|end|>"})
    assert found.kind(3) == "special"
    write(tmp_path / "bert", None)
    (tmp_path / "bert" / "vocab.txt").write_text("[PAD]\n\u2028\nab\n##c\n", encoding="utf-8")
    found = read(tmp_path / "bert")
    assert (found.form, found.marks, list(found.ids)) == ("WordPiece", "words", ["[PAD]", "\u2028", "ab", "##c"])


@pytest.mark.parametrize("name", ["tokenizer.model", "tekken.json", "spiece.model", "source.spm"])
def test_what_needs_another_library_is_slow(name: str, tmp_path: Path) -> None:
    """Its tokens are not known; without any file there is no vocabulary."""
    assert read(tmp_path).form == "none"
    (tmp_path / name).write_bytes(b"\x0a\x0b")
    found = read(tmp_path)
    assert (found.form, found.size) == ("slow", 0)


def test_tokens_only_the_config_knows_are_read(tmp_path: Path) -> None:
    """`added_tokens_decoder` and added_tokens.json add to tokenizer.json."""
    decoder = {"5": {**added(0, "<more>"), "id": None}}
    config = {"added_tokens_decoder": decoder, "bos_token": {"content": "<more>"}, "eos_token": None}
    data = whole("bytes", bpe(letters(5), []))
    found = read(write(tmp_path, data, tokenizer_config=config, added_tokens={"<last>": 6, "<more>": 5}))
    assert found.names[5] == "<more>"
    assert found.names[6] == "<last>"
    assert found.roles == {"bos": "<more>"}
    assert [found.kind(5), found.kind(6)] == ["special", "added"]


def test_numbers_without_a_token_are_left(tmp_path: Path) -> None:
    """Vocabularies of some families have them."""
    data = whole("bytes", bpe(letters(5), []))
    data["added_tokens"] = [added(9, "<x>")]
    found = read(write(tmp_path, data))
    assert found.size == 10
    assert 7 not in found.names


def vocab(**ids: Any) -> Any:
    return whole("bytes", {**bpe(["a", "b", "ab"], []), "vocab": {"a": 0, "b": 1, "ab": 2, **ids}})


def merges(*pairs: Any) -> Any:
    return whole("bytes", {**bpe(["a", "b", "ab"], []), "merges": list(pairs)})


def pieces(*more: Any, unknown: Any = 0) -> Any:
    return whole("Unigram", {"type": "Unigram", "unk_id": unknown, "vocab": [["<unk>", 0.0], *more]})


def entries(*more: Any) -> Any:
    return {**vocab(), "added_tokens": list(more)}


HOSTILE: dict[str, Any] = {
    "no model": {"added_tokens": []},
    "model of another type": {"model": [1]},
    "unknown form": {"model": {"type": "Magic", "vocab": {}}},
    "vocab is a list": {"model": {"type": "BPE", "vocab": ["a"], "merges": []}},
    "no vocab": {"model": {"type": "WordPiece"}},
    "no tokens": {"model": {"type": "BPE", "vocab": {}, "merges": []}},
    "number is text": vocab(c="3"),
    "number is a float": vocab(c=3.0),
    "number is true": vocab(c=True),
    "negative": vocab(c=-1),
    "beyond all": vocab(c=2**40),
    "huge": vocab(c=10**300),
    "far beyond the tokens": vocab(c=2_000_000),
    "two tokens of one number": vocab(c=2),
    "merge of three": merges("a b ab"),
    "merge of one": merges(["a"]),
    "merge is a number": merges(7),
    "merge of numbers": merges([1, 2]),
    "merge of lists": merges([["a"], ["b"]]),
    "merge of what is no token": merges(["a", "z"]),
    "merge makes no token": merges(["b", "a"]),
    "merges are no list": whole("bytes", {**bpe(["a"], []), "merges": {"a": "b"}}),
    "suffix is true": whole("bytes", bpe(["a"], [], end_of_word_suffix=True)),
    "unknown token is a list": whole("bytes", bpe(["a"], [], unk_token=["a"])),
    "pieces are a mapping": {"model": {"type": "Unigram", "vocab": {"a": 0}}},
    "piece without a score": pieces(["a"]),
    "score is text": pieces(["a", "x"]),
    "score is not finite": pieces(["a", float("nan")]),
    "piece twice": pieces(["a", -1.0], ["a", -2.0]),
    "unknown beyond the pieces": pieces(["a", -1.0], unknown=2),
    "unknown is text": pieces(["a", -1.0], unknown="a"),
    "added is no list": {**vocab(), "added_tokens": {"a": 3}},
    "added is text": entries("x"),
    "added without a number": entries({"content": "x"}),
    "added without text": entries({"id": 3, "content": None}),
    "added flag is text": entries({"id": 3, "content": "x", "special": "yes"}),
    "added with two numbers": entries(added(3, "x"), added(4, "x")),
    "added with the number of another": entries(added(2, "x")),
    "added twice with one number": entries(added(3, "x"), added(3, "y")),
    "added of another number than in the model": entries(added(3, "a")),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_not_sound_is_refused(case: str, tmp_path: Path) -> None:
    """By the path, and what is wrong there; nothing is guessed."""
    with pytest.raises(SutureError, match=r"tokenizer\.json: ") as raised:
        read(write(tmp_path, HOSTILE[case]))
    assert str(tmp_path) in str(raised.value)
    assert len(str(raised.value)) < 400 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", b"{"),
        ("tokenizer.json", b"[1]"),
        ("tokenizer.json", b"[" * 100_000),
        ("tokenizer.json", b'{"model": {"type": "BPE", "vocab": {"a": ' + b"9" * 5000 + b"}}}"),
        ("tokenizer.json", b"\xff\xfe"),
        ("tokenizer.json", b"version https://git-lfs.github.com/spec/v1\n"),
        ("vocab.json", b'{"a": null}'),
        ("vocab.txt", b"a\nb\na\n"),
        ("vocab.txt", b"\xff"),
        ("vocab.txt", b""),
        ("added_tokens.json", b'{"a": 0.5}'),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"x": {"content": "a"}}}'),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"-1": {"content": "a"}}}'),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"7": "a"}}'),
        ("tokenizer_config.json", b'{"added_tokens_decoder": [1]}'),
    ],
)
def test_files_that_are_none_are_refused(name: str, content: bytes, tmp_path: Path) -> None:
    """Broken JSON, deep JSON, pointers, other encodings."""
    if name in ("added_tokens.json", "tokenizer_config.json"):
        write(tmp_path, whole("bytes", bpe(letters(3), [])))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SutureError, match=name.replace(".", r"\.") if content else str(tmp_path)):
        read(tmp_path)


def test_merges_in_a_file_are_looked_at(tmp_path: Path) -> None:
    """As those in tokenizer.json."""
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1}))
    (tmp_path / "merges.txt").write_text("a b\n")
    with pytest.raises(SutureError, match=r"merges\.txt: .*`ab` is no token"):
        read(tmp_path)


def test_files_that_are_too_large_are_not_read(tmp_path: Path) -> None:
    """A tokenizer is never larger than 256 MiB."""
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(2**28 + 1)
    with pytest.raises(SutureError, match="at most 256 MiB"):
        read(tmp_path)
