"""Calls like one that was made before: what need not be found out again.

To look at four models of 291 tensors each, to check that they go together and to make the tables that kernels walk
takes 14 ms on the host; an H200 merges two models of 8 billion parameters in 12. So a call whose tensors are where they
were, with all else the same, goes straight to the kernels. What is kept are names, addresses and parameters, and on the
device the tables; no tensor of a model is held on to.
"""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from suture.torch.models import TORCH, Model, config_of, named_tensors
from suture.torch.planned import Work, places
from suture.torch.report import Report, digest, next_version
from suture.torch.resident import Runner, written

if TYPE_CHECKING:
    from suture.torch.fast.batches import Batches

#: Calls that are remembered; each has tables of some MiB for a model of 8 billion parameters.
KEPT = 4
#: The number of a model among those of a call, and a tensor's name.
Place = tuple[int, str]


@dataclass(frozen=True)
class Ready:
    """What a call found out, without the models.

    Attributes:
        report: what it did.
        target: the number of the model that is written into; of new tensors one more than there are models.
        made: of tensors that are made anew name, shape, dtype and what lies on their device.
        aliases: their other names.
        moves: what is copied: the name of what is written, and where it comes from.
        batches: what kernels compute; their tables are without the tensors they are counted from.
        origins: of each batch the tensor that its table is counted from.
    """

    report: Report
    target: int
    made: tuple[tuple[str, tuple[int, ...], torch.dtype, Place], ...]
    aliases: Mapping[str, str]
    moves: tuple[tuple[str, Place], ...]
    batches: Batches | None
    origins: tuple[Place, ...]

    @classmethod
    def of(
        cls,
        labels: Sequence[str | None],
        target: str | None,
        runner: Runner,
        report: Report,
        aliases: Mapping[str, str] | None = None,
    ) -> Ready | None:
        """What a run found out; None if another would have to look at the tensors' values.

        Without a target its tensors were made anew, and have these aliases.
        """
        works, batches = runner.planned.works, runner.batches
        taken = batches.taken if batches is not None else set()
        if any(not _plain(work) or (work.method is not None and work.name not in taken) for work in works):
            return None
        numbers = {label: i for i, label in reversed(list(enumerate(labels)))}

        def place(work: Work) -> Place:
            label, name = work.lead
            return numbers[label], name

        moves = tuple((w.name, place(w)) for w in works if w.method is None and not runner.stays(w))
        origins = () if batches is None else tuple(place(batch.works[0]) for _, batch in batches.listed)
        held = None if batches is None else batches.without_tensors()
        report = replace(report, digests=dict.fromkeys((work.name for work in works), ""))
        into = len(labels)
        made: tuple[tuple[str, tuple[int, ...], torch.dtype, Place], ...] = ()
        if target is not None:
            into = numbers[target]
        else:
            made = tuple((w.name, w.shape, TORCH[w.dtype], place(w)) for w in works)
        return cls(report, into, made, aliases or {}, moves, held, origins)

    def allocate(self, models: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Room for all that is made anew."""
        return {
            name: torch.empty(shape, dtype=dtype, device=models[model][lead].device)
            for name, shape, dtype, (model, lead) in self.made
        }

    def find(self, models: Sequence[Mapping[str, Tensor]], batches: Batches | None) -> Batches | None:
        """Finds what `batches`, which are these or like them, must know; nothing is written."""
        if batches is None:
            return None
        out = models[self.target] if self.made else None
        batches = batches.at([models[model][name].detach() for model, name in self.origins], out)
        batches.find()
        return batches

    def write(self, models: Sequence[Mapping[str, Tensor]], batches: Batches | None, *, digests: bool) -> Report:
        """Writes all tensors."""
        out = models[self.target]
        with torch.no_grad():
            for name, (model, source) in self.moves:
                out[name].copy_(models[model][source], non_blocking=True)
        if batches is not None:
            batches.write()
            written(out[name] for name in batches.taken)
        named = {name: digest(out[name]) for name in self.report.digests} if digests else {}
        return replace(self.report, weight_version=next_version(), digests=named)


_calls: OrderedDict[tuple[Any, ...], Ready] = OrderedDict()
_lock = threading.Lock()


@dataclass(frozen=True)
class Call:
    """A call on models.

    Attributes:
        key: all that its work depends on.
        models: the tensors of each model by name, as the caller has them.
    """

    key: tuple[Any, ...]
    models: Sequence[Mapping[str, Tensor]]

    @classmethod
    def of(cls, models: Sequence[Model | None], options: Mapping[str, Any], stream: Any) -> Call | None:
        """The call of these models and options; None if it is not one that can be remembered.

        Raises:
            Nothing: what is wrong with a model is for those to say who look at it closely.
        """
        try:
            told = json.dumps(options)
            named = [{} if model is None else named_tensors(model) for model in models]
            configs = tuple(None if m is None else json.dumps(config_of(m), default=str) for m in models)
            training = tuple(isinstance(model, torch.nn.Module) and model.training for model in models)
            same = tuple(next(i for i, other in enumerate(models) if other is model) for model in models)
            signatures = tuple(signature(tensors) for tensors in named)
        except (TypeError, ValueError, AttributeError, RuntimeError):
            return None
        if not any(named):
            return None
        return cls((told, signatures, configs, training, same, surroundings(named, stream)), named)

    def again(self, *, digests: bool) -> Report | None:
        """Does what was done before, if it was; to be called on the call's stream.

        Returns:
            None if nothing was done.
        """
        done = self._again(digests)
        return None if done is None else done[0]

    def anew(self) -> dict[str, Tensor] | None:
        """The same of a call that makes tensors: these."""
        done = self._again(digests=False)
        return None if done is None else done[1]

    def _again(self, digests: bool) -> tuple[Report, dict[str, Tensor]] | None:
        with _lock:
            ready = _calls.get(self.key)
            if ready is None:
                return None
            _calls.move_to_end(self.key)
        try:
            out = ready.allocate(self.models)
            models = [*self.models, out]
            batches = ready.find(models, ready.batches)
        except torch.OutOfMemoryError:
            # Tables of other calls may be what there is no room for.
            forget()
            return None
        report = ready.write(models, batches, digests=digests)
        return report, {**out, **{alias: out[name] for alias, name in ready.aliases.items() if name in out}}

    def remember(
        self,
        labels: Sequence[str | None],
        target: str | None,
        runner: Runner,
        report: Report,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        """Keeps what a run found out, if another need not look at the tensors' values for it.

        Args:
            labels: what each of the call's models is called in the plan.
            target: the one that was written into; None where tensors were made anew.
            runner: what ran.
            report: what it did.
            aliases: other names of tensors that were made.
        """
        ready = Ready.of(labels, target, runner, report, aliases)
        with _lock:
            if ready is not None:
                _calls[self.key] = ready
            while len(_calls) > KEPT:
                _calls.popitem(last=False)


def _plain(work: Work) -> bool:
    """Whether what becomes of a tensor is known before values are looked at, and is made of whole tensors."""
    views = [*([] if work.base is None else [work.base]), *work.sources]
    if work.method is None and len(views) > 1:
        return False
    return work.group is None and all(len(places(view)) == 1 and isinstance(view[0], str) for view in views)


_ADDRESS, _CONTIGUOUS, _INFERENCE = Tensor.data_ptr, Tensor.is_contiguous, Tensor.is_inference
_DTYPE, _SHAPE, _VERSION = attrgetter("dtype"), attrgetter("shape"), attrgetter("_version")


def signature(tensors: Mapping[str, Tensor], *, versions: bool = False) -> tuple[Any, ...]:
    """What tensors are and where: those of which it is equal are read and written alike.

    An address tells the device too. Attribute by attribute, without a line of Python for each tensor: 0.2 ms for 291 of
    them, tensor by tensor it took 0.33.

    Args:
        tensors: by name.
        versions: whether what was written into since is another.

    Raises:
        AttributeError, RuntimeError, TypeError: if some is no tensor with memory of its own.
    """
    own = tuple(tensors.values())
    if any(map(Tensor.is_neg, own)) or any(map(Tensor.is_conj, own)):
        raise TypeError("a view that negates its memory")
    contiguous = tuple(map(_CONTIGUOUS, own))
    strides = () if all(contiguous) else tuple(t.stride() for t in own)
    inference = tuple(map(_INFERENCE, own))
    written: tuple[int, ...] = ()
    if versions:
        # Tensors of inference mode do not count.
        written = (
            tuple(0 if t.is_inference() else t._version for t in own) if any(inference) else tuple(map(_VERSION, own))
        )
    places = tuple(map(_ADDRESS, own))
    # A tensor without elements has no address.
    devices = () if all(places) else tuple(t.device for t in own)
    return (
        tuple(tensors), tuple(map(type, own)), places, devices, tuple(map(_DTYPE, own)), tuple(map(_SHAPE, own)),
        contiguous, strides, inference, written,
    )  # fmt: skip


def surroundings(models: Sequence[Mapping[str, Tensor]], stream: Any) -> tuple[Any, ...]:
    """What else decides how a call runs: the stream its tables were made on, inference mode, the switch of kernels."""
    device = next((tensor.device for model in models for tensor in model.values() if tensor.is_cuda), None)
    if stream is None and device is not None:
        stream = torch.cuda.current_stream(device)
    number = getattr(stream, "cuda_stream", None)
    return number, torch.is_inference_mode_enabled(), os.environ.get("SUTURE_TRITON")


def forget() -> None:
    """Lets go of what is kept."""
    with _lock:
        _calls.clear()
