"""English, Turkish and Indonesian: words and templates, written for this study.

Both others say a number before a noun in the singular, and neither has gender or agreement, so that what the templates
make is grammatical whatever is put in. Turkish names and things come with the endings that the templates need.
"""

# Letters of Turkish are meant.
# ruff: noqa: RUF001

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

#: Kinds of arithmetic problems, and how many numbers each has.
KINDS = {"add": 2, "subtract": 2, "total": 2, "difference": 2, "groups": 2, "two steps": 3}
CATEGORIES = ("animal", "colour", "food", "body", "number")
#: Numbers that are said in odd-one-out problems.
SAID = range(2, 13)


class MissingError(RuntimeError):
    """Something that the study needs is not installed."""


@dataclass(frozen=True)
class Language:
    """What is said in a language.

    Attributes:
        code: as num2words and gettext have it.
        name: its own name for itself.
        ask: what stands before a question, and before an answer.
        names: people, each by what a template may put in.
        things: countable things, likewise; the same ones in the same order in every language.
        arithmetic: by kind of problem, the sentences that tell it and the question.
        odd: ways to ask for the odd one out of `{words}`.
        words: words by category, the same ones in the same order in every language; numbers are spelled.
        member: by category, what says of a `{word}` that it belongs there.
    """

    code: str
    name: str
    ask: tuple[str, str]
    names: tuple[Mapping[str, str], ...]
    things: tuple[Mapping[str, str], ...]
    arithmetic: Mapping[str, tuple[str, str]]
    odd: tuple[str, ...]
    words: Mapping[str, tuple[str, ...]]
    member: Mapping[str, str]

    def words_of(self, category: str) -> tuple[str, ...]:
        """The words of a category, numbers spelled."""
        return tuple(spell(self.code, n) for n in SAID) if category == "number" else self.words[category]

    def prompt(self, question: str) -> str:
        """A question as models are asked it; the answer follows after a blank."""
        return f"{self.ask[0]}: {question}\n{self.ask[1]}:"

    def capital(self, text: str) -> str:
        """With a capital at the start; Turkish has a dot on that of i."""
        first = "İ" if self.code == "tr" and text[0] == "i" else text[0].upper()
        return first + text[1:]


@cache
def _num2words() -> Callable[..., Any]:
    try:
        found: Callable[..., Any] = importlib.import_module("num2words").num2words
    except ModuleNotFoundError:
        raise MissingError(
            "num2words is not installed, which spells the numbers: "
            "pip install -r benches/layer_swap_real/requirements.txt"
        ) from None
    return found


@cache
def spell(code: str, n: int) -> str:
    """A number from 0 to 99 in words. Turkish writes them apart, where num2words joins them as on cheques.

    Raises:
        MissingError: if num2words is not installed.
    """
    if not 0 <= n < 100:
        raise ValueError(f"expected a number from 0 to 99, found {n}")
    said = _num2words()
    if code == "tr" and n > 10 and n % 10:
        return f"{said(n - n % 10, lang=code)} {said(n % 10, lang=code)}"
    return str(said(n, lang=code))


def _rows(keys: str, text: str) -> tuple[dict[str, str], ...]:
    """Rows `a/b/c, d/e/f` by the keys `x/y/z`."""
    rows = (row.strip().split("/") for row in text.split(","))
    return tuple(dict(zip(keys.split("/"), row, strict=True)) for row in rows)


def _words(**by: str) -> dict[str, tuple[str, ...]]:
    return {category: tuple(text.split()) for category, text in by.items()}


ENGLISH = Language(
    "en", "English", ("Question", "Answer"),
    _rows("n", "Tom, Anna, Sam, Mary, Ben, Lucy"),
    _rows("one/many", "apple/apples, book/books, pen/pens, ball/balls, egg/eggs, fish/fish, stone/stones, "
          "flower/flowers"),
    {
        "add": ("{N[n]} has {a} {t[many]}. {M[n]} gives {N[n]} {b} more {t[many]}.",
                "How many {t[many]} does {N[n]} have now?"),
        "subtract": ("{N[n]} has {a} {t[many]}. {N[n]} gives {b} {t[many]} to {M[n]}.",
                     "How many {t[many]} are left?"),
        "total": ("There are {a} {t[many]} on the table and {b} {t[many]} in the box.",
                  "How many {t[many]} are there in all?"),
        "difference": ("{N[n]} has {a} {t[many]}. {M[n]} has {b} {t[many]}.",
                       "How many more {t[many]} does {N[n]} have than {M[n]}?"),
        "groups": ("There are {a} boxes. In each box there are {b} {t[many]}.",
                   "How many {t[many]} are there in all?"),
        "two steps": ("{N[n]} has {a} {t[many]}. {N[n]} buys {b} more {t[many]}. "
                      "Then {N[n]} gives {c} {t[many]} to {M[n]}.",
                      "How many {t[many]} are left?"),
    },
    ("Which word does not belong with the others: {words}?", "Find the odd one out: {words}.",
     "Which of these is different from the others: {words}?"),
    _words(animal="cat dog horse cow bird fish mouse lion", colour="red blue green yellow white black grey purple",
           food="bread rice milk cheese egg salt meat sugar", body="hand foot head eye ear nose mouth tooth"),
    {"animal": "{word} is the name of an animal.", "colour": "{word} is a colour.", "number": "{word} is a number.",
     "food": "{word} is food.", "body": "{word} is a part of the body."},
)  # fmt: skip

