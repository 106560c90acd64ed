"""Laws of other forms of tokens: TransMI (Liu et al., arXiv 2405.09913), against an oracle written from its steps."""

# Texts in other scripts are what these are about.
# ruff: noqa: RUF001

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suture.errors import SutureError, UsageError
from suture.vocab.rowplan import MIX
from suture.vocab.tokens import read
from suture.vocab.transliterate import transliterate

from ..support.grown import applied, check_plan, laid, matrix
from ..support.vocabularies import bpe, unigram, whole, wordpiece, write

tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("sentencepiece")

#: Pieces with their scores, out of order; two have one form, one the form of a token.
PIECES = {
    "<unk>": 0.0, "▁": -2.0, "▁да": -3.5, "дa": -6.0, "▁дa": -3.0, "да": -5.0, "ь": -4.0, "a": -6.5, "d": -6.6,
    "▁мир": -5.5, "мир": -7.0, "mir": -7.5, "b": -8.0,
}  # fmt: skip
FORMS = {"▁да": "▁da", "▁дa": "▁da", "да": "da", "дa": "da", "ь": "▁", "▁мир": "▁mir", "мир": "mir"}


def model(place: Path, pieces: Mapping[str, float] = PIECES, special: Sequence[str] = ("<s>", "<mask>")) -> Path:
    """A model as XLM-R's are: the first special tokens before the pieces, the mask behind."""
    first, last = list(special[:-1]), special[-1]
    listed = {**dict.fromkeys(first, 0.0), **pieces, last: 0.0}
    data = whole("Unigram", unigram(listed, len(first)))
    at = {text: i for i, text in enumerate(listed)}
    data["added_tokens"] = [
        {"id": at[text], "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True} for text in special
    ]  # fmt: skip
    return write(place, data, {"bos": first[0], "mask": last, "unk": "<unk>"})


def table(place: Path, forms: Mapping[str, str] = FORMS) -> Path:
    place.write_text("".join(f"{a}\t{b}\n" for a, b in forms.items()), encoding="utf-8")
    return place


def oracle(names: Sequence[str], scores: Mapping[str, float], forms: Mapping[str, str], mode: str) -> Any:
    """The new pieces in order: form, score, row of P over the old tokens; from the paper's three steps."""
    found: dict[str, list[str]] = {}
    for piece in names:
        form = forms.get(piece, piece)
        if form not in names and form.strip("▁"):
            found.setdefault(form, []).append(piece)
    made = []
    for form, own in found.items():
        own_scores = [scores[piece] for piece in own]
        score = sum(own_scores) / len(own) if mode == "mean" else (max if mode == "max" else min)(own_scores)
        row = np.zeros(len(names))
        if mode == "mean":
            for piece in own:
                row[names.index(piece)] = 1 / len(own)
        else:
            row[names.index(own[own_scores.index(score)])] = 1
        made.append((form, score, row))
    return sorted(made, key=lambda one: -one[1])


@pytest.mark.parametrize("mode", ["max", "min", "mean"])
def test_rows_and_scores_are_the_papers(tmp_path: Path, mode: str) -> None:
    """Forms in the order of scores behind the pieces; `<mask>` moves with its row and bias, in every file."""
    folder = model(tmp_path / "m")
    names = list(read(folder).names.values())
    wanted = oracle(names, PIECES, FORMS, mode)
    assert [form for form, _, _ in wanted] == {
        "max": ["▁da", "da", "▁mir"], "min": ["▁da", "▁mir", "da"], "mean": ["▁da", "da", "▁mir"],
    }[mode] or mode == "mean"  # fmt: skip
    plan = transliterate(folder, len(names) + 2, table=table(tmp_path / "t"), mode=mode)
    check_plan(plan, len(names) + 2)
    end = len(names) - 1
    assert plan.names == [*names[:end], *(form for form, _, _ in wanted), "<mask>", None, None]
    made = matrix(plan.table, len(names) + 2)
    np.testing.assert_array_equal(made[:end], np.eye(len(names) + 2)[:end])
    np.testing.assert_array_equal(made[end : end + 3, : len(names)], [row for _, _, row in wanted])
    np.testing.assert_array_equal(made[end + 3 :], np.eye(len(names) + 2)[end:])
    assert plan.moved[end] == end + 3
    assert plan.undo
    assert plan.counts()["mixed" if mode == "mean" else "copied"] >= 2
    data = json.loads((laid(plan, tmp_path / "out") / "tokenizer.json").read_text(encoding="utf-8"))
    assert data["model"]["vocab"][end : end + 3] == [[form, score] for form, score, _ in wanted]
    assert [entry["id"] for entry in data["added_tokens"]] == [0, end + 3]
    bias = np.arange(len(names) + 2, dtype=np.float32)
    assert applied(plan, {"lm_head.bias": bias})["lm_head.bias"][end + 3] == end
    assert read(tmp_path / "out").names == dict(enumerate(plan.names[:-2]))
    figures = plan.figures
    assert (figures["new"], figures["shared"], figures["most_sources"], figures["moved"]) == (3, 2, 2, 1)
    assert (figures["empty"], figures["already"], figures["changed"]) == (1, 1, 7)


def test_mean_is_a_mean(tmp_path: Path) -> None:
    """Not the sum, which the published code makes: the new row lies between those it is of."""
    folder = model(tmp_path / "m")
    plan = transliterate(folder, 15, table=table(tmp_path / "t"), mode="mean")
    rows = np.random.default_rng(0).normal(size=(15, 4)).astype(np.float32)
    made = applied(plan, {"embed": rows})["embed"]
    names = list(read(folder).names.values())
    at = list(plan.names).index("▁da")
    assert plan.table.source[at] == MIX
    expected = (rows[names.index("▁да")].astype(np.float64) + rows[names.index("▁дa")]) / 2
    np.testing.assert_array_equal(made[at], expected.astype(np.float32))


CYRILLIC = "абвгд"


@st.composite
def cases(draw: st.DrawFn) -> Any:
    pieces = draw(
        st.lists(st.text(CYRILLIC + "xy▁", min_size=1, max_size=3), min_size=1, max_size=14, unique=True).map(
            lambda found: [p for p in found if "▁" not in p[1:] and p.strip("▁")]
        )
    )
    score = st.floats(-9, -1, allow_subnormal=False)
    scores = {"<unk>": 0.0, "▁": -3.0, **{p: draw(score) for p in pieces}}
    forms = {p: draw(st.text("xy▁z", max_size=3)) for p in pieces if draw(st.booleans())}
    return (
        scores,
        {p: f for p, f in forms.items() if f and "▁" not in f[1:]},
        draw(st.sampled_from(["max", "min", "mean"])),
    )


@given(case=cases())
@settings(max_examples=80, deadline=None)
def test_any_table(tmp_path_factory: pytest.TempPathFactory, case: Any) -> None:
    """Rows are the oracle's for any pieces, scores and forms; unreachable pieces are those that no text is cut into."""
    scores, forms, mode = case
    place = tmp_path_factory.mktemp("any")
    folder = model(place / "m", scores)
    names = list(read(folder).names.values())
    wanted = oracle(names, {"<s>": 0.0, "<mask>": 0.0, **scores}, forms, mode)
    if not wanted:
        with pytest.raises(UsageError, match=r"has no lines|has another form that can join and is no token yet"):
            transliterate(folder, len(names), table=table(place / "t", forms), mode=mode)
        return
    plan = transliterate(folder, len(names), table=table(place / "t", forms), mode=mode)
    check_plan(plan, len(names))
    end = len(names) - 1
    made = matrix(plan.table, len(names))
    rows = {form: row for form, _, row in wanted}
    assert len(rows) == plan.rows - len(names)
    for i in range(end, plan.rows - 1):
        np.testing.assert_allclose(made[i], rows[str(plan.names[i])], rtol=1e-15)
    new = tokenizers.Tokenizer.from_file(str(laid(plan, place / "out") / "tokenizer.json"))
    lost = set(plan.figures["unreachable_first"])
    assert len(lost) == plan.figures["unreachable"]
    letters = "".join(sorted({c for p in plan.names for c in str(p) if c not in "<>▁"}))
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list(letters + " "), 12)) for _ in range(100)] if letters else []
    fired = {token for text in texts for token in new.encode(text).tokens}
    assert not fired & lost
    for form in rows.keys() - lost:
        alone = new.encode(form[1:] if form.startswith("▁") else f"q{form}").tokens
        assert form in alone or not form.startswith("▁") or len(form) == 1


