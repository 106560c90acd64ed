"""Law: what is needed of a model is downloaded, nothing else is asked for, and nothing half is ever handed out."""

from __future__ import annotations

import hashlib
import importlib
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from suture import hub as names
from suture.errors import SutureError

from ..support.hub_server import Failure, Hub
from .test_needed import index

NAME = "org/name"
SMALL = {"config.json": b"{}", "generation_config.json": b"{ }", "tokenizer.json": b'{"a": 1}', "merges.txt": b"a b"}
MODEL = {**SMALL, "model.safetensors": b"w" * 5000}
LEFT = {
    "README.md": b"r", "modeling.py": b"p", "onnx/model.onnx": b"o", "original/model.safetensors": b"s",
    "model.gguf": b"g", "tf_model.h5": b"h", "flax_model.msgpack": b"f", "optimizer.pt": b"t",
    "training_args.bin": b"b", "pytorch_model.bin": b"v" * 5000, "consolidated.safetensors": b"c",
}  # fmt: skip


def read(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_is_needed_is_asked_for_and_nothing_else(hub: Hub) -> None:
    repository = hub.add(NAME, {**LEFT, **MODEL})
    found = names.find(NAME)
    assert read(found) == MODEL
    assert hub.fetched() == MODEL.keys()
    assert found.name == repository.commit
    # The list once, and of each file what it is and what it holds; the weights last.
    assert len(hub.asked) == 1 + 2 * len(MODEL)
    assert hub.asked[-1][1].endswith("/model.safetensors")


@pytest.mark.parametrize("revision", [None, "main", "v1", "refs/pr/3", "feature/x", "commit", "short"])
def test_the_second_time_nobody_is_asked(hub: Hub, revision: str | None) -> None:
    repository = hub.add(NAME, MODEL, "v1", "refs/pr/3", "feature/x")
    revision = {"commit": repository.commit, "short": repository.commit[:8]}.get(str(revision), revision)
    found = names.find(NAME, revision=revision)
    hub.asked.clear()
    assert names.find(NAME, revision=revision) == found
    assert names.find(NAME, revision=repository.commit) == found
    assert not hub.asked


@pytest.mark.parametrize(("ending", "model"), [("safetensors", "model"), ("bin", "pytorch_model")])
def test_shards_are_those_of_the_index(hub: Hub, ending: str, model: str) -> None:
    parts = {f"{model}-0000{i}-of-00002.{ending}": bytes([i]) * 1000 for i in (1, 2)}
    weights = {f"{model}.{ending}.index.json": index(*parts), **parts}
    hub.add(NAME, {**SMALL, **weights, f"{model}-00001-of-00003.{ending}": b"old", "a.gguf": b"x"})
    assert read(names.find(NAME)) == {**SMALL, **weights}


def test_adapters_and_tokenizers(hub: Hub) -> None:
    adapter = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"a"}
    hub.add(NAME, {**MODEL, **LEFT, **adapter, "adapter_model.bin": b"b"})
    assert read(names.find(NAME, kind="adapter")) == adapter
    tokenizer = {n: MODEL[n] for n in ("tokenizer.json", "merges.txt")}
    assert read(names.find(NAME, kind="tokenizer")) == {**adapter, **tokenizer}
    # What the cache has is not fetched again, and a model is not whole by its tokenizer.
    hub.asked.clear()
    assert read(names.find(NAME)) == {**adapter, **MODEL}
    assert hub.fetched() == MODEL.keys() - tokenizer.keys()


