"""Other forms of tokens: by uroman, or by a user's table; and which tokens are given any."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from suture.errors import SutureError, UsageError
from suture.vocab.grown import numbers_of
from suture.vocab.keys import SPACE
from suture.vocab.lists import pairs_in
from suture.vocab.scripts import script_of_character
from suture.vocab.tokens import Vocabulary


def uroman() -> Callable[[str], str]:
    """Text into Latin letters, by uroman (Hermjakob et al., ACL 2018); what is ASCII is left as it is.

    Raises:
        UsageError: if the package is not installed.
    """
    try:
        from uroman import Uroman
    except ImportError:
        raise UsageError("map: romanising needs the package uroman: pip install uroman", at="map") from None
    made = Uroman()

    def romanise(text: str) -> str:
        return text if text.isascii() else str(made.romanize_string(text))

    return romanise


def table_in(path: Path, vocabulary: Vocabulary) -> dict[int, list[str]]:
    """The forms of tokens in a file of two columns, token and form, by the token's number.

    Raises:
        UsageError: if there is no such file, or it has no lines.
        SutureError: if a line has not two columns, or names a token that the model does not have.
    """
    found: dict[int, list[str]] = {}
    for token, form, line in pairs_in(path):
        number = vocabulary.ids.get(token)
        if number is None:
            raise SutureError(f"{path}: line {line}: {vocabulary.folder} has no token `{token:.40}`", path)
        if form not in found.setdefault(number, []):
            found[number].append(form)
    if not found:
        raise UsageError(f"{path}: has no lines; expected a token and its form in each, with a tab between them")
    return found


def of_scripts(pieces: Mapping[int, str], asked: Iterable[str]) -> dict[int, str]:
    """The pieces with a letter of one of the scripts asked for; ``!Latin`` asks for all that are not Latin.

    Raises:
        UsageError: if no piece has such a letter.
    """
    wanted = [script.strip() for script in asked if script.strip()]
    scripts = {number: scripts_in(text) for number, text in pieces.items()}
    there = set().union(*scripts.values()) if scripts else set()
    for script in wanted:
        if (bare := script.removeprefix("!").casefold()) not in {one.casefold() for one in there}:
            known = ", ".join(sorted(there)) or "no letters"
            raise UsageError(f"scripts: no token has a letter of `{bare}`; tokens have: {known}", at="scripts")
    plain = {script.casefold() for script in wanted if not script.startswith("!")}
    without = {script[1:].casefold() for script in wanted if script.startswith("!")}

    def fits(found: set[str]) -> bool:
        own = {one.casefold() for one in found}
        return bool(own & plain) or bool(without and own - without)

    return {number: text for number, text in pieces.items() if fits(scripts[number])}


def scripts_in(text: str) -> set[str]:
    """The scripts of the letters of a piece."""
    return {script_of_character(c) for c in text if c != SPACE and c.isalpha()} - {""}


def listed(pieces: Mapping[int, str], tokens: Sequence[str], vocabulary: Vocabulary) -> dict[int, str]:
    """The pieces that a user lists.

    Raises:
        UsageError: if one is no token.
    """
    numbers = set(numbers_of(vocabulary, tokens, "only"))
    return {number: text for number, text in pieces.items() if number in numbers}
