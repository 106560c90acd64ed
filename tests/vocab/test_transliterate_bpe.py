"""Laws of other forms of BPE tokens, whose merges come behind all others."""

# Texts in other scripts are what these are about.
# ruff: noqa: RUF001

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from suture.vocab.tokens import read
from suture.vocab.transliterate import transliterate

from ..support.grown import check_plan, laid
from ..support.vocabularies import bpe, whole, write

tokenizers = pytest.importorskip("tokenizers")

FORMS = {" да": "▁da", " дам": "▁dam", "мир": "mir", "ве": "vet", "щи": "moq", "ещё": "▁a▁d"}
MADE = {"▁da": " да", "▁dam": " дам", "mir": "мир"}


def spelled(text: str, style: str) -> str:
    """Text as a tokenizer writes it, bytes by the table of GPT-2."""
    if style == "pieces":
        return text.replace(" ", "▁")
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in seen]
    table = {byte: chr(byte) for byte in seen} | {byte: chr(256 + i) for i, byte in enumerate(rest)}
    return "".join(table[byte] for byte in text.encode())


def model(place: Path, style: str) -> Path:
    words = [spelled(text, style) for text in FORMS]
    alphabet = sorted({*"privetdamoq", spelled(" ", style), *(c for word in words for c in word)})
    merges = [(word[:i], word[i]) for word in words for i in range(1, len(word))]
    more = {"ignore_merges": True} if style == "ignore_merges" else {}
    data = bpe(alphabet, list(dict.fromkeys([*merges, ("d", "a"), ("m", "i")])), **more)
    return write(place, whole("pieces" if style == "pieces" else "bytes", data, ["<s>"]), {"bos": "<s>"})


@pytest.mark.parametrize("style", ["bytes", "pieces", "ignore_merges"])
def test_merges_make_the_forms(tmp_path: Path, style: str) -> None:
    """Byte-level tokens are read as text. Two tokens make a form, and of that a longer one; what no two make is left
    out but where whole words are looked up. No number moves, and text without the forms is cut as before."""
    folder = model(tmp_path / "m", style)
    ids = read(folder).ids
    table = tmp_path / "t"
    table.write_text("".join(f"{spelled(own, style)}\t{form}\n" for own, form in FORMS.items()), encoding="utf-8")
    size = len(ids)
    plan = transliterate(folder, size + 1, table=table)
    check_plan(plan, size + 1)
    wanted = MADE | ({"vet": "ве", "moq": "щи"} if style == "ignore_merges" else {})
    by_text = {spelled(form.replace("▁", " "), style): own for form, own in wanted.items()}
    assert set(plan.names[size : plan.rows - 1]) == by_text.keys()
    assert plan.figures["no_merge"] == 5 - len(wanted)
    assert plan.figures["with_space"] == 1
    for text, own in by_text.items():
        assert plan.table.row[list(plan.names).index(text)] == ids[spelled(own, style)]
    assert plan.moved == {**{i: i for i in range(size)}, size: plan.rows - 1}
    assert plan.undo
    made = tokenizers.Tokenizer.from_file(str(laid(plan, tmp_path / "out") / "tokenizer.json"))
    old = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    start = spelled(" ", style)
    lead = "" if style == "pieces" else " "
    assert made.encode(f"{lead}dam da").tokens == [f"{start}dam", f"{start}da"]
    assert made.encode(f"{lead}mir").tokens == [start, "mir"]
    if style == "ignore_merges":
        assert made.encode("vet").tokens == ["vet"]
    for text in ("дам мир", "vrot opa qqq", "qда<s>p", "eмирr"):
        assert made.encode(text).tokens == old.encode(text).tokens
    assert plan.figures["unreachable"] == 0
    assert read(tmp_path / "out").names == dict(enumerate(plan.names[:-1]))


@pytest.mark.heavy
def test_a_real_tokenizer(tmp_path: Path) -> None:
    """SentencePiece's BPE of 32,000, romanised: tokenizer.json and tokenizer.model cut alike, and each new piece is
    what its own text is cut into."""
    package = pytest.importorskip("mistral_common")
    sentencepiece = pytest.importorskip("sentencepiece")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("uroman")
    source = Path(package.__file__).parent / "data" / "tokenizer.model.v1"
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(source.read_bytes())
    loaded = transformers.LlamaTokenizerFast.from_pretrained(folder)
    loaded.save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes(source.read_bytes())
    (tmp_path / "text").write_text(
        "The quick brown fox jumps over the lazy dog\nпривет мир как дела\nΚαλημέρα κόσμε\n", encoding="utf-8"
    )
    size = read(folder).size
    plan = transliterate(folder, size, scripts=["!Latin"], texts=[tmp_path / "text"])
    check_plan(plan, size)
    assert plan.figures["new"] > 500
    assert plan.figures["unreachable"] == 0
    out = laid(plan, tmp_path / "out")
    fast = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
    slow = sentencepiece.SentencePieceProcessor(model_file=str(out / "tokenizer.model"))
    new = [str(name) for name in plan.names[32000:]] if plan.figures["moved"] == 0 else []
    rng = np.random.default_rng(0)
    words = ["privet", "mir", "kak", "dela", "kalimera", "kosme", "the", "over", "moskva", "zdravstvuyte", "привет"]
    for _ in range(500):
        text = " ".join(rng.choice(words, 5))
        assert fast.encode(text, add_special_tokens=False).ids == slow.encode(text)
    assert new
    data = json.loads((out / "tokenizer.json").read_text(encoding="utf-8"))
    assert len(data["model"]["vocab"]) == plan.rows
