"""Models that torch holds: their tensors by name, and which of them cannot be worked on."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from suture.errors import SutureError, UsageError

#: What safetensors calls the dtypes that torch has.
DTYPES: dict[torch.dtype, str] = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.int32: "I32", torch.int64: "I64",
    torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.complex64: "C64",
}  # fmt: skip
TORCH = {name: dtype for dtype, name in DTYPES.items()}

#: A module, or tensors by name.
Model: TypeAlias = "torch.nn.Module | Mapping[str, Tensor]"


@dataclass(frozen=True)
class Resident:
    """A model's tensors, without gradients, on the memory that the model has.

    Attributes:
        label: what it is called in plans and errors, and what its random masks depend on.
        tensors: by name; of several names of one tensor the first.
        aliases: the other names, and the name that stands for each.
        config: the model's configuration, where it has one.
        training: whether it is a module in training mode.
        foreign: a tensor that a module's `state_dict` gives and that is not in the module's memory, if there is one.
    """

    label: str
    tensors: dict[str, Tensor]
    aliases: dict[str, str]
    config: dict[str, Any] | None
    training: bool
    foreign: str | None = None


def resident(model: Model, label: str) -> Resident:
    """The tensors of a module (parameters and persistent buffers) or of a mapping.

    Raises:
        UsageError: if it is neither.
        SutureError: naming the tensor, if one has no memory, is quantised, or is of a kind that only its own library
            reads.
    """
    module = model if isinstance(model, torch.nn.Module) else None
    if module is None and not isinstance(model, Mapping):
        raise UsageError(
            f"{label}: expected a torch module or a mapping of names to tensors, found {type(model).__name__}"
        )
    named = named_tensors(model)
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, value in named.items():
        if module is not None and not isinstance(value, Tensor):
            continue  # Extra state, which is not weights.
        tensor = _sound(label, name, value)
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel() and place in seen:
            aliases[name] = seen[place]
            continue
        seen[place] = name
        tensors[name] = tensor
    training = module is not None and module.training
    return Resident(label, tensors, aliases, config_of(model), training, module and _foreign(module, tensors))


def _foreign(module: torch.nn.Module, tensors: Mapping[str, Tensor]) -> str | None:
    """A tensor that is not in the memory of a module: a hook of its `state_dict` made it."""
    own = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
    return next((n for n, t in tensors.items() if t.numel() and t.untyped_storage().data_ptr() not in own), None)


def _sound(label: str, name: str, value: Any) -> Tensor:
    if not isinstance(name, str):
        raise UsageError(f"{label}: expected names of tensors, found the key {name!r}")
    if not isinstance(value, Tensor):
        raise UsageError(f"{label}, tensor `{name}`: expected a torch tensor, found {type(value).__name__}")
    where = f"{label}, tensor `{name}`"
    if type(value) not in (Tensor, torch.nn.Parameter, torch.nn.Buffer) or value.is_quantized:
        kind = "quantised" if value.is_quantized else type(value).__name__
        raise SutureError(
            f"{where}: expected plain numbers, found {kind}; dequantise or gather the model first", tensor=name
        )
    if value.layout != torch.strided:
        raise SutureError(f"{where}: expected a dense tensor, found {value.layout}; make it dense first", tensor=name)
    if value.is_meta:
        raise SutureError(
            f"{where}: is on the meta device and has no values; load the model's weights first", tensor=name
        )
    if value.device.type == "mps":
        raise SutureError(f"{where}: MPS has no float64, which merges need; move the model to the CPU", tensor=name)
    if value.is_neg() or value.is_conj():
        raise SutureError(f"{where}: is a view that negates its memory; call `resolve_neg()` on it first", tensor=name)
    if value.dtype not in DTYPES:
        raise SutureError(f"{where}: dtype {value.dtype} is not one that a checkpoint can hold", tensor=name)
    return value.detach()


def named_tensors(model: Model) -> Mapping[str, Tensor]:
    """What a model has, by name; parameters of a module as such."""
    return model.state_dict(keep_vars=True) if isinstance(model, torch.nn.Module) else model


def config_of(model: Model) -> dict[str, Any] | None:
    """The configuration of a module, where it has one."""
    config = getattr(model, "config", None) if isinstance(model, torch.nn.Module) else None
    told = getattr(config, "to_dict", None)
    found = told() if callable(told) else None
    return found if isinstance(found, dict) else None


def _span(tensor: Tensor) -> tuple[int, int]:
    """The bytes of memory from its first element to its last."""
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (reach + 1) * tensor.element_size()


def check_writable(model: Resident) -> None:
    """Refuses to write into tensors that share memory with others in part, or with themselves, or that torch would
    not let change.

    Raises:
        SutureError: naming the tensors.
    """
    if model.foreign is not None:
        raise SutureError(
            f"{model.label}, tensor `{model.foreign}`: is made by the module's state_dict and is not its own memory: "
            "nothing written there would reach it; give its parameters as a mapping",
            tensor=model.foreign,
        )
    spans: dict[torch.device, list[tuple[int, int, str]]] = {}
    for name, tensor in model.tensors.items():
        if _folds(tensor):
            raise SutureError(
                f"{model.label}, tensor `{name}`: is expanded: several elements are one; make it contiguous first",
                tensor=name,
            )
        if tensor.is_inference() and not torch.is_inference_mode_enabled():
            raise SutureError(
                f"{model.label}, tensor `{name}`: was made in inference mode; call this in it too, or clone it outside",
                tensor=name,
            )
        if tensor.numel():
            spans.setdefault(tensor.device, []).append((*_span(tensor), name))
    for own in spans.values():
        own.sort()
        furthest, reached = 0, []
        for i, span in enumerate(own):
            # Not only the one before: that may end sooner than one before it.
            reached += [i] if span[0] < furthest else []
            furthest = max(furthest, span[1])
        pairs = ((a, own[i]) for i in reached for a in _reaching(own, i))
        for (_, _, first), (_, _, second) in pairs:
            if not _interleaved(model.tensors[first], model.tensors[second]):
                raise SutureError(
                    f"{model.label}: tensors `{first}` and `{second}` share memory; clone one of them first",
                    tensor=first,
                )


def _reaching(spans: list[tuple[int, int, str]], i: int) -> Iterator[tuple[int, int, str]]:
    """The spans before number `i`, which are in order, that it begins in."""
    return (span for span in spans[:i] if span[1] > spans[i][0])


def _folds(tensor: Tensor) -> bool:
    """Whether several elements of a tensor are one."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride <= reach:
                return True
            reach += (size - 1) * stride
    return False


