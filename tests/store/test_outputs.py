"""Law: an output in a store is, object for object, the output in a folder; nothing of anybody's is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import suture
from suture.errors import SutureError, UsageError
from suture.settings import Settings

from .conftest import Bucket, forget, write_model

SHARDS = Settings(shard_size="300kB")


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def without_report(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name != "suture.json"}


@pytest.mark.parametrize("where", ["local", "s3"])
@pytest.mark.parametrize("method", ["linear", "ties", "ram"])
def test_objects_are_the_files(bucket: Bucket, tmp_path: Path, where: str, method: str) -> None:
    """Of models in folders and in the store; the report tells the digests of the local run, and `verify` agrees."""
    local = suture.merge(bucket.config("local", method), tmp_path / "out", settings=SHARDS)
    url = f"s3://bucket/out/{where}-{method}"
    report = suture.merge(bucket.config(where, method), url, settings=SHARDS)
    made = bucket.objects(f"out/{where}-{method}")
    assert without_report(made) == without_report(files_of(tmp_path / "out"))
    assert len(local.data["files"]) > 4
    said = json.loads(made["suture.json"])
    assert said["tensors"] == local.data["tensors"] == report.data["tensors"]
    assert not list(tmp_path.glob("suture-spool*"))
    found = suture.verify(url)
    assert not found["differing"]
    assert not found["files"]


def test_statistics_of_the_whole_model(bucket: Bucket, tmp_path: Path) -> None:
    """What counts over all shards takes rounds, and gives the same bytes."""
    config = {way: bucket.config(way, "ties") | {"parameters": {"scope": "model"}} for way in ("local", "s3")}
    suture.merge(config["local"], tmp_path / "out", settings=SHARDS)
    suture.merge(config["s3"], "s3://bucket/out/whole", settings=SHARDS)
    assert without_report(bucket.objects("out/whole")) == without_report(files_of(tmp_path / "out"))


def test_what_is_there_stays(bucket: Bucket) -> None:
    """Anything under the name is in the way, by name; `overwrite` replaces what suture made, and nothing else."""
    bucket.client.put_object(Bucket="bucket", Key="out/kept/notes.txt", Body=b"mine")
    with pytest.raises(SutureError, match=r"s3://bucket/out/kept: is not empty: `notes.txt`; .*--overwrite"):
        suture.merge(bucket.config("s3"), "s3://bucket/out/kept", settings=SHARDS)
    assert bucket.objects("out/kept") == {"notes.txt": b"mine"}
    suture.merge(bucket.config("s3"), "s3://bucket/out/kept", settings=Settings(shard_size="300kB", overwrite=True))
    several = bucket.objects("out/kept")
    assert len([n for n in several if n.endswith(".safetensors")]) > 2
    suture.merge(bucket.config("s3"), "s3://bucket/out/kept", settings=Settings(overwrite=True))
    assert bucket.objects("out/kept").keys() == {"notes.txt", "config.json", "model.safetensors", "suture.json"}


def test_killed_and_run_again(bucket: Bucket, tmp_path: Path) -> None:
    """Shards that are in the store are left alone, on a machine that has nothing of the first run too."""
    code = (
        "import sys, json, suture, os\n"
        "from suture.settings import Settings\n"
        "from suture.store.target import Target\n"
        "kept = Target.keep_part\n"
        "def keep(self, plan, number, manifest):\n"
        "    kept(self, plan, number, manifest)\n"
        "    if number == 2: os._exit(9)\n"
        "Target.keep_part = keep\n"
        "suture.merge(json.loads(sys.argv[1]), 's3://bucket/out/killed', settings=Settings(shard_size='300kB'))"
    )
    (tmp_path / "other").mkdir()
    dead = subprocess.run(
        [sys.executable, "-c", code, json.dumps(bucket.config("s3"))], env={**os.environ, "TMPDIR": f"{tmp_path}/other"}
    )
    assert dead.returncode == 9
    there = bucket.objects("out/killed")
    assert "model.safetensors.index.json" not in there
    first = bucket.client.head_object(Bucket="bucket", Key=f"out/killed/{min(n for n in there if 'model' in n)}")
    time.sleep(1.1)
    suture.merge(bucket.config("s3"), "s3://bucket/out/killed", settings=SHARDS)
    again = bucket.client.head_object(Bucket="bucket", Key=f"out/killed/{min(n for n in there if 'model' in n)}")
    assert first["LastModified"] == again["LastModified"]
    suture.merge(bucket.config("local"), tmp_path / "out", settings=SHARDS)
    assert without_report(bucket.objects("out/killed")) == without_report(files_of(tmp_path / "out"))


def test_another_plan_does_not_go_on(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another merge has left unfinished is in the way."""
    from suture.surgery import to_store

    def stop(*_: object) -> None:
        raise SutureError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(to_store._Sent, "publish", stop)
        with pytest.raises(SutureError, match="stopped"):
            suture.merge(bucket.config("s3"), "s3://bucket/out/two", settings=SHARDS)
    with pytest.raises(SutureError, match="is not empty"):
        suture.merge(bucket.config("s3", "linear"), "s3://bucket/out/two", settings=SHARDS)
    suture.merge(bucket.config("s3"), "s3://bucket/out/two", settings=SHARDS)
    assert not [n for n in bucket.objects("out/two") if n.startswith(".suture")]


