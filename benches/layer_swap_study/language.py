"""Two languages over one word-level vocabulary: a controlled clone, or two real ones spelled out.

A language knows how to say the numbers from 0 to `modulus - 1` and a few words. All words of all languages are tokens
of their own: no token is shared but the padding, so that nothing is aligned by spelling.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PAD = "<pad>"
#: What a language has a word for, beside its numbers.
WORDS = ("do", "undo", "plus", "times", "max", "next", "copy", "reverse", "sort", "equals", "translate")
#: The operation left out of the base. Both its words are known there, each in company of others.
HELD_OUT = "undo plus"


@dataclass(frozen=True)
class Language:
    """Token ids of one language.

    Attributes:
        name: its name.
        numbers: for each number its tokens.
        words: for each of `WORDS` its tokens.
    """

    name: str
    numbers: tuple[tuple[int, ...], ...]
    words: dict[str, tuple[int, ...]]


@dataclass
class Vocabulary:
    """Words and their ids, in the order of their first use."""

    ids: dict[str, int] = field(default_factory=lambda: {PAD: 0})

    def id(self, word: str) -> int:
        """The id of a word, which is added if it is new."""
        return self.ids.setdefault(word, len(self.ids))

    def language(self, name: str, spelled: Sequence[Sequence[str]], words: Mapping[str, Sequence[str]]) -> Language:
        """A language whose numbers and words are spelled so; every word gets the language's name as a prefix."""
        numbers = tuple(tuple(self.id(f"{name}:{word}") for word in number) for number in spelled)
        said = {word: tuple(self.id(f"{name}:{part}") for part in words[word]) for word in WORDS}
        return Language(name, numbers, said)

    def tokenizer(self) -> dict[str, Any]:
        """The content of a tokenizer.json of the tokenizers library: words between blanks."""
        pad = {"id": 0, "content": PAD, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
               "special": True}  # fmt: skip
        return {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": [pad], "normalizer": None,
            "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
            "model": {"type": "WordLevel", "vocab": self.ids, "unk_token": PAD},
        }  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """The dominant language, the target language, and their vocabulary."""

    a: Language
    b: Language
    vocabulary: Vocabulary

    @property
    def modulus(self) -> int:
        """How many numbers there are."""
        return len(self.a.numbers)


def clone(modulus: int = 16, syllables: int = 0) -> Pair:
    """Two artificial languages, the second the first with every token id shifted.

    Args:
        modulus: how many numbers there are.
        syllables: if above zero, numbers and words are spelled with two of them, quotient and remainder by this.
    """
    vocabulary = Vocabulary()
    s = syllables
    whole = ("equals", "translate")
    things = [str(n) for n in range(modulus)] + [word for word in WORDS if word not in whole]
    spelled = {thing: (f"{i // s}-", f"-{i % s}") if s else (thing,) for i, thing in enumerate(things)}
    spelled |= {word: (word,) for word in whole}
    numbers = [spelled[str(n)] for n in range(modulus)]
    a = vocabulary.language("A", numbers, spelled)
    return Pair(a, vocabulary.language("B", numbers, spelled), vocabulary)


FRENCH = {
    "do": "faire", "undo": "défaire", "plus": "plus", "times": "fois", "max": "maximum", "next": "suivant",
    "copy": "copier", "reverse": "inverser", "sort": "trier", "equals": "égale", "translate": "traduire",
}  # fmt: skip


def real(modulus: int = 20) -> Pair:
    """English and French, numbers spelled by num2words and cut at blanks and after hyphens."""
    spelling = importlib.import_module("num2words")
    vocabulary = Vocabulary()

    def spell(code: str) -> list[list[str]]:
        return [re.findall(r"[^\s-]+-?", spelling.num2words(n, lang=code)) for n in range(modulus)]

    a = vocabulary.language("en", spell("en"), {word: (word,) for word in WORDS})
    return Pair(a, vocabulary.language("fr", spell("fr"), {word: (FRENCH[word],) for word in WORDS}), vocabulary)
