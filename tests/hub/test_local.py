"""Law: what the hub's cache has is found without the network and without the hub's library, and nothing outside it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from suture import hub
from suture.errors import SutureError, UsageError
from suture.hub import cache as places

from .test_needed import index

COMMIT, OTHER = "ab12" + "0" * 36, "ab12" + "1" * 36
NAME = "org/name"


def put(cache: Path, files: dict[str, bytes], commit: str = COMMIT, **refs: str) -> Path:
    """A model as the hub's library would lay it down: blobs, links to them, and refs; its snapshot."""
    root = cache / "models--org--name"
    snapshot = root / "snapshots" / commit
    for name, content in files.items():
        blob = root / "blobs" / f"{commit[:5]}{name.replace('/', '-')}"
        link = snapshot / name
        for path in (blob, link):
            path.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link.symlink_to(os.path.relpath(blob, link.parent))
    for ref, at in {"main": commit, **refs}.items():
        path = root / "refs" / ref.replace("_", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(at)
    return snapshot


MODEL = {"config.json": b"{}", "model.safetensors": b"x"}


@pytest.fixture(autouse=True)
def offline(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("revision", [None, "main", "v1", "refs/pr/7", COMMIT, COMMIT[:4], COMMIT[:12]])
def test_every_way_to_name_a_revision(cache: Path, revision: str | None) -> None:
    snapshot = put(cache, MODEL, v1=COMMIT, refs_pr_7=COMMIT)
    assert hub.find(NAME, revision=revision) == snapshot


def test_a_beginning_must_be_of_one_commit(cache: Path) -> None:
    first, second = put(cache, MODEL), put(cache, MODEL, OTHER)
    assert hub.find(NAME) == second
    assert hub.find(NAME, revision=COMMIT[:5]) == first
    with pytest.raises(UsageError, match="begins several commits"):
        hub.find(NAME, revision="ab12")
    for unknown in ("cd34", "ab1", "v2", "c" * 40):
        with pytest.raises(SutureError, match="not in the hub's cache"):
            hub.find(NAME, revision=unknown)


@pytest.mark.parametrize(
    "files",
    [
        ["model.safetensors"],
        ["w-1-of-2.safetensors", "w-2-of-2.safetensors"],
        ["pytorch_model.bin"],
        ["model.safetensors.index.json", "a.safetensors", "b.safetensors"],
        ["pytorch_model.bin.index.json", "a.safetensors.bin", "b.safetensors.bin"],
    ],
)
def test_a_model_is_whole_if_all_its_weights_are_there(cache: Path, files: list[str]) -> None:
    """Each of its files, in turn, is a link to a blob that is gone, and then is not there at all."""
    ending = ".bin" if "pytorch_model.bin.index.json" in files else ""
    listing = index(f"a.safetensors{ending}", f"b.safetensors{ending}")
    snapshot = put(cache, {name: listing if name.endswith("json") else b"x" for name in files})
    assert hub.find(NAME) == snapshot
    for name in files:
        blob = (snapshot / name).resolve()
        blob.rename(blob.with_suffix(".away"))
        with pytest.raises(SutureError, match=rf"`{name}` is missing in .*hf download org/name$"):
            hub.find(NAME)
        (snapshot / name).rename(snapshot / "away")
        if len(files) == 1:
            with pytest.raises(SutureError, match="holds no weights"):
                hub.find(NAME)
        elif not name.endswith("json"):
            with pytest.raises(SutureError, match=rf"`{name}` is missing"):
                hub.find(NAME)
        (snapshot / "away").rename(snapshot / name)
        blob.with_suffix(".away").rename(blob)


def test_kinds_are_whole_by_themselves(cache: Path) -> None:
    snapshot = put(cache, {"tokenizer.json": b"{}", "adapter_config.json": b"{}", "adapter_model.bin": b"x"})
    assert hub.find(NAME, kind="tokenizer") == hub.find(NAME, kind="adapter") == snapshot
    (snapshot / "adapter_model.bin").unlink()
    (snapshot / "tokenizer.json").unlink()
    for kind, words in (("model", "no weights"), ("tokenizer", "no tokenizer"), ("adapter", "no adapter")):
        with pytest.raises(SutureError, match=f"holds {words}"):
            hub.find(NAME, kind=kind)  # type: ignore[arg-type]


def test_a_cache_without_links(cache: Path) -> None:
    """Where a system has none, files lie in the snapshot themselves; and a cache may be anywhere, behind a link too."""
    snapshot = cache / "models--org--name" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"x")
    assert hub.find(NAME, revision=COMMIT) == snapshot
    moved = cache.with_name("moved")
    cache.rename(moved)
    cache.symlink_to(moved)
    assert hub.find(NAME, revision=COMMIT) == snapshot


def test_blobs_that_models_have_in_common(cache: Path) -> None:
    """Newer versions of the library keep them beside the models, and link to them."""
    snapshot = put(cache, MODEL)
    blob, common = (snapshot / "model.safetensors").resolve(), cache / "blobs" / "ab" / "abcd"
    common.parent.mkdir(parents=True)
    blob.rename(common)
    blob.symlink_to(common)
    assert hub.find(NAME) == snapshot


@pytest.mark.parametrize("what", ["weights", "config", "inner", "folder", "snapshot", "ref", "blob"])
def test_links_out_of_the_cache_are_refused(cache: Path, tmp_path: Path, what: str) -> None:
    snapshot = put(cache, {**MODEL, "additional/a.json": b"{}"})
    root = snapshot.parents[1]
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text(COMMIT)
    place = {
        "weights": snapshot / "model.safetensors",
        "config": snapshot / "config.json",
        "inner": snapshot / "additional" / "a.json",
        "folder": snapshot / "more",
        "snapshot": snapshot,
        "ref": root / "refs" / "main",
        "blob": (snapshot / "model.safetensors").resolve(),
    }[what]
    if place.exists():
        place.rename(tmp_path / "away")
    place.symlink_to(outside if what in ("folder", "snapshot") else outside / "secret")
    with pytest.raises(SutureError, match="leads out of the hub's cache") as error:
        hub.find(NAME)
    assert str(outside) in str(error.value)


@pytest.mark.parametrize("said", ["../../../outside", "/etc", "main", "AB12" + "0" * 36, "x" * 10**6, "\0"])
def test_a_ref_holds_a_commit_and_nothing_else(cache: Path, said: str) -> None:
    put(cache, MODEL, main=said)
    with pytest.raises(SutureError, match="expected a commit's hash, found"):
        hub.find(NAME)


def test_an_empty_ref_is_none(cache: Path) -> None:
    """As a crash leaves it."""
    put(cache, MODEL, main="")
    with pytest.raises(SutureError, match="revision `main` is not in the hub's cache"):
        hub.find(NAME)


@pytest.mark.parametrize(
    ("said", "place"),
    [
        ({"HF_HUB_CACHE": "/a", "HUGGINGFACE_HUB_CACHE": "/b", "HF_HOME": "/c"}, "/a"),
        ({"HUGGINGFACE_HUB_CACHE": "/b", "HF_HOME": "/c", "XDG_CACHE_HOME": "/d"}, "/b"),
        ({"HF_HOME": "/c", "XDG_CACHE_HOME": "/d"}, "/c/hub"),
        ({"XDG_CACHE_HOME": "/d"}, "/d/huggingface/hub"),
        ({}, "/h/.cache/huggingface/hub"),
        ({"HF_HOME": "~/x/$PART"}, "/h/x/y/hub"),
        ({"HF_HUB_CACHE": "", "HF_HOME": "/c"}, "/c/hub"),
    ],
)
def test_where_the_cache_is(cache: Path, monkeypatch: pytest.MonkeyPatch, said: dict[str, str], place: str) -> None:
    for name, value in {"HOME": "/h", "PART": "y", **said}.items():
        monkeypatch.setenv(name, value)
    if "HF_HUB_CACHE" not in said:
        monkeypatch.delenv("HF_HUB_CACHE")
    assert str(places.place()) == place


@pytest.mark.parametrize(
    ("said", "offline"),
    [
        ({"HF_HUB_OFFLINE": "1"}, True), ({"HF_HUB_OFFLINE": "true"}, True), ({"TRANSFORMERS_OFFLINE": "1"}, True),
        ({"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "1"}, False), ({"HF_HUB_OFFLINE": ""}, False), ({}, False),
    ],
)  # fmt: skip
def test_who_is_offline(monkeypatch: pytest.MonkeyPatch, said: dict[str, str], offline: bool) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    assert places.is_offline() is offline


def test_the_hubs_library_is_not_imported_for_what_is_there(cache: Path) -> None:
    snapshot = put(cache, MODEL)
    code = (
        "import sys\nfrom suture import hub\nprint(hub.find('org/name'), end='')\n"
        "assert not {'huggingface_hub', 'suture.hub.download', 'http.client', 'numpy'} & set(sys.modules)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (str(snapshot), "")
