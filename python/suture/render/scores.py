"""What models can do, as a table."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from suture.results import Outcome


def show_scores(outcomes: Sequence[Outcome], languages: Sequence[str]) -> None:
    """Print one row for each model: its scores by language, and how it was made."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model", no_wrap=True)
    for language in languages:
        table.add_column(f"task in {language}", justify="right", no_wrap=True)
    table.add_column("made by", overflow="fold")
    best = max(o.scores[languages[-1]] for o in outcomes)
    for o in outcomes:
        style = "bold" if o.scores[languages[-1]] == best else ""
        table.add_row(Text(o.name), *(f"{o.scores[lang]:.1%}" for lang in languages), Text(o.made), style=style)
    console.print(table)
