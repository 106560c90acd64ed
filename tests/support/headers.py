"""Safetensors files with damaged headers: `mutant(number)` is always the same file for the same number."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from .checkpoints import DTYPE_BITS

#: An object as its pairs, so that a key can be there twice.
Pairs = list[tuple[Any, Any]]


class Text(str):
    """JSON text, written as it is."""

    __slots__ = ()


class File(NamedTuple):
    """A header and how much data follows it."""

    header: bytes
    data: int

    def content(self) -> bytes:
        """The bytes of the file."""
        return struct.pack("<Q", len(self.header)) + self.header + bytes(i % 251 for i in range(self.data))


#: What stands where a number should, some of it still one.
NUMBERS = [
    "-1", "-0", "0", "1", "00", "01", "+1", "1.", ".5", "0.0", "1.0", "1e0", "1E2", "1e999", "-1e-999", "NaN",
    "Infinity", "0x1", "4294967296", "9223372036854775808", "18446744073709551615", "18446744073709551616",
    "9" * 400, "null", "true", "false", '"0"', '""', "[]", "{}", "[0]", "4 ", "\n4", "1,", "",
]  # fmt: skip
#: Values of every kind, for keys nobody reads and for places where they do not belong.
VALUES = [
    *NUMBERS, '"a"', '"\\u00e9\\ud83d\\ude00"', '"\\ud800"', '"\\udc00x"', '"\\x"', '"\\u12"', '"\t"', '"\\u0000"',
    '{"a":1}', '{"a":1,"a":2}', '{"format":"pt"}', '{"format":null}', '{"format":"pt","format":"np"}', "[1,[2,[3]]]",
    "[" * 100 + "]" * 100, "[" * 125 + "]" * 125, "[" * 140 + "]" * 140, '{"x":' * 200 + "1" + "}" * 200, "[1,]",
    '{"a":}', "'a'", "nul", '["F32",[0],[0,0]]', '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}', "-", "tru",
]  # fmt: skip
NAMES = [
    '""', '"a"', '"\\u0061"', '"\\""', '"\\\\"', '"é"', '"e\u0301"', '"\\ud83d\\ude00"', '"\\ud800"', '"\\u0000"',
    '"/"', '"\\/"', '"__metadata__"', '"__metadata__ "', '"\\u005f_metadata__"', '"dtype"', '"model.layers.0.w"', "a",
    "1", "null", '"' + "x" * 5000 + '"', '"\t"', '"\x7f"', '"\u2028"',
]  # fmt: skip
DTYPES = [
    '"f32"', '"F33"', '"BF16 "', '"F8_E4M3FNUZ"', '"F8_E5M2FNUZ"', '"F8_E8M0"', '"F4"', '"\\u0046\\u0033\\u0032"',
    '{"F32":null}', '{"F32":{}}', '{"F32":[]}', '{"F32":null,"F16":null}', '["F32"]', "null", "0", "17", '""', '"BOOL"',
]  # fmt: skip
SPACES = ["", " ", "\n", "\t", "\r", " \r\n\t ", "   " * 30, "\x0b", "\x0c", "\u00a0", "\ufeff", "\x00", "//\n", "/**/"]
TOKENS = [
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b'"',
    b"\\",
    b"0",
    b"-",
    b"e",
    b".",
    b"\xff",
    b"\xc3\xa9",
    b"\x00",
    b" ",
    b"null",
]


def render(value: Any, space: Callable[[], str]) -> str:
    """JSON, with `space()` between any two of its tokens."""
    if isinstance(value, Text):
        return value
    if isinstance(value, list) and all(isinstance(v, tuple) for v in value) and value != []:
        inner = f"{space()},".join(
            f"{space()}{render(k, space)}{space()}:{space()}{render(v, space)}" for k, v in value
        )
        return "{" + inner + space() + "}"
    if isinstance(value, list):
        return "[" + f"{space()},".join(space() + render(v, space) for v in value) + space() + "]"
    return json.dumps(value, ensure_ascii=False)


def valid(rng: random.Random) -> tuple[Pairs, int]:
    """A sound header of up to five tensors in any order, and the bytes of its data."""
    tensors: Pairs = []
    at = 0
    for number in range(rng.choice([0, 1, 1, 2, 2, 3, 5])):
        dtype = rng.choice(list(DTYPE_BITS))
        shape = [rng.choice([0, 1, 2, 2, 3, 4]) for _ in range(rng.choice([0, 1, 1, 2, 2, 3]))]
        if DTYPE_BITS[dtype] % 8:
            shape.append(4)
        bits = DTYPE_BITS[dtype]
        for dimension in shape:
            bits *= dimension
        entry = [("dtype", dtype), ("shape", shape), ("data_offsets", [at, at + bits // 8])]
        rng.shuffle(entry)
        tensors.append((f"t{number}", entry))
        at += bits // 8
    rng.shuffle(tensors)
    if rng.random() < 0.5:
        tensors.insert(rng.randint(0, len(tensors)), ("__metadata__", [("format", "pt")]))
    return tensors, at


def _field(entry: Any, key: str, value: Any) -> None:
    """Put `value` under `key`, where the entry still is one."""
    if isinstance(entry, list) and all(isinstance(pair, tuple) for pair in entry):
        entry[:] = [(k, value if k == key else v) for k, v in entry]


def _get(entry: Any, key: str) -> Any:
    return dict(entry).get(key) if isinstance(entry, list) and all(isinstance(p, tuple) for p in entry) else None


def edit(rng: random.Random, header: Pairs) -> None:
    """One change to what a header says."""
    tensors = [i for i, (name, _) in enumerate(header) if name != "__metadata__"]
    kind = rng.randrange(16) if tensors else 15
    if kind == 15:
        header.insert(rng.randint(0, len(header)), ("__metadata__", Text(rng.choice(VALUES))))
        return
    at = rng.choice(tensors)
    name, entry = header[at]
    shape, offsets = _get(entry, "shape"), _get(entry, "data_offsets")
    if kind == 0:
        _field(entry, "dtype", Text(rng.choice(DTYPES)))
    elif kind == 1:
        _field(entry, "dtype", rng.choice(list(DTYPE_BITS)))
    elif kind in (2, 3) and isinstance(shape, list):
        ones = [1] * rng.choice([1, 1, 2, 60, 63, 64, 65, 80])
        where = rng.randint(0, len(shape))
        values = ones if kind == 2 else [Text(rng.choice(NUMBERS))]
        _field(entry, "shape", shape[:where] + values + shape[where + rng.randint(0, 1) * (kind == 3) :])
    elif kind == 4 and isinstance(shape, list):
        rng.shuffle(shape)
        _field(entry, "shape", rng.choice([[], [*shape, 0], [*shape, 1], shape]))
    elif kind == 5 and isinstance(offsets, list) and offsets:
        where = rng.randrange(len(offsets))
        offsets[where] = Text(rng.choice(NUMBERS))
        if rng.random() < 0.3:
            offsets.append(rng.choice([0, Text("null")]))
    elif kind == 6 and isinstance(offsets, list) and all(type(n) is int for n in offsets):
        _field(entry, "data_offsets", [n + rng.choice([-1, 0, 1, 4, 2**32, 2**63]) for n in offsets])
    elif kind == 7:
        _field(entry, rng.choice(["dtype", "shape", "data_offsets"]), Text(rng.choice(VALUES)))
    elif kind == 8 and isinstance(entry, list) and entry:
        entry.pop(rng.randrange(len(entry)))
    elif kind == 9 and isinstance(entry, list):
        key: Any = rng.choice(["note", "strides", "Dtype", "", "dtype", "shape", Text(rng.choice(NAMES))])
        entry.insert(rng.randint(0, len(entry)), (key, Text(rng.choice(VALUES))))
    elif kind == 10:
        again = rng.choice([entry, [("dtype", "F32"), ("shape", [0]), ("data_offsets", [0, 0])], Text("null")])
        twin = rng.choice([name, Text(json.dumps(str(name)).replace("t", "\\u0074"))])
        header.insert(rng.randint(0, len(header)), (twin, again))
    elif kind == 11:
        header[at] = (Text(rng.choice(NAMES)), entry)
    elif kind == 12:
        header[at] = (name, Text(rng.choice(VALUES)))
    elif kind == 13 and isinstance(entry, list):
        header[at] = (name, [_get(entry, "dtype"), shape, offsets][: rng.choice([2, 3, 3, 3])])
    elif kind == 14:
        other = rng.choice(tensors)
        header[at], header[other] = (name, header[other][1]), (header[other][0], entry)


def cut(rng: random.Random, header: bytes) -> bytes:
    """One change to the bytes of a header."""
    content = bytearray(header)
    at = rng.randrange(len(content)) if content else 0
    kind = rng.randrange(6)
    if kind == 0 and content:
        content[at] ^= 1 << rng.randrange(8)
    elif kind == 1 and content:
        content[at] = rng.choice(b'0123456789"{}[],:\\ ')
    elif kind == 2:
        content[at:at] = rng.choice(TOKENS)
    elif kind == 3:
        del content[at : at + rng.randint(1, 12)]
    elif kind == 4:
        content[at:at] = content[at : at + rng.randint(1, 80)]
    elif kind == 5:
        content += rng.choice([b" " * rng.randint(1, 9), b"\n", b"\0", b"}", b",", b"{}", b" x"])
    return bytes(content)


def mutant(number: int) -> File:
    """The file called `number`: sound in one case of twenty, else with one to three changes."""
    rng = random.Random(number)
    header, data = valid(rng)
    structure, surface = rng.choice(
        [(0, 0), *[(1, 0)] * 8, *[(2, 0)] * 4, (3, 0), *[(0, 1)] * 3, (0, 3), (1, 1), (2, 2)]
    )
    for _ in range(structure):
        edit(rng, header)
    odd = SPACES if rng.random() < 0.1 else SPACES[:7]
    spaces = rng.choice([[""], [""], ["", " "], odd])

    def space() -> str:
        return rng.choice(spaces)

    text = space() + render(header or Text("{}"), space) + space()
    if rng.random() < 0.02:
        text = rng.choice(["[{}]", '{{"a":{}}}', "{}{}", "\ufeff{}", "[]{}", "{}//", "\x00{}", '"{}"']).replace(
            "{}", text, 1
        )
    content = text.encode("utf-8", "surrogatepass")
    for _ in range(surface):
        content = cut(rng, content)
    if rng.random() < 0.05:
        data = max(data + rng.choice([-1, 1, 8]), 0)
    return File(content, data)
