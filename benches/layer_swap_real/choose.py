"""Which models are reported: those that nothing chose, and those that validation problems did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from layer_swap_real.setups import Setup

#: A result of a model on sets of problems, and where it belongs.
Record = Mapping[str, Any]
#: The set of problems that is what the study is about.
MAIN = "task"


def place(record: Record) -> tuple[int, str, str, str]:
    """The seed, task, language and part of a record."""
    return record["seed"], record["task"], record["language"], record["part"]


def of(records: Iterable[Record], seed: int, task: str, language: str, part: str) -> dict[str, Record]:
    """The models of one seed, task, language and part, by name."""
    return {r["name"]: r for r in records if place(r) == (seed, task, language, part)}


def best(validated: Mapping[str, Record], names: Sequence[str]) -> str:
    """The model with most validation problems right; of equals the one with the least loss."""

    def score(name: str) -> tuple[int, float]:
        scores = validated[name]["sets"][MAIN]
        return scores["right"].count("1"), -scores["loss"]

    return max(names, key=score)


def rows(setup: Setup, families: Mapping[str, str], validated: Mapping[str, Record]) -> dict[str, str]:
    """The rows of the table, by what they say: the name of the model of each."""
    bottom, top = setup.fixed
    shape = f"b{bottom}_t{top}_into"

    def family(which: str) -> list[str]:
        return [name for name, own in families.items() if own == which]

    swap = best(validated, family("swap"))
    found = {"base": "base", "task expert": "task", "language expert": "language", "average": "average"}
    for name in family("merge"):
        if name.startswith("arithmetic_"):
            found["task arithmetic, weights " + " and ".join(name.split("_")[1:])] = name
        elif name.startswith("ties_"):
            found[f"TIES, density {name.split('_')[1]}"] = name
    found["merge, chosen"] = best(validated, family("merge"))
    found |= {f"search by {name.split('_')[1]}": name for name in family("search")}
    found[f"swap, fixed ({bottom} bottom, {top} top)"] = f"swap_{shape}"
    found["swap, chosen"] = swap
    found |= {"swap --auto, by layer": "auto_layer", "swap --auto, by edges": "auto_edges"}
    found["swap --auto with --evidence"] = "auto_text"
    found["control: reset to the base, fixed"] = f"reset_{shape}"
    found["control: reset of the chosen swap's layers"] = swap.replace("swap_", "reset_")
    found["control: reset to the base, chosen"] = best(validated, family("reset"))
    found["control: reversed swap, fixed"] = f"reversed_{shape}"
    found["control: reversed swap, chosen"] = best(validated, family("reversed"))
    return found
