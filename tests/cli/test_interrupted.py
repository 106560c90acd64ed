"""Law: whoever interrupts a verb that can go on is told so, whichever verb it is."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click
import pytest

from suture import cli as front


def writing(command: click.Command, context: click.Context, path: list[str]) -> Iterator[list[str]]:
    """The verbs that write a model and are resumed: all that have --shard-size, but those that begin anew."""
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from writing(inner, click.Context(inner, parent=context), [*path, name])
    elif any("--shard-size" in p.opts for p in command.params) and path not in (["twin", "make"], ["plan"]):
        yield path


VERBS = list(writing(front.cli, click.Context(front.cli), []))


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_how_to_go_on_is_told(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(_: click.Context) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(front.cli, "invoke", stopped)
    monkeypatch.setattr(sys, "argv", ["suture", *words])
    with pytest.raises(SystemExit) as end:
        front.main()
    assert end.value.code == 130
    assert "run the same command again to resume" in capsys.readouterr().err
