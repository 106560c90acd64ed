"""Which tensors of a plan kernels compute, and in what batches.

Those of one method, number of models, dtype and device together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from suture.torch import gram, sparse
from suture.torch.element import normalised
from suture.torch.fast import blend, cuts, sce
from suture.torch.fast import sparse as kernels
from suture.torch.fast.cuts import Cuts
from suture.torch.fast.table import Table, eligible
from suture.torch.forms import Params
from suture.torch.planned import Work
from suture.torch.sparse import Stages

#: Inputs that kernels are made for; each more is another kernel to compile, and more registers.
MOST = 8


@dataclass
class Batch:
    """Tensors that one set of launches computes.

    Attributes:
        works: what becomes of each.
        operands: of each the base, if it has one, the inputs, and what is written.
        found: what has been found out of them; does not depend on the coefficients.
        made: the table of the operands, once there is one.
        told: coefficients where kernels read them, once they are there.
        word: what of the parameters all of them have in common.
    """

    works: list[Work] = field(default_factory=list)
    operands: list[list[Tensor]] = field(default_factory=list)
    found: Any = None
    made: Table | None = None
    told: Any = None
    word: str = ""

    @property
    def table(self) -> Table:
        """The operands as kernels walk them."""
        if self.made is None:
            self.made = Table.of(self.operands)
        return self.made

    @property
    def params(self) -> list[Params]:
        """The parameters of each tensor."""
        return [work.params for work in self.works]


class Kernel(Protocol):
    """How a batch is computed."""

    def find(self, batch: Batch) -> Any:
        """What must be known before anything is written."""

    def write(self, batch: Batch) -> None:
        """Writes all tensors of the batch."""


def _table(values: Sequence[Sequence[float]], dtype: torch.dtype, like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=dtype).to(like.device, non_blocking=True)


def _rows(batch: Batch, row: Callable[[Params], list[float]]) -> list[list[float]]:
    """What `row` makes of the parameters of each tensor; many tensors have the very same ones."""
    known = {id(params): params for params in batch.params}
    rows = {number: row(params) for number, params in known.items()}
    return [rows[id(params)] for params in batch.params]


class _Linear:
    def find(self, batch: Batch) -> None:
        return None

    def write(self, batch: Batch) -> None:
        if batch.told is None:
            batch.told = _table(_rows(batch, _weights), torch.float64, batch.table.origin)
        blend.combine(batch.table, batch.told, based=False)


def _weights(params: Params) -> list[float]:
    """The weights of a linear combination, and no factor."""
    weights = params.numbers("weight")
    return [*(normalised(weights) if params.switch("normalize") else weights), 1.0]


def _with_factor(params: Params) -> list[float]:
    """The weights of changes, and a factor on their sum."""
    return [*params.numbers("weight"), sparse.factor_of(params, Stages.of(params))]


class _Plain:
    """Weighted sums of changes."""

    def find(self, batch: Batch) -> None:
        return None

    def write(self, batch: Batch) -> None:
        if batch.told is None:
            batch.told = _table(_rows(batch, _with_factor), torch.float64, batch.table.origin)
        blend.combine(batch.table, batch.told, based=True)


class _Blend:
    """Sums with coefficients from a Gram matrix."""

    def __init__(self, based: bool) -> None:
        self._based = based

    def find(self, batch: Batch) -> Tensor:
        return blend.products(batch.table, based=self._based)

    def check(self, batch: Batch) -> None:
        """Refuses coefficients that cannot be, before anything is written."""
        self._coefficients(batch)

    def _coefficients(self, batch: Batch) -> Tensor:
        # Tensors of the same parameters together: with gradients over the layers there are a few.
        rows: dict[str, tuple[Params, list[int]]] = {}
        for i, params in enumerate(batch.params):
            rows.setdefault(repr((params.shared, params.per_input)), (params, []))[1].append(i)
        rule = gram.RULES[batch.works[0].method or ""]
        out = torch.empty(batch.found.shape[:2], dtype=torch.float64, device=batch.found.device)
        for params, listed in rows.values():
            if len(rows) == 1:
                return rule(params, batch.found)
            at = torch.tensor(listed).to(out.device, non_blocking=True)
            out[at] = rule(params, batch.found[at])
        return out

    def write(self, batch: Batch) -> None:
        own = self._coefficients(batch)
        if self._based:
            own = torch.cat([1.0 - own.sum(-1, keepdim=True), own], -1)
        blend.combine(batch.table, torch.cat([own, torch.ones_like(own[:, :1])], -1).contiguous(), based=False)


class _Sparse:
    """The pipeline with thinning: by magnitude over a tensor, or at random."""

    def find(self, batch: Batch) -> Cuts | None:
        if not Stages.of(batch.params[0]).trims:
            return None
        ranks = []
        for work in batch.works:
            own = [
                sparse.band(work.params, Stages.of(work.params), i, work.elements) for i in range(work.params.inputs)
            ]
            ranks.append([[end, start] for start, end in own])
        if not any(start for row in ranks for _, start in row):
            ranks = [[[end] for end, _ in row] for row in ranks]
        return cuts.find(batch.table, ranks)

    def write(self, batch: Batch) -> None:
        lead = Stages.of(batch.params[0])
        if batch.told is None:
            batch.told = self._told(batch, lead)
        factors, weights, lambdas, more = batch.told
        kernels.pipeline(
            batch.table,
            factors,
            weights,
            lambdas,
            cuts=batch.found,
            consensus=lead.consensus,
            mean=lead.reduce == "mean",
            **more,
        )

    @staticmethod
    def _told(batch: Batch, lead: Stages) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
        """What changes are multiplied by, their weights, factors on what is merged, and of random thinning the rest."""
        single, like = torch.float32, batch.table.origin
        weights = _table(_rows(batch, lambda p: p.numbers("weight")), single, like)
        scales = _table(_rows(batch, lambda p: sparse.scales(p, Stages.of(p))), single, like)
        lambdas = _table(_rows(batch, lambda p: [sparse.factor_of(p, Stages.of(p))]), single, like)[:, 0].contiguous()
        more: dict[str, Any] = {}
        if lead.sparsify == "random":
            limits = [sparse.limits(p) for p in batch.params]
            more = {
                "keys": kernels.split([list(work.keys()) for work in batch.works], batch.table.origin.device),
                "limits": _table(limits, torch.int64, batch.table.origin),
                "low": any(limit & 0xFFFFFF for row in limits for limit in row),
            }
        return weights * scales, weights, lambdas, more


class _Sce:
    """What varies most over the models."""

    def find(self, batch: Batch) -> tuple[Cuts | None, Tensor]:
        share, masks = self._words(batch)
        found = cuts.find_varied(batch.table, [p.number("select_topk") for p in batch.params]) if share else None
        select = sce.CUT if share else sce.ALL if masks else sce.VARYING
        return found, sce.shares(batch.table, found, select)

    def write(self, batch: Batch) -> None:
        share, masks = self._words(batch)
        found, weights = batch.found
        sce.elect(batch.table, weights, found if masks else None, sce.CUT if share and masks else sce.ALL)

    @staticmethod
    def _words(batch: Batch) -> tuple[bool, bool]:
        """Whether not all is selected, and whether the selection enters the changes."""
        lead = batch.params[0]
        return lead.number("select_topk") < 1.0, lead.word("mask") == "deltas"


def _kernel(work: Work) -> tuple[str, Callable[[], Kernel]] | None:
    """What computes a tensor, and a word for what of its parameters a batch must have in common.

    None if no kernel does.
    """
    params, method, based = work.params, work.method or "", work.base is not None
    if len(work.sources) > MOST or work.group is not None:
        return None
    if method == "linear":
        return "", _Linear
    flat = method in ("slerp", "multislerp", "karcher")
    flat |= method == "nuslerp" and params.switch("nuslerp_flatten")
    flat |= method == "model_stock" and not params.switch("filter_wise")
    if flat:
        return f"{based}", lambda: _Blend(based)
    if method == "sce" and len(work.sources) > 1:
        return f"{params.number('select_topk') < 1.0} {params.word('mask')}", _Sce
    if method in sparse.PRESETS:
        stages = Stages.of(params)
        if sparse.is_plain(stages, params):
            return "plain", _Plain
        thins = all(sparse.thins(stages, density) for density in params.numbers("density"))
        known = (stages.trims and stages.scope == "tensor") or stages.sparsify == "random"
        if known and thins and stages.rescale in ("none", "density"):
            return repr(stages), _Sparse
    return None


@dataclass
class Batches:
    """The batches of a plan: of those tensors that kernels compute, each once."""

    listed: list[tuple[Kernel, Batch]]
    taken: set[str]

    @classmethod
    def of(cls, works: Sequence[Work], operands: Callable[[Work], list[Tensor] | None]) -> Batches:
        """Sorted out of all tensors of a plan; `operands` gives those of one, or None if some is no plain tensor."""
        found: dict[tuple[Any, ...], tuple[Callable[[], Kernel], Batch]] = {}
        taken = set()
        for work in works:
            kernel = _kernel(work) if work.method is not None and work.elements else None
            row = operands(work) if kernel is not None else None
            if kernel is None or row is None or not eligible(row):
                continue
            word, make = kernel
            key = (work.method, word, len(work.sources), row[0].dtype, row[0].device)
            batch = found.setdefault(key, (make, Batch(word=word)))[1]
            batch.works.append(work)
            batch.operands.append(row)
            taken.add(work.name)
        return cls([(make(), batch) for make, batch in found.values()], taken)

    def find(self) -> None:
        """All that must be known before anything is written."""
        for kernel, batch in self.listed:
            with torch.cuda.device_of(batch.table.origin):
                if batch.found is None:
                    batch.found = kernel.find(batch)
            if isinstance(kernel, _Blend):
                kernel.check(batch)

    def write(self) -> None:
        """Computes all tensors of all batches."""
        for kernel, batch in self.listed:
            with torch.cuda.device_of(batch.table.origin):
                kernel.write(batch)

    def without_tensors(self) -> Batches:
        """The same batches, which hold on to no tensor of a model, nor to what was found of them."""
        none = torch.empty(0)
        listed = [
            (k, Batch(b.works, made=replace(b.table, origin=none), told=b.told, word=b.word)) for k, b in self.listed
        ]
        return Batches(listed, self.taken)

    def at(self, origins: Sequence[Tensor], out: Mapping[str, Tensor] | None = None) -> Batches:
        """Batches without tensors, counted from these: for each the first operand of its first tensor.

        What they write goes where it went, or to `out`.
        """
        listed = []
        for (kernel, batch), origin in zip(self.listed, origins, strict=True):
            assert batch.made is not None
            table = replace(batch.made, origin=origin)
            if out is not None:
                table = table.writing([out[work.name] for work in batch.works])
            listed.append((kernel, replace(batch, made=table)))
        return Batches(listed, self.taken)

    def of_others(self, works: Mapping[str, Work]) -> Batches | None:
        """The batches with other parameters, by the tensors' names; None if kernels would compute them otherwise."""
        words: dict[int, str | None] = {}
        listed = []
        for kernel, batch in self.listed:
            own = [works[work.name] for work in batch.works]
            for work in own:
                # Many tensors have the very same parameters.
                if id(work.params) not in words:
                    found = _kernel(work)
                    words[id(work.params)] = None if found is None else found[0]
                if words[id(work.params)] != batch.word:
                    return None
            listed.append((kernel, replace(batch, works=own, told=None)))
        return Batches(listed, self.taken)
