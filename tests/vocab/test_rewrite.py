"""Law: after tokens got other numbers, text is segmented into the same tokens, and each file says the new numbers."""

from __future__ import annotations

import importlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suture.errors import SutureError, UsageError
from suture.vocab.rewrite import NewToken, rewritten
from suture.vocab.tokens import read

from ..support.vocabularies import added, bpe, unigram, whole, wordpiece, write

tokenizers = pytest.importorskip("tokenizers")
sentencepiece = pytest.importorskip("sentencepiece")

AROUND = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
}


def model(form: str, pairs: bool = True) -> Any:
    """A tokenizer of a form with ``<s>`` as token 0, which is put before texts and pads them."""
    letters = list("abcd")
    if form in ("bytes", "pieces"):
        space = {"bytes": "Ġ", "pieces": "▁"}[form]
        merges = [("a", "b"), ("ab", "c"), (space, "a"), ("c", "d"), (space, "cd"), ("b", "c")]
        inner = bpe(["<s>", "<unk>", *letters, space], merges, pairs=pairs, unk_token="<unk>")
    elif form == "Unigram":
        scores = {
            "▁": -3.1,
            "a": -4.2,
            "b": -4.3,
            "c": -4.5,
            "d": -4.6,
            "ab": -5.1,
            "▁a": -4.9,
            "bcd": -6.3,
            "cd": -5.7,
        }
        inner = unigram({"<s>": 0.0, "<unk>": 0.0, **scores}, 1)
    else:
        inner = wordpiece(["<s>", "[UNK]", *letters, *(f"##{c}" for c in letters), "ab", "##bc", "##cd"])
    data = whole(form, inner, ["<x>", "<y>"])
    data["added_tokens"].insert(0, added(0, "<s>"))
    data["post_processor"] = {"type": "Sequence", "processors": [AROUND]}
    way = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_type_id": 0}
    data["padding"] = {**way, "pad_id": 0, "pad_token": "<s>"}
    return data


def laid(folder: Path, moved: dict[int, int], **more: Any) -> tuple[Path, Any]:
    """The output's files, in a folder."""
    found = rewritten(read(folder), moved, **more)
    out = folder.parent / "out"
    out.mkdir()
    for name, data in found.written:
        (out / name).write_bytes(data)
    for name, source in found.copied:
        assert name not in dict(found.written)
        (out / name).write_bytes(Path(source).read_bytes())
    return out, found


def loaded(folder: Path) -> Any:
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


@given(data=st.data(), form=st.sampled_from(["bytes", "pieces", "Unigram", "WordPiece"]))
@settings(max_examples=80, deadline=None)
def test_any_permutation_of_numbers_segments_alike(data: st.DataObject, form: str) -> None:
    """Same tokens for any text, each under the number that was asked for; also what is put around it."""
    before = model(form, pairs=data.draw(st.booleans()))
    inside = len(before["model"]["vocab"])
    order = data.draw(st.permutations(range(inside)))
    # Added tokens stand behind those of the model, as the library has it.
    moved = dict(enumerate([*order, inside, inside + 1]))
    texts = data.draw(st.lists(st.text("abcd ~", max_size=12), max_size=5))
    with tempfile.TemporaryDirectory() as place:
        folder = write(Path(place) / "m", before)
        out, _ = laid(folder, moved)
        old, new = loaded(folder), loaded(out)
        for text in [*texts, "a<x>ab <s>cd<y>"]:
            one, other = old.encode(text), new.encode(text)
            assert other.tokens == one.tokens
            assert other.ids == [moved[i] for i in one.ids]
        assert new.get_vocab() == {text: moved[i] for text, i in old.get_vocab().items()}
        assert new.padding["pad_id"] == moved[0]


@pytest.mark.parametrize("form", ["bytes", "pieces", "Unigram", "WordPiece"])
@pytest.mark.parametrize("pairs", [True, False])
def test_the_same_numbers_change_nothing(form: str, pairs: bool, tmp_path: Path) -> None:
    """With every token where it was the files say what they said, in the form they said it in."""
    before = model(form, pairs)
    decoder = {"0": {"content": "<s>", "special": True}}
    folder = write(tmp_path / "m", before, {"bos": "<s>"}, tokenizer_config={"added_tokens_decoder": decoder, "x": [1]})
    out, found = laid(folder, {i: i for i in read(folder).names})
    assert json.loads((out / "tokenizer.json").read_text()) == before
    assert [name for name, _ in found.copied] == ["tokenizer_config.json"]
    assert not found.told


