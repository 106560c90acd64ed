"""Tables of a finished run, in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stats import Estimate, paired

Record = dict[str, Any]
#: Fixed before the final run: 5 and 2 of 32 layers, in six layers, at least one.
FIXED = "swap_b1_t1_x0_into"
#: The merges shown one by one; the best of all is chosen as the best swap is.
MERGES = ("average", "task_arithmetic_1", "task_arithmetic_0.7", "ties_0.5", "ties_0.2")
REFERENCES = (
    "task",
    "average",
    "merge, chosen",
    "control: reset to the base, chosen",
    "control: reversed swap, chosen",
)
COLUMNS = ("task_b", "task_a", "known_b", "known_a", "task_b_in_language")


class Condition:
    """The models of one condition, by name and seed."""

    def __init__(self, records: Sequence[Record], task: str) -> None:
        self.seeds = [r["seed"] for r in records]
        self.models = [{m["name"]: m for m in r["conditions"][task]["models"]} for r in records]

    def values(self, pick: Callable[[int], str], column: str, part: str = "test") -> list[float]:
        """One value a seed; `pick` names the model of a seed's place."""
        return [float(models[pick(i)][part][column]) for i, models in enumerate(self.models)]

    def names(self, family: str) -> list[str]:
        """All models of a family, in order."""
        return [name for name, m in self.models[0].items() if m["family"] == family]

    def best(self, names: Sequence[str]) -> Callable[[int], str]:
        """For each seed the model that is best on the validation problems of all *other* seeds."""

        def pick(seed: int) -> str:
            others = [m for i, m in enumerate(self.models) if i != seed] or self.models
            return max(names, key=lambda name: sum(m[name]["validation"]["task_b"] for m in others))

        return pick


def tables(document: Record) -> str:
    """Everything as Markdown."""
    parts = []
    for pair, setup in document["setups"].items():
        records = [r for r in document["records"] if r["pair"] == pair]
        if not records:
            continue
        parts.append(f"## {pair}: {setup['pair']}; {len(records)} seeds\n")
        parts.append(_alignment(records))
        for task in setup["tasks"]:
            condition = Condition(records, task)
            parts += [f"### {task}\n", _main(condition), _grid(condition), _against_reset(condition)]
            parts.append(_changes(records, task))
        if {"strong", "gentle"} <= setup["tasks"].keys():
            parts.append(_across(Condition(records, "strong"), Condition(records, "gentle")))
    return "\n".join(parts)


def compared(condition: Condition) -> dict[str, Callable[[int], str]]:
    """The rows of the main table: a name, and which model it is for each seed."""

    def always(name: str) -> Callable[[int], str] | None:
        return (lambda _: name) if name in condition.models[0] else None

    def chosen(names: Sequence[str]) -> Callable[[int], str] | None:
        return condition.best(names) if names else None

    rows = {name: always(name) for name in ("base", "task", "language", *MERGES)}
    merges = [name for name in condition.models[0] if name.startswith(("average", "task_arithmetic", "ties"))]
    rows |= {
        "merge, chosen": chosen(merges),
        "swap, fixed (bottom 1, top 1)": always(FIXED),
        "swap, chosen": chosen(condition.names("swap")),
        "automatic swap": always("automatic"),
        "control: reset to the base, fixed (1, 1)": always(FIXED.replace("swap", "reset", 1)),
        "control: reset to the base, chosen": chosen(condition.names("reset")),
        "control: reversed swap, fixed (1, 1)": always("reversed_" + FIXED),
        "control: reversed swap, chosen": chosen(condition.names("reversed_swap")),
    }
    return {name: pick for name, pick in rows.items() if pick}


