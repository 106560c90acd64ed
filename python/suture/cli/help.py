"""``suture help``."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from suture.errors import UsageError


def _verbs(ctx: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    root = ctx.find_root()
    return [item for item in root.command.shell_complete(root, begun) if not item.value.startswith("-")]


@click.command(short_help="Show the help of a verb, or of all as a manual page")
@click.argument("verb", nargs=-1, shell_complete=_verbs)
@click.option("--man", is_flag=True, help="Print the manual page suture(1), which has all of it")
@click.pass_context
def help(ctx: click.Context, verb: tuple[str, ...], man: bool) -> None:
    """Show the help of VERB, as `suture VERB --help` does, or without one the overview.

    \b
    Examples:
      suture help swap
      suture help vocab trim
      suture help --man | man -l -
    """
    root = ctx.find_root()
    if man:
        if verb:
            raise UsageError("--man is of all verbs; give no VERB beside it")
        from suture.cli.man import page

        click.echo(page(root), nl=False)
    elif not verb:
        click.echo(root.get_help(), color=ctx.color)
    else:
        command: click.Command | None = root.command
        ctx = root
        for i, name in enumerate(verb):
            if not isinstance(command, click.Group):
                raise UsageError(f"`{' '.join(verb[:i])}` has no verbs, found `{name}`")
            # The group says what it does not know, as it would in front of the command line.
            _, command, _ = command.resolve_command(ctx, [name])
            assert command
            if i < len(verb) - 1:
                ctx = click.Context(command, info_name=name, parent=ctx)
        assert command
        command.make_context(verb[-1], ["--help"], parent=ctx)
