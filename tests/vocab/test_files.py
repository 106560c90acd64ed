"""The files beside tokenizer.json, and the numbers in config.json and generation_config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from suture.errors import SutureError
from suture.recipe.vocabulary import Row, Tokenizer
from suture.vocab.align import Aligned, plan
from suture.vocab.ids import with_changes
from suture.vocab.tokens import read
from suture.vocab.write import Files, files

from ..support.vocabularies import added, bpe, letters, unigram, whole, write

Json = dict[str, Any]


def made(
    folders: list[Path], source: str = "union", base: Path | None = None, tokens: Mapping[str, Row] | None = None
) -> tuple[Aligned, Files]:
    found = plan(Tokenizer(source, "tokenizer", tokens or {}), folders, folders[0], base, [1000] * len(folders))
    return found, files(found, folders[0])


def written(found: Files, name: str) -> Any:
    return json.loads(dict(found.written)[name])


def laid(found: Files, place: Path) -> Path:
    place.mkdir()
    for name, data in found.written:
        (place / name).write_bytes(data)
    for name, source in found.copied:
        (place / name).write_bytes(Path(source).read_bytes())
    return place


def test_a_models_own_tokens_are_its_files(tmp_path: Path) -> None:
    """Nothing is written for the base's vocabulary or a model's, nor where others have nothing more."""
    data = whole("bytes", bpe(letters(6), []), ["<s>"])
    folders = [write(tmp_path / "a", whole("bytes", bpe(letters(5), []))), write(tmp_path / "b", data)]
    for source, base in (("base", folders[1]), (str(folders[1]), None), ("union", folders[1])):
        found, given = made(folders, source, base)
        assert given.written == []
        assert given.copied == [(n, str(folders[1] / n)) for n in ("tokenizer.json", "tokenizer_config.json")]
        assert found.names[-1] == "<s>"


def test_every_file_of_the_lead_gets_the_tokens(tmp_path: Path) -> None:
    """The decoder of added tokens by their numbers, added_tokens.json, vocab.json; those without tokens stay."""
    data = whole("bytes", bpe(["a", "b"], [("a", "b")]), ["<s>"])
    config = {
        "tokenizer_class": "X",
        "bos_token": "<s>",
        "added_tokens_decoder": {"3": {**added(3, "<s>"), "extra": 1}},
    }
    more: dict[str, Any] = {"special_tokens_map": {"bos_token": "<s>"}, "added_tokens": {"<s>": 3}}
    lead = write(tmp_path / "a", data, tokenizer_config=config, vocab=data["model"]["vocab"], **more)
    (lead / "merges.txt").write_text("#version: 0.2\na b\n")
    (lead / "chat_template.jinja").write_text("x")
    other = write(tmp_path / "b", whole("bytes", bpe(["a", "b"], [("b", "a")]), ["<x>"], plain=["<y>"]))
    found, given = made([lead, other])
    assert found.names == ["a", "b", "ab", "<s>", "ba", "<x>", "<y>"]
    decoder = written(given, "tokenizer_config.json")["added_tokens_decoder"]
    assert list(decoder) == ["3", "5", "6"]
    assert decoder["3"]["extra"] == 1
    assert (decoder["5"]["special"], decoder["6"]["special"]) == (True, False)
    assert written(given, "added_tokens.json") == {"<s>": 3, "<x>": 5, "<y>": 6}
    assert written(given, "vocab.json") == {"a": 0, "b": 1, "ab": 2, "ba": 4, "<s>": 3, "<x>": 5, "<y>": 6}
    assert {n for n, _ in given.copied} == {"merges.txt", "special_tokens_map.json", "chat_template.jinja"}
    again = read(laid(given, tmp_path / "out"))
    assert list(again.names.values()) == found.names
    assert again.roles == {"bos": "<s>"}


def test_files_of_other_libraries_stay_while_they_are_true(tmp_path: Path) -> None:
    """A SentencePiece model is, with further added tokens beside it, but not with further words; tekken.json never."""
    for i, words in enumerate((letters(5), letters(6), ["bc", *letters(5)])):
        write(tmp_path / f"m{i}", whole("bytes", bpe(words, []), ["<x>"] if i else ["<s>"]))
    lead = tmp_path / "m0"
    (lead / "tokenizer.model").write_bytes(b"x")
    _, given = made([lead, tmp_path / "m1"])
    assert "tokenizer.model" in dict(given.copied)
    (lead / "tekken.json").write_text("{}")
    _, given = made([lead, tmp_path / "m1"])
    assert "tekken.json" not in dict(given.copied)
    assert given.told == [f"{lead}: tekken.json cannot hold further tokens and is left out"]
    _, given = made([lead, tmp_path / "m2"])
    assert not {"tekken.json", "tokenizer.model"} & dict(given.copied).keys()


def test_numbers_that_do_not_follow_cannot_be_added_to_everywhere(tmp_path: Path) -> None:
    """A Unigram tokenizer has no way to say them."""
    data = whole("Unigram", unigram({"<unk>": 0.0, "a": -1.0}))
    data["added_tokens"] = [added(4, "<s>")]
    other = write(tmp_path / "b", whole("Unigram", unigram({"<unk>": 0.0, "a": -1.0}), ["<x>"]))
    with pytest.raises(SutureError, match="not numbered one after the other"):
        made([write(tmp_path / "a", data), other])


CONFIG: Json = {
    "model_type": "x", "vocab_size": 8, "bos_token_id": 5, "eos_token_id": [6, 7], "pad_token_id": None,
    "image_token_index": 0, "decoder_start_token_id": 5, "hidden_size": 5, "unk_token_id": -1,
    "text_config": {"vocab_size": 8, "eos_token_id": 6, "num_layers": 6},
    "vision_config": {"token_id": 5, "vocab_size": 3},
}  # fmt: skip
GENERATION: Json = {
    "eos_token_id": [7, 6], "suppress_tokens": [1, 5], "begin_suppress_tokens": [7], "bad_words_ids": [[0, 1], [0, 7]],
    "forced_decoder_ids": [[1, 5], [2, None]], "max_length": 6,
}  # fmt: skip


def pair(tmp_path: Path) -> list[Path]:
    """Of the same letters, turned, with ends of their own; the first lends its config."""
    a = write(tmp_path / "a", whole("bytes", bpe(letters(5), []), ["<s>", "</s>", "<end>"]), {"eos": "</s>"})
    data = whole("bytes", bpe(letters(5)[::-1], []), ["</s>", "<s>", "<pad>"])
    b = write(tmp_path / "b", data, {"eos": "</s>", "bos": "<s>"})
    for folder, name, config in (
        (a, "config", CONFIG),
        (a, "generation_config", GENERATION),
        (b, "config", {"vocab_size": 8, "eos_token_id": 5, "bos_token_id": 6}),
    ):
        (folder / f"{name}.json").write_text(json.dumps(config))
    return [a, b]


def test_numbers_move_with_their_tokens(tmp_path: Path) -> None:
    """One, lists, lists of lists, nested configs; what is no token's number stays."""
    folders = pair(tmp_path)
    found, given = made(folders, "union", folders[1])
    assert found.names == [*"edcba", "</s>", "<s>", "<pad>", "<end>"]
    assert given.ids["config.json"] == {
        "vocab_size": 9, "bos_token_id": 6, "eos_token_id": [5, 8], "image_token_index": 4, "decoder_start_token_id": 6,
        "text_config": {"vocab_size": 9, "eos_token_id": 5},
    }  # fmt: skip
    assert given.ids["generation_config.json"] == {
        "eos_token_id": [8, 5], "suppress_tokens": [3, 6], "begin_suppress_tokens": [8],
        "bad_words_ids": [[4, 3], [4, 8]], "forced_decoder_ids": [[1, 6], [2, None]],
    }  # fmt: skip
    assert given.told == []
    changed = with_changes(CONFIG, given.ids["config.json"])
    assert changed["text_config"] == {"vocab_size": 9, "eos_token_id": 5, "num_layers": 6}
    assert changed["vision_config"] == CONFIG["vision_config"]


