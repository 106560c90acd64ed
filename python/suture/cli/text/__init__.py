"""``suture text``: models looked at with text. A verb a file."""

from __future__ import annotations

import click

from suture.cli.lazy import Lazy

#: Verb and what its help line says.
VERBS = {
    "loss": "Bits per byte by language; parents against child",
    "similarity": "How near translations are to each other, by layer",
    "rank": "Languages by their nearness to one (Language Ranker)",
    "influence": "What layers and experts do; statistics that merges take",
    "predict": "Transfer as a regression on features of languages",
    "script-gap": "Text against its romanisation, by layer (TransliCo)",
}


@click.group(cls=Lazy, verbs=VERBS, package="suture.cli.text", asked="suture text")
def text() -> None:
    """Look inside models with text. Models are run by torch and transformers (the extra `text`), of
    any form that suture reads; a model larger than the memory runs with a layer's weights at a time.

    Every figure comes with a baseline. docs/cross-lingual.md has a walk.
    """
