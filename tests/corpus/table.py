"""What suture does with every family of the corpus, as a table: `python -m tests.corpus.table > families.md`.

Everything in the last three columns was done a moment ago, and judged: what is refused is there with suture's words,
what is done is there only if it is right.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from . import judge, surgery
from .case import Case
from .facts import Family
from .families import FAMILIES, LEFT_OUT

HEADER = ("family", "layers", "beside them", "heads", "`--auto`", "slices")


def kinds(family: Family) -> str:
    """The layers of the main stack, each run of one kind told once."""
    runs = [(kind, len(list(run))) for kind, run in groupby(family.kinds)]
    half = family.kinds[: family.layers // 2]
    if len(set(half)) > 1 and half * 2 == family.kinds:
        return f"{' / '.join(half)}, in turn"
    return "; ".join(kind if n == 1 else f"{n} {kind}" for kind, n in runs)


def others(family: Family) -> str:
    """The other stacks with their lengths."""
    told = [f"`{prefix}` {n}" for prefix, n in family.others.items()]
    return ", ".join(told + ["a predicting block"] * family.predicting) or "-"


def tried(case: Case, verb: Callable[[Case, Path], Any], check: Callable[[Any], None], done: str) -> str:
    """What a verb does: `done` if it is right, else the words of the refusal or what is wrong."""
    made: list[Any] = []
    told = surgery.refusal(lambda: made.append(verb(case, case.out())))
    if told is not None:
        return f"refused: {said(case, told)}"
    try:
        check(made[0])
    except AssertionError as error:
        return f"**wrong**: {said(case, str(error))}"
    return done


def said(case: Case, words: str) -> str:
    """Words without the folders of this run, fit for a cell."""
    line = " ".join(words.strip().splitlines()[0].split())
    return line.replace(f"{case.folder}/", "").replace("|", "\\|")


def row(family: Family, folder: Path) -> tuple[str, ...]:
    """A family's row."""
    case = Case.make(family, folder)
    return (
        family.name,
        f"`{family.stacks[0]}` {kinds(family)}" + (f" (stored: {family.stored})" if family.stored else ""),
        others(family),
        tried(case, surgery.swap_heads, lambda report: judge.with_heads(case, report.out), family.attention.cut.value),
        tried(case, surgery.propose, lambda found: judge.proposed(case, found), "every layer"),
        tried(case, surgery.stack, lambda report: judge.stacked(case, report.out), "yes"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", help="families; all if none is named")
    only = parser.parse_args().only
    os.environ["HF_HUB_OFFLINE"] = "1"
    chosen = [f for f in FAMILIES if not only or f.name in only]
    for cells in (HEADER, ["---"] * len(HEADER)):
        print(f"| {' | '.join(cells)} |")
    for family in chosen:
        with TemporaryDirectory(prefix="suture-") as folder:
            print(f"| {' | '.join(row(family, Path(folder)))} |")
        sys.stdout.flush()
    if not only:
        print("\nNot in the corpus: " + "; ".join(f"`{name}` ({why})" for name, why in LEFT_OUT.items()) + ".")


if __name__ == "__main__":
    main()
