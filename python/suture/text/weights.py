"""Weights from a checkpoint, as the core reads it, into a torch module that was made without any."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from suture.checkpoint import Checkpoint
from suture.errors import SutureError
from suture.text.extra import need

#: What is not there and changes no state of a layer.
_UNUSED = ("pooler.",)


@contextmanager
def without_weights() -> Iterator[None]:
    """Modules made inside have parameters without memory; buffers, such as frequencies of positions, are real."""
    torch = need("torch")
    kept, made = torch.nn.Module.register_parameter, torch.nn.init
    fills = {name: f for name, f in vars(made).items() if name.endswith("_") and not name.startswith("_")}

    def register(module: Any, name: str, param: Any) -> None:
        if param is not None and param.device.type != "meta":
            param = torch.nn.Parameter(param.to("meta"), requires_grad=False)
        kept(module, name, param)

    torch.nn.Module.register_parameter = register
    for name in fills:
        setattr(made, name, lambda tensor, *_, **__: tensor)
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = kept
        for name, fill in fills.items():
            setattr(made, name, fill)


class Weights:
    """Where a module's parameters lie in a checkpoint.

    Args:
        model: a module made by :func:`without_weights`.
        checkpoint: where its tensors are.
        dtype: torch's dtype that floats become.
        device: where they go.
    """

    def __init__(self, model: Any, checkpoint: Checkpoint, dtype: Any, device: str) -> None:
        self.checkpoint, self.dtype, self.device = checkpoint, dtype, device
        stored = set(checkpoint.names)
        # Of a tied parameter every name stands for all.
        slots: dict[int, list[tuple[Any, str, str, bool]]] = {}
        for module_name, module in model.named_modules(remove_duplicate=False):
            for name, tensor in module._parameters.items():
                if tensor is not None:
                    whole = f"{module_name}.{name}" if module_name else name
                    slots.setdefault(id(tensor), []).append((module, name, whole, True))
            for name, tensor in module._buffers.items():
                if tensor is not None and name not in module._non_persistent_buffers_set:
                    whole = f"{module_name}.{name}" if module_name else name
                    slots.setdefault(id(tensor), []).append((module, name, whole, False))
        names = [whole for group in slots.values() for _, _, whole, _ in group]
        prefix = _prefix(names, stored)
        #: By module and parameter, the stored name, and every place that takes it.
        self.places: dict[int, list[tuple[str, list[tuple[Any, str, bool]], int]]] = {}
        self.missing: list[str] = []
        self.nbytes = 0
        for group in [part for tied in slots.values() for part in _apart(tied, prefix, checkpoint, stored)]:
            source = next((s for _, _, whole, _ in group if (s := _stored(whole, prefix)) in stored), None)
            tensor = getattr(group[0][0], group[0][1])
            if source is None:
                if group[0][3] and not any(part in whole for part in _UNUSED for _, _, whole, _ in group):
                    self.missing.append(group[0][2])
                elif group[0][3]:
                    for module, name, _, _ in group:
                        module._parameters[name] = need("torch").nn.Parameter(
                            need("torch").zeros(tensor.shape, dtype=dtype, device=device), requires_grad=False
                        )
                continue
            if list(tensor.shape) != list(checkpoint.info(source).shape):
                self.missing.append(group[0][2])
                continue
            self.nbytes += tensor.numel() * dtype.itemsize
            targets = [(module, name, parameter) for module, name, _, parameter in group]
            for module in {id(m): m for m, _, _ in targets}.values():
                self.places.setdefault(id(module), []).append((source, targets, tensor.numel()))

    def load(self, modules: Iterable[Any]) -> None:
        """Read the parameters of these modules alone."""
        torch = need("torch")
        done: set[str] = set()
        for module in modules:
            for source, targets, _ in self.places.get(id(module), ()):
                if source in done:
                    continue
                done.add(source)
                tensor = self._read(source).to(self.device)
                parameter = torch.nn.Parameter(tensor, requires_grad=False)
                for owner, name, is_parameter in targets:
                    (owner._parameters if is_parameter else owner._buffers)[name] = (
                        parameter if is_parameter else tensor
                    )

    def drop(self, modules: Iterable[Any]) -> None:
        """Give the memory of these modules' parameters back."""
        torch = need("torch")
        for module in modules:
            for _, targets, _ in self.places.get(id(module), ()):
                for owner, name, is_parameter in targets:
                    if is_parameter:
                        shape = owner._parameters[name].to("meta")
                        owner._parameters[name] = torch.nn.Parameter(shape, requires_grad=False)

    def _read(self, name: str) -> Any:
        torch = need("torch")
        info = self.checkpoint.info(name)
        raw = torch.frombuffer(bytearray(self.checkpoint._core.read(name)), dtype=torch.uint8)
        kinds = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64,
                "I64": torch.int64, "I32": torch.int32, "BOOL": torch.bool, "U8": torch.uint8}  # fmt: skip
        if info.dtype not in kinds:
            raise SutureError(
                f"{self.checkpoint.path}: `{name}` is stored as {info.dtype}, which is not run", None, name
            )
        kind = kinds[info.dtype]
        tensor = raw.view(kind).reshape(info.shape)
        return tensor.to(self.dtype) if kind.is_floating_point else tensor


def _prefix(names: list[str], stored: set[str]) -> tuple[str, str]:
    """What stands before the module's names in the checkpoint, and what of the module's is not there: the pair that
    finds most.
    """
    best, most = ("", ""), -1
    probes = [n for n in names if ".0." in n][:3] or names[:3]
    pairs = {("", "")}
    for probe in probes:
        pairs |= {(s[: -len(probe)], "") for s in stored if s.endswith(f".{probe}")}
        parts = probe.split(".")
        pairs |= {("", ".".join(parts[:i]) + ".") for i in range(1, len(parts)) if ".".join(parts[i:]) in stored}
    for pair in sorted(pairs):
        found = sum(_stored(name, pair) in stored for name in names)
        if found > most:
            best, most = pair, found
    return best


def _stored(name: str, pair: tuple[str, str]) -> str:
    add, strip = pair
    return add + (name.removeprefix(strip) if strip else name)


def _apart(group: list[Any], pair: tuple[str, str], checkpoint: Checkpoint, stored: set[str]) -> list[list[Any]]:
    """The places of a tied parameter; by tensors, if some are stored that differ: transformers 5 ties those no more."""
    by: dict[str, list[Any]] = {name: [] for slot in group if (name := _stored(slot[2], pair)) in stored}
    if len(by) < 2 or len({checkpoint._core.read(name) for name in by}) < 2:
        return [group]
    for slot in group:
        by.get(_stored(slot[2], pair), by[next(iter(by))]).append(slot)
    return list(by.values())
