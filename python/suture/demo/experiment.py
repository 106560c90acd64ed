"""The experiment of `suture demo`: which merge of a task expert and a language expert can do the task in the language?

The models were trained in benches/layer_swap_study; these are those of the seed that models/chosen.json names, in bf16.
The test is the one of the study: an operation that the task expert learned in language A, asked in language B, on
numbers that no training has seen. Nothing here is a reproduction of the paper.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any, NoReturn
from weakref import finalize

from suture.analysis.diff import diff
from suture.demo.llama import Llama
from suture.demo.packed import unpack
from suture.errors import SutureError
from suture.proposal import propose_from
from suture.results import Comparison, Proposal
from suture.results.outcome import Outcome
from suture.results.report import Report
from suture.settings import Settings
from suture.surgery.convert import convert
from suture.surgery.ledger import made_alike
from suture.surgery.merge import merge
from suture.surgery.swap import swap

#: What comes with the wheel: the three models, packed, and their test.
MODELS = Path(__file__).parent / "models"
#: The three checkpoints, the base first.
NAMES = ("base", "task", "language")
#: The language of the task expert's training, and the target.
LANGUAGES = ("A", "B")


@dataclass(frozen=True)
class Step:
    """A merge of the experiment.

    Attributes:
        name: what the model is.
        made: how it is made, as a user would type it.
        folder: where it goes, in the experiment's own folder.
        run: makes it, given the folder, settings, and whether to plan it only.
    """

    name: str
    made: str
    folder: str
    run: Callable[..., Report]


class Experiment:
    """The steps, each when it is asked for; what is merged goes into the folder `out`."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.base, self.task, self.language = (out / name for name in NAMES)
        self.chosen: dict[str, Any] = json.loads((MODELS / "chosen.json").read_text(encoding="utf-8"))
        self._test = json.loads((MODELS / "test.json").read_text(encoding="utf-8"))

    def check(self) -> None:
        """See to it that nothing is in the way but what an earlier demo made.

        Raises:
            SutureError: naming the folder that somebody else made.
        """
        ours = [self._ours(step) for step in self._given()]
        for step in self._steps():
            # A merge of models that are not there yet is none of ours.
            if not self._free(step) and not (all(ours) and self._ours(step)):
                self._refuse(step)

    def prepare(self) -> None:
        """Make the three models.

        Raises:
            SutureError: if what somebody else made is in their place, or they cannot be written.
        """
        for step in self._given():
            step.run(self.out / step.folder, settings=Settings(overwrite=True))

    def _free(self, step: Step) -> bool:
        place = self.out / step.folder
        return not place.is_dir() or not any(place.iterdir())

    def _ours(self, step: Step) -> bool:
        """Whether an earlier demo made what is there; a model that somebody else made there is refused."""
        place = self.out / step.folder
        if self._free(step):
            return False
        if not made_alike(place, step.run(place, dry_run=True)):
            self._refuse(step)
        return True

    def _refuse(self, step: Step) -> NoReturn:
        place = self.out / step.folder
        message = "exists and is none of the demo's; give `suture demo` another folder, or move it away"
        raise SutureError(f"{place}: {message}", place)

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
        self.check()
        yield self._tested("base", "", self.base)
        yield self._tested("task expert", "", self.task)
        yield self._tested("language expert", "", self.language)
        for step in self._steps():
            place = self.out / step.folder
            step.run(place, settings=Settings(overwrite=True))
            yield self._tested(step.name, step.made, place)

    def _tested(self, name: str, made: str, folder: Path) -> Outcome:
        model = Llama.load(folder)
        scores = {lang: model.exact(s["ids"], s["answer"]) for lang, s in self._test["sets"].items()}
        return Outcome(name, made, scores)

    def _given(self) -> list[Step]:
        """How the three models are made of what comes with the wheel."""
        return [Step(name, "", name, partial(convert, self._unpacked / name)) for name in NAMES]

    @cached_property
    def _unpacked(self) -> Path:
        """The three models as they were packed, until the experiment is over."""
        place = Path(mkdtemp(prefix="suture-"))
        finalize(self, rmtree, place, ignore_errors=True)
        unpack(NAMES, MODELS, place)
        return place

    def _steps(self) -> list[Step]:
        best = dict(self.chosen["swap"])
        edges = {"auto": "edges", "base": self.base, "non_layer": "from"}
        return [
            self._averaged(),
            self._merged("ties", {"density": 0.5, "weight": 1.0}),
            self._swapped("swap, as the study chose it", "swap", best),
            self._swapped("swap, --auto by layer", "auto", {"auto": "layer", "base": self.base}),
            self._swapped("swap, --auto by edges", "edges", edges),
            self._swapped("the same layers from the base", "reset", best, donor=self.base),
            self._swapped("the same layers, the other way", "reverse", best, into=self.language, donor=self.task),
        ]

    def _averaged(self) -> Step:
        models = [{"model": str(m), "parameters": {"weight": 0.5}} for m in (self.task, self.language)]
        run = partial(merge, {"merge_method": "linear", "models": models})
        return Step("average", "merge: linear, 0.5 each", "average", run)

    def _merged(self, method: str, parameters: dict[str, Any]) -> Step:
        models = [{"model": str(m), "parameters": parameters} for m in (self.task, self.language)]
        run = partial(merge, {"merge_method": method, "base_model": str(self.base), "models": models})
        told = ", ".join(f"{k} {v}" for k, v in parameters.items())
        return Step(method, f"merge: {method}, {told}", method, run)

    def _swapped(
        self, name: str, folder: str, options: dict[str, Any], into: Path | None = None, donor: Path | None = None
    ) -> Step:
        into, donor = into or self.task, donor or self.language
        flags = [f"--{k.replace('_', '-')} {v}" for k, v in options.items() if k not in ("auto", "base")]
        if "auto" in options:
            flags[:0] = ["--auto base", f"--auto-by {options['auto']}"]
        made = f"swap --into {into.name} --from {donor.name} {' '.join(flags)}"
        return Step(name, made, folder, partial(swap, into, donor, **options))
