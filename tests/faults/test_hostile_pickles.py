"""Pickles that would run something, and archives that lie: an error that says which, and nothing is run (law 7)."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import suture

from ..property.test_mutations import damaged
from ..support.checkpoints import Raw, as_raw
from ..support.pickles import (
    ROOT,
    Call,
    Named,
    archive,
    members_of,
    number,
    of_code,
    ordered,
    pickled,
    saved,
    state_dict,
    storage,
    tensor,
)
from ..support.refusals import refuses_to_open

VALUES = as_raw(np.arange(6, dtype=np.float32).reshape(2, 3))
STATE = state_dict({"a": VALUES, "b": Raw("BF16", (2,), b"\x01\x02\x03\x04")})
GOOD = members_of(STATE)
FLOATS = storage("0", "F32", VALUES.data)
REBUILD = Named("torch._utils", "_rebuild_tensor_v2")


class Touch:
    """What a pickle of it calls would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def calls(module: str, name: str, *args: Any) -> bytes:
    """A file whose state dict has a call among its tensors."""
    return saved(ordered({"a": Call(Named(module, name), args)}))


def code(text: bytes) -> bytes:
    return of_code(b"\x80\x02" + text)


def with_args(*args: Any, function: Named = REBUILD) -> bytes:
    return saved({"a": Call(function, args)})


def shaped(shape: Any, strides: Any, offset: Any = 0) -> bytes:
    return saved({"a": Call(REBUILD, (FLOATS, offset, shape, strides, False, ordered({})))})


