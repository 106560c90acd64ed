"""The script of a character, a word or a token, from Unicode's names of characters."""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import lru_cache

#: What stands for a script where there are no letters.
DIGITS, SYMBOLS, SPACES, FRAGMENTS, SPECIAL = "digits", "symbols", "spaces", "fragments of characters", "special"
#: A letter of no script that its name tells.
OTHER = "other letters"
#: Names of letters begin with their script; these scripts have names of several words.
_LONG = (
    "ANATOLIAN HIEROGLYPH", "BASSA VAH", "CANADIAN SYLLABICS", "CAUCASIAN ALBANIAN", "CYPRO MINOAN", "DIVES AKURU",
    "EGYPTIAN HIEROGLYPH", "GUNJALA GONDI", "HANIFI ROHINGYA", "IMPERIAL ARAMAIC", "INSCRIPTIONAL PAHLAVI",
    "INSCRIPTIONAL PARTHIAN", "KAYAH LI", "KHITAN SMALL SCRIPT", "LINEAR A", "LINEAR B", "MASARAM GONDI",
    "MEETEI MAYEK", "MENDE KIKAKUI", "MEROITIC CURSIVE", "MEROITIC HIEROGLYPHIC", "NEW TAI LUE",
    "NYIAKENG PUACHUE HMONG", "OL CHIKI", "OLD HUNGARIAN", "OLD ITALIC", "OLD NORTH ARABIAN", "OLD PERMIC",
    "OLD PERSIAN", "OLD SOGDIAN", "OLD SOUTH ARABIAN", "OLD TURKIC", "OLD UYGHUR", "PAHAWH HMONG", "PAU CIN HAU",
    "PSALTER PAHLAVI", "SORA SOMPENG", "SYLOTI NAGRI", "TAI LE", "TAI THAM", "TAI VIET", "WARANG CITI",
    "ZANABAZAR SQUARE",
)  # fmt: skip
#: What stands in front of the script in a letter's name.
_FRONT = ("FULLWIDTH ", "HALFWIDTH ", "SMALL ", "SUPERSCRIPT ", "PRESENTATION FORM FOR ", "VERTICAL ")
#: First words of names that are not the script's, or are a part of its name alone.
_CALLED = {
    "CJK": "Han", "IDEOGRAPHIC": "Han", "KANGXI": "Han", "KATAKANA-HIRAGANA": "Katakana", "HENTAIGANA": "Hiragana",
    "FEMININE": "Latin", "MASCULINE": "Latin", "KELVIN": "Latin", "ANGSTROM": "Latin", "OHM": "Greek",
    "CANADIAN SYLLABICS": "Canadian Aboriginal", "EGYPTIAN HIEROGLYPH": "Egyptian Hieroglyphs",
    "ANATOLIAN HIEROGLYPH": "Anatolian Hieroglyphs", "MEROITIC HIEROGLYPHIC": "Meroitic Hieroglyphs",
}  # fmt: skip
#: Letters by their name that Unicode gives to no script.
_COMMON = frozenset({
    "MODIFIER", "MATHEMATICAL", "DOUBLE-STRUCK", "SCRIPT", "BLACK-LETTER", "PLANCK", "MICRO", "ALEF", "BET", "GIMEL",
    "DALET", "INFORMATION", "TURNED", "SQUARE", "CIRCLED", "PARENTHESIZED", "VEDIC", "CARON", "TILDE", "KANA", "EULER",
})  # fmt: skip


@lru_cache(maxsize=2**17)
def script_of_character(character: str) -> str:
    """The script of a letter or mark, as Unicode calls it (``Latin``, ``Han``); of others one of `DIGITS`, `SYMBOLS`,
    `SPACES`. Empty for a mark that any script may have.
    """
    category = unicodedata.category(character)
    if category[0] in "LM":
        return _script(character, category)
    if category[0] == "N":
        # A number that is a letter, as Roman ones are, is a number here.
        return DIGITS
    return SPACES if category[0] == "Z" or character in "\t\n\r\v\f" else SYMBOLS


def _script(character: str, category: str) -> str:
    name = unicodedata.name(character, "")
    if name.startswith("MODIFIER LETTER ") and any(word in name for word in ("SMALL", "CAPITAL")):
        # Letters written small above the line.
        return next((one.title() for one in ("GREEK", "CYRILLIC", "GEORGIAN") if one in name), "Latin")
    for front in _FRONT:
        name = name.removeprefix(front)
    first = next((long for long in _LONG if name.startswith(long)), name.partition(" ")[0])
    if category[0] == "M" and (first in ("COMBINING", "VARIATION", "ZERO", "VEDIC") or not first):
        return ""
    if not first or first in _COMMON:
        return OTHER if category[0] == "L" else ""
    return _CALLED.get(first, first.title())


def script_of(text: str) -> str:
    """The script of most letters of a text, of two as frequent that of the first; without letters `DIGITS` if there is
    one, else `SYMBOLS`, or `SPACES` where nothing else is.
    """
    found = [script_of_character(c) for c in text]
    letters = Counter(one for one in found if one and one not in (DIGITS, SYMBOLS, SPACES))
    if letters:
        return letters.most_common(1)[0][0]
    return next((kind for kind in (DIGITS, SYMBOLS) if kind in found), SPACES if SPACES in found else SYMBOLS)


def script_of_bytes(content: bytes) -> str:
    """The script of a token by its bytes: of its whole characters, or `FRAGMENTS` where it has none."""
    text = content.decode("utf-8", "ignore")
    return script_of(text) if text or not content else FRAGMENTS


def characters(content: bytes) -> int:
    """How many characters begin in some bytes of UTF-8."""
    return sum(byte & 0xC0 != 0x80 for byte in content)