def test_tokens_leave_and_join(tmp_path: Path) -> None:
    """Merges of what leaves go; what joins is numbered as asked; configs and old files follow; templates are told."""
    before = model("bytes", pairs=False)
    vocab = before["model"]["vocab"]
    config = {
        "added_tokens_decoder": {
            str(i): {"content": t, "special": True} for i, t in [(0, "<s>"), (13, "<x>"), (14, "<y>")]
        },
        "additional_special_tokens": ["<x>", "<y>"],
        "sep_token": "<x>",
        "bos_token": {"content": "<s>"},
        "chat_template": "{{ '<x>' + text }}",
    }
    folder = write(tmp_path / "m", before, tokenizer_config=config, vocab=vocab, added_tokens={"<x>": 13, "<y>": 14})
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(before["model"]["merges"]) + "\n")
    own = read(folder)
    gone = {own.ids[text] for text in ("cd", "Ġcd", "bc", "<x>", "<y>")}
    moved = {old: new for new, old in enumerate(i for i in own.names if i not in gone)} | {14: 11}
    joined = {10: NewToken("dx"), 12: NewToken("<new>", "special", flags=frozenset(["lstrip"]))}
    out, found = laid(folder, moved, new=joined)
    after = json.loads((out / "tokenizer.json").read_text())
    assert after["model"]["merges"] == ["a b", "ab c", "Ġ a"]
    assert list(after["model"]["vocab"].items())[-1] == ("dx", 10)
    assert [(e["id"], e["content"], e["lstrip"]) for e in after["added_tokens"]] == [
        (0, "<s>", False), (11, "<y>", False), (12, "<new>", True),
    ]  # fmt: skip
    assert loaded(out).token_to_id("<new>") == 12
    settings_ = json.loads((out / "tokenizer_config.json").read_text())
    assert {at: e["content"] for at, e in settings_["added_tokens_decoder"].items()} == {
        "0": "<s>", "11": "<y>", "12": "<new>",
    }  # fmt: skip
    assert settings_["additional_special_tokens"] == ["<y>"]
    assert "sep_token" not in settings_
    assert settings_["bos_token"] == {"content": "<s>"}
    assert json.loads((out / "vocab.json").read_text()) == after["model"]["vocab"]
    assert (out / "merges.txt").read_text() == "#version: 0.2\na b\nab c\nĠ a\n"
    assert json.loads((out / "added_tokens.json").read_text()) == {"<y>": 11, "<new>": 12}
    assert found.told == [
        f"{folder}/tokenizer_config.json: the chat template names 1 token (`<x>`), no longer in the vocabulary"
    ]
    assert read(out).size == 13


def test_merges_are_those_asked_for_in_the_form_found(tmp_path: Path) -> None:
    """A planner's merges are written as the file had them, texts or pairs."""
    for pairs, first in ((True, ["b", "c"]), (False, "b c")):
        folder = write(tmp_path / f"m{pairs}" / "m", model("pieces", pairs))
        own = read(folder)
        merges = [("b", "c"), ("a", "b"), ("bc", "d")]
        new = {own.size: NewToken("bcd")}
        # A token of the model behind added ones has the library number these otherwise, so they join it.
        out, _ = laid(folder, {i: i for i in own.names}, new=new, merges=merges)
        after = json.loads((out / "tokenizer.json").read_text())["model"]
        assert after["merges"][0] == first
        assert len(after["merges"]) == 3
        assert loaded(out).encode("abcd", add_special_tokens=False).tokens == ["▁", "a", "bcd"]
        assert loaded(out).get_vocab() == {**own.ids, "bcd": own.size}


def test_what_a_file_needs_cannot_leave(tmp_path: Path) -> None:
    """The unknown token and what is put around texts: an error, not a tokenizer that fails when it is used."""
    for i, (text, what) in enumerate([("<unk>", "model.unk_token"), ("<s>", "post_processor")]):
        folder = write(tmp_path / str(i), model("pieces"))
        own = read(folder)
        moved = {old: new for new, old in enumerate(n for n in own.names if n != own.ids[text])}
        with pytest.raises(UsageError, match=f"{what} is `{text}`, which cannot leave"):
            rewritten(own, moved)


