"""Files as `torch.save` writes them, made without torch: a zip archive of a pickle and storages, or the form before."""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from .checkpoints import DTYPE_BITS, Raw

#: What torch calls the storages of a dtype; other dtypes lie in storages of bytes and are named apart.
STORAGES = {
    "F64": "DoubleStorage", "F32": "FloatStorage", "F16": "HalfStorage", "BF16": "BFloat16Storage",
    "I64": "LongStorage", "I32": "IntStorage", "I16": "ShortStorage", "I8": "CharStorage", "U8": "ByteStorage",
    "BOOL": "BoolStorage", "C64": "ComplexFloatStorage",
}  # fmt: skip
NAMED = {
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu", "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E4M3FNUZ": "float8_e4m3fnuz",
}  # fmt: skip
ROOT = "archive"
#: What the form before 1.6 begins with: the number that stands for it, its version, and what machine wrote it.
MAGIC = 0x1950A86A20F9469CFC6C
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}

#: The forms of a file: sizes before the bytes, behind them, and what torch wrote before 1.6.
FORMS: dict[str, dict[str, bool]] = {
    "seekable": {"streamed": False},
    "streamed": {"streamed": True},
    "legacy": {"legacy": True},
}


@dataclass(frozen=True)
class Named:
    """A name that a pickle refers to."""

    module: str
    name: str


@dataclass(frozen=True)
class Call:
    """What a pickle has called: the function and its arguments, then the items that are put into what it makes."""

    function: Named
    args: tuple[Any, ...]
    items: Mapping[Any, Any] | None = None
    state: Any = None


@dataclass(frozen=True)
class Storage:
    """A storage, its bytes in the archive under `key`."""

    kind: Named
    key: str
    numel: int
    data: bytes = field(repr=False)


def storage(key: str, dtype: str, data: bytes) -> Storage:
    """The storage of numbers of a dtype as torch describes it."""
    if dtype in STORAGES:
        return Storage(Named("torch", STORAGES[dtype]), key, len(data) * 8 // DTYPE_BITS[dtype], data)
    return Storage(Named("torch.storage", "UntypedStorage"), key, len(data), data)


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of elements that lie one behind the other."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def tensor(
    of: Storage, dtype: str, shape: Sequence[int], strides: Sequence[int] | None = None, offset: int = 0
) -> Call:
    """A tensor of a storage."""
    strides = contiguous(shape) if strides is None else strides
    args: tuple[Any, ...] = (of, offset, tuple(shape), tuple(strides), False, Call(ORDERED, ()))
    if dtype in STORAGES:
        return Call(Named("torch._utils", "_rebuild_tensor_v2"), args)
    return Call(Named("torch._utils", "_rebuild_tensor_v3"), (*args, Named("torch", NAMED[dtype])))


ORDERED = Named("collections", "OrderedDict")


def ordered(items: Mapping[Any, Any], state: Any = None) -> Call:
    """An OrderedDict."""
    return Call(ORDERED, (), items, state)


#: Python's own pickler, in Python.
_Base: Any = pickle._Pickler


class _Pickler(_Base):  # type: ignore[misc]
    """A pickler that writes names and calls without having what they stand for."""

    dispatch: ClassVar[dict[type, Callable[..., None]]] = dict(_Base.dispatch)

    def __init__(self, file: io.BytesIO, protocol: int, storages: dict[str, Storage], legacy: bool) -> None:
        super().__init__(file, protocol)
        self.storages = storages
        self.legacy = legacy

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, Storage):
            return None
        self.storages[obj.key] = obj
        described = ("storage", obj.kind, obj.key, "cpu", obj.numel)
        return (*described, None) if self.legacy else described

    def named(self, obj: Named) -> None:
        if self.proto >= 4:
            self.save(obj.module)
            self.save(obj.name)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        self.memoize(obj)

    def call(self, obj: Call) -> None:
        self.save(obj.function)
        self.save(obj.args)
        self.write(pickle.REDUCE)
        self.memoize(obj)
        if obj.items is not None:
            self.write(pickle.MARK)
            for key, value in obj.items.items():
                self.save(key)
                self.save(value)
            self.write(pickle.SETITEMS)
        if obj.state is not None:
            self.save(obj.state)
            self.write(pickle.BUILD)

    dispatch[Named] = named
    dispatch[Call] = call


