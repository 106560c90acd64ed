"""Groups of commands, each in a module of its own that is imported only when the command is called."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from suture.errors import UsageError, near

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class Lazy(click.Group):
    """A group that knows its commands by their help lines.

    Args:
        verbs: each command and what its help line says; the module of the same name in `package` holds it.
        package: where the modules are.
        asked: how the group is asked for its help.
    """

    def __init__(self, *args: Any, verbs: Mapping[str, str], package: str, asked: str, **more: Any) -> None:
        super().__init__(*args, **more)
        self._verbs, self._package, self._asked = verbs, package, asked

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in their order."""
        return list(self._verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in self._verbs:
            return None
        return _module(self._package, cmd_name.replace("-", "_"))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is meant.

        Raises:
            UsageError: if there is none of that name.
        """
        if args[0] not in self._verbs and not ctx.resilient_parsing:
            found = near(args[0], self._verbs) or f"; `{self._asked} --help` lists them"
            raise UsageError(f"unknown verb `{args[0]}`{found}")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """What a shell may put behind the group; click would import every command to know what it is."""
        from click.shell_completion import CompletionItem

        verbs = [CompletionItem(name, help=said) for name, said in self._verbs.items() if name.startswith(incomplete)]
        return [*verbs, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self._verbs.items()))


def _module(package: str, name: str) -> click.Command:
    command: click.Command = getattr(importlib.import_module(f"{package}.{name}"), name)
    return command