def test_numbers_that_make_no_vocabulary_are_refused(tmp_path: Path) -> None:
    """Two of one number, unknown ones, texts twice, a Unigram list with holes."""
    own = read(write(tmp_path / "m", model("Unigram")))
    same = {i: i for i in own.names}
    with pytest.raises(UsageError, match="two tokens cannot both have number 3"):
        rewritten(own, {**same, 4: 3})
    with pytest.raises(UsageError, match="has no token 99"):
        rewritten(own, {**same, 99: 99})
    with pytest.raises(UsageError, match="`ab` is a token already"):
        rewritten(own, same, new={own.size: NewToken("ab")})
    with pytest.raises(SutureError, match="by their place; some places are empty"):
        rewritten(own, {i: i for i in own.names if i != 5})


def spm(pieces: list[tuple[str, float, int]], kind: int = 1) -> Any:
    form: Any = importlib.import_module("sentencepiece.sentencepiece_model_pb2")
    proto = form.ModelProto()
    proto.trainer_spec.model_type = kind
    proto.trainer_spec.vocab_size = len(pieces)
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = True
    for text, score, type_ in pieces:
        proto.pieces.add(piece=text, score=score, type=type_)
    return proto


WORDS = [
    (text, score, 1)
    for text, score in {"▁": -3.1, "a": -4.2, "b": -4.3, "c": -4.5, "ab": -5.1, "▁a": -4.9, "bc": -6.0}.items()
]


@given(order=st.permutations(range(7)), texts=st.lists(st.text("abc ~", max_size=9), max_size=4))
@settings(max_examples=40, deadline=None)
def test_sentencepiece_files_follow(order: list[int], texts: list[str]) -> None:
    """XLM-R's numbers: pieces from 1 on, three placed by hand, the mask last; segmented alike by the library."""
    with tempfile.TemporaryDirectory() as place:
        tmp = Path(place)
        tokens = {"<s>": 0.0, "<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0, **{t: s for t, s, _ in WORDS}, "<mask>": 0.0}
        folder = write(tmp / "m", whole("Unigram", unigram(tokens, 3)))
        proto = spm([("<unk>", 0, 2), ("<s>", 0, 3), ("</s>", 0, 3), *WORDS])
        (folder / "sentencepiece.bpe.model").write_bytes(proto.SerializeToString())
        moved = {i: i for i in range(4)} | {4 + i: 4 + at for i, at in enumerate(order)} | {11: 12}
        out, _ = laid(folder, moved, new={11: NewToken("ca", score=-6.5)})
        old = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.bpe.model"))
        new = sentencepiece.SentencePieceProcessor(model_file=str(out / "sentencepiece.bpe.model"))
        assert new.vocab_size() == old.vocab_size() + 1
        assert new.piece_to_id("ca") + 1 == 11
        for i, (text, _, _) in enumerate(WORDS):
            assert new.piece_to_id(text) + 1 == moved[4 + i] == read(out).ids[text]
        for text in texts:
            if "ca" not in text:
                assert new.encode(text, out_type=str) == old.encode(text, out_type=str)
        for text in ("ca", " ca"):
            assert new.encode(text, out_type=str)[-1] == "ca"


def test_pieces_that_cannot_be_numbered_are_told(tmp_path: Path) -> None:
    """A list with a hole is no SentencePiece file: left out, and said."""
    tokens = ["<unk>", "<s>", "</s>", *(t for t, _, _ in WORDS)]
    folder = write(tmp_path / "m", whole("pieces", bpe(tokens, [], unk_token="<unk>")))
    proto = spm([("<unk>", 0, 2), ("<s>", 0, 3), ("</s>", 0, 3), *WORDS], 2)
    (folder / "tokenizer.model").write_bytes(proto.SerializeToString())
    own = read(folder)
    moved = {i: i for i in own.names if i != 5}
    out, found = laid(folder, moved)
    assert not (out / "tokenizer.model").exists()
    assert found.told == [f"{folder}/tokenizer.model: cannot number its tokens as the output does and is left out"]
    (folder / "tokenizer.model").write_bytes(b"no protobuf")
    with pytest.raises(SutureError, match=r"tokenizer\.model: cannot be read as a SentencePiece model"):
        rewritten(own, moved)
