"""Plans in which numbers are put in place of others, without planning anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from suture.torch.forms import Params
from suture.torch.merging import spec_of
from suture.torch.planned import Planned, Work

#: One number for all models, or one for each; None where they differ from tensor to tensor.
Numbers: TypeAlias = "float | tuple[float, ...] | None"


@dataclass(frozen=True)
class Template:
    """A plan in which numbers may be put in place of others, because they stand in it as they were given.

    Planning anew takes as long as merging a model of some billion parameters on a GPU.

    Attributes:
        plan: the plan.
        given: the coefficients that it was made with.
        ranges: of those that may be replaced the least and the largest value.
        per_input: those of which each model has its own.
    """

    plan: Planned
    given: Mapping[str, Numbers]
    ranges: Mapping[str, tuple[float, float]]
    per_input: frozenset[str]

    @classmethod
    def of(cls, plan: Planned, method: str, given_now: Mapping[str, Numbers]) -> Template | None:
        """The template of a plan; None if other numbers might make another plan of it."""
        computed = [work for work in plan.works if work.method is not None]
        # A single model may be moved as it is, with some coefficients.
        if plan.warnings or not computed or any(work.params.inputs < 2 for work in computed):
            return None
        known = {p["name"]: p for p in spec_of(method)["parameters"]}
        own = frozenset(name for name, p in known.items() if p["per_input"])
        ranges = {}
        for name, value in given_now.items():
            stands = all(_stands(work.params, name, value, name in own) for work in computed)
            if known[name]["kind"]["kind"] == "number" and value is not None and stands:
                ranges[name] = (known[name]["kind"]["min"], known[name]["kind"]["max"])
        return cls(plan, given_now, ranges, own)

    def with_(self, given_now: Mapping[str, Numbers]) -> Planned | None:
        """The plan with other coefficients; None if they might make another of it."""
        if given_now.keys() != self.given.keys():
            return None
        changed = {name: value for name, value in given_now.items() if value is None or value != self.given[name]}
        for name, value in changed.items():
            if name not in self.ranges or value is None:
                return None
            least, most = self.ranges[name]
            numbers = value if isinstance(value, tuple) else (value,)
            # Weights that are above zero do not sum to zero, nor does any leave its model out.
            if not all(max(least, 0.0) < number <= most for number in numbers):
                return None
        # Many tensors have the very same parameters, and so they shall again.
        own = {id(w.params): w.params for w in self.plan.works}
        changed_of = {number: self._replaced(params, changed) for number, params in own.items()}
        works = tuple(w if w.method is None else _with(w, changed_of[id(w.params)]) for w in self.plan.works)
        return replace(self.plan, works=works, hash="")

    def _replaced(self, params: Params, changed: Mapping[str, Numbers]) -> Params:
        n = params.inputs
        each = {k: v if isinstance(v, tuple) else (v,) * n for k, v in changed.items() if k in self.per_input}
        shared = {k: v for k, v in changed.items() if k not in self.per_input}
        return replace(params, shared={**params.shared, **shared}, per_input={**params.per_input, **each})


def _with(work: Work, params: Params) -> Work:
    """A work with other parameters; a third of the time of `dataclasses.replace`."""
    return Work(work.name, work.dtype, work.shape, work.sources, work.method, params, work.base, work.group)


def _stands(params: Params, name: str, value: Numbers, per_input: bool) -> bool:
    """Whether a coefficient stands in the parameters of a tensor as it was given."""
    if not per_input:
        return params.shared.get(name) == value
    wanted = value if isinstance(value, tuple) else (value,) * params.inputs
    return tuple(params.per_input.get(name, ())) == wanted
