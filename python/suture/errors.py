"""The exceptions suture raises for mistakes and failures; never for bugs."""

from __future__ import annotations

from os import PathLike


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
        super().__init__(message)
        self.path = path
        self.tensor = tensor
        self.at = at or None


class UsageError(SutureError):
    """The recipe or an option asks for something that does not exist or does not go together."""

    exit_code = 2