def pickled(value: Any, protocol: int = 2) -> tuple[bytes, dict[str, bytes]]:
    """The pickle of a value, and the storages it names."""
    file, storages = io.BytesIO(), dict[str, Storage]()
    _Pickler(file, protocol, storages, legacy=False).dump(value)
    return file.getvalue(), {key: storage.data for key, storage in storages.items()}


def legacy_parts(value: Any, protocol: int = 2) -> dict[str, bytes]:
    """What torch wrote of a value before 1.6, part by part: five pickles, then its storages under their keys."""
    file, storages = io.BytesIO(), dict[str, Storage]()
    _Pickler(file, protocol, storages, legacy=True).dump(value)
    keys = sorted(storages)
    head = {"magic": MAGIC, "version": 1001, "system": SYSTEM}
    return {
        **{name: pickle.dumps(part, protocol) for name, part in head.items()},
        "object": file.getvalue(),
        "keys": pickle.dumps(keys, protocol),
        **{key: number(storages[key].numel, "<q") + storages[key].data for key in keys},
    }


class _Pipe(io.RawIOBase):
    """A file that cannot go back, so that sizes are written behind the bytes, as torch does."""

    def __init__(self) -> None:
        self.content = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.content += data
        return len(data)


def archive(members: Mapping[str, bytes], *, streamed: bool = False, deflated: Sequence[str] = ()) -> bytes:
    """A zip archive; `streamed` writes sizes behind the bytes, `deflated` members are compressed."""
    seekable, pipe = io.BytesIO(), _Pipe()
    target: Any = pipe if streamed else seekable
    with zipfile.ZipFile(target, "w") as file:
        for name, data in members.items():
            file.writestr(name, data, zipfile.ZIP_DEFLATED if name in deflated else zipfile.ZIP_STORED)
    return bytes(pipe.content) if streamed else seekable.getvalue()


def members_of(value: Any, protocol: int = 2) -> dict[str, bytes]:
    """The members that `torch.save` makes of a value."""
    code, storages = pickled(value, protocol)
    data = {f"{ROOT}/data/{key}": content for key, content in storages.items()}
    return {f"{ROOT}/data.pkl": code, f"{ROOT}/byteorder": b"little", **data, f"{ROOT}/version": b"3\n"}


def saved(value: Any, *, protocol: int = 2, streamed: bool = True, legacy: bool = False) -> bytes:
    """The bytes of a file of a value; `legacy` in the form of torch before 1.6."""
    if legacy:
        return b"".join(legacy_parts(value, protocol).values())
    return archive(members_of(value, protocol), streamed=streamed)


def of_code(code: bytes, storages: Mapping[str, bytes] | None = None) -> bytes:
    """The bytes of a file with this pickle, taken as it is."""
    data = {f"{ROOT}/data/{key}": content for key, content in (storages or {}).items()}
    return archive({f"{ROOT}/data.pkl": code, **data})


def state_dict(tensors: Mapping[str, Raw], first: int = 0) -> Call:
    """A state dict as a module has it, each tensor in a storage of its own, numbered from `first`."""
    items = {
        name: tensor(storage(str(i), raw.dtype, raw.data), raw.dtype, raw.shape)
        for i, (name, raw) in enumerate(tensors.items(), first)
    }
    return ordered(items, {"_metadata": ordered({"": {"version": 1}})})


def write_torch(path: Path, tensors: Mapping[str, Raw], **how: Any) -> Path:
    """Write a state dict."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(saved(state_dict(tensors), **how))
    return path


def number(value: int, width: str = "<I") -> bytes:
    """A number as opcodes have it."""
    return struct.pack(width, value)
