"""Rows of a comparison of models that tensors decide: names, shapes, dtypes, quantised weights, stacks, heads."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from suture._core import is_buffer, is_vocabulary, other_names
from suture.analysis.seen import COMPUTES, COUNTS, Seen
from suture.results.compat import Finding
from suture.results.reading import Stack
from suture.sidecars.relied import other_quantisation

#: At most so many globs are proposed for what is to be left out.
_GLOBS = 2
#: What to do about quantised models that are stored otherwise.
_DECODE = "swap with `--to bf16`, which decodes all of them; merges need nothing"


def row(
    what: str, values: Iterable[str], *, same: bool, blocks: Iterable[str] = (), told: str = "", remedy: str = ""
) -> Finding:
    """A row; its status follows from what it blocks."""
    stops = [] if same else list(blocks)
    status = "same" if same else "blocks" if stops else "differs"
    return {
        "what": what,
        "status": status,
        "values": list(values),
        "blocks": stops,
        "told": "" if same else told,
        "remedy": "" if same else remedy,
    }


def tensor_rows(seen: Sequence[Seen]) -> Iterator[Finding]:
    """The rows, in the order in which they are shown."""
    yield _names(seen)
    yield _shapes(seen)
    yield _dtypes(seen)
    yield _quantised(seen)
    if any(_quantisation(model) != "none" for model in seen):
        yield _quantisers(seen)
    if any(s.adapter for s in seen):
        alike = all(s.adapter for s in seen)
        blocks = ("merge",) if alike else ("merge", "swap")
        values = ["an adapter" if s.adapter else "a model" for s in seen]
        remedy = "fold adapters into their models first"
        yield row("adapters", values, same=False, blocks=blocks, told="factors of adapters", remedy=remedy)
    yield _layers(seen)
    yield _other_stacks(seen)
    yield _heads(seen)


def _names(seen: Sequence[Seen]) -> Finding:
    first, *others = seen
    values, told, blocks, remedies = [f"{len(first.tensors):,}"], [], set(), []
    for other in others:
        missing, more = _lacking(other, first), _lacking(first, other)
        # What is left over is told of, and what stands for something else by a tie or in a buffer is not.
        values.append(f"{len(other.tensors):,}" + _counted(len(more), len(missing)))
        if not missing and not more:
            continue
        blocks |= {"merge"} | ({"swap"} if any(_inside(first, other, n) for n in (*missing, *more)) else set())
        text, remedy = _explained(first, other, missing, more)
        told.append(text)
        remedies.append(remedy)
    same = not told
    remedy = "; ".join(dict.fromkeys(remedies))
    return row("tensors", values, same=same, blocks=sorted(blocks), told="; ".join(told), remedy=remedy)


def _lacking(model: Seen, other: Seen) -> list[str]:
    """The tensors of another model that this one lacks."""
    names = other.tensors.keys() - model.tensors.keys()
    if not names:
        return []
    # In the order of the files, whatever a set makes of it.
    lacks = (n for n in other.tensors if n in names and model.counterpart(n) is None)
    return [n for n in lacks if not is_buffer(n, len(other.tensors[n][1]))]


def _counted(more: int, missing: int) -> str:
    said = [f"{n:,} {word}" for n, word in ((more, "more"), (missing, "missing")) if n]
    return f": {', '.join(said)}" if said else ""


def _inside(first: Seen, other: Seen, name: str) -> bool:
    """Whether a tensor is in a layer that a swap would move."""
    return any(name in model.tensors and model.in_layers(name) for model in (first, other))


def _explained(first: Seen, other: Seen, missing: list[str], more: list[str]) -> tuple[str, str]:
    """Why names differ, and what to do."""
    counted = f"{len({*missing, *more}):,} names are in one of {first.label} and {other.label} alone"
    for model, own, theirs in ((other, more, missing), (first, missing, more)):
        prefix = _prefix(own, theirs)
        if prefix:
            whole = set(theirs)
            explained = sum(n.removeprefix(prefix) in whole for n in own if n.startswith(prefix))
            text = f"{counted}, {2 * explained:,} of them by the prefix `{prefix}` in {model.label}"
            return text, f"merges and swaps match it; for other tools take `{prefix}` off the names in {model.label}"
    lengths = {s["prefix"]: s["layers"] for s in first.stacks}
    longer = [s for s in other.stacks if s["prefix"] in lengths and s["layers"] != lengths[s["prefix"]]]
    unequal = [s["prefix"] for s in longer]
    if unequal and all(n.startswith(tuple(unequal)) for n in (*missing, *more)):
        return f"{counted}, all in layers that the other does not have", "choose the layers with `slices`"
    return f"{counted}, such as `{(missing or more)[0]}`", left_out([*missing, *more])


def _prefix(own: Sequence[str], theirs: Sequence[str]) -> str:
    """What stands before the names of one model, if the other has the same names without it."""
    if not own or not theirs:
        return ""
    whole = set(theirs)
    cuts = (i + 1 for i, c in enumerate(own[0]) if c == ".")
    return next((own[0][:i] for i in cuts if own[0][i:] in whole), "")


def left_out(names: Sequence[str]) -> str:
    """How to leave tensors out of a merge or a swap."""
    globs = globs_of(names)
    if len(globs) > _GLOBS:
        return "exclude them (`--ignore GLOB`, `exclude`)"
    listed = ",".join(globs)
    return f"exclude {'it' if len(names) == 1 else 'them'} (`--ignore '{listed}'`, `exclude`)"


def globs_of(names: Iterable[str]) -> list[str]:
    """Filters for these names: with what is a number in them, such as that of a layer, left open."""
    return list(dict.fromkeys("glob:" + re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names))


def _shapes(seen: Sequence[Seen]) -> Finding:
    first, *others = seen
    found: dict[str, None] = {}
    if any(other.tensors is not first.tensors for other in others):
        for other in others:
            shared = ((n, s, other.counterpart(n)) for n, (_, s) in first.tensors.items())
            # A tensor whose dtype alone differs is told of elsewhere.
            unlike = (n for n, s, theirs in shared if theirs and theirs[1] != s and not is_buffer(n, len(s)))
            found |= dict.fromkeys(unlike)
    names = list(found)
    if not names:
        return row("shapes", ["as the first's" if i else "" for i in range(len(seen))], same=True)
    values = [_shape(s, names[0]) for s in seen]
    blocks = ["merge", *(["swap"] if any(_inside(first, o, n) for n in names for o in others) else [])]
    told = f"{len(names):,} of {len(first.tensors):,} tensors, such as `{names[0]}`"
    remedy = left_out(names)
    if all(map(is_vocabulary, names)):
        remedy = "align them in the merge (`tokenizer_source: union`; by numbers alone --vocab), or " + remedy
    return row("shapes", values, same=False, blocks=blocks, told=told, remedy=remedy)


def _shape(model: Seen, name: str) -> str:
    found = model.counterpart(name)
    return ("x".join(map(str, found[1])) or "scalar") if found else "-"


def _dtypes(seen: Sequence[Seen]) -> Finding:
    first, *others = seen
    values, fixed, differing = [], 0, 0
    for model in seen:
        counts = Counter(dtype for dtype, _ in model.tensors.values())
        values.append(", ".join(name for name, _ in counts.most_common()))
    for other in others:
        if other.tensors is first.tensors:
            continue
        for name, (dtype, shape) in first.tensors.items():
            theirs = (other.counterpart(name) or (dtype,))[0]
            differing += theirs != dtype
            fixed += theirs != dtype and not {theirs, dtype} <= COMPUTES and not is_buffer(name, len(shape))
    told = f"{differing:,} tensors of the same name have another dtype"
    remedy = "bring them to one dtype first" if fixed else "none needed: cast on the way; `dtype` (`--dtype`) decides"
    blocks: tuple[str, ...] = ("merge", "swap") if fixed else ()
    if fixed and _decoded(seen):
        blocks, remedy = ("swap",), _DECODE
    return row("dtypes", values, same=not differing, blocks=blocks, told=told, remedy=remedy)


def _quantised(seen: Sequence[Seen]) -> Finding:
    values = [_quantisation(model) for model in seen]
    if set(values) == {"none"}:
        return row("quantisation", values, same=True)
    if _decoded(seen):
        told = "merges decode quantised weights, and swaps move them as they are stored"
        alike = len(set(values)) == 1
        return row("quantisation", values, same=False, blocks=() if alike else ("swap",), told=told, remedy=_DECODE)
    # Alike in all of them they move as they are.
    blocks = ("merge",) if len(set(values)) == 1 else ("merge", "swap")
    told = "quantised weights are moved, not computed on"
    return row("quantisation", values, same=False, blocks=blocks, told=told, remedy="dequantise first")


def _quantisers(seen: Sequence[Seen]) -> Finding:
    """How weights are quantised, by the configs: what one wrote another does not read."""
    unlike = [text for other in seen[1:] for text in other_quantisation(seen[0].config, other.config)]
    values = ["as the first's" if i and not other_quantisation(seen[0].config, s.config) else
              str(((s.config or {}).get("quantization_config") or {}).get("quant_method", "none"))
              for i, s in enumerate(seen)]  # fmt: skip
    told = "; ".join(dict.fromkeys(unlike))
    if _decoded(seen):
        return row("quantisation by config", values, same=not unlike, blocks=("swap",), told=told, remedy=_DECODE)
    remedy = "swap between models that were quantised alike"
    return row("quantisation by config", values, same=not unlike, blocks=("merge", "swap"), told=told, remedy=remedy)


def _decoded(seen: Sequence[Seen]) -> bool:
    """Whether every quantised weight of these models is of a form that is decoded as it is read."""
    return all(_quantisation(model) == "none" or model.decodes for model in seen)


def _quantisation(model: Seen) -> str:
    counts = Counter(d for n, (d, s) in model.tensors.items() if d not in COMPUTES and not is_buffer(n, len(s)))
    counts = Counter({d: n for d, n in counts.items() if d not in COUNTS})
    if not counts:
        return "none"
    config = model.config or {}
    stated = config.get("quantization_config")
    named = stated.get("quant_method") if isinstance(stated, dict) else None
    return f"{named if isinstance(named, str) else 'yes'} ({', '.join(sorted(counts))})"


def _layers(seen: Sequence[Seen]) -> Finding:
    first, *_ = seen
    mains = [model.main for model in seen]
    values = [_stack(s.main) if s.main else "no main stack" if s.stacks else "none" for s in seen]
    if first.main is None and first.stacks:
        named = " or ".join(f"`--stack {s['name']}`" for s in first.stacks)
        return row("layers", values, same=False, told="no stack is the main one", remedy=f"to swap: {named}")
    alike = all(m is not None and mains[0] is not None and _alike(m, mains[0]) for m in mains)
    if not first.stacks:
        told = "no tensor name holds a layer number: nothing can be swapped"
        return row("layers", values, same=False, blocks=("swap",), told=told)
    lengths = {m["layers"] for m in mains if m}
    remedy = "choose the layers with `slices`; a swap needs the same number"
    if len(lengths) == 1 and all(mains):
        remedy = "rename: they must have the same names"
    return row("layers", values, same=alike, blocks=("merge", "swap"), remedy=remedy)


def _alike(stack: Stack, other: Stack) -> bool:
    prefixes = {other["prefix"], *other_names(other["prefix"])}
    return stack["layers"] == other["layers"] and stack["prefix"] in prefixes


def _stack(stack: Stack) -> str:
    return f"{stack['layers']} in `{stack['prefix'].removesuffix('.')}`"


def _other_stacks(seen: Sequence[Seen]) -> Finding:
    values = [", ".join(_stack(s) for s in model.stacks if s is not model.main) or "none" for model in seen]
    return row("other stacks", values, same=len(set(values)) == 1, remedy="they stay the first model's in a swap")


def _heads(seen: Sequence[Seen]) -> Finding:
    found = [model.main["heads"] if model.main else None for model in seen]
    values = ["not said" if h is None else f"{h[0]}, {h[1]} for keys and values" for h in found]
    same = len({tuple(h) for h in found if h}) < 2
    remedy = "merge or swap models of the same heads"
    return row("heads", values, same=same, blocks=("merge", "swap"), remedy=remedy)
