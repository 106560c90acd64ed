"""Rows of a comparison of models that configs and tokenizers decide."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from suture.analysis.compat_tensors import row
from suture.analysis.seen import Seen
from suture.results.compat import Finding
from suture.sidecars.relied import (
    BREAKS,
    HEADS,
    TOLD,
    differing,
    kinds_of,
    other_kinds,
    said,
    same_function,
    section_of,
)
from suture.sidecars.tokenizer import VOCABULARIES, other_tokens

_MIXED = "`--allow-mixed` goes on"
_KEPT = "the first model's is kept"


def config_rows(seen: Sequence[Seen]) -> Iterator[Finding]:
    """The rows, in the order in which they are shown."""
    yield _kinds(seen)
    yield from _relied(seen)
    yield _tokens(seen)
    yield _vocabularies(seen)
    yield _ties(seen)


def architecture(seen: Sequence[Seen]) -> Finding:
    """What the models are, as their configs have it."""
    kinds = [k for model in seen if isinstance(k := (model.config or {}).get("model_type"), str)]
    values = [_named(model.config or {}) for model in seen]
    same = len(set(kinds)) < 2
    told = "models of different architectures" if not same else ""
    return row("architecture", values, same=same, told=told, remedy="merge or swap models of one architecture")


def _named(config: dict[str, Any]) -> str:
    listed = config.get("architectures")
    first = listed[0] if isinstance(listed, list) and listed else config.get("model_type")
    return first if isinstance(first, str) else "not known"


def _counted(model: Seen) -> Any:
    return model.main["counted"] if model.main else None


def _kinds(seen: Sequence[Seen]) -> Finding:
    configs, counted = {i: s.config for i, s in enumerate(seen)}, [_counted(s) for s in seen]
    values = []
    for config, of in zip(configs.values(), counted, strict=True):
        known = kinds_of(config, of)
        counts = Counter(k.attention + (f", {k.mlp}" if k.mlp else "") for k in known or ())
        values.append("; ".join(f"{n} {kind}" for kind, n in counts.items()) or "not said")
    told = []
    for i, model in enumerate(seen[1:], 1):
        told += [f"{model.label}: {text}" for text in other_kinds(configs, counted, 0, i)]
    return row("kinds of layers", values, same=not told, blocks=("merge", "swap"), told="; ".join(told), remedy=_MIXED)


def _relied(seen: Sequence[Seen]) -> Iterator[Finding]:
    """A row for each of the things that layers rely on and a config states."""
    sections = [section_of(s.config, _counted(s)) for s in seen]
    own = sections[0]
    for table in (BREAKS, TOLD):
        # Heads have a row of their own.
        for what, names in ((w, n) for w, n in table.items() if w not in HEADS):
            found = [said(section, names) if section is not None else ("", None) for section in sections]
            if all(value is None for _, value in found):
                continue
            values = ["not said" if value is None else _text(value) for _, value in found]
            told = zip(found, sections, strict=True)
            partly = any(value is None for (_, value), section in told if section is not None)
            pairs = [(own, s) for s in sections[1:] if own is not None and s is not None]
            unlike = [pair for a, b in pairs for pair in differing(a, b, {what: names})]
            breaks = table is BREAKS and any(not same_function(mine, theirs) for mine, theirs, _ in unlike)
            yield row(
                what,
                values,
                same=not unlike and not partly,
                told="" if unlike else "not said by all",
                blocks=("merge", "swap") if breaks else (),
                remedy=_MIXED if breaks else _KEPT,
            )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _tokens(seen: Sequence[Seen]) -> Finding:
    folders = [model.folder for model in seen]
    first = folders[0]
    has = [f is not None and any((f / name).is_file() for name in VOCABULARIES) for f in folders]
    values, counts = ["its own" if has[0] else "none"], []
    for there, folder in zip(has[1:], folders[1:], strict=True):
        count = other_tokens(first, folder) if first is not None and folder is not None else 0
        counts.append(count)
        values.append(f"{count:,} other tokens" if count else "as the first's" if there else "none")
    told = f"{max(counts):,} ids are other tokens than in {seen[0].label}; rows of these are other words"
    remedy = "swap layers only, or merge with `tokenizer_source: union`, which brings them together"
    return row("tokenizer", values, same=not any(counts), told=told, remedy=remedy)


def _vocabularies(seen: Sequence[Seen]) -> Finding:
    values = []
    for model in seen:
        stated = (model.config or {}).get("vocab_size")
        size = model.table if model.table is not None else stated
        values.append(f"{size:,}" if isinstance(size, int) else "not known")
    known = {value for value in values if value != "not known"}
    remedy = (
        "align them in the merge (`tokenizer_source: union`; by numbers alone --vocab), or leave them out (`exclude`)"
    )
    return row("vocabulary", values, same=len(known) < 2, remedy=remedy)


def _ties(seen: Sequence[Seen]) -> Finding:
    words = {True: "tied", False: "a head of its own", None: "not said"}
    values = [words[model.opened.tied] for model in seen]
    same = len({model.opened.tied for model in seen} - {None}) < 2
    told = "the head is the embedding in some alone"
    return row("head", values, same=same, told=told, remedy="none needed: a merge writes a head of its own")
