"""Tables that fit: names are folded, columns that say least are left out and named; a number is never cut."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import click

from suture.escape import printable
from suture.render.layout import cells, fold, justified

_GAP = 2
#: What a name breaks behind, and a column's title.
NAME, _TITLE = r"\s./_:,", r"\s_"
#: A column of names gets at least this share of the width before columns of figures get any.
_NAMES = 0.35
_SHORT = 10


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: what stands over it.
        values: what stands in it.
        rank: 0 for what is always shown; where room is short, the highest rank is left out first.
        left: true for words, which stand at the left; figures stand at the right.
        folds: true for names, which may go over several lines.
    """

    title: str
    values: Sequence[str]
    rank: int = 0
    left: bool = False
    folds: bool = False

    def __post_init__(self) -> None:
        """A title may be a name that a file has."""
        object.__setattr__(self, "title", printable(self.title))

    @cached_property
    def widest(self) -> int:
        """The columns of the terminal that the values take."""
        return max(map(cells, self.values), default=0)

    @property
    def natural(self) -> int:
        """The same, with the title on one line."""
        return max(self.widest, cells(self.title))

    def least(self, share: int) -> int:
        """The fewest it can do with, a name getting `share`."""
        words = max(cells(line) for line in fold(self.title, 1, behind=_TITLE, whole=True))
        return min(self.natural, max(share, words)) if self.folds else max(self.widest, words)


def laid(columns: Sequence[Column], width: int | None) -> tuple[list[list[str]], list[str]]:
    """Every row as its lines, the titles first, and the titles of what was left out."""
    kept = list(columns)
    while (widths := _widths(kept, width)) is None:
        # Of what tells least, the last.
        worst = max(range(len(kept)), key=lambda i: (kept[i].rank, i))
        if kept[worst].rank == 0:
            widths = [c.least(1) for c in kept]
            break
        del kept[worst]
    out = [c.title for c in columns if c not in kept]
    head = [fold(c.title, w, behind=_TITLE) for c, w in zip(kept, widths, strict=True)]
    depth = max(map(len, head), default=0)
    rows = [_row([[""] * (depth - len(lines)) + lines for lines in head], kept, widths)]
    for i in range(len(columns[0].values)):
        row = [fold(c.values[i], w, hang=2, behind=NAME) for c, w in zip(kept, widths, strict=True)]
        rows.append(_row(row, kept, widths))
    return rows, out


def show(columns: Sequence[Column], width: int | None, *, bold: Collection[int] = (), more: str = "") -> None:
    """Print a table on stdout: its titles and the rows `bold` in bold; `more` says where what is left out is."""
    rows, out = laid(columns, width)
    for i, row in enumerate(rows):
        for line in row:
            click.echo(click.style(line, bold=True) if i == 0 or i - 1 in bold else line)
    for line in left_out(out, width, more):
        click.echo(line)


def left_out(titles: Sequence[str], width: int | None, more: str = "") -> list[str]:
    """The line below a table that lacks columns."""
    if not titles:
        return []
    return fold(f"too narrow for {', '.join(titles)}" + (f"; {more}" if more else ""), width, hang=2, whole=True)


def names(title: str, values: Sequence[object], *, rank: int = 0) -> Column:
    """A column of names or other text from elsewhere."""
    return Column(title, ["" if v is None else printable(v) for v in values], rank, left=True, folds=True)


def words(title: str, values: Sequence[str], *, rank: int = 0) -> Column:
    """A column of short words of ours."""
    return Column(title, values, rank, left=True)


def _widths(columns: Sequence[Column], width: int | None) -> list[int] | None:
    """How wide each is; None if they do not fit side by side."""
    natural = [c.natural for c in columns]
    if width is None:
        return natural
    left = width - _GAP * (len(columns) - 1)
    # What is short anyway, such as the number of a layer, takes nothing from the share of the names.
    long = sum(c.folds and c.natural > _SHORT for c in columns)
    widths = [c.least(max(_SHORT, int(left * _NAMES) // max(long, 1))) for c in columns]
    left -= sum(widths)
    if left < 0:
        return None
    # What is left goes to the names, then to the titles.
    for i in sorted(range(len(columns)), key=lambda i: not columns[i].folds):
        more = min(natural[i] - widths[i], left)
        widths[i] += more
        left -= more
    return widths


def _row(folded: Sequence[Sequence[str]], columns: Sequence[Column], widths: Sequence[int]) -> list[str]:
    lines = []
    for n in range(max(map(len, folded), default=0)):
        parts = [lines[n] if n < len(lines) else "" for lines in folded]
        placed = [justified(p, w, right=not c.left) for p, c, w in zip(parts, columns, widths, strict=True)]
        lines.append((" " * _GAP).join(placed).rstrip())
    return lines
