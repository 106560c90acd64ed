"""A hub on the loopback: lists repositories and hands out their files, and fails on demand."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """The files of a repository, all of one commit.

    Attributes:
        files: contents by name.
        revisions: branches and tags beside `main`, all at the same commit.
        listed: what the hub says of it in place of the truth.
    """

    files: dict[str, bytes]
    revisions: set[str] = field(default_factory=lambda: {"main"})
    listed: dict[str, Any] = field(default_factory=dict)

    @property
    def commit(self) -> str:
        names = "".join(f"{n} {hashlib.sha1(b).hexdigest()}" for n, b in sorted(self.files.items()))
        return hashlib.sha1(names.encode()).hexdigest()


@dataclass
class Failure:
    """What a request whose path holds some text is answered with.

    Attributes:
        status: of HTTP; 0 closes the connection without an answer.
        headers: beside the usual ones.
        after: bytes of the content that are sent before the connection is closed; none for an answer that is whole.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    after: int | None = None


class Hub:
    """The hub: its repositories, what goes wrong, and what it was asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.repositories: dict[str, Repository] = {}
        self.failures: dict[str, Failure] = {}
        self.asked: list[tuple[str, str]] = []

    def add(self, name: str, files: dict[str, bytes], *revisions: str) -> Repository:
        """A new repository, or a new state of one."""
        self.repositories[name] = Repository(files, {"main", *revisions})
        return self.repositories[name]

    def fetched(self) -> set[str]:
        """The names of the files that were asked for."""
        return {path.partition("/resolve/")[2].partition("/")[2] for _, path in self.asked if "/resolve/" in path}


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    # Not `HTTPServer`, which looks its own name up.
    server = ThreadingTCPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")
    server.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _content(name: str, content: bytes) -> str:
    """What the hub calls a content: large files go by another hash."""
    large = name.endswith((".safetensors", ".bin"))
    return hashlib.sha256(content).hexdigest() if large else hashlib.sha1(content).hexdigest()


def _described(name: str, content: bytes) -> dict[str, Any]:
    """A file as the hub lists it."""
    found = {"rfilename": name, "size": len(content), "blobId": hashlib.sha1(content).hexdigest()}
    if len(hashed := _content(name, content)) > 40:
        found["lfs"] = {"sha256": hashed, "size": len(content), "pointerSize": 130}
    return found


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Else every answer waits for the client to acknowledge its headers: 40 ms.
    disable_nagle_algorithm = True

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        path = unquote(urlsplit(self.path).path)
        if "/api/models/" not in path and "/resolve/" not in path:
            # The library asks, at times, for other things than models.
            return self._send(404, {})
        hub.asked.append((self.command, path))
        failure = next((f for text, f in hub.failures.items() if text in f"{self.command} {path}"), None)
        if failure is not None and failure.after is None:
            return self._send(failure.status, failure.headers) if failure.status else self._hang_up()
        if path.startswith("/api/models/"):
            name, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            return self._list(hub.repositories.get(name), name, revision)
        name, _, rest = path.removeprefix("/").partition("/resolve/")
        repository = hub.repositories.get(name)
        revision, _, file = rest.partition("/")
        if repository is None:
            return self._send(404, {"X-Error-Code": "RepoNotFound"})
        if revision not in {*repository.revisions, repository.commit}:
            return self._send(404, {"X-Error-Code": "RevisionNotFound"})
        if file not in repository.files:
            return self._send(404, {"X-Error-Code": "EntryNotFound"})
        return self._file(repository, file, failure)

    def _list(self, repository: Repository | None, name: str, revision: str) -> None:
        if repository is None:
            return self._send(404, {"X-Error-Code": "RepoNotFound"})
        if revision not in {*repository.revisions, repository.commit, repository.commit[:8]}:
            return self._send(404, {"X-Error-Code": "RevisionNotFound"})
        siblings = [_described(n, b) for n, b in repository.files.items()]
        said = {"id": name, "sha": repository.commit, "siblings": siblings, **repository.listed}
        return self._send(200, {"Content-Type": "application/json"}, json.dumps(said).encode())

    def _file(self, repository: Repository, file: str, failure: Failure | None) -> None:
        content = repository.files[file]
        headers = {
            "X-Repo-Commit": repository.commit,
            "ETag": f'"{_content(file, content)}"',
            "X-Linked-Size": str(len(content)),
            "Accept-Ranges": "bytes",
        }
        begin, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if begin:
            end = min(int(last or len(content)) + 1, len(content))
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(content)}"
            return self._send(206, headers, content[int(begin) : end])
        return self._send(200, headers, content, failure)

    def _send(self, status: int, headers: dict[str, str], body: bytes = b"", failure: Failure | None = None) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            cut = failure is not None and failure.after is not None
            self.wfile.write(body[: failure.after] if cut and failure is not None else body)
            if cut:
                self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