def test_swaps_and_copies(bucket: Bucket, tmp_path: Path) -> None:
    """Every verb that writes by a plan."""
    suture.swap("s3://bucket/models/a", "s3://bucket/models/b", layers="2", out="s3://bucket/out/swap")
    suture.swap(str(bucket.root / "a"), str(bucket.root / "b"), layers="2", out=tmp_path / "swap")
    assert without_report(bucket.objects("out/swap")) == without_report(files_of(tmp_path / "swap"))
    suture.convert(bucket.root / "a", "s3://bucket/out/convert")
    assert suture.diff(bucket.root / "a", "s3://bucket/out/convert")["models"][0]["total"]["changed"] == 0


def test_a_plan_is_looked_at(bucket: Bucket) -> None:
    report = suture.merge(bucket.config("s3"), "s3://bucket/out/dry", dry_run=True)
    assert report.dry
    assert not bucket.objects("out/dry")


def test_what_cannot_be_written(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is read: no bucket, a server, a file, several outputs, what is no plan."""
    with pytest.raises(SutureError, match="there is no such bucket"):
        suture.convert(bucket.root / "a", "s3://none/out")
    with pytest.raises(UsageError, match="https:// is read only"):
        suture.convert(bucket.root / "a", "https://host/out")
    with pytest.raises(UsageError, match="a folder of objects"):
        suture.convert(bucket.root / "a", "s3://bucket/out.safetensors")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SutureError, match="is a URL, and this goes to folders only"):
        suture.delta.extract(bucket.root / "base", bucket.root / "a", "s3://bucket/delta", form="xor")
    assert not (tmp_path / "s3:").exists()


def test_parts_of_models_in_a_store(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts are made by processes of their own, each with stand-ins of its own: the job has URLs."""
    for i in (1, 2):
        forget(monkeypatch)
        settings = Settings(shard_size="300kB", part=f"{i}/2")
        suture.merge(bucket.config("s3"), tmp_path / "parts", settings=settings)
    assert "suture-store-" not in (tmp_path / ".parts.suture-parts" / "job" / "plan.json").read_text()
    forget(monkeypatch)
    suture.finish(tmp_path / "parts")
    suture.merge(bucket.config("local"), tmp_path / "out", settings=SHARDS)
    assert without_report(files_of(tmp_path / "parts")) == without_report(files_of(tmp_path / "out"))


def test_parts_nodes_and_twins_go_to_folders(tmp_path: Path) -> None:
    """An option that a store does not go with is refused, never passed over; before anything is asked of the store."""
    for name in ("a", "b"):
        write_model(tmp_path / name, ord(name))
    config = tmp_path / "c.yml"
    config.write_text(
        json.dumps({"merge_method": "linear", "models": [{"model": str(tmp_path / "a"), "parameters": {"weight": 1}}]})
    )
    counted = {"merge_method": "ties", "base_model": str(tmp_path / "a"), "parameters": {"scope": "model"},
               "models": [{"model": str(tmp_path / "b"), "parameters": {"weight": 1, "density": 0.5}}]}  # fmt: skip
    with pytest.raises(UsageError, match="ray: what its method counts lies in several shards; give a folder"):
        suture.merge(counted, "s3://bucket/o", settings=Settings(ray="local", shard_size="300kB"))
    with pytest.raises(UsageError, match="parts: `s3://bucket/o` is in a store"):
        suture.plan(config, "s3://bucket/o", parts=2)
    with pytest.raises(SutureError, match="s3://bucket/o: is a URL, and parts"):
        suture.finish("s3://bucket/o")
    with pytest.raises(UsageError, match="goes to folders only"):
        suture.twin.make(tmp_path / "a", [tmp_path / "a"], "s3://bucket/o", shared="linear")


@pytest.mark.parametrize("form", ["fp8", "mxfp4", "gguf:q8_0"])
def test_quantised_outputs(form: str, bucket: Bucket, tmp_path: Path) -> None:
    """What is written quantised goes to a store as it goes to a folder, shard by shard; of GGUF there is one."""
    if form.startswith("gguf"):
        from ..quantised.test_encode_gguf import model as llama
        from ..quantised.test_encode_gguf import weights as values

        llama(tmp_path / "m", values(1))
        how = Settings(to=form)
    else:
        from ..quantised.encoded import model, weights

        model(tmp_path / "m", weights(1, plain=True))
        how = Settings(to=form, shard_size="60kB")
    suture.convert(tmp_path / "m", tmp_path / "local", settings=how)
    name = form.replace(":", "-")
    suture.convert(tmp_path / "m", f"s3://bucket/quantised/{name}", settings=how)
    found = bucket.objects(f"quantised/{name}")
    report = json.loads(found.pop("suture.json"))
    local = {p.name: p.read_bytes() for p in (tmp_path / "local").iterdir()}
    assert report["tensors"] == json.loads(local.pop("suture.json"))["tensors"]
    assert found == local
    if not form.startswith("gguf"):
        assert sum(n.endswith(".safetensors") for n in found) > 1


@pytest.mark.parametrize("call", ["upload_part", "complete_multipart_upload"])
def test_an_upload_that_fails_leaves_no_parts(
    call: str, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of an upload that the store breaks off are paid for, and unseen: obstore takes them away."""
    from moto.s3.exceptions import AccessDeniedByLock
    from moto.s3.models import S3Backend

    from suture.store.target import Target

    monkeypatch.setattr("suture.store.target.PART", 5 << 20)
    (tmp_path / "shard").write_bytes(b"x" * (16 << 20))
    own, calls = getattr(S3Backend, call), []

    def failing(self: S3Backend, *given: object, **more: object) -> object:
        calls.append(call)
        if len(calls) == (2 if call == "upload_part" else 1):
            raise AccessDeniedByLock
        return own(self, *given, **more)

    monkeypatch.setattr(S3Backend, call, failing)
    with pytest.raises(SutureError, match=r"s3://bucket/out/fails/shard: no permission to write.*life cycle"):
        Target("s3://bucket/out/fails").put("shard", tmp_path / "shard")
    assert len(calls) >= 1
    assert not bucket.client.list_multipart_uploads(Bucket="bucket").get("Uploads")
    assert not bucket.objects("out/fails")
