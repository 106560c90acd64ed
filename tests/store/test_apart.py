"""Law: what must not meet in a store does not: outputs and inputs, two runs, an old output and a new one."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import suture
from suture.errors import SutureError, UsageError
from suture.settings import Settings
from suture.store.target import Target
from suture.surgery import parts, to_store
from suture.surgery.spool import Spool

from .conftest import Bucket, forget
from .test_outputs import SHARDS, files_of, without_report

OVER = Settings(shard_size="300kB", overwrite=True)


def written(bucket: Bucket, where: str, folder: Path) -> Path:
    """A config in a file."""
    path = folder / "config.yml"
    path.write_text(json.dumps(bucket.config(where)))
    return path


def fail(*_: object, **__: object) -> None:
    raise SutureError("stopped")


@pytest.mark.parametrize("out", ["models/a", "models", "models/a/inside"])
def test_an_input_is_not_written_over(out: str, bucket: Bucket) -> None:
    """An output that is an input, around one or in one is refused with `overwrite` too; a plan tells of it."""
    before = bucket.objects("models")
    report = suture.merge(bucket.config("s3"), f"s3://bucket/{out}", settings=OVER, dry_run=True)
    assert any("overlaps with the input s3://bucket/models/" in w for w in report.warnings)
    with pytest.raises(SutureError, match=r"overlaps with the input s3://bucket/models/\w+/model-"):
        suture.merge(bucket.config("s3"), f"s3://bucket/{out}", settings=OVER)
    assert bucket.objects("models") == before


def test_two_runs_do_not_mix(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one run writes, another of another plan finds the folder claimed, and writes nothing."""
    refused: list[str] = []
    put = Target.put

    def meanwhile(self: Target, name: str, *more: Any, **how: Any) -> None:
        if name.endswith("00002-of-00004.safetensors") and not refused:
            refused.append("")
            with pytest.raises(SutureError) as found:
                suture.merge(bucket.config("s3", "linear"), "s3://bucket/out/claimed", settings=SHARDS)
            refused.append(str(found.value))
        put(self, name, *more, **how)

    monkeypatch.setattr(Target, "put", meanwhile)
    suture.merge(bucket.config("s3"), "s3://bucket/out/claimed", settings=SHARDS)
    assert "is not empty" in refused[1]
    assert suture.verify("s3://bucket/out/claimed")["differing"] == []


def test_a_claim_without_a_shard_is_told(bucket: Bucket) -> None:
    """A run that was killed before its first shard: another plan is refused, by name; the same goes on."""
    killed = "s3://bucket/out/early"
    bucket.client.put_object(Bucket="bucket", Key="out/early/.suture/begun", Body=b"another plan")
    with pytest.raises(SutureError, match=r"another run has begun there.*--overwrite \(\.suture/begun"):
        suture.merge(bucket.config("s3"), killed, settings=SHARDS)
    suture.merge(bucket.config("s3"), killed, settings=OVER)
    assert not [n for n in bucket.objects("out/early") if n.startswith(".suture")]


