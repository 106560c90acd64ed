"""A run that was kept: its timings again, for the tables of the pages."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.processes import fastest
from common.tables import number


@dataclass(frozen=True)
class Times:
    """The runs of a tool on a case that ended without error."""

    seconds: Sequence[float]
    anon_mib: float

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def told(self) -> str:
        """The median, and how far the runs are apart: `1.37 s (1.30 to 1.41)`."""
        text = f"{short(self.median)} s"
        return text if len(self.seconds) == 1 else f"{text} ({short(min(self.seconds))} to {short(max(self.seconds))})"


@dataclass(frozen=True)
class Kept:
    document: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Kept:
        return cls(json.loads(path.read_text()))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What the run made of its samples."""
        rows: list[dict[str, Any]] = self.document["rows"]
        return rows

    @property
    def cold(self) -> bool:
        return bool(self.document["options"].get("cold"))

    @property
    def cases(self) -> list[str]:
        """The cases, in the order in which they ran."""
        return list(dict.fromkeys(str(s["case"]) for s in self.document["samples"]))

    def times(self, case: str, tool: str | None) -> Times | None:
        """What a tool took for a case, if it ran."""
        mine = [s for s in self._of(case) if s["tool"] == tool]
        return Times([s["seconds"] for s in mine], max(s["peak_anon_mib"] for s in mine)) if mine else None

    def floor(self, case: str) -> Times | None:
        """What the fastest floor took."""
        tools = {str(s["tool"]) for s in self._of(case)}
        medians = {tool: found.median for tool in tools if (found := self.times(case, tool))}
        return self.times(case, fastest(medians, "floor"))

    def _of(self, case: str) -> Iterator[dict[str, Any]]:
        return (s for s in self.document["samples"] if s["case"] == case and s["exit_code"] == 0)

    def told(self) -> str:
        """When, of what and on what the run was made, in a line."""
        machine = self.document["machine"]
        parts = [
            str(self.document["date"])[:10],
            f"commit {self.document['versions']['commit']}",
            f"{machine['cores']} cores ({machine['cpu']})",
            f"load {machine['load_at_start']:.1f} at the start",
            "inputs out of the page cache" if self.cold else "inputs in the page cache",
        ]
        return ", ".join(part for part in parts if part)


def short(value: float) -> str:
    """A number of three figures or so."""
    return number(value, 2 if value < 10 else 1 if value < 100 else 0)
