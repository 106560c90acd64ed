"""Law: what a store copies by itself gives the same objects, is not fetched, and is told; else all goes on."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import suture
from suture.errors import SutureError

from .conftest import Bucket
from .test_outputs import files_of, without_report

pytest.importorskip("boto3")

LAYERS = 4
#: The least part of an upload, here and in the store: that of S3 would make the models large.
LEAST = 64 << 10


def write_large(folder: Path, seed: int, rows: int = 512) -> None:
    """A model whose matrices are larger than the least part of an upload, in two shards, with norms between."""
    rng = np.random.default_rng(seed)
    tensors = {f"model.layers.{i}.mlp.up_proj.weight": rng.integers(0, 2**14, (rows, 512), np.uint16).view(np.float16)
               for i in range(LAYERS)}  # fmt: skip
    tensors |= {f"model.layers.{i}.norm.weight": rng.standard_normal(512).astype(np.float16) for i in range(LAYERS)}
    folder.mkdir(parents=True)
    weights: dict[str, str] = {}
    for n in (1, 2):
        file = f"model-0000{n}-of-00002.safetensors"
        own = {name: t for name, t in tensors.items() if int(name.split(".")[2]) % 2 == n - 1}
        save_file(own, folder / file, metadata={"format": "pt"})
        weights |= dict.fromkeys(own, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": LAYERS}))


@pytest.fixture(scope="module")
def _large(tmp_path_factory: pytest.TempPathFactory, _moto: Bucket) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("large")
    for seed, name in enumerate(("into", "donor")):
        write_large(root / name, seed)
        for path in (root / name).iterdir():
            _moto.client.upload_file(str(path), "bucket", f"large/{name}/{path.name}")
    yield root
    for name in _moto.objects("large"):
        _moto.client.delete_object(Bucket="bucket", Key=f"large/{name}")


@pytest.fixture
def large(_large: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Path:
    from suture.store import copies

    copies._client.cache_clear()
    monkeypatch.setattr(copies, "LEAST", LEAST)
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", LEAST)
    return _large


def swap(out: str | Path, root: str | Path = "s3://bucket/large", **more: Any) -> suture.Report:
    return suture.swap(f"{root}/into", f"{root}/donor", layers="2", out=out, **more)


def uploads(bucket: Bucket) -> list[Any]:
    found: list[Any] = bucket.client.list_multipart_uploads(Bucket="bucket").get("Uploads", [])
    return found


def test_a_swap_is_copied(bucket: Bucket, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects equal the files; only headers and what lies between long ranges is fetched, which the report counts."""
    from suture.store.objects import Object

    fetched: list[int] = []
    own = Object._fetched

    def counted(self: Object, start: int, stop: int) -> bytes:
        fetched.append(stop - start)
        return own(self, start, stop)

    monkeypatch.setattr(Object, "_fetched", counted)
    looked = swap("s3://bucket/out/copied", dry_run=True)
    assert any(title == "copied" and "by the store itself" in text for title, text in looked.data["notes"])
    before = sum(fetched)
    report = swap("s3://bucket/out/copied")
    local = swap(tmp_path / "out", large)
    made = bucket.objects("out/copied")
    assert without_report(made) == without_report(files_of(tmp_path / "out"))
    run = report.data["run"]
    total = sum(len(data) for name, data in made.items() if name.endswith(".safetensors"))
    assert run["copied"]["bytes"] + run["fetched"]["bytes"] > 0.99 * total
    assert run["copied"]["bytes"] > 0.75 * total
    # Headers were fetched to plan; of what is sent no byte twice.
    assert sum(fetched) - before == run["fetched"]["bytes"]
    assert run["fetched"]["bytes"] < total / 4
    assert not uploads(bucket)
    assert json.loads(made["suture.json"])["run"]["copied"] == run["copied"]
    assert all(t["digest"] is None for t in report.data["tensors"].values())
    assert {n: (t["dtype"], t["shape"]) for n, t in report.data["tensors"].items()} == {
        n: (t["dtype"], t["shape"]) for n, t in local.data["tensors"].items()
    }