#: A persistent id as it should be, in opcodes.
ID = pickled(FLOATS)[0][2:-1]
DICT = b"}X\x01\x00\x00\x00a"
CODES: dict[str, tuple[bytes, str]] = {
    "os.system": (calls("os", "system", "touch run"), "`os.system` at byte"),
    "posix.system": (calls("posix", "system", "touch run"), "`posix.system` at byte"),
    "eval": (calls("builtins", "eval", "1"), "`builtins.eval` at byte"),
    "getattr": (calls("builtins", "getattr", Named("torch", "Size"), "x"), "`builtins.getattr`"),
    "torch.load": (calls("torch", "load", "x"), "`torch.load`"),
    "a class": (calls("transformers.training_args", "TrainingArguments"), "TrainingArguments"),
    "numpy": (calls("numpy.core.multiarray", "scalar"), "`numpy.core.multiarray.scalar`"),
    "quantised": (calls("torch._utils", "_rebuild_qtensor"), "`torch._utils._rebuild_qtensor`"),
    "complex128": (calls("torch", "ComplexDoubleStorage"), "safetensors does not have"),
    "float4": (saved({"a": Named("torch", "float4_e2m1fn_x2")}), "float4_e2m1fn_x2"),
    "stack global": (of_code(b"\x80\x04\x8c\x02os\x8c\x06system\x93."), "`os.system`"),
    "stack global of numbers": (of_code(b"\x80\x04K\x01K\x02\x93."), "no text"),
    "inst": (code(b"(ios\nsystem\n."), "an object of `os.system`"),
    "obj": (code(b"(ctorch\nSize\no."), "an object of a class"),
    "newobj": (code(b"ctorch\nSize\n)\x81."), "an object of a class"),
    "newobj_ex": (of_code(b"\x80\x04ctorch\nSize\n)}\x92."), "an object of a class"),
    "ext1": (code(b"\x82\x01."), "a name by its number"),
    "ext2": (code(b"\x83\x01\x00."), "a name by its number"),
    "ext4": (code(b"\x84\x01\x00\x00\x00."), "a name by its number"),
    "persid": (code(b"Pstorage\n."), "in text"),
    "next buffer": (of_code(b"\x80\x05\x97."), "from elsewhere"),
    "build on a tensor": (code(DICT + ID + b"}bs."), "a state for what is no dict"),
    "build on a list": (code(b"]}b."), "a state for what is no dict"),
    "protocol 0": (of_code(b"cos\nsystem\n(S'touch run'\ntR."), "protocol 0 or 1"),
    "protocol 9": (of_code(b"\x80\x09}."), "protocol 9"),
    "old text": (code(b"S'a'\n."), "protocol 0 or 1"),
    "no opcode": (code(b"\xff."), "0xff is no opcode"),
    "call of a dict": (code(b"})R."), "no function"),
    "call of a dtype": (calls("torch", "float32"), "arguments that nothing is known of"),
    "call of a storage class": (calls("torch", "FloatStorage", 3), "arguments that nothing is known of"),
    "size of a number": (calls("torch", "Size", 3), "arguments that nothing is known of"),
    "many arguments": (calls("collections", "OrderedDict", *range(9)), "arguments that nothing is known of"),
    "parameter of a number": (calls("torch._utils", "_rebuild_parameter", 1, 2, 3), "arguments"),
    "no storage": (with_args(1, 0, (6,), (1,), False, None), "arguments"),
    "five arguments": (with_args(FLOATS, 0, (6,), (1,), False), "arguments"),
    "conjugated": (with_args(FLOATS, 0, (6,), (1,), False, None, {"conj": True}), "arguments"),
    "v3 without dtype": (
        with_args(FLOATS, 0, (6,), (1,), False, None, function=Named("torch._utils", "_rebuild_tensor_v3")),
        "arguments",
    ),
    "v3 of a typed storage": (
        with_args(
            FLOATS, 0, (6,), (1,), False, None, Named("torch", "int32"),
            function=Named("torch._utils", "_rebuild_tensor_v3"),
        ),
        "no dtype, or two",
    ),
    "id of a number": (code(b"K\x01Q."), "names no storage"),
    "id of four": (
        code(b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000K\x06tQ."), "names no storage",
    ),
    "id of another kind": (
        code(b"(X\x07\x00\x00\x00modulesctorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ."),
        "names no storage",
    ),
    "id of an unknown class": (
        code(b"(X\x07\x00\x00\x00storagecos\nsystem\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ."), "`os.system`",
    ),
    "no mark": (code(b"t."), "a mark that is not there"),
    "no value": (code(b"0."), "a value that is not there"),
    "below a mark": (code(b"K\x01(\x85."), "a value that is not there"),
    "append to a dict": (code(b"}K\x01a."), "what cannot hold them"),
    "items of a list": (code(b"]K\x01K\x02s."), "no dict"),
    "half an item": (code(b"}(K\x01u."), "no dict"),
    "nothing kept": (code(b"h\x07."), "nothing was"),
    "kept far away": (code(b"}r\xff\xff\xff\xff."), "expected 0"),
    "left over": (code(b"K\x01}."), "left over"),
    "more behind": (code(b"}.}."), "left over"),
    "no end": (code(b"}"), "ends too early"),
    "a long text": (code(b"X\xff\xff\xff\xffa."), "ends too early"),
    "a longer text": (of_code(b"\x80\x04\x8d" + b"\xff" * 8 + b"a."), "ends too early"),
    "a long frame": (of_code(b"\x80\x04\x95" + b"\xff" * 8 + b"}."), "ends too early"),
    "no UTF-8": (code(b"X\x02\x00\x00\x00\xff\xfe."), "not UTF-8"),
    "no member": (archive({k: v for k, v in GOOD.items() if not k.endswith("data/0")}), "`archive/data/0`, is not in"),
    "a short storage": (archive({**GOOD, f"{ROOT}/data/0": b"12"}), "has 2 bytes"),
    "a long storage": (archive({**GOOD, f"{ROOT}/data/0": bytes(28)}), "has 28 bytes"),
    "beyond its storage": (shaped((7,), (1,)), "reaches beyond the 24 bytes"),
    "beyond by strides": (shaped((2, 3), (4, 1)), "reaches beyond"),
    "beyond by its offset": (shaped((6,), (1,), 1), "reaches beyond"),
    "beyond any number": (shaped((2**62, 2**62), (0, 0)), "too large"),
    "strides that overflow": (shaped((2**40, 2), (2**40, 1)), "reaches beyond"),
    "a negative stride": (shaped((2, 3), (-3, 1), 3), "numbers of 0 and more"),
    "a negative offset": (shaped((2,), (1,), -1), "numbers of 0 and more"),
    "a negative size": (shaped((-2,), (1,)), "numbers of 0 and more"),
    "a size that is text": (shaped(("2",), (1,)), "numbers of 0 and more"),
    "a stride too few": (shaped((2, 3), (1,)), "2 dimensions and 1 strides"),
    "65 dimensions": (shaped((1,) * 65, (1,) * 65), "at most 64"),
    "an endless tensor": (shaped((2**46, 2), (0, 0)), "too large"),
}  # fmt: skip


@pytest.mark.parametrize("name", CODES)
def test_what_is_no_weights_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Laws 7 and 8: one line that names the file and what was found; nothing of it is run."""
    monkeypatch.chdir(tmp_path)
    content, says = CODES[name]
    path = tmp_path / "weights.bin"
    path.write_bytes(content)
    refuses_to_open(path, says)
    assert [p.name for p in tmp_path.iterdir()] == ["weights.bin"]


def dumped(value: Any, protocol: int) -> bytes:
    return of_code(pickle.dumps(value, protocol))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reduce_is_never_called(protocol: int, tmp_path: Path) -> None:
    """What Python's own pickle makes of an object that runs something is refused by the name of the function."""
    path, touched = tmp_path / "weights.bin", tmp_path / "touched"
    path.write_bytes(dumped({"a": Touch(touched)}, protocol))
    with pytest.raises(suture.SutureError, match="nothing of it was run"):
        suture.open(path)
    assert not touched.exists()


def nested(depth: int) -> bytes:
    """Dicts inside each other around a tensor."""
    value: Any = {"t": tensor(FLOATS, "F32", (6,))}
    for _ in range(depth):
        value = {"a": value}
    return saved(value)


def test_dicts_that_are_no_tree(tmp_path: Path) -> None:
    """A dict in itself, in two places or too deep is an error and takes no time; so does doubling at every step."""
    path = tmp_path / "weights.bin"
    shared = {"t": tensor(FLOATS, "F32", (6,))}
    itself: dict[str, Any] = {"t": tensor(FLOATS, "F32", (6,))}
    itself["again"] = itself
    doubled: Any = dict(shared)
    for _ in range(30):
        doubled = {"a": doubled, "b": doubled}
    for value, says in (
        ({"x": shared, "y": shared}, "there twice"),
        (itself, "in itself"),
        (doubled, "there twice"),
    ):
        path.write_bytes(saved(value))
        with pytest.raises(suture.SutureError, match=says):
            suture.open(path)
    path.write_bytes(nested(40))
    with pytest.raises(suture.SutureError, match="too many dicts"):
        suture.open(path)


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    """Names joined from two dicts may be the same: then nobody can tell which is meant."""
    one, two = (tensor(storage(str(i), "F32", VALUES.data), "F32", (6,)) for i in range(2))
    path = tmp_path / "weights.bin"
    path.write_bytes(saved({"a.b": one, "a": {"b": two}}))
    with pytest.raises(suture.SutureError, match=r"`a\.b`: it is twice"):
        suture.open(path)


def test_archives_that_lie_are_refused(tmp_path: Path) -> None:
    """Law 7: compressed and encrypted members, members twice, programs, gaps, and big-endian numbers are refused."""
    path = tmp_path / "weights.bin"
    good = archive(GOOD)
    twice = io.BytesIO()
    with zipfile.ZipFile(twice, "w") as file:
        for name, data in GOOD.items():
            file.writestr(name, data)
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr(f"{ROOT}/data/0", bytes(24))
    at = good.index(b"PK\x01\x02")
    encrypted = bytearray(good)
    encrypted[at + 8] |= 1
    cases = {
        "compressed": archive(GOOD, deflated=[f"{ROOT}/data/0"]),
        "zip -0": archive(GOOD, deflated=[f"{ROOT}/data.pkl"]),
        "encrypted": bytes(encrypted),
        "two members are called": twice.getvalue(),
        "TorchScript": archive({**GOOD, f"{ROOT}/constants.pkl": b"\x80\x02)."}),
        "a program": archive({**GOOD, f"{ROOT}/code/__torch__.py": b""}),
        "little-endian": archive({**GOOD, f"{ROOT}/byteorder": b"big"}),
        "without the data.pkl": archive({"word/document.xml": b"<x/>"}),
        "two archives": archive({**GOOD, "other/data.pkl": b"\x80\x02}."}),
        "bytes before": bytes(16) + good,
        "end of the archive": good + bytes(16),
        "more than the 100000000 allowed": archive({f"{ROOT}/data.pkl": bytes(100_000_001)}),
    }
    for says, content in cases.items():
        content = b"PK\x03\x04" + content[4:] if says == "bytes before" else content
        path.write_bytes(content)
        with pytest.raises(suture.SutureError) as caught:
            suture.open(path)
        assert says in str(caught.value) or says == "bytes before", (says, str(caught.value))


def test_the_first_form_of_torch_is_refused(tmp_path: Path) -> None:
    """Law 8: a form that is not read is called by its name, with what to do."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.USTAR_FORMAT) as file:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            file.addfile(tarfile.TarInfo(name))
    (tmp_path / "w.bin").write_bytes(tar.getvalue())
    with pytest.raises(suture.SutureError, match=r"before 0\.4.*torch 1\.6 or later"):
        suture.open(tmp_path / "w.bin")


def everything(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]] | None:
    """All that suture reads, None where it refuses; nothing else may happen."""
    try:
        opened = suture.open(path)
    except suture.SutureError:
        return None
    infos = [opened.info(name) for name in opened.names]
    return {i.name: (i.dtype, i.shape, opened._core.read(i.name)) for i in infos}


@pytest.mark.parametrize("streamed", [False, True])
def test_every_byte_counts(streamed: bool, tmp_path: Path) -> None:
    """Law 7: cut short anywhere, or with any bit of a byte flipped outside the data: an error, or what was saved."""
    good = saved(STATE, streamed=streamed)
    path = tmp_path / "weights.bin"
    path.write_bytes(good)
    whole = everything(path)
    assert whole is not None
    data = [range(at, at + len(raw)) for raw in (VALUES.data, b"\x01\x02\x03\x04") for at in [good.index(raw)]]
    read = 0
    with path.open("r+b", buffering=0) as file:
        for at in range(len(good)):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([good[at] ^ 1 << bit]), at)
                found = everything(path)
                read += found is not None
                assert found in (None, whole) or any(at in r for r in data), (at, bit)
            os.pwrite(file.fileno(), good[at : at + 1], at)
        assert everything(path) == whole
        for at in reversed(range(len(good))):
            file.truncate(at)
            assert everything(path) is None, at
    assert read > 0


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_random_damage(data: st.DataObject) -> None:
    """Law 7: bytes changed, put in, taken out and copied, in the archive or in its pickle: SutureError or a read."""
    good = saved(STATE, legacy=data.draw(st.booleans()))
    if data.draw(st.booleans()):
        content = data.draw(damaged(good, len(good)))
    else:
        content = archive({**GOOD, f"{ROOT}/data.pkl": data.draw(damaged(GOOD[f"{ROOT}/data.pkl"], 200))})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.bin"
        path.write_bytes(content)
        everything(path)


OPEN = """
import resource, sys, time, suture
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before, began = peak(), time.monotonic()
try:
    suture.open(sys.argv[1])
except suture.SutureError:
    pass
print(peak() - before, time.monotonic() - began)
"""
MIB = 2**20
SIZE = 48 * MIB
#: Pickles of `SIZE` bytes, each of as many small values as fit in.
LARGE = {
    "none": b"N" * SIZE,
    "marks": b"(" * SIZE,
    "memo": b"N" + b"\x94" * SIZE,
    "dicts": b"}" * SIZE,
    "tuples": b"N" + b"\x85" * SIZE,
    "items": b"}(" + b"NN" * (SIZE // 2) + b"u",
    "one item": b"}" + b"NNs" * (SIZE // 3),
    "calls": b"ccollections\nOrderedDict\nq\x00)q\x01" + b"h\x00h\x01R" * (SIZE // 5),
    "a long text": b"X" + number(SIZE) + b"a" * SIZE,
}


@pytest.mark.parametrize("kind", LARGE)
def test_a_hostile_pickle_takes_bounded_memory(kind: str, tmp_path: Path) -> None:
    """Law 1: whatever a pickle makes, it takes its own size and at most 256 MiB, and little time."""
    path = tmp_path / "weights.bin"
    path.write_bytes(of_code(b"\x80\x04" + LARGE[kind] + b"."))
    done = subprocess.run([sys.executable, "-c", OPEN, path], capture_output=True, text=True, timeout=60, check=True)
    memory, seconds = map(float, done.stdout.split())
    assert memory < SIZE + (256 + 16) * MIB
    assert seconds < 5


def test_sizes_of_64_bits_are_followed(tmp_path: Path) -> None:
    """A member behind 4 GiB, in a file that has a hole there, is read where it lies."""
    path = tmp_path / "large.bin"
    hole = 2**32 + 5
    parts = {f"{ROOT}/hole": hole, **{name: len(data) for name, data in GOOD.items()}}
    at, places, directory = 0, {}, b""
    with path.open("wb") as file:
        for name, size in parts.items():
            text, data = name.encode(), GOOD.get(name)
            head = struct.pack("<4s5H3I2H", b"PK\x03\x04", 45, 0, 0, 0, 0, 0, 0, 0, len(text), 0) + text
            file.seek(at)
            file.write(head + (data or b""))
            places[name] = at
            extra, none = struct.pack("<2H3Q", 1, 24, size, size, at), 2**32 - 1
            fixed = (45, 45, 0, 0, 0, 0, 0, none, none, len(text), len(extra), 0, 0, 0, 0, none)
            directory += struct.pack("<4s6H3I5H2I", b"PK\x01\x02", *fixed) + text + extra
            at += len(head) + size
        file.seek(at)
        file.write(directory)
        end = at + len(directory)
        count = len(parts)
        file.write(struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, len(directory), at))
        file.write(struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1))
        file.write(struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 2**16 - 1, 2**16 - 1, 2**32 - 1, 2**32 - 1, 0))
    found = everything(path)
    assert found is not None
    assert found["a"] == (VALUES.dtype, VALUES.shape, VALUES.data)
