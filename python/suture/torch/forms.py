"""What a merge method is on tensors that torch holds: its torch form.

A form is to torch what a kernel is to the core, with the same formulas, the same order of operations and the same
precision: changes and sums in float64 where the core forms them so, in float32 where it does, rounded once to the
output's dtype. It sees blocks of float32 elements; no model, no name, no device. Nothing in it waits for the device:
what is found stays there, in tensors of no dimension (but for those of matrices, whose ranks decide what is computed).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

#: What a form has found out of a tensor, or of a group of them, before it computes.
Found = Any
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Params:
    """The parameters of one tensor as a plan has them: checked, and with defaults filled in."""

    shared: Mapping[str, Any] = field(default_factory=dict)
    per_input: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    inputs: int = 1
    seed: int = 0
    depth: float | None = None
    layered: bool = False
    twin: str | None = None

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Params:
        """Those of a tensor of a plan, from its JSON."""
        names = ("shared", "per_input", "inputs", "seed", "depth", "layered", "twin")
        return cls(**{name: told[name] for name in names if name in told})

    def number(self, name: str) -> float:
        """The shared number `name`; 0 if the method has none of that name."""
        found = self.shared.get(name, 0.0)
        return float(found)

    def word(self, name: str) -> str:
        """The shared word `name`; empty if the method has none of that name."""
        found = self.shared.get(name)
        return found if isinstance(found, str) else ""

    def switch(self, name: str) -> bool:
        """The shared switch `name`; false if the method has none of that name."""
        return self.shared.get(name) is True

    @property
    def scaled(self) -> bool:
        """Whether changes are scaled by layer before they are merged."""
        return self.layered and self.word("larv") not in ("", "none")

    def numbers(self, name: str) -> list[float]:
        """The number `name` of every input; empty if the method has none of that name."""
        return [float(value) for value in self.per_input.get(name, ())]


@dataclass(frozen=True)
class Block:
    """Consecutive elements of one tensor, of all models at once: float32, one dimension."""

    base: Tensor | None
    inputs: Sequence[Tensor]
    #: Index of the first element in the tensor; a multiple of the form's unit.
    start: int
    #: Elements of the whole tensor.
    of: int
    #: A random key for every input.
    keys: Sequence[int] = ()

    def change(self, i: int) -> Tensor:
        """The change of input `i` from the base in float32, or the input itself where there is no base."""
        return self.inputs[i] if self.base is None else self.inputs[i] - self.base

    @cached_property
    def wide(self) -> list[Tensor]:
        """The changes of all inputs from the base, formed in float64."""
        base = self.base.double() if self.base is not None else None
        return [x.double() if base is None else x.double() - base for x in self.inputs]

    @property
    def origin(self) -> Tensor:
        """The base; the first input where there is none."""
        return self.inputs[0] if self.base is None else self.base


#: Goes over all blocks of a tensor, or of all tensors of a group, in order; may be asked again for another pass.
Blocks = Callable[[], Iterator[Block]]
#: Computes a block's elements in float32. Blocks of a tensor come in order.
Apply = Callable[[Block], Tensor]


def one(params: Params, shape: Shape) -> int:
    """A unit of a single element."""
    return 1


def row(params: Params, shape: Shape) -> int:
    """A unit of a row: the last dimension; 1 for scalars and empty tensors."""
    return max(shape[-1], 1) if shape else 1


@dataclass(frozen=True)
class Form:
    """A method's torch form.

    What is found does not depend on the coefficients of a merge (see `suture.torch.sessions`), so that a search over
    them finds once.
    """

    #: `apply(params, shape, found)` makes what computes the blocks of a tensor.
    apply: Callable[[Params, Shape, Found], Apply]
    #: `find(params, shape, blocks, wide)` goes over a tensor first; `wide` is what was found of its group.
    find: Callable[[Params, Shape, Blocks, Found], Found] | None = None
    #: `wide(params, elements, blocks)` goes over a group of tensors before any of them is computed.
    wide: Callable[[Params, int, Blocks], Found] | None = None
    #: Has what was found of a group begin again, before its tensors are gone over in order.
    rewind: Callable[[Found], None] | None = None
    #: Elements that a block holds a whole number of.
    unit: Callable[[Params, Shape], int] = one
    #: `memory(params, shape, inputs)`: bytes that a tensor takes at most, where a block is the whole of it; None where
    #: it goes block by block.
    memory: Callable[[Params, Shape, int], int | None] = lambda params, shape, inputs: None
    #: Whether what is found depends on no parameter, so that a session may change them all.
    free: bool = False


def elementwise(compute: Callable[[Params, Block], Tensor]) -> Form:
    """A form that must have seen nothing but the block."""
    return Form(apply=lambda params, shape, found: lambda block: compute(params, block))


def moved(base: Tensor, change: Tensor) -> Tensor:
    """`base + change`, rounded once; where nothing changes, the base to the last bit, a negative zero too."""
    return torch.where(change == 0, base, (base.double() + change).float())


def weighted(weights: Sequence[float | Tensor], values: Sequence[Tensor]) -> Tensor:
    """The sum of values, each times its weight, from the first product on, so that a negative zero stays one."""
    total = weights[0] * values[0]
    for weight, value in zip(weights[1:], values[1:], strict=True):
        total = total + weight * value
    return total


def single(value: float) -> float:
    """The value as float32 holds it."""
    return float(torch.tensor(value, dtype=torch.float32, device="cpu"))


def summed(values: Sequence[Tensor]) -> Tensor:
    """The sum, in the order of the values."""
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def combined(values: Sequence[Tensor], weights: Sequence[float | Tensor]) -> Tensor:
    """The weighted sum, formed in float64 and rounded once to float32."""
    return weighted(weights, [value.double() for value in values]).float()