def test_what_nothing_came_of_claims_nothing(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A run that fails before its first shard leaves neither objects nor folders."""
    with monkeypatch.context() as patch:
        patch.setattr(parts, "make", fail)
        with pytest.raises(SutureError, match=r"stopped$"):
            suture.merge(bucket.config("s3"), "s3://bucket/out/nothing", settings=SHARDS)
    assert bucket.objects("out/nothing") == {}
    assert list(tmp_path.glob("suture-spool*")) == []


def test_shards_of_another_run_are_found(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that overwrite at once at most one is done: shards are held against their plan before the index."""
    publish = to_store._Sent.publish

    def late(self: Any, *more: Any) -> None:
        # Of the same size, as of a merge of the same models by another method.
        name = "model-00001-of-00004.safetensors"
        self.target.put(name, bytes(self.target.listed()[name]), plan="another")
        publish(self, *more)

    monkeypatch.setattr(to_store._Sent, "publish", late)
    with pytest.raises(SutureError, match=r"00001-of-00004.safetensors: was written by another run"):
        suture.merge(bucket.config("s3"), "s3://bucket/out/raced", settings=OVER)
    assert "model.safetensors.index.json" not in bucket.objects("out/raced")


@pytest.mark.parametrize("at", ["put_all", "end"])
def test_killed_while_it_publishes(at: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Side files, and the index too, that a stopped run has written are not in its way."""
    out, of = f"s3://bucket/out/{at}", getattr(Target, at)

    def stop(self: Target, *more: Any) -> None:
        if at == "put_all":
            of(self, *more)
        fail()

    with monkeypatch.context() as patch:
        patch.setattr(Target, at, stop)
        with pytest.raises(SutureError, match="stopped"):
            suture.merge(bucket.config("s3"), out, settings=SHARDS)
    assert "config.json" in bucket.objects(f"out/{at}")
    suture.merge(bucket.config("s3"), out, settings=SHARDS)
    suture.merge(bucket.config("local"), tmp_path / "out", settings=SHARDS)
    assert without_report(bucket.objects(f"out/{at}")) == without_report(files_of(tmp_path / "out"))


def test_an_old_index_stands_over_no_new_shard(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a shard of the new output is there, the old index is not; what else the old one had goes at the end."""
    suture.merge(bucket.config("s3"), "s3://bucket/out/old", settings=Settings(shard_size="300kB", model_card=True))
    seen = []
    put = Target.put

    def look(self: Target, name: str, *more: Any, **how: Any) -> None:
        if name.endswith(".safetensors"):
            seen.append(sorted(bucket.objects("out/old")))
        put(self, name, *more, **how)

    monkeypatch.setattr(Target, "put", look)
    suture.merge(bucket.config("s3", "linear"), "s3://bucket/out/old", settings=OVER)
    assert seen
    assert not [names for names in seen if "model.safetensors.index.json" in names]
    assert "README.md" not in bucket.objects("out/old")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "pytorch_model.bin.index.json"])
def test_weights_of_others_are_not_mixed_with(name: str, bucket: Bucket) -> None:
    """`overwrite` beside weights that suture has not written would leave two models in one folder."""
    where = f"out/other-{name.replace('.', '-')}"
    bucket.client.put_object(Bucket="bucket", Key=f"{where}/{name}", Body=b"mine")
    with pytest.raises(SutureError, match=f"holds what suture has not written: `{name}`; .*remove it"):
        suture.merge(bucket.config("s3"), f"s3://bucket/{where}", settings=OVER)
    assert bucket.objects(where) == {name: b"mine"}


