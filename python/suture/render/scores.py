"""What models can do, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from suture.render.layout import room
from suture.render.table import Column, names, show
from suture.results.outcome import Outcome


def show_scores(outcomes: Sequence[Outcome], languages: Sequence[str]) -> None:
    """Print one row for each model: its scores by language, and how it was made."""
    best = max(o.scores[languages[-1]] for o in outcomes)
    columns = [names("model", [o.name for o in outcomes])]
    columns += [Column(f"task in {lang}", [f"{o.scores[lang]:.1%}" for o in outcomes]) for lang in languages]
    columns.append(names("made by", [o.made for o in outcomes], rank=1))
    show(columns, room(), bold=[i for i, o in enumerate(outcomes) if o.scores[languages[-1]] == best])