def test_only_some(tmp_path: Path) -> None:
    """The tokens of a list, of a script, of all but one; unknown ones are mistakes."""
    folder = model(tmp_path / "m")
    where = table(tmp_path / "t")

    def new(**more: Any) -> list[str]:
        plan = transliterate(folder, 15, table=where, **more)
        return sorted(str(name) for name in set(plan.names) - read(folder).ids.keys())

    assert new(only=["▁мир", "▁"]) == ["▁mir"]
    assert new(scripts=["cyrillic"]) == ["da", "▁da", "▁mir"]
    assert new(scripts=["!Latin"]) == ["da", "▁da", "▁mir"]
    with pytest.raises(UsageError, match="can join and is no token yet"):
        new(scripts=["Latin"], only=["mir"])
    with pytest.raises(UsageError, match=r"only: .* has no token `mi`"):
        new(only=["mi"])
    with pytest.raises(UsageError, match="scripts: no token has a letter of `greek`; tokens have: Cyrillic, Latin"):
        new(scripts=["Greek"])


def test_the_other_way_round(tmp_path: Path) -> None:
    """Latin to Arabic, as for Maltese: a table has no direction, a piece may have two forms."""
    folder = model(tmp_path / "m", {"<unk>": 0.0, "▁": -1.0, "▁kelb": -2.0, "▁qattus": -3.0})
    (tmp_path / "t").write_text("▁kelb\t▁كلب\n▁kelb\t▁كيلب\n\n▁kelb\t▁كلب\n", encoding="utf-8")
    plan = transliterate(folder, 6, table=tmp_path / "t")
    assert list(plan.names) == ["<s>", "<unk>", "▁", "▁kelb", "▁qattus", "▁كلب", "▁كيلب", "<mask>"]
    assert plan.table.row.tolist() == [0, 1, 2, 3, 4, 3, 3, 5]


