"""The command line that does what a proposal says, for people to keep, to change and to run again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import Any

from suture.proposal import taken
from suture.reference import written
from suture.render.layout import cells
from suture.render.units import ranges
from suture.results import Proposal


class NoCommandError(ValueError):
    """What a proposal does, and no options say; the message tells why, in a clause."""


def command_of(
    proposal: Proposal,
    into: str | PathLike[str],
    donor: str | PathLike[str],
    out: str | PathLike[str],
    *,
    swap: Mapping[str, Any] | None = None,
    options: Sequence[str] = (),
) -> str:
    """The `suture swap` without `--auto` that writes the same tensors, byte for byte, quoted for a shell.

    Args:
        proposal: the proposal.
        into: the recipient.
        donor: the donor.
        out: the output folder.
        swap: the recipe of the swap that took the proposal, where there was one: it may have been by edges, of some
            modules alone, or without blending what is outside the layers. By default what the proposal says itself.
        options: further options, as a user would type them.

    Raises:
        NoCommandError: if the options cannot say it: blends that are no transition beside the bottom or the top,
            or other layers for each block.
    """
    if swap is None:
        stack = proposal["stack"]
        swap = {"donors": taken(proposal, proposal["by"]), "non_layer": proposal["alpha"], "stack": stack}
    words = ["suture", "swap", "--into", _path(into), "--from", _path(donor), _path(out)]
    # A layer that has no score is among the silent ones.
    count = 1 + max([*(s["layer"] for s in proposal["scores"]), *proposal["silent"]], default=-1)
    words += _layers([e for e in swap["donors"] if _gives(e)], count)
    if swap.get("stack"):
        words += ["--stack", str(swap["stack"])]
    ignored = swap.get("ignore")
    words += ["--ignore", ",".join(ignored)] if ignored else []
    words += _outside(swap.get("non_layer", "into"), proposal["base"])
    if swap.get("dtype"):
        words += ["--dtype", str(swap["dtype"])]
    return shlex.join([*words, *options])


def command_lines(command: str, width: int | None) -> list[str]:
    """A command in lines of at most `width` columns, that a shell reads as one."""
    if width is None or cells(command) <= width:
        return [command]
    lines = [""]
    for word in map(shlex.quote, shlex.split(command)):
        if lines[-1] and cells(f"{lines[-1]} {word} \\") > width:
            lines[-1] += " \\"
            lines.append(f"  {word}")
        else:
            lines[-1] += f" {word}" if lines[-1] else word
    return lines


def _path(path: str | PathLike[str]) -> str:
    """A path as an argument: never taken for an option."""
    text = fspath(written(path))
    if not text.isprintable():
        raise NoCommandError("a path holds what cannot be shown")
    return f"./{text}" if text.startswith("-") else text


def _gives(entry: Mapping[str, Any]) -> bool:
    """Whether anything is taken from the donor."""
    return any(entry.get(key) for key in ("layers", "blended", "bottom", "top"))


def _layers(entries: Sequence[Mapping[str, Any]], count: int) -> list[str]:
    """The options for the layers that are taken and blended."""
    if not entries:
        return []
    first, *others = entries
    wanted = ("layers", "blended", "blend", "heads", "bottom", "top", "transition_bottom", "transition_top")
    if any([e.get(key) for key in wanted] != [first.get(key) for key in wanted] for e in others):
        raise NoCommandError("each block has layers of its own, and the options name layers for all modules alike")
    modules = [str(e["modules"]) for e in entries if e.get("modules")]
    words = _spans(first, count)
    if modules:
        words += ["--modules", ",".join(modules)]
    if (heads := first.get("heads")) is not None:
        words += ["--heads", heads if isinstance(heads, str) else ranges(heads)]
    return words


def _spans(entry: Mapping[str, Any], count: int) -> list[str]:
    """Layers one by one; or as bottom and top, where layers next to these are blended."""
    if "layers" not in entry:
        blend = entry.get("blend", 0.5)
        shown = {key: entry.get(key, 0) for key in ("bottom", "top", "transition_bottom", "transition_top")}
        return _edges(shown, blend)
    # A share of 0 or 1 is no blend.
    shares = {int(layer): float(share) for layer, share in entry.get("blended", {}).items()}
    whole = sorted({*entry["layers"], *(layer for layer, share in shares.items() if share == 1)})
    blended = sorted(layer for layer, share in shares.items() if 0 < share < 1)
    if not blended:
        return ["--layers", ranges(whole)] if whole else []
    bottom = next((i for i in range(count) if i not in whole), count)
    top = next((i for i in range(count - bottom) if count - 1 - i not in whole), count - bottom)
    below = next(i for i in range(count + 1) if bottom + i not in blended) if bottom else 0
    above = next(i for i in range(count + 1) if count - 1 - top - i not in blended) if top else 0
    covered = {*range(bottom, bottom + below), *range(count - top - above, count - top)}
    if bottom + top != len(whole) or covered != set(blended):
        raise NoCommandError(
            f"it blends layer{'s' if len(blended) > 1 else ''} {ranges(blended)}, and the options blend none but "
            "transitions beside layers from the bottom and the top"
        )
    if below + above > len(blended):
        # Between bottom and top lies nothing but what is blended: it is one transition.
        above = 0
    spans = {"bottom": bottom, "top": top, "transition_bottom": below, "transition_top": above}
    return _edges(spans, shares[blended[0]])


def _edges(spans: Mapping[str, int], blend: float | str) -> list[str]:
    words = [w for key, n in spans.items() if n for w in (f"--{key.replace('_', '-')}", str(n))]
    blends = spans["transition_bottom"] or spans["transition_top"]
    return words + (["--blend", str(blend)] if blends and blend != 0.5 else [])


def _outside(share: Any, base: str) -> list[str]:
    """The option for what is outside the layers."""
    named = {0: "into", 0.5: "mean"}
    if share == 1:
        raise NoCommandError("it takes what is outside the layers alone, and `--non-layer from` the tokenizer too")
    if isinstance(share, int | float) and share not in named:
        raise NoCommandError(
            f"it blends what is outside the layers by {share:g}, and the options take it whole or as the mean"
        )
    word = named.get(share, share)
    return ["--non-layer", str(word)] + (["--base", _path(base)] if word == "base" else [])
