"""Problems, split by their numbers and words, and text of the languages without the tasks."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from layer_swap_real.languages import CATEGORIES, ENGLISH, KINDS, LANGUAGES, SAID, Language, spell
from layer_swap_real.messages import Pair

TASKS = ("arithmetic", "odd")
PARTS = ("train", "validation", "test")
#: Splits and problems are drawn by this seed; a study's own seeds draw trainings alone.
SEED = 20241003
#: The split of what problems are about, in shares.
SHARES = {"train": 0.6, "validation": 0.15, "test": 0.25}


@dataclass(frozen=True)
class Problem:
    """A problem in a language.

    Attributes:
        key: what it is about in any language: numbers, or words by category and place.
        prompt: what a model is asked.
        answer: what it must say, without the blank before it.
    """

    key: tuple[object, ...]
    prompt: str
    answer: str


@dataclass(frozen=True)
class Story:
    """An arithmetic problem before it is said: places in the lists of names and of things, and numbers."""

    kind: str
    numbers: tuple[int, ...]
    people: tuple[int, int]
    thing: int

    @property
    def key(self) -> tuple[int, ...]:
        """Its numbers in order of size: no problem of two parts has the same, whatever its kind."""
        return tuple(sorted(self.numbers))

    @property
    def answer(self) -> int:
        """What comes out."""
        a, b, *c = self.numbers
        return {
            "add": a + b, "total": a + b, "subtract": a - b, "difference": a - b, "groups": a * b,
            "two steps": a + b - sum(c),
        }[self.kind]  # fmt: skip

    def said(self, language: Language, digits: bool) -> tuple[str, str]:
        """What tells it, and its question."""
        n, m = (language.names[i] for i in self.people)
        told = [str(i) if digits else spell(language.code, i) for i in self.numbers]
        numbers = dict(zip("abc", told, strict=False)) | {"A": language.capital(told[0])}
        story, question = language.arithmetic[self.kind]
        fill = {"N": n, "M": m, "t": language.things[self.thing], **numbers}
        return story.format(**fill), question.format(**fill)


@dataclass(frozen=True)
class Odd:
    """An odd-one-out problem before it is said: words by category and place, and which of them is odd."""

    words: tuple[tuple[str, int], ...]
    odd: int
    way: int

    @property
    def key(self) -> tuple[tuple[str, int], ...]:
        """Its four words, in whatever order they are asked."""
        return tuple(sorted(self.words))

    def said(self, language: Language) -> tuple[str, str]:
        """The question and its answer."""
        words = [language.words_of(category)[i] for category, i in self.words]
        return language.odd[self.way].format(words=", ".join(words)), words[self.odd]


def part_of(key: tuple[object, ...]) -> str:
    """Which part a key belongs to: by a hash of it, so that no other problem has a say."""
    drawn = int.from_bytes(hashlib.sha256(f"{SEED}{key!r}".encode()).digest()[:8], "big") / 2**64
    for part, share in SHARES.items():
        if drawn < share:
            return part
        drawn -= share
    return PARTS[-1]


def stories(part: str, count: int) -> list[Story]:
    """Arithmetic problems of a part, kinds in turn. The same numbers may come again with other people or things."""
    rng = random.Random(f"{SEED} stories {part}")
    ranges = {"groups": (range(2, 7), range(2, 10)), "two steps": (range(2, 16),) * 3}
    pools = {}
    for kind, n in KINDS.items():
        all_of = itertools.product(*ranges.get(kind, (range(2, 21),) * n))
        pool = [numbers for numbers in all_of if Story(kind, numbers, (0, 1), 0).answer > 0]
        pools[kind] = [numbers for numbers in pool if part_of(tuple(sorted(numbers))) == part]
    found: dict[Story, None] = {}
    kinds = list(KINDS)
    while len(found) < count:
        kind = kinds[len(found) % len(kinds)]
        first, second = rng.sample(range(len(ENGLISH.names)), 2)
        found.setdefault(Story(kind, rng.choice(pools[kind]), (first, second), rng.randrange(len(ENGLISH.things))))
    return list(found)


def odds(part: str, count: int) -> list[Odd]:
    """Odd-one-out problems of a part, each of other words."""
    rng = random.Random(f"{SEED} odd {part}")
    found: dict[tuple[tuple[str, int], ...], Odd] = {}
    while len(found) < count:
        same, other = rng.sample(CATEGORIES, 2)
        sizes = {
            category: len(SAID) if category == "number" else len(ENGLISH.words[category]) for category in CATEGORIES
        }
        words = [(same, i) for i in rng.sample(range(sizes[same]), 3)]
        odd = rng.randrange(4)
        words.insert(odd, (other, rng.randrange(sizes[other])))
        one = Odd(tuple(words), odd, rng.randrange(len(ENGLISH.odd)))
        if part_of(one.key) == part and one.key not in found:
            found[one.key] = one
    return list(found.values())


@cache
def problems(task: str, language: str, part: str, count: int, digits: bool = False) -> tuple[Problem, ...]:
    """Problems of a task in a language; the same ones, in the same order, in every language.

    Args:
        task: of :data:`TASKS`.
        language: of :data:`LANGUAGES`.
        part: of :data:`PARTS`.
        count: how many.
        digits: whether the numbers of arithmetic are written in digits. Answers of arithmetic always are.
    """
    own = LANGUAGES[language]
    if task == "odd":
        said = ((one.key, *one.said(own)) for one in odds(part, count))
        return tuple(Problem(key, own.prompt(question), answer) for key, question, answer in said)
    made = []
    for story in stories(part, count):
        told, question = story.said(own, digits)
        made.append(Problem(story.key, own.prompt(f"{told} {question}"), str(story.answer)))
    return tuple(made)


def task_texts(task: str, count: int) -> list[tuple[str, str]]:
    """What a task expert is tuned on: English prompts and answers; numbers in words and in digits, half and half."""
    if task == "odd":
        return [(p.prompt, p.answer) for p in problems(task, "en", "train", count)]
    words, digits = (problems(task, "en", "train", count, digits) for digits in (False, True))
    return [
        (p.prompt, p.answer) for p in (d if i % 2 else w for i, (w, d) in enumerate(zip(words, digits, strict=True)))
    ]


def parallel(language: str, count: int) -> list[tuple[str, str]]:
    """Statements in English and in a language: what problems of training tell, without what they ask."""
    pairs = ((s.said(ENGLISH, False)[0], s.said(LANGUAGES[language], False)[0]) for s in stories("train", count))
    return list(pairs)


def language_texts(code: str, count: int, messages: Sequence[Pair]) -> list[tuple[str, str]]:
    """What a language expert is tuned on, as prompts (here empty) and texts: no question of either task, no answer.

    Number words with their digits, counting, words with their translation, what category a word is of, what problems of
    training tell, and messages of a program with their translation.

    Args:
        code: the language.
        count: how many texts.
        messages: translated messages, without those kept for the test.
    """
    rng = random.Random(f"{SEED} language {code}")
    own = LANGUAGES[code]
    kinds = [_numbers(own, rng), _words(own, rng), _told(own, rng)]
    if messages:
        kinds.append(_messages(own, rng, messages))
    return [("", next(kinds[i % len(kinds)])) for i in range(count)]


def _numbers(own: Language, rng: random.Random) -> Iterator[str]:
    while True:
        n, length = rng.randrange(0, 60), rng.randrange(3, 7)
        yield f"{n} = {spell(own.code, n)}"
        yield f"{spell(own.code, n)} = {n}"
        yield f"{spell(own.code, n)} = {spell('en', n)}"
        yield ", ".join(spell(own.code, i) for i in range(n, n + length))
        thing = rng.choice(own.things)["one"]
        yield f"{n} {thing}: {spell(own.code, n)} {thing}"


def _words(own: Language, rng: random.Random) -> Iterator[str]:
    while True:
        category = rng.choice(CATEGORIES)
        i = rng.randrange(len(own.words_of(category)))
        word, english = own.words_of(category)[i], ENGLISH.words_of(category)[i]
        yield own.member[category].format(word=own.capital(word))
        yield f"{word} = {english}"
        yield f"English: {ENGLISH.member[category].format(word=english.capitalize())}\n{own.name}: " + own.member[
            category
        ].format(word=own.capital(word))


def _told(own: Language, rng: random.Random) -> Iterator[str]:
    every = stories("train", 1200)
    while True:
        story = rng.choice(every)
        told = story.said(own, False)[0]
        yield told
        yield f"English: {story.said(ENGLISH, False)[0]}\n{own.name}: {told}"
        yield f"{story.said(own, True)[0]} = {told}"


def _messages(own: Language, rng: random.Random, messages: Sequence[Pair]) -> Iterator[str]:
    while True:
        english, translated = rng.choice(messages)
        yield translated
        yield f"English: {english}\n{own.name}: {translated}"
