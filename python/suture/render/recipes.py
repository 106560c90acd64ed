"""Where two outputs come from, in a few lines: counts first, then as much as there is room for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from suture.escape import json_text, printable
from suture.render.terminal import say
from suture.render.units import plural
from suture.results.recipes import Key, RecipeComparison, Source

#: No more lines than this; `--json` has all.
MOST = 20


def show_recipes(found: RecipeComparison) -> None:
    """Print at most `MOST` lines."""
    lines = [*_counts(found), *_details(found)]
    if len(lines) > MOST:
        lines = [*lines[: MOST - 1], f"{len(lines) - MOST + 1:,} more; --json has all"]
    for line in lines:
        say(line, hang=4)


def _counts(found: RecipeComparison) -> Iterator[str]:
    elsewhere, keys = len(found["elsewhere"]), len(found["keys"])
    yield f"{plural(found['shared'], 'tensor')} in both, {elsewhere:,} of them from elsewhere"
    lists = (
        (found["only_one"], f"only in {found['one']}"),
        (found["only_other"], f"only in {found['other']}"),
        (found["retyped"], "of another dtype or shape"),
        (found["other_bytes"], "from the same places, with other bytes"),
        (found["changed_inputs"], "read, whose bytes were others"),
    )
    for names, text in lists:
        if names:
            yield f"{plural(len(names), 'tensor')} {text}, such as {printable(names[0])}"
    differ = "differs" if len(found["parameters"]) == 1 else "differ"
    yield f"{plural(len(found['parameters']), 'parameter')} {differ}, {plural(keys, 'other key')} of the recipe"


def _details(found: RecipeComparison) -> Iterator[str]:
    for key in (*found["parameters"], *found["keys"]):
        yield _key(key)
    # What changed in the same way is one line: most often it is all tensors of some layers.
    ways = Counter((_way(m["one"], m["tensor"]), _way(m["other"], m["tensor"])) for m in found["elsewhere"])
    first = {
        (_way(m["one"], m["tensor"]), _way(m["other"], m["tensor"])): m["tensor"] for m in found["elsewhere"][::-1]
    }
    for way, n in ways.most_common():
        example = f", such as {first[way]}" if n > 1 else f": {first[way]}"
        yield f"  {plural(n, 'tensor')} {way[0]}, not {way[1]}{example}"


def _way(source: Source, name: str) -> str:
    inputs = [model if tensor == name else f"{model}:{tensor}" for model, tensor in source["inputs"]]
    word = "from" if source["action"] in ("copy", "move") else f"by {source['action']} of"
    return f"{word} {', '.join(inputs)}"


def _key(key: Key) -> str:
    one, other = ("nothing" if value is None else json_text(value) for value in (key["one"], key["other"]))
    return f"  {key['at']}: {one}, not {other}"
