"""Scripts of characters and tokens are Unicode's, without its table."""

from __future__ import annotations

import unicodedata

import pytest

from suture.vocab.scripts import (
    DIGITS,
    FRAGMENTS,
    SPACES,
    SYMBOLS,
    characters,
    script_of,
    script_of_bytes,
    script_of_character,
)

#: What Unicode's Scripts.txt says.
KNOWN = {
    "Latin": "aZß\u0153\u0131Æ\u1d00\uff41\u02b0\xaa\u212a", "Greek": "\u03b1\u03a9\u03d5\u1f00",
    "Cyrillic": "яЖҐ", "Armenian": "աՖ", "Hebrew": "אש", "Arabic": "بپ\ufdfa", "Devanagari": "कॐ\u093e",
    "Bengali": "ক\u0982", "Tamil": "க\u0bbf", "Telugu": "త\u0c46", "Thai": "ก\u0e30", "Lao": "ກ", "Tibetan": "ཀ",
    "Georgian": "აჯ", "Hangul": "한ㅎ\u1112", "Ethiopic": "አ", "Khmer": "ក", "Mongolian": "ᠠ", "Hiragana": "ひ",
    "Katakana": "カ\uff76\u30fc", "Han": "漢\u3005\uf900", "Ol Chiki": "\u1c5a", "New Tai Lue": "\u1980",
    "Cherokee": "\u13a0", "Myanmar": "က", "Gothic": "\U00010330", "Canadian Aboriginal": "\u1401", "Nko": "\u07ca",
    "Tifinagh": "\u2d30", "Old Persian": "\U000103a0", "Imperial Aramaic": "\U00010840",
}  # fmt: skip


@pytest.mark.parametrize("script", KNOWN)
def test_letters_have_their_script(script: str) -> None:
    """Letters and marks of scripts that vocabularies have, wide and small forms too."""
    assert {c: script_of_character(c) for c in KNOWN[script]} == dict.fromkeys(KNOWN[script], script)


def test_every_letter_has_the_script_that_unicode_gives() -> None:
    """Of all letters with a name, all but some hundred that Unicode gives to no script; by the module `regex`."""
    regex = pytest.importorskip("regex")
    letters = [chr(i) for i in range(0x110000) if unicodedata.category(chr(i))[0] == "L"]
    named = [c for c in letters if unicodedata.name(c, "")]
    wrong = 0
    for character in named:
        own = script_of_character(character)
        try:
            right = regex.fullmatch(rf"\p{{Script={own}}}", character) is not None
        except regex.error:
            right = regex.fullmatch(r"\p{Script=Common}", character) is not None
        wrong += not right
    assert len(named) > 100_000
    assert wrong < 0.0005 * len(named)


def test_what_has_no_letters() -> None:
    """Digits of all scripts, symbols, spaces; a mark that any script may have says nothing."""
    assert [script_of(t) for t in ("42", "٣", "³.", "++", "😀", " ", "\t\n", "")] == [
        DIGITS, DIGITS, DIGITS, SYMBOLS, SYMBOLS, SPACES, SPACES, SYMBOLS,
    ]  # fmt: skip
    assert script_of("e\u0301") == "Latin"
    assert script_of("\u0301") == SYMBOLS


def test_most_letters_decide() -> None:
    """Of two scripts the one with more letters; of two as frequent the first."""
    assert script_of("\u03b1\u03b2c") == "Greek"
    assert script_of("c\u03b1") == "Latin"
    assert script_of("x = 12") == "Latin"


def test_bytes() -> None:
    """Whole characters count; a token that has none is a fragment."""
    assert script_of_bytes("é".encode()) == "Latin"
    assert script_of_bytes("é".encode()[:1]) == FRAGMENTS
    assert script_of_bytes("я".encode() + b"\xd0") == "Cyrillic"
    assert script_of_bytes(b"\x80\x80") == FRAGMENTS
    assert [characters(t.encode()) for t in ("", "a", "é", "é漢😀")] == [0, 1, 1, 3]
    assert characters("é".encode()[1:]) == 0