def test_lines_that_change_are_counted(tmp_path: Path) -> None:
    """ASCII and other lines, and the pieces in them, as a count by hand."""
    folder = model(tmp_path / "m")
    text = tmp_path / "text"
    text.write_text("da mir\nb b\nда мир\nmir da\nb\nдa\n", encoding="utf-8")
    plan = transliterate(folder, 15, table=table(tmp_path / "t"), texts=[text])
    assert plan.figures["text"] == {
        "lines": {"ascii": 4, "other": 2}, "changed": {"ascii": 2, "other": 0}, "new_in_text": 2,
        "romanised_lines": 0, "new_in_romanised": 0,
    }  # fmt: skip
    assert "2 of 4 ASCII lines are now cut into other tokens" in plan.told
    text.write_bytes(b"a\n\xff")
    with pytest.raises(SutureError, match="line 2 is not UTF-8"):
        transliterate(folder, 15, table=table(tmp_path / "t"), texts=[text])


def test_what_cannot_be(tmp_path: Path) -> None:
    """Tokenizers without scores, tables of unknown or special tokens or without columns, modes."""
    suffixed = bpe(["a", "b"], [], end_of_word_suffix="</w>")
    others = {
        "its tokenizer is WordPiece, and only": whole("WordPiece", wordpiece(["[UNK]"])),
        "its BPE marks what is inside a word": whole("bytes", suffixed),
    }
    for i, (sense, data) in enumerate(others.items()):
        with pytest.raises(UsageError, match=sense):
            transliterate(write(tmp_path / str(i), data), 9, table=tmp_path / "t")
    old = write(tmp_path / "old", None, vocab={"a": 0})
    (old / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(UsageError, match=r"has no tokenizer\.json"):
        transliterate(old, 9, table=tmp_path / "t")
    folder = model(tmp_path / "m")
    where = tmp_path / "t"
    for text, sense in [
        ("да\tda\nмиp\tx\n", r"line 2: .* has no token `миp`"),
        ("да da\n", "line 1: expected two columns with a tab between them"),
        ("да\t\n", "line 1: expected two columns"),
        ("<mask>\tmask\n", "`<mask>` is no piece of text"),
        ("<unk>\tunk\n", "`<unk>` is no piece of text"),
        ("", "has no lines"),
        ("мир\tmir\n", "can join and is no token yet"),
        ("мир\tm ir\n", "can join and is no token yet"),
    ]:
        where.write_text(text, encoding="utf-8")
        with pytest.raises(SutureError, match=sense):
            transliterate(folder, 15, table=where)
    with pytest.raises(UsageError, match="mode: expected one of max, min, mean, found `sum`"):
        transliterate(folder, 15, table=where, mode="sum")


class _Letters:
    """A uroman that knows a few letters."""

    def romanize_string(self, text: str) -> str:
        return text.translate(dict(zip(map(ord, "дамиьщ"), ["d", "a", "m", "i", "", "q"], strict=True))).replace(
            "\u0440", "r"
        )


def test_text_is_romanised_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a table forms are uroman's, of what is not ASCII; other lines of the text are romanised and cut too."""
    uroman = pytest.importorskip("uroman")
    monkeypatch.setattr(uroman, "Uroman", _Letters)
    folder = model(tmp_path / "m")
    (tmp_path / "text").write_text("\n".join(["да мир", "мир щ", "b", ""]), encoding="utf-8")
    plan = transliterate(folder, 15, texts=[tmp_path / "text"])
    assert sorted({str(name) for name in plan.names} - read(folder).ids.keys()) == ["da", "▁da", "▁mir"]
    assert plan.figures["text"] == {
        "lines": {"ascii": 1, "other": 2}, "changed": {"ascii": 0, "other": 0}, "new_in_text": 0,
        "romanised_lines": 2, "new_in_romanised": 2,
    }  # fmt: skip
    assert plan.options["map"] == "uroman"


@pytest.mark.heavy
def test_by_uroman_on_a_trained_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """XLM-R's layout, its SentencePiece file too: both number pieces alike, romanised text is cut as the model's own,
    and transformers loads it."""
    uroman = pytest.importorskip("uroman")
    sentencepiece = pytest.importorskip("sentencepiece")
    proto_of: Any = pytest.importorskip("sentencepiece.sentencepiece_model_pb2")

    # It takes seconds to read its tables.
    rom = uroman.Uroman()
    monkeypatch.setattr(uroman, "Uroman", lambda: rom)
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(syllables, 3)) for syllables in (CYRILLIC_ONES, LATIN_ONES) for _ in range(60)]
    lines = [" ".join(rng.choice(words, 6)) for _ in range(800)]
    (tmp_path / "text").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(tmp_path / "sp"), vocab_size=140, model_type="unigram",
        minloglevel=2, num_threads=1,
    )  # fmt: skip
    proto = proto_of.ModelProto()
    proto.ParseFromString((tmp_path / "sp.model").read_bytes())
    pieces = {"<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0, **{p.piece: p.score for p in proto.pieces[3:]}}
    listed = {"<s>": 0.0, **pieces, "<mask>": 0.0}
    data = whole("Unigram", unigram(listed, 3))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    data["added_tokens"] = [
        {"id": list(listed).index(t), "content": t, **flags} for t in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    ]
    data["normalizer"] = {"type": "NFKC"}
    roles = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
    folder = write(tmp_path / "m", data, roles)
    (folder / "sentencepiece.bpe.model").write_bytes((tmp_path / "sp.model").read_bytes())
    size = read(folder).size
    plan = transliterate(folder, size, scripts=["!Latin"], texts=[tmp_path / "text"])
    check_plan(plan, size)
    out = laid(plan, tmp_path / "out")
    assert plan.names[-1] == "<mask>"
    own = sorted(n for n, t in read(folder).names.items() if any("CYRILLIC" in _name(c) for c in t))
    forms = {rom.romanize_string(read(folder).names[n]) for n in own}
    new = {str(name) for name in plan.names[size - 1 : -1]}
    assert new == {form for form in forms if form.strip("▁") and form not in read(folder).ids}
    after = proto_of.ModelProto()
    after.ParseFromString((out / "sentencepiece.bpe.model").read_bytes())
    ids = read(out).ids
    assert all(ids[p.piece] == i + 1 for i, p in enumerate(after.pieces) if i > 2)
    slow = sentencepiece.SentencePieceProcessor(model_file=str(out / "sentencepiece.bpe.model"))
    fast = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
    for line in lines[:50]:
        for text in (line, rom.romanize_string(line)):
            assert [i + 1 for i in slow.encode(text)] == fast.encode(text).ids
    found = plan.figures["text"]
    assert found["lines"]["ascii"] + found["lines"]["other"] == 800
    assert found["romanised_lines"] == found["lines"]["other"]
    assert 0 < found["new_in_romanised"] <= plan.figures["new"] - plan.figures["unreachable"]
    transformers = pytest.importorskip("transformers")
    loaded = transformers.AutoTokenizer.from_pretrained(out)
    assert loaded.mask_token_id == plan.rows - 1
    text = rom.romanize_string("мир <mask> вода")
    assert loaded(text, add_special_tokens=False)["input_ids"] == fast.encode(text).ids


#: Syllables that words are made of.
CYRILLIC_ONES = ["ми", "рд", "во", "да", "кни", "гы", "че", "ло", "ве", "сл", "лнц", "мо", "гю", "род", "рж", "ка"]
LATIN_ONES = ["ho", "use", "wa", "ter", "bo", "ok", "su", "n", "tr", "ee", "sk", "y", "vo", "da"]


def _name(character: str) -> str:
    import unicodedata

    return unicodedata.name(character, "")
