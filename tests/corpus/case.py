"""A family's checkpoints on disk: a base and fine-tunes of it, and what transformers makes of them."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import suture

from . import models, oracle
from .facts import Family
from .models import Loaded, State

#: One thread: the models are tiny, and whoever runs the tests has other things to do.
SETTINGS = suture.Settings(threads=1)
#: How far a fine-tune is from its base, and how far the base's matrices are from what transformers makes them with:
#: with those, attention would hardly look at anything, and an error in its keys would hardly show.
STEP, ALIVE = 0.02, 0.2


def tuned(state: State, seed: int, moves: Callable[[str], bool] = lambda name: True, matrices: float = STEP) -> State:
    """A fine-tune: small noise on every float tensor whose name `moves`."""
    torch = importlib.import_module("torch")
    made = torch.Generator().manual_seed(seed)

    def noise(tensor: Any) -> Any:
        step = matrices if tensor.dim() > 1 else STEP
        return step * torch.randn(tensor.shape, generator=made).to(tensor.dtype)

    return {n: t + noise(t) if t.is_floating_point() and moves(n) else t for n, t in state.items()}


@dataclass
class Case:
    """A family and its checkpoints: `base`, and `into` and `donor`, which were tuned from it."""

    family: Family
    folder: Path
    states: dict[str, State] = field(repr=False)
    _loaded: dict[str, Loaded] = field(default_factory=dict, repr=False)
    _outputs: int = 0
    _inspected: Any = None

    @classmethod
    def make(cls, family: Family, folder: Path) -> Case:
        """Build the model, move it off the values that weights are made with, tune it twice."""
        torch = importlib.import_module("torch")
        torch.set_num_threads(1)
        with models.quiet():
            models.build(family).save_pretrained(folder / "made")
        made = models.read(folder / "made")
        for prefix, copy in family.copies.items():
            made |= {copy + n.removeprefix(prefix): t.clone() for n, t in made.items() if n.startswith(prefix)}
        base = tuned(made, 1, matrices=ALIVE)
        states = {"base": base, "into": tuned(base, 2), "donor": tuned(base, 3)}
        for label, state in states.items():
            models.write(folder / label, state, folder / "made")
        return cls(family, folder, states)

    def path(self, label: str) -> Path:
        """The folder of a checkpoint."""
        return self.folder / label

    def out(self) -> Path:
        """A place for an output; the one before it is gone."""
        shutil.rmtree(self.folder / f"out-{self._outputs}", ignore_errors=True)
        self._outputs += 1
        return self.folder / f"out-{self._outputs}"

    def add(self, label: str, state: State) -> Path:
        """A further checkpoint of the family."""
        models.write(self.path(label), state, self.path("base"))
        self.states[label] = state
        return self.path(label)

    def loaded(self, label: str) -> Loaded:
        """A checkpoint as transformers reads it."""
        if label not in self._loaded:
            self._loaded[label] = models.load(self.family, self.path(label))
        return self._loaded[label]

    def forward(self, model: Any) -> list[Any]:
        """Every tensor that a forward pass returns."""
        return models.forward(self.family, model)

    @property
    def inspected(self) -> Any:
        """What suture says of the base."""
        self._inspected = self._inspected or suture.inspect(self.path("base"), settings=SETTINGS)
        return self._inspected

    def name_of(self, prefix: str) -> str | None:
        """What suture calls the stack whose tensors' names begin so; None if it knows no such stack."""
        return next((s["name"] for s in self.inspected["stacks"] if s["prefix"] == prefix), None)

    @property
    def stack(self) -> str | None:
        """The main stack's name where it must be given, because another stack is as much the main one."""
        first = self.family.stacks[0]
        asked = self.family.equals and [s["prefix"] for s in self.inspected["stacks"] if s["main"]] != [first]
        return self.name_of(first) if asked else None

    @property
    def how(self) -> dict[str, Any]:
        """Options of every verb that puts layers somewhere."""
        return {"settings": SETTINGS} | ({} if self.stack is None else {"stack": self.stack})

    @property
    def inside(self) -> tuple[str, ...]:
        """Where the main stack's layers are in the loaded model."""
        return self.family.inside or self.family.stacks

    def swapped_by_hand(self, layers: list[int]) -> Any:
        """The recipient in memory, with the donor's layers put into it by torch."""
        into, donor = (self.loaded(label).model.state_dict() for label in ("into", "donor"))
        first: dict[int, str] = {}
        found = {}
        for name, tensor in into.items():
            # What layers share belongs to the first of them, as it is stored there.
            place = oracle.split(first.setdefault(tensor.data_ptr(), name), self.inside)
            found[name] = donor[name] if place is not None and place[1] in layers else tensor
        model = models.load(self.family, self.path("into")).model
        model.load_state_dict(found)
        return model

    def stacked_by_hand(self) -> Any:
        """A model with the layers of `family.order`, its config and its weights put together by hand."""
        into = self.loaded("into").model.state_dict()
        config = oracle.stacked_config(self.family, models.config_of(self.path("into")))
        model = models.restacked(self.family, config, self.path("stacked"))
        found = {}
        for name in model.state_dict():
            place = oracle.split(name, self.inside)
            source = name if place is None else f"{place[0]}{self.family.order[place[1]]}.{place[2]}"
            found[name] = into[source]
        model.load_state_dict(found)
        return model
