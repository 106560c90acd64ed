"""Law: under the output's tokenizer text is segmented as under the lead's, but for the tokens others have added."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suture.recipe.vocabulary import Tokenizer
from suture.vocab.align import Aligned, plan
from suture.vocab.write import Files, files

from ..support.vocabularies import added, bpe, unigram, whole, wordpiece, write

tokenizers = pytest.importorskip("tokenizers")

START = {"bytes": "Ġ", "pieces": "▁", "Unigram": "▁", "WordPiece": ""}
KINDS = ["bytes", "ignore_merges", "pieces", "byte_fallback", "Unigram", "WordPiece"]
ENDS = ["<s>", "</s>", "<|x|>", "ab", "<pad>"]


def laid(aligned: Aligned, found: Files, place: Path) -> Any:
    """The output's tokenizer, from its files in a folder."""
    place.mkdir()
    for name, data in found.written:
        (place / name).write_bytes(data)
    for name, source in found.copied:
        (place / name).write_bytes(Path(source).read_bytes())
    return tokenizers.Tokenizer.from_file(str(place / "tokenizer.json"))


@st.composite
def merged(draw: st.DrawFn, /, alphabet: list[str], **more: Any) -> Any:
    tokens, pairs = list(alphabet), []
    for _ in range(draw(st.integers(0, 12))):
        pair = draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens))
        if pair not in pairs and pair[0] + pair[1] != "<unk>":
            pairs.append(pair)
            tokens.append(pair[0] + pair[1])
    return bpe(alphabet, pairs, pairs=draw(st.booleans()), **more)


@st.composite
def models(draw: st.DrawFn, kind: str) -> Any:
    """A tokenizer of a kind: letters, some of which it lacks, and what is made of them."""
    form = kind if kind in START else {"ignore_merges": "bytes", "byte_fallback": "pieces"}[kind]
    some = draw(st.lists(st.sampled_from("abcdé"), min_size=2, unique=True))
    parts = draw(st.lists(st.text("abcdé", min_size=1, max_size=3), max_size=8, unique=True))
    score = st.floats(-9, -1)
    if form == "bytes":
        model = draw(merged([*(c for c in some if c != "é"), "Ã", "©", "Ġ"], ignore_merges=kind != form))
    elif form == "pieces":
        units = [f"<0x{byte:02X}>" for byte in range(256)] if kind == "byte_fallback" else []
        model = draw(merged(["<unk>", *units, *some, "▁"], unk_token="<unk>", byte_fallback=bool(units)))
    elif form == "Unigram":
        model = unigram({"<unk>": 0.0, **{p: draw(score) for p in dict.fromkeys(["▁", *some, *parts, "▁a"])}})
    else:
        model = wordpiece(list(dict.fromkeys(["[UNK]", *some, *(f"##{c}" for c in some), *parts])))
    extra = [t for t in draw(st.lists(st.sampled_from(ENDS), max_size=3, unique=True)) if t not in str(model)]
    plain = [t for t in extra if draw(st.booleans())]
    return whole(form, model, [t for t in extra if t not in plain], plain=plain)


@st.composite
def cases(draw: st.DrawFn) -> Any:
    kind = draw(st.sampled_from(KINDS))
    others = st.lists(st.sampled_from(KINDS), min_size=1, max_size=2)
    found = [draw(models(one)) for one in (kind, *draw(others))]
    texts = draw(
        st.lists(st.lists(st.sampled_from(["a", "b", "c", "d", "é", " ", "~", *ENDS]), max_size=12), max_size=6)
    )
    return found, ["".join(t) for t in texts], draw(st.sampled_from(["union", "base"]))


def by_library(data: Any, aligned: Aligned) -> Any:
    """The lead's tokenizer with the added tokens of others, added by the library."""
    made = tokenizers.Tokenizer.from_str(json.dumps(data))
    for token in aligned.added.values():
        flags = {flag: flag in token.flags for flag in ("single_word", "lstrip", "rstrip", "normalized", "special")}
        made.add_tokens([tokenizers.AddedToken(token.text, **flags)])
    return made


@given(case=cases())
@settings(max_examples=120, deadline=None)
def test_text_is_segmented_as_the_lead_does(case: Any) -> None:
    """All forms, as leads and as donors; the lead's tokens keep their numbers, and each row is the token it is for."""
    data, texts, source = case
    with tempfile.TemporaryDirectory() as place:
        folders = [write(Path(place) / f"m{i}", one) for i, one in enumerate(data)]
        rows = [1000] * len(folders)
        found = plan(Tokenizer(source, "tokenizer"), folders, folders[0], folders[0], rows)
        made = laid(found, files(found, folders[0]), Path(place) / "out")
        oracle = by_library(data[0], found)
        for text in texts:
            assert made.encode(text).tokens == oracle.encode(text).tokens
        for at, name in enumerate(found.names):
            if name not in found.hidden and name is not None:
                assert made.token_to_id(name) == at
        lead = tokenizers.Tokenizer.from_str(json.dumps(data[0]))
        assert made.get_vocab().items() >= lead.get_vocab().items()
        for text in texts:
            if not any(token in text for token in found.added):
                assert made.encode(text).ids == lead.encode(text).ids