@pytest.mark.parametrize("beside", ["adapter_model.safetensors", "consolidated.safetensors", "model.fp16.safetensors"])
def test_what_lies_beside_a_model_is_not_taken_for_it(hub: Hub, beside: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless there is nothing else: then the hub is asked for its list alone, and offline it is taken."""
    hub.add(NAME, {beside: b"a"})
    found = names.find(NAME)
    hub.asked.clear()
    assert names.find(NAME) == found
    assert len(hub.asked) == 1
    hub.add(NAME, {beside: b"a", "model.safetensors": b"w"})
    assert read(names.find(NAME)) == {"model.safetensors": b"w"}
    hub.add(NAME, {beside: b"a"})
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert names.find(NAME, revision=found.name) == found


def test_a_cache_that_the_hubs_library_made(hub: Hub, cache: Path) -> None:
    """The oracle is its own download of a whole repository; of one that was cut off, the rest is fetched."""
    library = pytest.importorskip("huggingface_hub")
    commit = hub.add(NAME, MODEL, "v1").commit
    api = library.HfApi(endpoint=hub.url)
    for file in MODEL:
        api.hf_hub_download(NAME, file, revision="v1", cache_dir=str(cache))
        whole = file == "model.safetensors"
        hub.asked.clear()
        if whole:
            code = f"import sys\nfrom suture import hub\nprint(hub.find('{NAME}', revision='v1'))\n"
            code += "assert 'huggingface_hub' not in sys.modules"
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
            assert done.stdout.strip() == str(cache / "models--org--name" / "snapshots" / commit)
            assert not hub.asked
    # And the other way round: what was fetched here, it finds.
    shutil.rmtree(cache)
    found = names.find(NAME, revision="v1")
    assert library.try_to_load_from_cache(NAME, "config.json", cache, "v1") == str(found / "config.json")


def test_what_the_cache_half_has_is_made_whole(hub: Hub) -> None:
    hub.add(NAME, MODEL)
    found = names.find(NAME)
    (found / "model.safetensors").resolve().unlink()
    hub.asked.clear()
    assert read(names.find(NAME)) == MODEL
    assert hub.fetched() == {"model.safetensors"}


def test_a_branch_that_moved_on_counts_when_something_is_missing(hub: Hub) -> None:
    """What is whole is taken as it is; a new download is of the branch as it now is."""
    hub.add(NAME, MODEL)
    old = names.find(NAME)
    hub.add(NAME, {**MODEL, "config.json": b"[]"})
    assert names.find(NAME) == old
    (old / "model.safetensors").unlink()
    new = names.find(NAME)
    assert new != old
    assert read(new)["config.json"] == b"[]"


def test_progress_and_bars(hub: Hub, capfd: pytest.CaptureFixture[str]) -> None:
    """A callable is told of bytes; where stderr is no terminal, nothing is drawn, and nothing changed for others."""
    hub.add(NAME, MODEL)
    # Another test may have imported what turns them off.
    before = importlib.import_module("huggingface_hub.utils").are_progress_bars_disabled()
    told: list[tuple[int, int]] = []
    names.find(NAME, progress=lambda done, total: told.append((done, total)))
    size = sum(map(len, MODEL.values()))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (size, size)
    hub.add("org/other", MODEL)
    names.find("org/other")
    assert capfd.readouterr() == ("", "")
    assert importlib.import_module("huggingface_hub.utils").are_progress_bars_disabled() == before
    assert logging.getLogger("huggingface_hub").level < logging.CRITICAL


@pytest.mark.parametrize("after", [0, 1, 4999])
def test_nothing_half_is_handed_out(hub: Hub, after: int) -> None:
    hub.add(NAME, MODEL)
    hub.failures["GET /org/name/resolve/"] = Failure(after=after)
    with pytest.raises(SutureError, match="was cut off"):
        names.find(NAME)
    hub.failures = {f"{NAME}/resolve/{hub.repositories[NAME].commit}/model.safetensors": Failure(0)}
    with pytest.raises(SutureError, match="org/name: "):
        names.find(NAME)
    hub.failures.clear()
    assert read(names.find(NAME)) == MODEL


def test_only_what_has_room_is_begun(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(NAME, MODEL)
    small = sum(map(len, SMALL.values()))
    for free, fits in ((small + 4999, False), (small + 5000, True)):
        usage = shutil._ntuple_diskusage(10**12, 0, free)
        monkeypatch.setattr(shutil, "disk_usage", lambda path, usage=usage: usage)
        if fits:
            names.find(NAME)
        else:
            with pytest.raises(SutureError, match=f"{small + 5000} bytes are to be downloaded, {free} bytes are free"):
                names.find(NAME)
            assert not hub.fetched()
    # What the cache has takes no more room: under the same name, or the same content in another revision.
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 0, 2))
    hub.add(NAME, {**MODEL, "config.json": b"[]"}, "v2")
    names.find(NAME, revision="v2")


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ({"sha": None}, "names no commit"),
        ({"sha": "../../x"}, "names no commit"),
        ({"siblings": None}, "nor anything else"),
        ({"siblings": [{"rfilename": "../model.safetensors"}]}, "safetensors in folders"),
        ({"siblings": [{"rfilename": "model.safetensors", "size": 7}]}, "expected 7 bytes, found 5000"),
        ({"siblings": [{"rfilename": "gone.safetensors", "size": 1}]}, "org/name: "),
        ({"siblings": [{"rfilename": 1}]}, "nor anything else"),
        ({"siblings": [{}]}, "cannot be downloaded from"),
        ({"siblings": [{"rfilename": "a-1-of-2.safetensors"}]}, "`a-2-of-2.safetensors` should be in the repository"),
        ({"siblings": [{"rfilename": "model.gguf"}]}, r"holds no weights .* but GGUF \(1 file\)"),
    ],
)  # fmt: skip
def test_a_hub_that_lies(hub: Hub, tmp_path: Path, listed: dict[str, object], words: str) -> None:
    hub.add(NAME, MODEL).listed = listed
    with pytest.raises(SutureError, match=words) as error:
        names.find(NAME)
    assert "\n" not in str(error.value)
    assert {p.name for p in tmp_path.iterdir()} <= {"cache"}


def test_nothing_is_written_out_of_the_cache(hub: Hub, cache: Path, tmp_path: Path) -> None:
    """A snapshot that somebody else has put there, of a commit that the cache does not know by a name."""
    place = cache / "models--org--name" / "snapshots" / hub.add(NAME, MODEL).commit
    place.parent.mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    place.symlink_to(outside)
    with pytest.raises(SutureError, match="leads out of the hub's cache"):
        names.find(NAME)
    assert not hub.fetched()
    assert not list(outside.iterdir())


def test_a_commit_is_that_commit(hub: Hub) -> None:
    commit = hub.add(NAME, MODEL).commit
    hub.repositories[NAME].listed = {"sha": hashlib.sha1(b"other").hexdigest()}
    with pytest.raises(SutureError, match=f"asked for commit {commit}"):
        names.find(NAME, revision=commit)


def test_an_index_of_the_hub_leads_nowhere_else(hub: Hub) -> None:
    hub.add(NAME, {"model.safetensors.index.json": index("../../../x.safetensors")})
    with pytest.raises(SutureError, match=r"which is no file beside it; refused"):
        names.find(NAME)
    hub.add(NAME, {"model.safetensors.index.json": index("a.safetensors")})
    with pytest.raises(SutureError, match=r"`a.safetensors` should be in the repository"):
        names.find(NAME)
