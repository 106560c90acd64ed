"""Law: ranges that are kept are those of the store, or they are fetched anew; there are not many more than allowed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import suture
from suture.errors import UsageError
from suture.store import keep
from suture.store.kept import Kept

from .conftest import Models, forget


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    keep(None)


def test_a_second_run_asks_for_nothing(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even for headers; and an entry that was damaged is fetched again."""
    keep(tmp_path / "cache")
    suture.merge(models.config("s3", "ties"), tmp_path / "one")
    assert models.store.ranges
    for again in ("two", "three"):
        forget(monkeypatch)
        models.store.begin()
        if again == "three":
            entry = max((tmp_path / "cache").glob("??/*"), key=lambda p: p.stat().st_size)
            data = bytearray(entry.read_bytes())
            data[-1] ^= 1
            entry.write_bytes(data)
        suture.merge(models.config("s3", "ties"), tmp_path / again)
        assert len(models.store.ranges) == (again == "three")
        made = {p.name: p.read_bytes() for p in (tmp_path / again).glob("model*")}
        assert made == {p.name: p.read_bytes() for p in (tmp_path / "one").glob("model*")}


def test_another_state_is_another_entry(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    assert kept.range("s3://b/x", "1", 0, 3, lambda: b"old") == b"old"
    assert kept.range("s3://b/x", "2", 0, 3, lambda: b"new") == b"new"
    assert kept.range("s3://b/x", "1", 0, 3, lambda: b"bad") == b"old"


def test_what_was_used_last_longest_ago_goes_first(tmp_path: Path) -> None:
    """To within the share that is written between two looks."""
    kept = Kept(tmp_path, 100_000)
    for i in range(60):
        kept.range("s3://b/x", "1", i, i + 5000, lambda i=i: bytes([i]) * 5000)  # type: ignore[misc]
        for age, path in enumerate(sorted(tmp_path.glob("??/*"), key=lambda p: p.stat().st_mtime_ns)):
            os.utime(path, ns=(age * 10**9, age * 10**9))
        # What is used all along stays.
        assert kept.range("s3://b/x", "1", 0, 5000, lambda: b"") == bytes(5000)
    assert sum(p.stat().st_size for p in tmp_path.glob("??/*")) <= 105_100


def test_a_size_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cache_size"):
        keep(tmp_path, "much")


def test_files_of_others_stay(tmp_path: Path) -> None:
    """The folder may hold anything: only entries are removed where there are too many."""
    mine = [tmp_path / "db" / "notes", tmp_path / "ab" / ("b" * 64), tmp_path / "cd" / ("cd" + "x" * 62)]
    for path in mine:
        path.parent.mkdir()
        path.write_bytes(bytes(1000))
    kept = Kept(tmp_path, 10)
    for i in range(20):
        kept.range("s3://b/x", str(i), 0, 100, lambda: bytes(100))
    assert all(path.exists() for path in mine)
    assert len([p for p in tmp_path.glob("??/*") if p not in mine]) <= 1


@pytest.mark.parametrize("folder", ["", "s3://bucket/cache"])
def test_what_is_no_folder_of_this_machine(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"^cache: expected a folder of this machine"):
        keep(folder)
    assert list(tmp_path.iterdir()) == []


def test_endpoints_have_entries_of_their_own(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Buckets of one name at two endpoints, whose objects have the same tag, are not mixed up."""
    from ..support import stores

    other = tmp_path / "other" / "bucket" / "models" / "a"
    shutil.copytree(models.local("a"), other)
    for path in other.glob("*.safetensors"):
        data = bytearray(path.read_bytes())
        data[-2:] = b"\x00\x3c"
        path.write_bytes(data)
    monkeypatch.setattr(stores, "_tag", lambda path: f'"{path.name}"')
    keep(tmp_path / "cache")
    suture.convert(models.s3("a"), tmp_path / "one")
    with stores.serving(tmp_path / "other") as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
        forget(monkeypatch)
        suture.convert(models.s3("a"), tmp_path / "two")
    suture.convert(other, tmp_path / "wanted")
    for path in (tmp_path / "wanted").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
        assert path.read_bytes() != (tmp_path / "one" / path.name).read_bytes()
