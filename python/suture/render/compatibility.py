"""Whether models go together, as a table and two verdicts."""

from __future__ import annotations

from suture.escape import printable
from suture.render.layout import cells, room
from suture.render.table import names, show, words
from suture.render.terminal import say
from suture.results.compat import Answer, Compatibility, Finding

#: Rows that are told in a line when they are alike, so that what differs is seen.
_ALWAYS = ("tensors", "shapes", "dtypes", "quantisation", "layers", "heads", "kinds of layers", "tokenizer",
           "vocabulary", "head")  # fmt: skip
#: Labels are heads of columns up to this width.
_LONGEST = 14
_SAID = {"yes": "yes", "warnings": "yes, with warnings", "no": "no, because"}


def show_compatibility(found: Compatibility) -> None:
    """Print the rows that tell something, in a line those that do not, and the verdicts."""
    rows = [r for r in found["rows"] if r["status"] != "same" or r["what"] in _ALWAYS]
    columns = [words("", [r["what"] for r in rows]), words("", [r["status"] for r in rows])]
    for i, title in enumerate(_titles(found["labels"])):
        # Of many models the first two are always seen.
        columns.append(names(title, [r["values"][i] for r in rows], rank=max(i - 1, 0)))
    show(columns, room(), bold=[i for i, r in enumerate(rows) if r["status"] != "same"], more="--json has all")
    # Below, where a command can be copied whole.
    remedies: dict[str, list[str]] = {}
    for r in rows:
        if r["remedy"]:
            remedies.setdefault(r["remedy"], []).append(r["what"])
    for remedy, what in remedies.items():
        say(remedy, head=", ".join(what), hang=4)
    alike = [_alike(r) for r in found["rows"] if r not in rows]
    if alike:
        say(f"the same in all: {', '.join(alike)}", hang=2)
    say("not compared: the weights; `suture diff` tells whether models come from one base", hang=2)
    say()
    _verdict("merging", found["merge"])
    into = printable(found["labels"][0])
    _verdict(f"swapping layers into {into}", found["swap"])


def _titles(labels: list[str]) -> list[str]:
    """The labels as the heads of columns; where one is too long, numbers, of which a line for each tells."""
    shown = [printable(label) for label in labels]
    if max(map(cells, shown)) <= _LONGEST:
        return shown
    for i, label in enumerate(shown, 1):
        say(label, head=i)
    return [str(i) for i in range(1, len(shown) + 1)]


def _alike(row: Finding) -> str:
    told = list(dict.fromkeys(v for v in row["values"] if v != "not said"))
    return f"{row['what']} ({told[0]})" if told else row["what"]


def _verdict(operation: str, answer: Answer) -> None:
    say(_SAID[answer["answer"]], head=operation)
    for text in answer["because"]:
        say(f"  {text}", hang=4)
