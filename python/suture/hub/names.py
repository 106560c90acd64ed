"""Names of models on a hub, and of their revisions."""

from __future__ import annotations

import re

from suture.errors import UsageError

#: The hub's rule for the owner and for the model.
_PART = re.compile(r"(?=.{1,96}$)\w(?:[\w.-]*\w)?", re.ASCII)
#: What no branch or tag of git has in its name, and `@`, which is ours.
_NOT_IN_REVISIONS = set(" ~^:?*[\\@")
_LONGEST_REVISION = 255


def looks_like_a_name(text: str) -> bool:
    """Whether text is a name by the hub's rules: ``org/name``, ``org/name@revision``, or ``name`` alone.

    Almost any word is a name of the last kind: whether it is meant as one, the place where it stands must tell.
    """
    name, at, revision = text.partition("@")
    return _is_name(name) and (not at or _is_revision(revision))


def split(text: str) -> tuple[str, str | None]:
    """The name and the revision of ``org/name@revision``; None for the revision where there is none.

    Raises:
        UsageError: if there is more than one ``@``, or nothing after it.
    """
    name, at, revision = text.partition("@")
    if "@" in revision:
        raise UsageError(f"`{text}`: expected `org/name@revision`, found more than one `@`")
    if at and not revision:
        raise UsageError(f"`{text}`: expected a revision after `@`; leave `@` out for the branch `main`")
    return name, revision if at else None


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a model.

    Raises:
        UsageError: if it cannot.
    """
    if not _is_name(name):
        raise UsageError(
            f"`{name}`: is no name on a hub; expected `org/name`, each part of at most 96 letters, digits, `-`, `_` "
            "and `.`, with neither `--` nor `..` in it"
        )


def check_revision(name: str, revision: str) -> None:
    """Refuse what cannot be a revision of a model.

    Raises:
        UsageError: if it cannot.
    """
    if not _is_revision(revision):
        raise UsageError(f"{name}: `{revision}` is no revision; expected a branch, a tag, `refs/pr/N` or a commit")


def _is_name(text: str) -> bool:
    parts = text.split("/")
    sound = len(parts) <= 2 and all(_PART.fullmatch(part) for part in parts)
    return sound and "--" not in text and ".." not in text and not text.endswith(".git")


def _is_revision(text: str) -> bool:
    if not text.isprintable() or len(text) > _LONGEST_REVISION or _NOT_IN_REVISIONS.intersection(text):
        return False
    return ".." not in text and all(part and not part.startswith((".", "-")) for part in text.split("/"))
