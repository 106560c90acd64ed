"""The tables of the pages, made from kept runs.

A page says where a table goes and of which run it is, and this writes it there:

    <!-- table: speed runs/2026-11-22-123901-speed.json -->
    <!-- end -->

The path is relative to the page. Kinds of tables: `speed`, `many` (the small tensors of a speed run), `analysis`,
`memory` and `projected`.

    python benches/tables.py            # writes the tables
    python benches/tables.py --check    # fails if a table is not what its run says
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

from common.kept import Kept, Times, short
from common.places import HERE
from common.tables import markdown, number
from projected import table as projected
from sets.cases import CASES, Case
from sets.rows import OVERHEAD_TARGET

PAGES = (HERE / "README.md", HERE.parent / "README.md")
MARKED = re.compile(r"(<!-- table: (\S+) (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
OPENED = re.compile(r"^<!-- table:", re.MULTILINE)
BESIDE = slice(5, 5)
"""Where the columns of a peer go in a line."""


class WrongPageError(Exception):
    """A page whose marks make no sense."""


def verdict(found: list[tuple[float | None, float | None, bool]]) -> str:
    """Whether all that has a target is what it should be: each a value, its target, and whether that is the most."""
    met = [value <= target if most else value >= target for value, target, most in found if value and target]
    return "-" if not met else "yes" if all(met) else "**no**"


def divided(one: Times | None, by: Times | None) -> float | None:
    return one.median / by.median if one and by else None


def told(times: Times | None) -> str:
    return "-" if times is None else times.told()


def target(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def memory(suture: Times | None, peer: Times | None) -> str:
    if suture is None:
        return "-"
    return number(suture.anon_mib, 0) + (f" against {peer.anon_mib:.0f}" if peer else "")


def ran(kept: Kept, small: bool) -> list[Case]:
    """The cases that a speed run has, in the order of the set."""
    cases = [case for case in CASES if case.small_tensors == small and case.name in kept.cases]
    if not cases:
        raise WrongPageError("the run has none of the cases that the table is of")
    return cases


def speed(kept: Kept) -> list[list[str]]:
    cases = ran(kept, small=False)
    peers = any(kept.times(case.name, "mergekit") for case in cases)
    lines = [["case", "suture", "floor", "times the floor", "at most", "peak MiB", "met"]]
    if peers:
        lines[0][BESIDE] = [f"mergekit {kept.document['versions']['peers']['mergekit']}", "times faster", "at least"]
    for case in cases:
        suture, floor, peer = (
            kept.times(case.name, "suture"),
            kept.floor(case.name),
            kept.times(case.name, "mergekit"),
        )
        over, faster, most = divided(suture, floor), divided(peer, suture), case.target(kept.cold)
        met = verdict([(over, most, True), (faster, case.speedup_target, False)])
        lines.append([case.name, told(suture), told(floor), number(over), target(most), memory(suture, peer), met])
        if peers:
            lines[-1][BESIDE] = [told(peer), number(faster, 0), target(case.speedup_target)]
    return lines


def many(kept: Kept) -> list[list[str]]:
    lines = [["case", "suture", "floor", "over the floor", "at most", "peak MiB", "met"]]
    for case in ran(kept, small=True):
        suture, floor = kept.times(case.name, "suture"), kept.floor(case.name)
        over = suture.median - floor.median if suture and floor else None
        lines.append([case.name, told(suture), told(floor), number(over, unit=" s"), f"{OVERHEAD_TARGET:g} s",
                      memory(suture, None), verdict([(over, OVERHEAD_TARGET, True)])])  # fmt: skip
    return lines


def analysis(kept: Kept) -> list[list[str]]:
    rows = kept.rows
    lens = any(row["speedup"] for row in rows)
    lines = [["case", "suture", "reading alone", "times the reading", "at most", "peak MiB", "met"]]
    if lens:
        lines[0][BESIDE] = ["mergelens", "times faster", "at least"]
    for row in rows:
        suture, floor, peer = (kept.times(row["case"], "suture"), kept.floor(row["case"]),
                               kept.times(row["case"], "mergelens"))  # fmt: skip
        over, faster = divided(suture, floor), divided(peer, suture)
        met = verdict([(over, row["target"], True), (faster, row["speedup_target"], False)])
        lines.append([row["case"], told(suture), told(floor), number(over), target(row["target"]),
                      memory(suture, peer), met])  # fmt: skip
        if lens:
            lines[-1][BESIDE] = [told(peer), number(faster, 0), target(row["speedup_target"])]
    return lines


def findings(kept: Kept) -> list[list[str]]:
    lines = [["what", "found", "at most", "met"]]
    for row in kept.rows:
        # A time is of several runs; a peak is the highest there was.
        times = kept.times(row["what"], "suture")
        value = told(times) if row["unit"] == "s" else f"{short(row['value'])} {row['unit']}"
        met = "**no**" if row["failed"] else verdict([(row["value"], row["target"], True)])
        lines.append([row["what"], value, f"{row['target']:g} {row['unit']}", met])
    return lines


def said(make: Callable[[Kept], list[list[str]]]) -> Callable[[Kept], str]:
    """The table, and of what run it is; several runs of a case stand as the median and what they lie between."""
    return lambda kept: f"{markdown(make(kept))}\n\n{kept.told()}."


KINDS: dict[str, Callable[[Kept], str]] = {
    "speed": said(speed),
    "many": said(many),
    "analysis": said(analysis),
    "memory": said(findings),
    "projected": lambda kept: projected(kept.rows),
}


def written(page: Path) -> str:
    """The page with its tables as their runs say."""

    def table(found: re.Match[str]) -> str:
        begin, kind, run, _, end = found.groups()
        try:
            text = KINDS[kind](Kept.read(page.parent / run))
        except KeyError as e:
            raise WrongPageError(f"{page}: {kind} {run}: there is no {e}") from None
        except (OSError, json.JSONDecodeError, WrongPageError) as e:
            raise WrongPageError(f"{page}: {kind} {run}: {e}") from None
        return f"{begin}\n{text}\n\n{end}"

    text = page.read_text()
    if len(OPENED.findall(text)) != len(MARKED.findall(text)):
        raise WrongPageError(f"{page}: a table is begun and not ended, or has no kind or no run")
    return MARKED.sub(table, text)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, default=PAGES)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is not what its runs say")
    args = parser.parse_args(argv)
    changed: list[Path] = []
    try:
        for page in args.pages:
            text = written(page)
            if text != page.read_text():
                changed.append(page)
                if not args.check:
                    page.write_text(text)
    except WrongPageError as e:
        print(e, file=sys.stderr)
        return 2
    if args.check and changed:
        print(*(f"{page}: not what its runs say; run benches/tables.py" for page in changed), sep="\n", file=sys.stderr)
    return 1 if args.check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