def _interleaved(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors whose spans overlap still have no element in common: columns of one matrix, say."""
    if a.numel() + b.numel() > 1 << 24 or a.element_size() != b.element_size():
        return False
    return not bool(torch.isin(_addresses(a), _addresses(b)).any())


def _addresses(tensor: Tensor) -> Tensor:
    found = torch.zeros((), dtype=torch.int64)
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        found = found.unsqueeze(-1) + torch.arange(size) * (stride * tensor.element_size())
    return found.reshape(-1) + tensor.data_ptr()


def overlap(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> str | None:
    """A tensor of `a` that shares memory with one of `b`; None if there is none."""
    spans = sorted(((str(t.device), *_span(t)), name) for m in (b,) for name, t in m.items() if t.numel())
    starts = [span for span, _ in spans]

    for name, tensor in a.items():
        if not tensor.numel():
            continue
        device, start, end = str(tensor.device), *_span(tensor)
        at = bisect.bisect_left(starts, (device, end, 0))
        if at and starts[at - 1][0] == device and starts[at - 1][2] > start:
            return name
    return None


class Flat:
    """A tensor as a row of elements, whatever its strides, read and written by ranges."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self._flat = tensor.view(-1) if tensor.is_contiguous() else None
        #: Elements that a range must hold a whole number of.
        self.unit = 1 if self._flat is not None else math.prod(tensor.shape[1:])

    def _part(self, start: int, end: int) -> Tensor:
        if self._flat is not None:
            return self._flat[start:end]
        return self.tensor[start // self.unit : end // self.unit]

    def read(self, start: int, end: int, device: torch.device) -> Tensor:
        """Elements `start` to `end` as float32 in one dimension."""
        return self._part(start, end).to(device=device, dtype=torch.float32, non_blocking=True).reshape(-1)

    def write(self, start: int, end: int, values: Tensor) -> None:
        """Puts values there, rounded to the tensor's dtype."""
        part = self._part(start, end)
        part.copy_(values.view(part.shape), non_blocking=True)
