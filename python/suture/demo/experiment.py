"""The experiment of `suture demo`: which merge of a task expert and a language expert can do the task in the language?

The models were trained in benches/layer_swap_study; these are those of the seed that models/chosen.json names, in bf16.
The test is the one of the study: an operation that the task expert learned in language A, asked in language B, on
numbers that no training has seen. Nothing here is a reproduction of the paper.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from suture.analysis.diff import diff
from suture.demo.llama import Llama
from suture.errors import SutureError
from suture.proposal import propose_from
from suture.results import Comparison, Outcome, Proposal
from suture.settings import Settings
from suture.surgery.merge import merge
from suture.surgery.swap import swap

#: The checkpoints that come with the wheel.
MODELS = Path(__file__).parent / "models"
#: The language of the task expert's training, and the target.
LANGUAGES = ("A", "B")


#: The folders it makes; those of an earlier run are replaced.
MADE = ("average", "ties", "swap", "auto", "edges", "reset", "reverse")


def _made_here(folder: Path) -> None:
    """Check that a folder is free, or what an earlier run of the demo made.

    Raises:
        SutureError: if it is somebody else's.
    """
    if not folder.exists():
        return
    try:
        record = json.loads((folder / "suture.json").read_text(encoding="utf-8"))
        labels = {model["label"] for model in record["models"]}
    except (OSError, ValueError, KeyError, TypeError):
        labels = {None}
    if not labels <= {"base", "task", "language"}:
        raise SutureError(f"{folder}: is not what the demo made; choose another folder for it", folder)


class Experiment:
    """The steps, each when it is asked for; what is merged goes into the folder `out`."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.base, self.task, self.language = (MODELS / name for name in ("base", "task", "language"))
        self.chosen: dict[str, Any] = json.loads((MODELS / "chosen.json").read_text(encoding="utf-8"))
        self._test = json.loads((MODELS / "test.json").read_text(encoding="utf-8"))
        self._settings = Settings(overwrite=True)
        for name in MADE:
            _made_here(out / name)

    @property
    def operation(self) -> str:
        """The operation that only the task expert has learned."""
        return str(self._test["operation"])

    @property
    def problems(self) -> int:
        """Problems of the test, in each language."""
        return len(self._test["sets"][LANGUAGES[0]]["ids"])

    def changes(self) -> Comparison:
        """What each expert changed of the base; as :func:`suture.diff`, with everything it can find."""
        return diff(self.base, self.task, self.language, heads=True, neurons=8, tokens=10, spread=True)

    def proposal(self, found: Comparison) -> Proposal:
        """The swap that follows from the changes."""
        return propose_from(found)

    def outcomes(self) -> Iterator[Outcome]:
        """Test the three models, then make each merge and test it."""
        yield self._tested("base", "", self.base)
        yield self._tested("task expert", "", self.task)
        yield self._tested("language expert", "", self.language)
        yield self._averaged()
        yield self._merged("ties", {"density": 0.5, "weight": 1.0})
        best = dict(self.chosen["swap"])
        yield self._swapped("swap, as the study chose it", "swap", best)
        yield self._swapped("swap, --auto by layer", "auto", {"auto": "layer", "base": self.base})
        yield self._swapped("swap, --auto by edges", "edges", {"auto": "edges", "base": self.base, "non_layer": "from"})
        yield self._swapped("the same layers from the base", "reset", best, donor=self.base)
        yield self._swapped("the same layers, the other way", "reverse", best, into=self.language, donor=self.task)

    def _tested(self, name: str, made: str, folder: Path) -> Outcome:
        model = Llama.load(folder)
        scores = {lang: model.exact(s["ids"], s["answer"]) for lang, s in self._test["sets"].items()}
        return Outcome(name, made, scores)

    def _averaged(self) -> Outcome:
        models = [{"model": str(m), "parameters": {"weight": 0.5}} for m in (self.task, self.language)]
        merge({"merge_method": "linear", "models": models}, self.out / "average", settings=self._settings)
        return self._tested("average", "merge: linear, 0.5 each", self.out / "average")

    def _merged(self, method: str, parameters: dict[str, Any]) -> Outcome:
        models = [{"model": str(m), "parameters": parameters} for m in (self.task, self.language)]
        config = {"merge_method": method, "base_model": str(self.base), "models": models}
        merge(config, self.out / method, settings=self._settings)
        told = ", ".join(f"{k} {v}" for k, v in parameters.items())
        return self._tested(method, f"merge: {method}, {told}", self.out / method)

    def _swapped(
        self, name: str, folder: str, options: dict[str, Any], into: Path | None = None, donor: Path | None = None
    ) -> Outcome:
        into, donor = into or self.task, donor or self.language
        swap(into, donor, self.out / folder, **options, settings=self._settings)
        flags = [f"--{k.replace('_', '-')} {v}" for k, v in options.items() if k not in ("auto", "base")]
        if "auto" in options:
            flags[:0] = ["--auto base", f"--auto-by {options['auto']}"]
        return self._tested(name, f"swap --into {into.name} --from {donor.name} {' '.join(flags)}", self.out / folder)
