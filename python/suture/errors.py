"""The exceptions suture raises for mistakes and failures, never for bugs; and what was probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike

from suture.escape import shown


class SutureError(Exception):
    """Something failed; the message says where, what was expected and found, and what to do.

    Attributes:
        path: file or folder concerned, if any.
        tensor: tensor concerned, if any.
        at: key path in the recipe concerned, such as ``models[1].parameters.weight``, if any.
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        path: str | PathLike[str] | None = None,
        tensor: str | None = None,
        at: str | None = None,
    ) -> None:
        super().__init__(shown(message))
        self.path = path
        self.tensor = tensor
        self.at = at or None


class UsageError(SutureError):
    """The recipe or an option asks for something that does not exist or does not go together."""

    exit_code = 2


#: What reading a document whose shape is another than expected may raise.
MALFORMED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def near(word: str, known: Iterable[str]) -> str:
    """What was probably meant by a word that is none of these, to stand behind the message; nothing if no idea."""
    # Imported here: only who errs needs it.
    from difflib import get_close_matches

    found = get_close_matches(word.lower(), (k for k in known if k != word), 1)
    return f"; did you mean `{found[0]}`?" if found else ""
