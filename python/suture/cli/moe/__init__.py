"""``suture moe``: models of experts, made of dense ones and taken apart. A verb a file."""

from __future__ import annotations

import click

from suture.cli.lazy import Lazy

#: Verb and what its help line says.
VERBS = {
    "make": "Make a mixture of dense models by a config (the default verb)",
    "from_dense": "Make a dense model one of experts that are all its own",
    "split": "Write each expert to a file of its own",
    "join": "Put experts of files behind a model's own",
    "drop": "Leave experts out",
    "keep": "Keep some experts, listed or most used",
    "swap": "Put experts of another model in the places of some",
    "average": "Write a dense model of the mean of all experts",
    "dense": "Write a dense model of one expert",
}


class _Moe(Lazy):
    """The group; a config in the place of a verb is made."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Find out what is meant where no verb stands first."""
        if args and args[0] == "--from-dense":
            args = ["from_dense", *args[1:]]
        elif args and args[0] not in VERBS and args[0].endswith((".yml", ".yaml", ".json")):
            args = ["make", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Moe, verbs=VERBS, package="suture.cli.moe", asked="suture moe")
def moe() -> None:
    """Make models of experts of dense ones, and take them apart.

    `suture moe CONFIG OUT` makes what a config in mergekit-moe's grammar says; `suture moe --from-dense MODEL OUT`
    makes a dense model one of experts, in its last layers if asked.
    """