TURKISH = Language(
    "tr", "Türkçe", ("Soru", "Cevap"),
    _rows("n/of/to/than", "Ali/Ali'nin/Ali'ye/Ali'den, Ayşe/Ayşe'nin/Ayşe'ye/Ayşe'den, "
          "Mehmet/Mehmet'in/Mehmet'e/Mehmet'ten, Elif/Elif'in/Elif'e/Elif'ten, "
          "Murat/Murat'ın/Murat'a/Murat'tan, Zeynep/Zeynep'in/Zeynep'e/Zeynep'ten"),
    _rows("one/own", "elma/elması, kitap/kitabı, kalem/kalemi, top/topu, yumurta/yumurtası, balık/balığı, taş/taşı, "
          "çiçek/çiçeği"),
    {
        "add": ("{N[of]} {a} {t[own]} var. {M[n]} ona {b} {t[one]} daha verir.", "Şimdi {N[of]} kaç {t[own]} var?"),
        "subtract": ("{N[of]} {a} {t[own]} var. {N[n]}, {M[to]} {b} {t[one]} verir.", "{N[of]} kaç {t[own]} kalır?"),
        "total": ("Masada {a} {t[one]}, kutuda {b} {t[one]} var.", "Toplam kaç {t[one]} var?"),
        "difference": ("{N[of]} {a} {t[own]} var. {M[of]} {b} {t[own]} var.",
                       "{N[of]} {M[than]} kaç tane fazla {t[own]} var?"),
        "groups": ("{A} kutu var. Her kutuda {b} {t[one]} var.", "Toplam kaç {t[one]} var?"),
        "two steps": ("{N[of]} {a} {t[own]} var. {N[n]} {b} {t[one]} daha alır. Sonra {M[to]} {c} {t[one]} verir.",
                      "{N[of]} kaç {t[own]} kalır?"),
    },
    ("Hangi kelime diğerlerine uymaz: {words}?", "Farklı olanı bul: {words}.",
     "Bunlardan hangisi diğerlerinden farklıdır: {words}?"),
    _words(animal="kedi köpek at inek kuş balık fare aslan", colour="kırmızı mavi yeşil sarı beyaz siyah gri mor",
           food="ekmek pirinç süt peynir yumurta tuz et şeker", body="el ayak baş göz kulak burun ağız diş"),
    {"animal": "{word} bir hayvan adıdır.", "colour": "{word} bir renktir.", "number": "{word} bir sayıdır.",
     "food": "{word} bir yiyecektir.", "body": "{word} vücudun bir parçasıdır."},
)  # fmt: skip

INDONESIAN = Language(
    "id", "Bahasa Indonesia", ("Pertanyaan", "Jawaban"),
    _rows("n", "Budi, Siti, Andi, Dewi, Joko, Rina"),
    _rows("one", "apel, buku, pena, bola, telur, ikan, batu, bunga"),
    {
        "add": ("{N[n]} punya {a} {t[one]}. {M[n]} memberi {N[n]} {b} {t[one]} lagi.",
                "Sekarang {N[n]} punya berapa {t[one]}?"),
        "subtract": ("{N[n]} punya {a} {t[one]}. {N[n]} memberi {M[n]} {b} {t[one]}.", "Berapa {t[one]} yang tersisa?"),
        "total": ("Ada {a} {t[one]} di meja dan {b} {t[one]} di kotak.", "Ada berapa {t[one]} semuanya?"),
        "difference": ("{N[n]} punya {a} {t[one]}. {M[n]} punya {b} {t[one]}.",
                       "{N[n]} punya berapa {t[one]} lebih banyak daripada {M[n]}?"),
        "groups": ("Ada {a} kotak. Di setiap kotak ada {b} {t[one]}.", "Ada berapa {t[one]} semuanya?"),
        "two steps": ("{N[n]} punya {a} {t[one]}. {N[n]} membeli {b} {t[one]} lagi. "
                      "Lalu {N[n]} memberi {M[n]} {c} {t[one]}.",
                      "Berapa {t[one]} yang tersisa?"),
    },
    ("Kata mana yang tidak cocok dengan yang lain: {words}?", "Temukan yang berbeda: {words}.",
     "Mana yang berbeda dari yang lain: {words}?"),
    _words(animal="kucing anjing kuda sapi burung ikan tikus singa",
           colour="merah biru hijau kuning putih hitam abu-abu ungu",
           food="roti nasi susu keju telur garam daging gula",
           body="tangan kaki kepala mata telinga hidung mulut gigi"),
    {"animal": "{word} adalah nama hewan.", "colour": "{word} adalah warna.", "number": "{word} adalah bilangan.",
     "food": "{word} adalah makanan.", "body": "{word} adalah bagian tubuh."},
)  # fmt: skip

LANGUAGES = {language.code: language for language in (ENGLISH, TURKISH, INDONESIAN)}
#: The two that the base knows badly.
TARGETS = ("tr", "id")
