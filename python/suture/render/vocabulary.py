"""Vocabularies as text: what one is, how two compare, what became of words."""

from __future__ import annotations

from collections.abc import Sequence

from suture.escape import printable
from suture.render.layout import room
from suture.render.table import Column, names, show, words
from suture.render.terminal import say
from suture.render.units import figure, plural
from suture.results.vocabulary import (
    Cut,
    Digits,
    Neighbours,
    TrainedRows,
    VocabComparison,
    VocabInspection,
    VocabKind,
    VocabSizes,
    WordVectors,
)

#: Rows of tables, tokens and words that are told; JSON has all.
_TOLD = 10
_ALL = "--json has all"


def show_inspection(found: VocabInspection) -> None:
    """Print what a vocabulary is."""
    say(f"{_kind(found['kind'])}, {_sizes(found['sizes'])}", head=found["path"])
    for one in found["special"][:_TOLD]:
        say(f"  special  {one['role'] or '-'}: {one['token']} ({one['id']})", hang=11)
    if len(found["special"]) > _TOLD:
        say(f"  special  {len(found['special']) - _TOLD:,} more; {_ALL}")
    if found["added"]:
        say(f"  added    {plural(found['added'], 'token')} found in text before all else")
    say()
    some = found["scripts"][:_TOLD]
    show([
        words("script", [s["script"] for s in some]),
        Column("tokens", [f"{s['tokens']:,}" for s in some]),
        Column("share", [_percent(s["share"]) for s in some]),
    ], room())  # fmt: skip
    if len(found["scripts"]) > _TOLD:
        rest = found["scripts"][_TOLD:]
        say(f"{plural(len(rest), 'script')} more of {plural(sum(s['tokens'] for s in rest), 'token')}; {_ALL}")
    for table in found["tables"]:
        say()
        _rows(table)
    if found["text"] is not None:
        say()
        say(f"{plural(found['text']['lines'], 'line')} of {', '.join(found['text']['files'])}", head="text")
        _cuts([found["text"]["whole"], *found["text"]["scripts"]])


def _kind(kind: VocabKind) -> str:
    parts = [kind["form"]]
    if kind["byte_level"]:
        parts.append("of bytes")
    if kind["byte_fallback"]:
        parts.append("with bytes for what no token writes")
    return " ".join(parts)


def _sizes(sizes: VocabSizes) -> str:
    parts = [plural(sizes["tokens"], "token")]
    if sizes["holes"]:
        parts.append(f"{plural(sizes['holes'], 'number')} without one")
    if sizes["rows"] is not None:
        parts.append(f"{plural(sizes['rows'], 'row')}, {sizes['padding']:,} of padding")
    if sizes["beyond"]:
        parts.append(f"{sizes['beyond']:,} tokens without a row")
    return ", ".join(parts)


def _rows(table: TrainedRows) -> None:
    """What can be told of the rows of a table."""
    say(f"{table['role']}, {table['rows']:,} x {table['width']:,} {table['dtype']}", head=table["name"])
    if table["norms"]:
        say("  norms    " + ", ".join(f"{name} {figure(v)}" for name, v in table["norms"].items()), hang=11)
    unused = ", ".join(f"{n:,} {why}" for why, n in table["unused"].items())
    say(f"  unused   {unused or 'none that is known'}", hang=11)
    odd = (("of zeros", "zero"), ("with NaN or infinities", "nonfinite"), ("equal to another", "equal"))
    if told := ", ".join(f"{table[key]:,} {what}" for what, key in odd if table[key]):  # type: ignore[literal-required]
        say(f"  rows     {told}")
    low = table["undertrained"]
    tests = f"norm below {figure(table['low'])}"
    if table["near"] is not None:
        tests += f", or cosine to unused rows above {table['near']:.2f}"
    say(f"  low      {plural(len(low), 'token')} hardly trained by their rows ({tests})", hang=11)
    if low:
        some = low[:_TOLD]
        show([
            Column("id", [str(r["id"]) for r in some]),
            names("token", [r["token"] for r in some]),
            Column("norm", [figure(r["norm"]) for r in some]),
            Column("cosine", ["-" if r["cosine"] is None else f"{r['cosine']:.2f}" for r in some], 1),
        ], room())  # fmt: skip
        if len(low) > _TOLD:
            say(f"{len(low) - _TOLD:,} more; {_ALL}")


def _cuts(cuts: Sequence[Cut]) -> None:
    show([
        words("script", [c["script"] for c in cuts]),
        Column("words", [f"{c['words']:,}" for c in cuts], 3),
        Column("tokens", [f"{c['tokens']:,}" for c in cuts], 2),
        Column("per word", [_ratio(c["per_word"]) for c in cuts]),
        Column("per character", [_ratio(c["per_character"]) for c in cuts], 1),
        Column("per byte", [_ratio(c["per_byte"]) for c in cuts], 1),
        Column("words cut", [_percent(c["continued_share"]) for c in cuts], 2),
        Column("unknown", [_percent(c["unknown_share"]) for c in cuts]),
        Column("single", [_percent(c["single_share"]) for c in cuts]),
    ], room(), more=_ALL)  # fmt: skip


