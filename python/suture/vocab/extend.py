"""A tokenizer.json with further tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from suture.errors import SutureError
from suture.vocab.entries import Added
from suture.vocab.tokens import Vocabulary


def extended(lead: Vocabulary, normal: Mapping[str, int], new: Mapping[int, Added]) -> dict[str, Any]:
    """The tokenizer.json of a vocabulary with further tokens; all that it says otherwise stays.

    Args:
        lead: the vocabulary.
        normal: tokens for its model, by their text. Its merges make none of them.
        new: tokens that are found in text, by their number.

    Raises:
        SutureError: if its format cannot number tokens so.
    """
    whole = dict(lead.whole or {})
    model = dict(whole["model"])
    path = lead.folder / "tokenizer.json"
    model["vocab"] = with_tokens(model["vocab"], normal, {**lead.added, **new}, lead.form, path)
    listed = whole.get("added_tokens") or []
    known = {entry["id"] for entry in listed}
    # What only another file of the lead adds would be numbered behind ours.
    more = {at: token for at, token in {**lead.added, **new}.items() if at not in known}
    entries = [*listed, *({"id": at, **token.entry()} for at, token in more.items())]
    whole["added_tokens"] = sorted(entries, key=lambda entry: int(entry["id"]))
    whole["model"] = model
    return whole


def with_tokens(
    vocab: Any, normal: Mapping[str, int], added: Mapping[int, Added], form: str, path: Path
) -> dict[str, int] | list[Any]:
    """A model's tokens with further ones, and those added ones that would get other numbers without being among them.

    The library numbers an added token that the model does not know by itself: behind the added ones before it, or
    behind as many as the model knows.

    Raises:
        SutureError: if a Unigram model, which knows tokens by their place in a list, cannot number them so.
    """
    if not isinstance(vocab, dict):
        if not _numbered({pair[0]: i for i, pair in enumerate(vocab)}, added):
            message = "added tokens are not numbered one after the other, as a Unigram tokenizer must have them"
            raise SutureError(f"{path}: {message}", path)
        return list(vocab)
    made = {**vocab, **normal}
    return made if _numbered(made, added) else made | {token.text: at for at, token in sorted(added.items())}


def _numbered(vocab: Mapping[str, int], added: Mapping[int, Added]) -> bool:
    """Whether the library numbers the added tokens as wanted."""
    last = -1
    for at in sorted(added):
        number = vocab.get(added[at].text)
        if number is None:
            number = last + 1 if last >= len(vocab) else len(vocab)
        if number != at:
            return False
        last = max(last, number)
    return True
