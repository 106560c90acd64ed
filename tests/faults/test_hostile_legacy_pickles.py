"""Files in the form of torch before 1.6 that lie or would run something: an error that says which (law 7)."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import zipfile
from collections import OrderedDict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..support.checkpoints import DTYPE_BITS
from ..support.pickles import ROOT, SYSTEM, Named, Storage, legacy_parts, number, tensor
from ..support.refusals import refuses_to_open
from .test_hostile_pickles import CODES, FLOATS, LARGE, MIB, OPEN, SIZE, STATE, VALUES, everything

PARTS = legacy_parts(STATE)
#: A persistent id, which ends in its place in the memo and BINPERSID.
ID = legacy_parts(FLOATS)["object"][2:-1]


def file(**parts: bytes) -> bytes:
    """The file of a state with some of its parts exchanged."""
    return b"".join({**PARTS, **parts}.values())


def as_legacy(content: bytes) -> bytes:
    """An archive's pickle and storages in the older form; every persistent id gets the None that it had then."""
    with zipfile.ZipFile(BytesIO(content)) as members:
        code = members.read(f"{ROOT}/data.pkl")
        data = {name.split("/")[-1]: members.read(name) for name in members.namelist() if "/data/" in name}
    code = re.sub(rb"t(q.)?Q", rb"Nt\1Q", code, flags=re.DOTALL)
    head = b"".join(PARTS[name] for name in ("magic", "version", "system"))
    floats = b"".join(number(len(data[key]) // 4, "<q") + data[key] for key in sorted(data))
    return head + code + pickle.dumps(sorted(data), 2) + floats


#: What is said otherwise: the bytes behind a pickle are the next one.
OTHERWISE = {"no end": "left over", "more behind": "protocol 0 or 1"}
OF_ARCHIVES = ["no member", "a short storage", "a long storage"]


@pytest.mark.parametrize("name", [name for name in CODES if name not in OF_ARCHIVES])
def test_what_is_no_weights_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Laws 7 and 8: whatever is refused in an archive is refused here, in one line; nothing of it is run."""
    monkeypatch.chdir(tmp_path)
    content, says = CODES[name]
    path = tmp_path / "weights.bin"
    path.write_bytes(as_legacy(content))
    with pytest.raises(suture.SutureError) as caught:
        suture.open(path)
    assert str(path) in str(caught.value)
    assert OTHERWISE.get(name, says) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["weights.bin"]


def dumped(value: Any) -> bytes:
    return pickle.dumps(value, 2)


def named(*storages: Storage) -> bytes:
    """A file of these storages, each a tensor of one element."""
    value = {str(i): tensor(storage, "F32", (1,)) for i, storage in enumerate(storages)}
    return b"".join(legacy_parts(value).values())


def sized(numel: int) -> bytes:
    return named(Storage(Named("torch", "FloatStorage"), "0", numel, VALUES.data))


def ids_with(last: bytes) -> bytes:
    """A file whose persistent ids end in what these opcodes make."""
    return file(object=re.sub(rb"N(t(?:q.)?Q)", lambda found: last + found[1], PARTS["object"], flags=re.DOTALL))


BYTES = Storage(Named("torch", "ByteStorage"), "0", 6, VALUES.data)
LESS = Storage(FLOATS.kind, "0", 5, VALUES.data[:20])
LIES: dict[str, tuple[bytes, str]] = {
    "another version": (file(version=dumped(1000)), "expected version 1001"),
    "a version in words": (file(version=dumped("1001")), "expected version 1001"),
    "no machine": (file(system=dumped([SYSTEM])), "what machine wrote it"),
    "a machine unknown": (file(system=dumped({})), "not little-endian"),
    "big-endian": (file(system=dumped({**SYSTEM, "little_endian": False})), "not little-endian"),
    "big-endian at last": (
        file(system=dumped(SYSTEM)[:-1] + b"X\x0d\x00\x00\x00little_endian\x89s."), "not little-endian",
    ),
    "a machine that runs": (file(system=b"\x80\x02cos\nsystem\n."), "`os.system` at byte 23 of the file"),
    "a storage of the machine": (file(version=b"\x80\x02" + ID + b"0M\xe9\x03."), "before the object"),
    "keys that run": (file(keys=b"\x80\x02cos\nsystem\n."), "`os.system` at byte"),
    "keys in a tuple": (file(keys=dumped(("0", "1"))), "expected the list of its storages"),
    "keys that are numbers": (file(keys=dumped([0, 1])), "is no text"),
    "a key twice": (file(keys=dumped(["0", "0"])), "`0`, which is there twice"),
    "a key of nothing": (file(keys=dumped(["0", "1", "2"])), "`2`, which is there twice or of no tensor"),
    "a key too few": (file(keys=dumped(["0"])), "does not list its storage `1`"),
    "no keys": (file(keys=dumped([])), "does not list its storage `0`"),
    "keys in another order": (file(keys=dumped(["1", "0"])), "`1` has 6 elements, expected 2"),
    "another number": (file(**{"0": number(5, "<q") + VALUES.data}), "`0` has 5 elements, expected 6"),
    "a number in big-endian": (file(**{"0": number(6, ">q") + VALUES.data}), "expected 6"),
    "too many elements": (sized(7), "before its storage `0` is whole"),
    "elements beyond all": (sized(2**61), "before its storage `0` is whole"),
    "elements beyond any number": (sized(2**63 - 1), "before its storage `0` is whole"),
    "elements below none": (sized(-1), "before its storage `0` is whole"),
    "something behind": (file() + b"\x00", "1 bytes behind its last storage"),
    "saved twice": (file() + file(), "bytes behind its last storage"),
    "two types of one": (named(FLOATS, BYTES), "the storage `0` twice"),
    "two sizes of one": (named(FLOATS, LESS), "the storage `0` twice"),
    "a part of a storage": (ids_with(b"X\x01\x00\x00\x002K\x00K\x02\x87"), "a part of a storage"),
    "an id of an archive": (ids_with(b""), "names no storage"),
    "storages in the keys": (file(keys=b"\x80\x02](X\x01\x00\x00\x000" + ID + b"e."), "expected the list"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_files_that_lie_are_refused(name: str, tmp_path: Path) -> None:
    """Laws 7 and 8: every part is held against the others, and every byte of the file is of one of them."""
    content, says = LIES[name]
    path = tmp_path / "weights.bin"
    path.write_bytes(content)
    refuses_to_open(path, says)


class _Oracle(pickle.Unpickler):
    """Python's own reader of pickles, with the functions of torch that a state dict of one level is made with."""

    def __init__(self, file: BytesIO) -> None:
        super().__init__(file)
        self.storages: dict[str, tuple[str, int]] = {}

    def find_class(self, module: str, name: str) -> Any:
        known = {"FloatStorage": "F32", "BFloat16Storage": "BF16", "DoubleStorage": "F64", "HalfStorage": "F16"}
        rebuild: Any = lambda storage, *args: (storage, *args)  # noqa: E731
        functions = {"collections.OrderedDict": OrderedDict, "torch._utils._rebuild_tensor_v2": rebuild}
        return functions[f"{module}.{name}"] if module != "torch" else known[name]

    def persistent_load(self, pid: Any) -> str:
        what, dtype, key, _, numel, part = pid
        assert (what, part) == ("storage", None)
        assert self.storages.setdefault(key, (dtype, numel)) == (dtype, numel)
        return str(key)


def by_python(content: bytes) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """What a file in the older form holds, read by Python and NumPy; any error if it is not sound."""
    file = BytesIO(content)
    for _ in range(3):
        pickle.load(file)
    reader = _Oracle(file)
    state, data = reader.load(), {}
    for key in pickle.load(file):
        dtype, numel = reader.storages[key]
        assert file.read(8) == number(numel, "<q")
        data[key] = np.frombuffer(file.read(numel * DTYPE_BITS[dtype] // 8), f"V{DTYPE_BITS[dtype] // 8}")
    assert file.read() == b""
    made = {}
    for name, (key, offset, shape, strides, *_) in state.items():
        elements = data[key][offset:]
        steps = [stride * elements.itemsize for stride in strides]
        view = np.lib.stride_tricks.as_strided(elements, shape, steps)
        made[name] = (reader.storages[key][0], tuple(shape), np.ascontiguousarray(view).tobytes())
    return made


def test_every_byte_counts(tmp_path: Path) -> None:
    """Law 7: cut short anywhere an error; with any bit flipped an error, or what Python's own pickle makes of it.

    This form has no checksums: a name with another letter is another name.
    """
    good, path = file(), tmp_path / "weights.bin"
    path.write_bytes(good)
    assert everything(path) == by_python(good)
    read = 0
    with path.open("r+b", buffering=0) as opened:
        for at in range(len(good)):
            for bit in range(8):
                flipped = bytes([good[at] ^ 1 << bit])
                os.pwrite(opened.fileno(), flipped, at)
                found = everything(path)
                read += found is not None
                assert found is None or found == by_python(good[:at] + flipped + good[at + 1 :]), (at, bit)
            os.pwrite(opened.fileno(), good[at : at + 1], at)
        assert everything(path) == by_python(good)
        for at in reversed(range(len(good))):
            opened.truncate(at)
            assert everything(path) is None, at
    assert read > 8 * 28


def test_a_name_is_not_trusted(tmp_path: Path) -> None:
    """Law 8: under the name of safetensors it is called what it is; a pickle that begins otherwise is none of these."""
    (tmp_path / "w.safetensors").write_bytes(file())
    with pytest.raises(suture.SutureError, match="is a pickled PyTorch file under the name of a safetensors file"):
        suture.open(tmp_path / "w.safetensors")
    for magic in (dumped(0x1950A86A20F9469CFC6D), pickle.dumps(0x1950A86A20F9469CFC6D, 4)):
        (tmp_path / "w.bin").write_bytes(file(magic=magic))
        with pytest.raises(suture.SutureError, match=r"neither what torch.save writes nor safetensors"):
            suture.open(tmp_path / "w.bin")


def test_pickles_without_end_are_refused(tmp_path: Path) -> None:
    """Law 1: what is read of a file to find the end of its pickles is bounded."""
    path = tmp_path / "w.bin"
    head = b"".join(PARTS[name] for name in ("magic", "version", "system"))
    path.write_bytes(head + b"\x80\x02X" + number(2**31))
    with path.open("r+b") as file:
        file.truncate(2**31 + 1000)
    with pytest.raises(suture.SutureError, match="its pickles have more than the 100000000 bytes allowed"):
        suture.open(path)


#: Beside those of archives, what only this form keeps.
LARGER = {
    **{kind: LARGE[kind] for kind in ("none", "items", "a long text")},
    "lists": b"]" * SIZE,
    "what lists hold": b"](" + b"N" * SIZE + b"e",
    "one in a list": b"]" + b"Na" * (SIZE // 2),
    "storages": ID + (b"h" + ID[-2:]) * (SIZE // 3),
}


@pytest.mark.parametrize("kind", LARGER)
def test_a_hostile_pickle_takes_bounded_memory(kind: str, tmp_path: Path) -> None:
    """Law 1: whatever the pickles make, they take their own size and at most 256 MiB, and little time."""
    path = tmp_path / "weights.bin"
    path.write_bytes(file(object=b"\x80\x04" + LARGER[kind] + b"."))
    done = subprocess.run([sys.executable, "-c", OPEN, path], capture_output=True, text=True, timeout=60, check=True)
    memory, seconds = map(float, done.stdout.split())
    assert memory < SIZE + (256 + 16) * MIB
    assert seconds < 5
