"""A store on the loopback that fails as stores do: of S3 it speaks what reading takes, and it serves the web."""

from __future__ import annotations

import hashlib
import html
import random
import re
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

#: What may go wrong with the answer to a range, by name.
FAULTS = ("503", "reset", "short", "whole", "stall", "slow")


@dataclass
class Trouble:
    """What goes wrong, and how often.

    Attributes:
        share: of the requests for ranges that go wrong, by the fault's name.
        seed: of the choice.
        first_byte: seconds before every answer.
        rate: bytes a second of all answers together; 0 for as fast as it goes.
        stall: seconds that a stalled body stands still.
        replaced: objects whose tag is another after so many requests for ranges of them.
        denied: whether nobody may read.
        most: faults in a row of one range; then it is served.
    """

    share: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    first_byte: float = 0.0
    rate: float = 0.0
    stall: float = 1.0
    replaced: dict[str, int] = field(default_factory=dict)
    denied: bool = False
    most: int = 3


class Store(ThreadingHTTPServer):
    """Serves the folders in `root` as buckets; `asked` counts requests, `ranges` has every range that was sent."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root, self.trouble = root, Trouble()
        self.asked: Counter[str] = Counter()
        self.ranges: list[tuple[str, int, int]] = []
        self.failed: Counter[tuple[str, str]] = Counter()
        self.lock = threading.Lock()
        self.random = random.Random(0)
        self.busy = 0.0

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def begin(self, trouble: Trouble | None = None) -> None:
        """Begin anew, with such trouble."""
        with self.lock:
            self.trouble = trouble or Trouble()
            self.random = random.Random(self.trouble.seed)
            self.asked.clear()
            self.failed.clear()
            self.ranges.clear()

    def paced(self, data: bytes) -> Iterator[bytes]:
        """The bytes at the store's rate, whoever else is sent some."""
        rate = self.trouble.rate
        for at in range(0, len(data), 1 << 19) if rate else ():
            piece = data[at : at + (1 << 19)]
            with self.lock:
                now = time.monotonic()
                self.busy = max(self.busy, now) + len(piece) / rate
                wait = self.busy - now
            time.sleep(wait)
            yield piece
        if not rate:
            yield data

    def sent(self, inside: str) -> int:
        """Bytes that were sent of objects with `inside` in their names."""
        with self.lock:
            return sum(stop - start for name, start, stop in self.ranges if inside in name)

    def fault(self, key: str, span: str) -> str | None:
        """What goes wrong with a request for a range."""
        with self.lock:
            if self.failed[key, span] >= self.trouble.most:
                return None
            at = self.random.random()
            for name, share in self.trouble.share.items():
                at -= share
                if at < 0:
                    self.failed[key, span] += 1
                    return name
            return None

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Store

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        store, parts = self.server, urllib.parse.urlsplit(self.path)
        key = urllib.parse.unquote(parts.path).strip("/")
        query = urllib.parse.parse_qs(parts.query)
        with store.lock:
            store.asked[self.command] += 1
        time.sleep(store.trouble.first_byte)
        if store.trouble.denied:
            return self._send(403, b"<Error><Code>AccessDenied</Code></Error>")
        if "list-type" in query:
            return self._list(key, query.get("prefix", [""])[0])
        path = store.root / key
        if ".." in key or not path.is_file():
            code = b"NoSuchKey" if (store.root / key.partition("/")[0]).is_dir() else b"NoSuchBucket"
            return self._send(404, b"<Error><Code>" + code + b"</Code></Error>")
        size, tag = path.stat().st_size, _tag(path)
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if span and key in store.trouble.replaced:
            with store.lock:
                store.asked[key] += 1
                if store.asked[key] > store.trouble.replaced[key]:
                    tag = '"another"'
        headers = {"ETag": tag, "Accept-Ranges": "bytes", "Last-Modified": self.date_time_string(path.stat().st_mtime)}
        if self.headers.get("If-Match", tag) != tag:
            return self._send(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        if not span or not body:
            return self._send(200, path.read_bytes() if body else b"", headers, length=size)
        start, stop = int(span[1]), min(int(span[2]) + 1, size)
        fault = store.fault(key, span[0])
        if fault == "503":
            return self._send(503, b"<Error><Code>SlowDown</Code></Error>")
        if fault == "whole":
            return self._send(200, path.read_bytes(), headers)
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        with path.open("rb") as file:
            file.seek(start)
            piece = file.read(stop - start)
        if fault == "short":
            headers["Content-Range"] = f"bytes {start}-{stop - 2}/{size}"
            piece = piece[:-1]
        if fault == "slow":
            time.sleep(0.2)
        with store.lock:
            store.ranges.append((key, start, stop))
        return self._send(206, piece, headers, cut=fault if fault in ("reset", "stall") else None)

    def _send(
        self,
        status: int,
        data: bytes,
        headers: dict[str, str] | None = None,
        *,
        length: int | None = None,
        cut: str | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut is None:
            for piece in self.server.paced(data):
                self.wfile.write(piece)
            return
        self.wfile.write(data[: len(data) // 2])
        self.wfile.flush()
        if cut == "stall":
            time.sleep(self.server.trouble.stall)
            self.wfile.write(data[len(data) // 2 :])
            return
        self.close_connection = True
        self.connection.close()

    def _list(self, bucket: str, prefix: str) -> None:
        root = self.server.root / bucket
        if not root.is_dir():
            return self._send(404, b"<Error><Code>NoSuchBucket</Code></Error>")
        rows = []
        for path in sorted(p for p in root.rglob("*") if p.is_file()):
            key = path.relative_to(root).as_posix()
            if key.startswith(prefix):
                tag = _tag(path).replace('"', "&quot;")
                rows.append(
                    f"<Contents><Key>{html.escape(key)}</Key><Size>{path.stat().st_size}</Size><ETag>{tag}</ETag>"
                    "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
                )
        text = "<ListBucketResult><IsTruncated>false</IsTruncated>" + "".join(rows) + "</ListBucketResult>"
        return self._send(200, text.encode(), {"Content-Type": "application/xml"})


def _tag(path: Path) -> str:
    stat = path.stat()
    return '"' + hashlib.md5(f"{path}{stat.st_size}{stat.st_mtime_ns}".encode()).hexdigest() + '"'


@contextmanager
def serving(root: Path) -> Iterator[Store]:
    """A store of the folders in `root`, until the end of the block."""
    store = Store(root)
    thread = threading.Thread(target=store.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        store.shutdown()
        store.server_close()
        thread.join()