def union(place: Path, *data: Any) -> tuple[Aligned, Files, Any]:
    folders = [write(place / f"m{i}", one) for i, one in enumerate(data)]
    found = plan(Tokenizer("union", "tokenizer"), folders, folders[0], None, [1000] * len(folders))
    made = files(found, folders[0])
    return found, made, laid(found, made, place / "out")


ONE = bpe(["a", "b", "c", "Ġ"], [("a", "b")])


def test_words_of_others_get_a_place_where_no_text_reaches_it(tmp_path: Path) -> None:
    """In BPE without merges for them; their numbers go on behind the lead's added tokens, which keep theirs."""
    other = bpe(["a", "b", "c", "d", "Ġ"], [("b", "c"), ("a", "bc")])
    found, _, made = union(tmp_path, whole("bytes", ONE, ["<s>"]), whole("bytes", other, ["<x>"]))
    assert found.names == ["a", "b", "c", "Ġ", "ab", "<s>", "bc", "abc", "<x>", "d"]
    assert found.hidden == {"d"}
    assert made.encode("abc<x>bc<s>").tokens == ["ab", "c", "<x>", "b", "c", "<s>"]
    assert made.encode("<s><x>").ids == [5, 8]
    assert made.decode([7, 6]) == "abcbc"
    assert any("segment text otherwise: 1 token (`d`)" in note for note in found.told)


@pytest.mark.parametrize("kind", ["ignore_merges", "Unigram", "WordPiece"])
def test_words_that_would_be_found_have_no_place(kind: str, tmp_path: Path) -> None:
    """Forms that look up whatever is a token: rows are there, behind all others."""
    lead = {
        "ignore_merges": whole("bytes", {**ONE, "ignore_merges": True}, ["<s>"]),
        "Unigram": whole("Unigram", unigram({"<unk>": 0.0, "▁": -1.0, "a": -1.0, "b": -1.0}), ["<s>"]),
        "WordPiece": whole("WordPiece", wordpiece(["[UNK]", "a", "##b"]), ["<s>"]),
    }[kind]
    found, _, made = union(tmp_path, lead, whole("bytes", bpe(["b", "z"], [("z", "b")]), ["<x>"]))
    assert found.hidden >= {"zb", "z"}
    assert found.tokens == made.get_vocab_size() + len(found.hidden)
    assert all(name in found.hidden for name in found.names[made.get_vocab_size() :])
    assert made.token_to_id("<x>") == made.token_to_id("<s>") + 1


def test_bytes_of_others_are_not_bytes_of_the_lead(tmp_path: Path) -> None:
    """A lead that falls back to bytes it does not have gives the unknown token, and goes on to do so."""
    lead = bpe(["<unk>", "▁", "a"], [], unk_token="<unk>", byte_fallback=True)
    other = bpe(
        ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a"], [], unk_token="<unk>", byte_fallback=True
    )
    found, _, made = union(tmp_path, whole("pieces", lead, ["<s>"]), whole("pieces", other))
    assert len(found.hidden) == 256
    assert made.encode("aé").tokens == ["▁", "a", "<unk>"]


def test_what_the_lead_says_stays(tmp_path: Path) -> None:
    """The form of merges, the post-processor, the number of the unknown token."""
    lead = whole("Unigram", unigram({"a": -1.0, "<unk>": 0.0}, unknown=1), ["<s>"])
    lead["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [2], "tokens": ["<s>"]}},
    }
    _, made, library = union(tmp_path, lead, whole("Unigram", unigram({"b": -1.0, "<unk>": 0.0}), ["<x>"]))
    written = json.loads(dict(made.written)["tokenizer.json"])
    assert written["post_processor"] == lead["post_processor"]
    assert written["model"] == lead["model"]
    assert written["added_tokens"] == [*lead["added_tokens"], added(3, "<x>")]
    encoded = library.encode("a<x>")
    assert (encoded.tokens[0], encoded.tokens[-1], encoded.ids[0], encoded.ids[-1]) == ("<s>", "<x>", 2, 3)
    for i, pairs in enumerate((True, False)):
        own = whole("bytes", bpe(["a", "b"], [("a", "b")], pairs=pairs))
        _, made, _ = union(tmp_path / str(i), own, whole("bytes", bpe(["a"], []), ["<x>"]))
        assert json.loads(dict(made.written)["tokenizer.json"])["model"]["merges"] == own["model"]["merges"]