def test_tokens_the_output_lacks_leave_the_lists(tmp_path: Path) -> None:
    """A number alone becomes the lead's for the same key, or for the role, or nothing; it is told."""
    folders = pair(tmp_path)
    config = {**CONFIG, "eos_token_id": 7, "bos_token_id": 7, "pad_token_id": 7, "decoder_start_token_id": 7}
    (folders[0] / "config.json").write_text(json.dumps(config))
    _, given = made(folders, "base", folders[1])
    ids = given.ids["config.json"]
    assert (ids["eos_token_id"], ids["bos_token_id"], ids["pad_token_id"]) == (5, 6, None)
    assert ids["decoder_start_token_id"] is None
    assert given.ids["generation_config.json"]["eos_token_id"] == [5]
    assert given.ids["generation_config.json"]["begin_suppress_tokens"] is None
    assert given.ids["generation_config.json"]["bad_words_ids"] == [[4, 3]]
    assert any("1 of bad_words_ids name tokens that the output does not have" in note for note in given.told)
    assert any("eos_token_id 7 is a token that the output does not have; that of" in note for note in given.told)
    assert any("pad_token_id 7 is a token that the output does not have; left out" in note for note in given.told)


def test_of_the_lead_no_number_moves(tmp_path: Path) -> None:
    """Only how many there are."""
    folders = pair(tmp_path)
    _, given = made(folders, "union")
    assert given.ids == {"config.json": {"vocab_size": 9, "text_config": {"vocab_size": 9}}}
