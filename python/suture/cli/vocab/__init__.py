"""``suture vocab``: look at vocabularies, and change them by plans of rows. A verb a file."""

from __future__ import annotations

import click

from suture.cli.lazy import Lazy

#: Verb and what its help line says.
VERBS = {
    "inspect": "Show a vocabulary: kind, sizes, scripts, roles, under-trained rows",
    "compare": "Compare two vocabularies: may embeddings be exchanged?",
    "trim": "Leave out the tokens that texts do not need",
    "add": "Add tokens, with rows made of others",
    "clone": "Give every token, or some, a second row",
    "transliterate": "Add what tokens are in another script (TransMI)",
    "transplant": "Give a model another model's vocabulary",
    "align": "Map the tokens of one vocabulary to another's",
    "graft": "Put tuned embeddings into a sibling checkpoint",
    "pack": "Keep several vocabularies beside one trunk (Hydra)",
    "words": "Write static vectors of words, or translate by them",
    "apply": "Carry out a kept plan on another model of the same vocabulary",
    "undo": "Give a model its former vocabulary back",
}


@click.group(cls=Lazy, verbs=VERBS, package="suture.cli.vocab", asked="suture vocab")
def vocab() -> None:
    """Look at vocabularies, and change them without training.

    What changes a vocabulary makes a plan first: for every row of the output where it is from, and why. The plan lies
    beside the output (suture-vocabulary.json); `--plan FILE` keeps it elsewhere too.
    """
