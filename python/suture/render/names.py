"""Names of modules, short enough for the head of a column and still told apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from suture.escape import printable

_SHORT = {"input_layernorm": "in_norm", "post_attention_layernorm": "post_norm"}


def endings(modules: Iterable[str]) -> dict[str, str]:
    """Each module's shortest ending that no other module shares."""
    names = list(dict.fromkeys(modules))
    short = {}
    for name in names:
        parts = name.split(".")
        for n in range(1, len(parts) + 1):
            ending = ".".join(parts[-n:])
            if not any(o != name and (o == ending or o.endswith("." + ending)) for o in names):
                break
        short[name] = printable(ending) or "(no name)"
    return short


def heads(modules: Iterable[str]) -> dict[str, str]:
    """The same for columns that are narrow: with the two longest names that most models have said shorter."""
    found = endings(modules)
    short = {name: _SHORT.get(ending, ending) for name, ending in found.items()}
    told = list(short.values())
    return {name: s if told.count(s) == 1 else found[name] for name, s in short.items()}


def cut(names: Mapping[str, str], width: int) -> dict[str, str]:
    """The same names, in the middle of which so much is left out that they have `width` characters; none are alike."""
    found: dict[str, str] = {}
    for name, said in names.items():
        short, n = said, 1
        while len(short) > width or short in found.values():
            mark = "\N{HORIZONTAL ELLIPSIS}" + (f"{n}\N{HORIZONTAL ELLIPSIS}" if n > 1 else "")
            left = max(width - len(mark), 2)
            short, n = said[: left // 2] + mark + said[len(said) - (left - left // 2) :], n + 1
        found[name] = short
    return found