def show_comparison(found: VocabComparison) -> None:
    """Print how two vocabularies compare."""
    for path, kind, sizes in zip((found["a"], found["b"]), found["kinds"], found["sizes"], strict=True):
        say(f"{_kind(kind)}, {_sizes(sizes)}", head=path)
    shared = found["shared"]
    parts = ", ".join(f"{shared[key]:,} {name}" for key, name in _SHARED.items() if shared[key])  # type: ignore[literal-required]
    share = f"{_percent(shared['share_a'])} and {_percent(shared['share_b'])}"
    say(f"  shared   {plural(shared['tokens'], 'token')} ({parts}), {share}", hang=11)
    say(f"  numbers  {shared['number']:,} of them have the same number in both")
    for one in found["roles"]:
        if one["a"] != one["b"]:
            say(f"  role     {one['role']}: {one['a'] or '-'} and {one['b'] or '-'}", hang=11)
    if found["differing"]:
        say(f"  cut by   other {', '.join(found['differing'])}", hang=11)
    _digits(found["digits"])
    say()
    some = found["scripts"][:_TOLD]
    show([
        words("script", [s["script"] for s in some]),
        Column("first", [f"{s['a']:,}" for s in some]),
        Column("second", [f"{s['b']:,}" for s in some]),
        Column("shared", [f"{s['shared']:,}" for s in some]),
    ], room())  # fmt: skip
    if len(found["scripts"]) > _TOLD:
        say(f"{plural(len(found['scripts']) - _TOLD, 'script')} more; {_ALL}")
    misses = found["misses"]
    if misses["tokens"]:
        say()
        by = (
            f"{misses['word_start']:,} but for word start, {misses['case']:,} but for case, {misses['both']:,} for both"
        )
        say(f"{plural(misses['tokens'], 'token')} of the first only; nearly shared are {by}")
        if misses["examples"]:
            example = misses["examples"]
            show([
                names("first", [m["a"] for m in example]),
                names("second", [m["b"] for m in example]),
                words("differ in", [m["differs"] if m["edits"] is None else plural(m["edits"], "character")
                                    for m in example]),
            ], room())  # fmt: skip
    if found["neighbours"] is not None:
        say()
        _neighbours(found["neighbours"])
    say()
    fits = found["exchange"]["fits"] is not False
    say(_ANSWERS[found["exchange"]["answer"]] if fits else "no, they are not of one width", head="exchanging rows")
    for text in found["exchange"]["because"]:
        say(f"  {text}", hang=4)


_SHARED = {"exact": "by their bytes", "special": "special", "byte": "of single bytes"}
_ANSWERS = {
    "same": "yes, whole tables as they are",
    "extended": "yes, of shared tokens as they are",
    "renumbered": "yes, moved to the tokens' numbers",
    "overlap": "of shared tokens alone",
    "none": "no",
}


def _digits(digits: Digits) -> None:
    for side, one in (("first", digits["a"]), ("second", digits["b"])):
        if one is not None:
            longest = list(one["cuts"])[-1]
            say(f"  digits   {side}: {one['scheme']} ({' '.join(one['cuts'][longest])})", hang=11)


def _neighbours(found: Neighbours) -> None:
    who = f"{found['asked']:,} of {plural(found['shared'], 'shared token')}"
    drawn = f", drawn by seed {found['seed']}" if found["asked"] < found["shared"] else ""
    same = (
        f"{_percent(found['share'])} of the {found['k']} nearest are the same ({_percent(found['chance'])} by chance)"
    )
    say(f"{same}; of {who}{drawn}", head="neighbours")
    some = found["scripts"][:_TOLD]
    show([
        words("script", [s["script"] for s in some]),
        Column("tokens", [f"{s['tokens']:,}" for s in some]),
        Column("the same", [_percent(s["share"]) for s in some]),
    ], room())  # fmt: skip


def show_words(found: WordVectors) -> None:
    """Print what became of words."""
    if found["words"] or found["unknown"]:
        mean = "" if found["rows_per_word"] is None else f", {found['rows_per_word']:.2f} rows a word"
        say(f"{plural(found['words'], 'word')} of {found['dimensions']:,} numbers{mean}", head=found["model"])
        if found["unknown"]:
            some = ", ".join(printable(w) for w in found["unknown"][:_TOLD])
            more = f" and {len(found['unknown']) - _TOLD:,} more" if len(found["unknown"]) > _TOLD else ""
            say(f"  left out {some}{more}: the vocabulary cannot write them", hang=11)
        if found["repeated"]:
            say(f"  given    {plural(found['repeated'], 'word')} more than once")
        for file in found["files"]:
            say(f"  written  {file}", hang=11)
    lookup = found["dictionary"]
    if lookup is not None:
        who = f"{plural(lookup['sources'], 'word')} looked up among {lookup['targets']:,}"
        lost = f", {plural(lookup['left_out'], 'pair')} without a vector left out" if lookup["left_out"] else ""
        say(f"{who}{lost}", head="dictionary")
        show([
            words("by", ["cosine", "CSLS"]),
            Column("precision at 1", [_percent(lookup[k]["p1"]) for k in ("cosine", "csls")]),
            Column("MRR", [f"{lookup[k]['mrr']:.4f}" for k in ("cosine", "csls")]),
        ], room())  # fmt: skip


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
