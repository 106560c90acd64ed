"""What a shell is offered: words for values that are none of click's choices."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import click
from click.shell_completion import CompletionItem

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def words(known: Callable[[], Mapping[str, str]]) -> Completer:
    """Offer these words, each with what it is; they are looked up when a shell asks."""

    def offered(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
        return [CompletionItem(word, help=said or None) for word, said in known().items() if word.startswith(begun)]

    return offered