def test_one_process_a_spool(bucket: Bucket, tmp_path: Path) -> None:
    """Two that make the same at once on one machine: the second is told, and takes nothing from the first."""
    job = suture.merge(bucket.config("s3"), "s3://bucket/out/spool", settings=SHARDS, dry_run=True)
    with Spool("s3://bucket/out/spool", str(job.data["plan"])) as own:
        with pytest.raises(SutureError, match="another process of this machine is writing it"):
            suture.merge(bucket.config("s3"), "s3://bucket/out/spool", settings=SHARDS)
        assert own.folder.stat().st_mode & 0o777 == 0o700
        handle = os.open(own.folder, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(handle)
    assert bucket.objects("out/spool") == {}


def test_what_is_left_is_named(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Shards that could not be sent stay for the same command, and the message says where."""
    put = Target.put

    def stop(self: Target, name: str, *more: Any, **how: Any) -> None:
        if name.endswith(".safetensors"):
            fail()
        put(self, name, *more, **how)

    with monkeypatch.context() as patch:
        patch.setattr(Target, "put", stop)
        with pytest.raises(SutureError, match=r"stopped; the same command goes on with what lies in .*suture-spool-"):
            suture.merge(bucket.config("s3"), "s3://bucket/out/left", settings=SHARDS)
    (left,) = tmp_path.glob("suture-spool*")
    assert list(left.rglob("*.safetensors"))
    suture.merge(bucket.config("s3"), "s3://bucket/out/left", settings=SHARDS)
    assert not left.exists()


def test_old_spools_are_swept(bucket: Bucket, tmp_path: Path) -> None:
    """Those that nobody has touched for a week go; a younger one, and one that a process has, stay."""
    old, young, held = (tmp_path / f"suture-spool-{os.getuid()}-{name}" for name in ("old", "young", "held"))
    for folder in (old, young, held):
        folder.mkdir()
        (folder / "shard").write_bytes(b"x")
    for path in (old / "shard", held / "shard", old, held, young):
        os.utime(path, (0, time.time() - 8 * 86_400))
    lock = os.open(held, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    suture.convert(bucket.root / "a", "s3://bucket/out/swept")
    os.close(lock)
    assert (old.exists(), young.exists(), held.exists()) == (False, True, True)


def test_what_was_written_is_what_is_read_next(bucket: Bucket) -> None:
    """A process that has read a URL, and writes there, then reads what it wrote."""
    suture.convert(bucket.root / "a", "s3://bucket/out/again")
    assert suture.diff(bucket.root / "a", "s3://bucket/out/again")["models"][0]["total"]["changed"] == 0
    suture.convert(bucket.root / "b", "s3://bucket/out/again", settings=Settings(overwrite=True))
    assert suture.diff(bucket.root / "b", "s3://bucket/out/again")["models"][0]["total"]["changed"] == 0


def test_parts_are_not_written_to_a_store(bucket: Bucket, tmp_path: Path) -> None:
    """An option that has nothing to go by is not passed over."""
    with pytest.raises(UsageError, match=r"^part: .*in a store.*give"):
        suture.merge(bucket.config("s3"), "s3://bucket/out/ray", settings=Settings(part="1/2"), dry_run=True)
    with pytest.raises(UsageError, match=r"^parts: .*is in a store, and parts are made in a folder"):
        suture.plan(written(bucket, "s3", tmp_path), "s3://bucket/out/ray", parts=2)
    for verb in (suture.finish, suture.settle):
        with pytest.raises(SutureError, match=r"^s3://bucket/out/ray: is a URL, and parts are made"):
            verb("s3://bucket/out/ray")


WHOLE: dict[str, Callable[[Bucket, str], Any]] = {
    "several outputs": lambda b, out: suture.merge(
        {**b.config("s3"), "outputs": {"a": {"merge_method": "linear"}}}, out
    ),
    "all of": lambda b, out: suture.merge(
        {"base_model": "s3://bucket/models/base", "models": ["s3://bucket/models/a"]}, out, all_of=True
    ),
    "extract": lambda b, out: suture.delta.extract(b.root / "base", b.root / "a", out, form="xor"),
    "twin": lambda b, out: suture.twin.make(b.root / "base", [b.root / "a"], out, shared="linear"),
}


@pytest.mark.parametrize("verb", WHOLE)
def test_what_goes_to_folders_only(verb: str, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The URL is named as it was given, and no folder of its name is made."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"^s3://bucket/out/whole: is a URL, and this goes to folders only"):
        WHOLE[verb](bucket, "s3://bucket/out/whole")
    assert list(tmp_path.iterdir()) == []


def test_rates_of_a_store_are_not_those_of_a_stand_in(bucket: Bucket, tmp_path: Path) -> None:
    """What stands for a model here has no data, and says nothing of how fast the store is."""
    with pytest.raises(UsageError, match=r"^disk_read: models lie in a store.*give it in GB/s"):
        suture.plan(written(bucket, "s3", tmp_path), tmp_path / "out", machines=[1])


def test_a_dry_run_tells_what_is_in_the_way(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a folder: a warning, and nothing is written."""
    bucket.client.put_object(Bucket="bucket", Key="out/dry-full/notes.txt", Body=b"mine")
    report = suture.merge(bucket.config("s3"), "s3://bucket/out/dry-full", dry_run=True)
    assert any("is not empty" in w for w in report.warnings)
    forget(monkeypatch)
    command = [sys.executable, "-m", "suture", "inspect", "s3://bucket/models/a", "--json"]
    assert json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
