"""The tables of a run, in Markdown, from its raw results alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from layer_swap_real.choose import MAIN, Record, of, rows
from layer_swap_real.merges import names
from layer_swap_real.setups import Recipe, Setup
from layer_swap_real.stats import mean_of, wilson

#: Sets of problems, and how the columns are called.
SETS = {MAIN: "task in {}", "digits": "the same with digits", "english": "task in English"}
#: Rows that the main column is compared with, seed by seed.
AGAINST = (
    "task expert",
    "average",
    "merge, chosen",
    "control: reset of the chosen swap's layers",
)


def setup_of(document: Mapping[str, Any]) -> Setup:
    """The settings that the results were made with."""
    told: dict[str, Any] = dict(document["setup"])
    told["recipes"] = {kind: Recipe(**recipe) for kind, recipe in told["recipes"].items()}
    told |= {key: tuple(value) for key, value in told.items() if isinstance(value, list)}
    return Setup(**told)


def tables(document: Mapping[str, Any]) -> str:
    """All tables: one for each task and language of which a seed is whole, and what trainings took."""
    setup, records = setup_of(document), document["records"]
    families = names(setup)
    parts = [_trainings(document["trainings"])]
    for task in setup.tasks:
        for language in setup.languages:
            tested = {}
            for seed in sorted({r["seed"] for r in records}):
                validated = of(records, seed, task, language, "validation")
                if families.keys() <= validated.keys():
                    picked = rows(setup, families, validated)
                    found = of(records, seed, task, language, "test")
                    if set(picked.values()) <= found.keys():
                        tested[seed] = {row: found[name] for row, name in picked.items()}
            title = f"### {task}, {language}"
            if not tested:
                parts.append(f"{title}: no seed is whole yet\n")
                continue
            parts.append(f"{title}: seeds {', '.join(map(str, tested))}, {setup.test} problems\n")
            parts.append(_table(language, list(tested.values())))
    return "\n".join(parts)


def _trainings(trainings: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| expert | seeds | steps | loss, first and last tenth | tokens a step | seconds a step |"]
    lines.append("| --- " * 6 + "|")
    for expert in dict.fromkeys(t["expert"] for t in trainings):
        own = [t for t in trainings if t["expert"] == expert]
        tenths = [max(1, len(t["losses"]) // 10) for t in own]
        first = statistics.fmean(statistics.fmean(t["losses"][:n]) for t, n in zip(own, tenths, strict=True))
        last = statistics.fmean(statistics.fmean(t["losses"][-n:]) for t, n in zip(own, tenths, strict=True))
        tokens, seconds = (statistics.fmean(t[key] for t in own) for key in ("tokens", "seconds"))
        seeds = ", ".join(str(t["seed"]) for t in own)
        steps = own[0]["steps"]
        lines.append(f"| {expert} | {seeds} | {steps} | {first:.2f}, {last:.2f} | {tokens:.0f} | {seconds:.1f} |")
    return "\n".join(lines) + "\n"


def _table(language: str, tested: Sequence[Mapping[str, Record]]) -> str:
    sets = [name for name in SETS if name in tested[0]["base"]["sets"]]
    head = [
        "model",
        *(SETS[name].format(language) for name in sets),
        "loss of right answers",
        f"bits per byte, {language}",
    ]
    head += [f"against {row}" for row in AGAINST]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for row in tested[0]:
        own = [models[row] for models in tested]
        cells = [_share([record["sets"][name]["right"] for record in own]) for name in sets]
        cells.append(_mean([record["sets"][MAIN]["loss"] for record in own]))
        cells.append(_mean([record["bits_per_byte"] for record in own]))
        for other in AGAINST:
            shares = [_right(m[row]) - _right(m[other]) for m in tested]
            cells.append("-" if row == other else _mean(shares, "+.2f"))
        made = list(dict.fromkeys(record["name"] for record in own))
        chosen = "chosen" in row
        lines.append(f"| {row}{' (' + ', '.join(made) + ')' if chosen else ''} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _right(record: Record) -> float:
    right: str = record["sets"][MAIN]["right"]
    return right.count("1") / len(right)


def _share(right: Sequence[str]) -> str:
    """The mean over seeds with Student's interval; of one seed Wilson's, over its problems."""
    if len(right) > 1:
        return _mean([one.count("1") / len(one) for one in right])
    low, high = wilson(right[0].count("1"), len(right[0]))
    return f"{right[0].count('1') / len(right[0]):.2f} ({low:.2f} to {high:.2f})"


def _mean(values: Sequence[float], form: str = ".2f") -> str:
    mean, half = mean_of(values)
    return f"{mean:{form}} ± {half:.2f}" if len(values) > 1 else f"{mean:{form}}"