def _main(condition: Condition) -> str:
    rows = compared(condition)
    references = {name: condition.values(rows[name], "task_b") for name in REFERENCES if name in rows}
    lines = [
        f"| model | {' | '.join(COLUMNS)} | {' | '.join(f'task_b minus {name}' for name in references)} |",
        "| --- " * (len(COLUMNS) + len(references) + 1) + "|",
    ]
    for name, pick in rows.items():
        own = condition.values(pick, "task_b")
        cells = [str(Estimate.of(condition.values(pick, column))) for column in COLUMNS]
        cells += [str(paired(own, other)) for other in references.values()]
        made = sorted({pick(i) for i in range(len(condition.seeds))})
        shown = name if "chosen" not in name else f"{name} ({', '.join(made)})"
        lines.append(f"| {shown} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _grid(condition: Condition) -> str:
    parts = ["Mean `task_b` / `known_b` on the test set by swapped layers (rows: bottom, columns: top):\n"]
    for family in ("swap", "reset", "reversed_swap"):
        grid: dict[tuple[int, str], dict[tuple[int, int], str]] = {}
        for name in condition.names(family):
            s = condition.models[0][name]["settings"]
            both = (Estimate.of(condition.values(lambda _, n=name: n, c)).mean for c in ("task_b", "known_b"))  # type: ignore[misc]
            cell = " / ".join(f"{v:.2f}" for v in both)
            grid.setdefault((s["transition"], s["non_layer"]), {})[s["bottom"], s["top"]] = cell
        for (transition, non_layer), cells in grid.items():
            tops = sorted({t for _, t in cells})
            parts.append(
                f"| {family}, non-layer `{non_layer}`, transition {transition} | " + " | ".join(map(str, tops)) + " |"
            )
            parts.append("| --- " * (len(tops) + 1) + "|")
            for bottom in sorted({b for b, _ in cells}):
                parts.append(f"| {bottom} | " + " | ".join(cells.get((bottom, t), "-") for t in tops) + " |")
            parts.append("")
    return "\n".join(parts)


def _against_reset(condition: Condition) -> str:
    lines = ["| same layers | swap | reset to the base | difference |", "| --- | --- | --- | --- |"]
    for name in condition.names("reset"):
        pair = [condition.values(lambda _, n=n: n, "task_b") for n in (name.replace("reset", "swap", 1), name)]  # type: ignore[misc]
        cells = (*(Estimate.of(values) for values in pair), paired(pair[0], pair[1]))
        lines.append(f"| {name.removeprefix('reset_')} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def _across(strong: Condition, gentle: Condition) -> str:
    left = strong.values(compared(strong)["swap, chosen"], "task_b")
    others = {name: compared(gentle)[name] for name in ("task", "task_arithmetic_1", "merge, chosen", "swap, chosen")}
    lines = [f"{paired(left, gentle.values(pick, 'task_b'))} against gentle {name}" for name, pick in others.items()]
    return f"Chosen swap of the strong task expert: {'; '.join(lines)}\n"


def _alignment(records: Sequence[Record]) -> str:
    lines: list[str] = []
    for which in records[0]["alignment"]:
        # Where an answer begins all embeddings are the same word's, so that nothing is left of the first.
        depths = range(1, len(records[0]["alignment"][which]))
        cells = []
        for i in depths:
            values = ([r["alignment"][which][i][f] for r in records] for f in ("parallel", "retrieval"))
            cells.append(" / ".join(f"{Estimate.of(v).mean:.2f}" for v in values))
        if not lines:
            lines = [
                f"| cosine of parallel questions / retrieval after layer | {' | '.join(map(str, depths))} |",
                "| --- " * (len(depths) + 1) + "|",
            ]
        lines.append(f"| {which} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _changes(records: Sequence[Record], task: str) -> str:
    lines = []
    for i, expert in enumerate(("task", "language")):
        each = [r["conditions"][task]["changes"][i] for r in records]
        means = [Estimate.of(v).mean for v in zip(*each, strict=True)]
        lines.append(f"Relative change of the {expert} expert by layer: {', '.join(f'{m:.2f}' for m in means)}")
    choices = [
        " ".join(m["settings"]["choice"])
        for r in records
        for m in r["conditions"][task]["models"]
        if m["name"] == "automatic"
    ]
    return "\n\n".join([*lines, f"Automatic choices by seed: {'; '.join(choices)}"]) + "\n"
