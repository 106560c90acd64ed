"""The settings of the study, one for each pair of languages. TRIED.md lists what else was tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from data import Mix
from language import Pair, clone, real
from model import Shape
from train import Recipe

#: B is rare: nearly all of it comes in text that changes language, where one word in five is in B.
BASE = Mix(known_a=0.65, known_b=0.01, parallel=0.04, mixed=0.3, switch=0.2)
TASK = Mix(known_a=0.5, held_out_a=0.5)
LANGUAGE = Mix(known_b=0.5, parallel=0.2, mixed=0.3)
STRONG = Recipe(TASK, 300, 128, 1e-3)
GENTLE = Recipe(TASK, 300, 128, 3e-4)


@dataclass(frozen=True)
class Setup:
    """One experiment.

    Attributes:
        describe: what the two languages are.
        pair: makes the languages.
        length: how many numbers an operation is applied to.
        shape: sizes of the models.
        base: how the base is trained.
        language: how the language expert is tuned.
        tasks: how the task expert is tuned, in one or more ways, by condition.
        main: the condition with the whole grid; the others' has no means and no transitions.
    """

    describe: str
    pair: Callable[[], Pair]
    base: Recipe
    length: int = 2
    shape: Shape = field(default_factory=lambda: Shape(layers=6, hidden=80, feed_forward=208))
    language: Recipe = field(default_factory=lambda: Recipe(LANGUAGE, 300, 128, 3e-4))
    tasks: dict[str, Recipe] = field(default_factory=lambda: {"strong": STRONG, "gentle": GENTLE})
    main: str = "strong"


SETUPS = {
    "clone": Setup(
        "B is A with every token id shifted; numbers 0 to 15",
        lambda: clone(16),
        Recipe(BASE, 1200, 128, 3e-3, decay=0.5),
    ),
    "real": Setup(
        "English and French, numbers 0 to 19 spelled out",
        lambda: real(20),
        Recipe(BASE, 1400, 128, 3e-3, decay=0.5),
        tasks={"strong": STRONG},
    ),
}