def test_what_was_copied_is_verified_as_unknown(bucket: Bucket, large: Path) -> None:
    """No digest is made up: `verify` counts what it does not know, and still reads all."""
    swap("s3://bucket/out/unknown")
    found = suture.verify("s3://bucket/out/unknown")
    assert (found["unknown"], found["tensors"], found["differing"]) == (2 * LAYERS, 2 * LAYERS, [])


def test_what_is_computed_goes_through_here(bucket: Bucket, large: Path, tmp_path: Path) -> None:
    """A shard with a blended layer is made here, with digests; the others are copied."""
    more: dict[str, Any] = {"transition": 1, "blend": 0.5, "bottom": 0, "top": 1}
    call = ("s3://bucket/large/into", "s3://bucket/large/donor")
    report = suture.swap(*call, out="s3://bucket/out/blended", **more)
    suture.swap(large / "into", large / "donor", out=tmp_path / "out", **more)
    assert without_report(bucket.objects("out/blended")) == without_report(files_of(tmp_path / "out"))
    kinds = {t["digest"] is None for t in report.data["tensors"].values()}
    assert kinds == {True, False}
    assert not suture.verify("s3://bucket/out/blended")["differing"]


def test_without_boto3(bucket: Bucket, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told, and the bytes are the same."""
    monkeypatch.setitem(sys.modules, "boto3", None)
    report = swap("s3://bucket/out/without")
    assert any("that the store could copy are fetched and sent: boto3 is not installed" in w for w in report.warnings)
    assert "copied" not in report.data["run"]
    swap(tmp_path / "out", large)
    assert without_report(bucket.objects("out/without")) == without_report(files_of(tmp_path / "out"))
    assert not suture.verify("s3://bucket/out/without")["unknown"]


def test_by_the_user_s_word(bucket: Bucket, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who wants digests of all has them."""
    monkeypatch.setenv("SUTURE_STORE_COPIES", "no")
    report = swap("s3://bucket/out/word")
    assert all(t["digest"] for t in report.data["tensors"].values())
    assert not any("copy" in w for w in report.warnings)


class Failing:
    """A client of which a call fails from its second on."""

    def __init__(self, client: Any, call: str, code: str) -> None:
        self._client, self._call, self._code, self._calls = client, call, code, 0

    def __getattr__(self, name: str) -> Any:
        if name != self._call:
            return getattr(self._client, name)
        self._calls += 1
        if self._calls == 1:
            return getattr(self._client, name)
        error = importlib.import_module("botocore.exceptions").ClientError

        def fail(**_: Any) -> Any:
            raise error({"Error": {"Code": self._code, "Message": ""}}, self._call)

        return fail


@pytest.mark.parametrize("call", ["create_multipart_upload", "upload_part_copy", "complete_multipart_upload"])
def test_a_store_that_refuses(
    call: str, bucket: Bucket, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle: the upload is aborted, the rest is sent, both told."""
    from suture.store import copies

    failing = Failing(copies._client(), call, "NotImplemented")
    monkeypatch.setattr(copies, "_client", lambda: failing)
    report = swap(f"s3://bucket/out/refused-{call}")
    assert any("fetched and sent: NotImplemented" in w for w in report.warnings)
    swap(tmp_path / "out", large)
    assert without_report(bucket.objects(f"out/refused-{call}")) == without_report(files_of(tmp_path / "out"))
    assert not uploads(bucket)


def test_an_object_that_is_replaced(bucket: Bucket, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is asked for the state that was planned with: an error by name, and no upload is left."""
    from suture.store import copies

    failing = Failing(copies._client(), "upload_part_copy", "PreconditionFailed")
    monkeypatch.setattr(copies, "_client", lambda: failing)
    with pytest.raises(SutureError, match=r"^s3://bucket/large/.*safetensors: was replaced while it was read"):
        swap("s3://bucket/out/replaced")
    assert not uploads(bucket)


def test_a_store_that_copies_what_came_since(bucket: Bucket, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It passes over the state it is asked for (as moto does): the objects are looked at once more."""
    from suture.store import copies

    key, own = "large/donor/model-00001-of-00002.safetensors", copies._client()
    before = bucket.client.get_object(Bucket="bucket", Key=key)["Body"].read()

    class Replacing:
        def __getattr__(self, name: str) -> Any:
            if name == "complete_multipart_upload":
                pytest.fail("is completed")
            return getattr(own, name)

        def create_multipart_upload(self, **more: Any) -> Any:
            bucket.client.put_object(Bucket="bucket", Key=key, Body=before[:-1] + b"x")
            return own.create_multipart_upload(**more)

    replacing = Replacing()
    monkeypatch.setattr(copies, "_client", lambda: replacing)
    try:
        with pytest.raises(SutureError, match=rf"^s3://bucket/{key}: was replaced while it was read"):
            swap("s3://bucket/out/since")
    finally:
        bucket.client.put_object(Bucket="bucket", Key=key, Body=before)
    assert not uploads(bucket)
    assert not [n for n in bucket.objects("out/since") if n.endswith(".safetensors")]


@pytest.mark.heavy
def test_of_the_size_that_s3_takes(bucket: Bucket, tmp_path: Path) -> None:
    """With parts as S3 has them, of matrices of 24 MB."""
    for seed, name in enumerate(("into", "donor")):
        write_large(tmp_path / name, seed, 24_000)
        for path in (tmp_path / name).iterdir():
            bucket.client.upload_file(str(path), "bucket", f"size/{name}/{path.name}")
    report = swap("s3://bucket/out/size", "s3://bucket/size")
    swap(tmp_path / "out", tmp_path)
    assert without_report(bucket.objects("out/size")) == without_report(files_of(tmp_path / "out"))
    total = sum(len(data) for name, data in bucket.objects("out/size").items() if name.endswith(".safetensors"))
    assert report.data["run"]["fetched"]["bytes"] < 0.25 * total


def test_a_run_that_was_stopped(bucket: Bucket, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was copied before is left alone by the same command."""
    from suture.surgery import to_store

    with monkeypatch.context() as patch:
        patch.setattr(to_store._Sent, "publish", lambda *_: (_ for _ in ()).throw(SutureError("stopped")))
        with pytest.raises(SutureError, match="stopped"):
            swap("s3://bucket/out/stopped")
    monkeypatch.setattr("suture.surgery.copied.put", lambda *_: pytest.fail("is made again"))
    report = swap("s3://bucket/out/stopped")
    assert report.data["run"]["copied"]["bytes"] > 0
    assert not [n for n in bucket.objects("out/stopped") if n.startswith(".suture")]


def test_parts_are_what_s3_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law of parts: in order all bytes, none but the last short, none too long, one range each or what is sent."""
    from suture.store import copies

    monkeypatch.setattr(copies, "LEAST", 10)
    monkeypatch.setattr(copies, "PIECE", 40)
    rng = np.random.default_rng(0)
    for _ in range(300):
        pieces: list[Any] = [b"x" * int(rng.integers(1, 30))]
        for of in rng.integers(0, 3, int(rng.integers(1, 12))):
            start = int(rng.integers(0, 500))
            pieces.append((f"object {of}", start, start + int(rng.choice([0, 3, 9, 10, 11, 25, 95]))))
        parts = copies.parts_of(pieces)

        def flat(given: Any) -> list[Any]:
            return [x for p in given for x in (p if isinstance(p, bytes) else [(p[0], i) for i in range(p[1], p[2])])]

        assert flat(p for part in parts for p in part) == flat(pieces)
        lengths = [len(flat(part)) for part in parts]
        assert all(n >= 10 for n in lengths[:-1])
        assert all(n <= 40 for n, part in zip(lengths, parts, strict=True) if copies.is_copy(part))
        # Of what is sent no more than a part for each border.
        assert all(n < 60 for n, part in zip(lengths, parts, strict=True) if not copies.is_copy(part))
