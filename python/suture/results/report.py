"""What a verb that writes returns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from suture.recipe import Config
from suture.results.proposal import Proposal
from suture.results.surgery import DoneTensor, PlannedTensor, Surgery, places


@dataclass(frozen=True)
class TensorReport:
    """An output tensor, planned or made.

    Attributes:
        name: its name.
        dtype: its element type.
        shape: its dimensions.
        action: ``copy``, ``move``, or the method that computes it; of a delta how it keeps the change, ``kept sparse``.
        inputs: model and tensor of every input, the base first.
        digest: its digest, once it is made.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    action: str
    inputs: tuple[tuple[str, str], ...]
    digest: str | None = None


@dataclass(frozen=True, repr=False)
class Report:
    """What was done, or with a dry run what would be.

    Attributes:
        text: the report as JSON text; of a finished run it is the output's ``suture.json``, of a dry run the plan.
        out: the output folder.
        dry: true for a dry run.
        config: the merge config, for the lines of its keys.
        parts: of a config with several outputs, the report of each, by name.
        proposal: of a swap that chose its layers itself, the scores it went by; see :func:`propose`.
        seconds: how long the run took, if it was measured.
        told: the warnings, where they are known without reading the text.
        beside: what files beside outputs.json hold, by their names: ``routing.json`` of a plan of groups,
            ``all_of.json`` of a set of models that several methods merged.
    """

    text: str
    out: Path
    dry: bool = False
    config: Config | None = None
    parts: Mapping[str, Report] = field(default_factory=dict)
    proposal: Proposal | None = None
    seconds: float | None = field(default=None, compare=False)
    told: Sequence[str] | None = field(default=None, compare=False)
    beside: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """One line: what it is of, how many tensors, where, and how long it took."""
        counted = [len(part.data.get("tensors", ())) for part in (self, *self.parts.values())]
        title = self.data.get("title") or f"{len(self.parts)} outputs"
        tensors = f"{sum(counted):,} tensor" + ("" if sum(counted) == 1 else "s")
        took = "" if self.seconds is None else f", {self.seconds:.3g} s"
        planned, place = (" planned", "for") if self.dry else ("", "in")
        return f"<Report: {title}{planned}, {tensors} {place} {str(self.out)!r}{took}>"

    @cached_property
    def data(self) -> Surgery:
        """The report as JSON data; read from the text at the first use, for it may be large."""
        return cast(Surgery, json.loads(self.text))

    @property
    def warnings(self) -> list[str]:
        """What the user should know; of a document that has a name, with the name in front."""
        return list(self.data["warnings"] if self.told is None else self.told)

    @cached_property
    def actions(self) -> dict[str, str]:
        """How every output tensor is made, by its name: a part of :attr:`tensors` that takes a tenth of its time."""
        told: Any = self.data.get("tensors", [])
        if isinstance(told, dict):
            return {name: tensor["action"] for name, tensor in told.items()}
        return {tensor["name"]: tensor.get("method", tensor["action"]) for tensor in told}

    @cached_property
    def tensors(self) -> list[TensorReport]:
        """Every output tensor: the same before and after."""
        told: Any = self.data.get("tensors", [])
        if isinstance(told, dict):
            return [_made(name, tensor) for name, tensor in told.items()]
        return [_planned(tensor) for tensor in told]


def _made(name: str, tensor: DoneTensor) -> TensorReport:
    inputs = tuple((str(model), str(of)) for model, of, _ in tensor["from"])
    return TensorReport(name, tensor["dtype"], tuple(tensor["shape"]), tensor["action"], inputs, tensor["digest"])


def _planned(tensor: PlannedTensor) -> TensorReport:
    inputs = tuple(places([tensor.get("base"), *tensor["inputs"]]))
    action = tensor.get("method", tensor["action"])
    return TensorReport(tensor["name"], tensor["dtype"], tuple(tensor["shape"]), action, inputs)
