"""Law 7: a hostile header takes memory in proportion to its size, and little of that."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest

MIB = 2**20
SIZE = 48 * MIB
TENSOR = b'"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
#: Headers of `SIZE` bytes, each of as many small values as fit in one place.
HEADERS = {
    "spaces": b"{" + TENSOR + b" " * SIZE + b"}",
    "unknown_key": b'{"a":{"dtype":"U8","shape":[0],"x":[' + b"0," * (SIZE // 2) + b'0],"data_offsets":[0,0]}}',
    "unknown_keys": b'{"a":{' + b'"x":0,' * (SIZE // 6) + b'"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
    "nesting": b'{"a":{"x":' + b"[" * SIZE + b"}}",
    "shape": b'{"a":{"dtype":"U8","data_offsets":[0,0],"shape":[' + b"0," * (SIZE // 2) + b"0]}}",
    "metadata": b'{"__metadata__":{' + b",".join(b'"%x":""' % i for i in range(SIZE // 12)) + b"}," + TENSOR + b"}",
}
OPEN = """
import resource, sys, suture
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
try:
    suture.open(sys.argv[1])
except suture.SutureError:
    pass
print(peak() - before)
"""


@pytest.mark.parametrize("kind", HEADERS)
def test_a_hostile_header_takes_little_memory(kind: str, tmp_path: Path) -> None:
    """No value takes more memory than its text: one copy of the header and a few MiB."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(HEADERS[kind])) + HEADERS[kind])
    done = subprocess.run([sys.executable, "-c", OPEN, path], capture_output=True, text=True, timeout=120, check=True)
    path.unlink()
    assert int(done.stdout) < len(HEADERS[kind]) + 16 * MIB
