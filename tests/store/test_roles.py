"""Law: whose requests are is what the environment says: keys of a container's role, or of the machine's.

A web identity is not tried: obstore asks Amazon's STS by https alone.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import suture

from ..support import stores
from .conftest import Models

KEYS = {"AccessKeyId": "ROLEKEY", "SecretAccessKey": "secret", "Token": "token", "Expiration": "2099-01-01T00:00:00Z"}


class _Keys(BaseHTTPRequestHandler):
    """Gives keys as a container's agent and a machine's metadata do."""

    asked: list[tuple[str, str]]

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""

    def _answer(self) -> None:
        type(self).asked.append((self.path, self.headers.get("Authorization", "")))
        if self.path == "/latest/api/token":
            text = "session"
        elif self.path.rstrip("/").endswith("security-credentials"):
            text = "role"
        else:
            text = json.dumps({"Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2020-01-01T00:00:00Z", **KEYS})
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_PUT = _answer  # noqa: N815


@pytest.fixture
def keys() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """A server of keys: its address, and what it was asked."""
    asked: list[tuple[str, str]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Keys", (_Keys,), {"asked": asked}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    server.server_close()


@pytest.fixture
def signed(models: Models, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """By whom and with which token the store's requests are, with no keys in the environment."""
    found: list[tuple[str, str]] = []
    own = stores._Handler.do_GET

    def look(self: Any) -> None:
        found.append((self.headers.get("Authorization", ""), self.headers.get("x-amz-security-token", "")))
        own(self)

    monkeypatch.setattr(stores._Handler, "do_GET", look)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    return found


@pytest.mark.parametrize("way", ["container", "machine"])
def test_keys_of_a_role(
    way: str, keys: Any, signed: list[Any], models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are asked for where the environment says, and sign every request."""
    url, asked = keys
    (tmp_path / "token").write_text("proof")
    said = {
        "container": {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{url}/keys",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(tmp_path / "token"),
        },
        "machine": {"AWS_METADATA_ENDPOINT": url},
    }
    for name, value in said[way].items():
        monkeypatch.setenv(name, value)
    assert suture.inspect(models.s3("a"))["tensors"]
    assert asked, "nobody was asked for keys"
    assert signed
    assert all("Credential=ROLEKEY/" in by and token == "token" for by, token in signed)
    if way == "container":
        assert asked[0] == ("/keys", "proof")
