"""Whether the configs of models whose layers come together agree in what these layers rely on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from suture.errors import SutureError
from suture.sidecars.relied import (
    BREAKS,
    TOLD,
    differing,
    merged_kinds,
    other_kinds,
    other_quantisation,
    same_function,
    section_of,
)

Config = Mapping[str, Any]


def _sections(
    configs: Mapping[int, Config | None], change: Mapping[str, Any], model: int
) -> Iterator[tuple[Config, Config, bool]]:
    """What lender and model say of each stack that the model gives layers of, and whether it is the main one."""
    lender, of = change["from"], change["of"]
    for given in change["parts"][model]:
        main = given == of[model]
        there = of[lender] if main else given
        own, other = section_of(configs.get(lender), there), section_of(configs.get(model), given)
        if own is not None and other is not None:
            yield own, other, main


def disagreements(
    folders: Sequence[Path], configs: Mapping[int, Config | None], change: Mapping[str, Any], *, mixed: bool = False
) -> list[str]:
    """What the configs of a plan's models say otherwise than the one that the output's comes from.

    Args:
        folders: the models.
        configs: the config of each by its number, if it has one.
        change: what the plan says of configs.
        mixed: go on where layers of one would be meaningless in the other, and tell.

    Raises:
        SutureError: if they would be, and `mixed` is not given.
    """
    lender = change["from"]
    told: list[str] = []
    for model, counted in enumerate(change["of"]):
        if model == lender or configs.get(model) is None:
            continue
        broken: list[str] = []
        soft: list[str] = []
        if model in change["quantised"]:
            broken += other_quantisation(configs.get(lender), configs.get(model))
        for own, other, main in _sections(configs, change, model):
            breaking = differing(own, other, BREAKS)
            broken += [text for mine, theirs, text in breaking if not same_function(mine, theirs)]
            soft += [text for mine, theirs, text in breaking if same_function(mine, theirs)]
            soft += [text for _, _, text in differing(own, other, TOLD)] if main else []
            if main and counted is not None:
                broken += other_kinds(configs, change["of"], lender, model) if not change["stacks"] else []
                for stack in change["stacks"]:
                    broken += merged_kinds(configs, stack, model)
        if broken:
            message = (
                f"{folders[model]}: its layers mean something else than those of {folders[lender]}, by config.json: "
                f"{'; '.join([*broken, *soft])}"
            )
            if not mixed:
                raise SutureError(f"{message}; --allow-mixed goes on", folders[model])
            told.append(message)
        elif soft:
            told.append(f"{folders[model]}: config.json differs from that of {folders[lender]}: {'; '.join(soft)}")
    return told
