"""Three small models in a bucket of a store on the loopback, and the same in folders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ..support.stores import Store, serving

pytest.importorskip("obstore")

LAYERS, MODELS = 8, ("base", "a", "b")


@dataclass
class Models:
    """Where the models lie: in folders, and in the store under the same names."""

    root: Path
    store: Store

    def local(self, name: str) -> str:
        return str(self.root / "bucket" / "models" / name)

    def s3(self, name: str) -> str:
        return f"s3://bucket/models/{name}"

    def web(self, name: str) -> str:
        return f"{self.store.url}/bucket/models/{name}"

    def config(self, where: str, method: str, **more: Any) -> dict[str, Any]:
        """A merge of `a` and `b`; `where` is `local`, `s3` or `web`."""
        at = getattr(self, where)
        models = [{"model": at(name), "parameters": {"weight": 0.4} | more} for name in ("a", "b")]
        return {"merge_method": method, "base_model": at("base"), "models": models}


def write_model(folder: Path, seed: int, width: int = 256) -> None:
    """A small model of two shards, and the files beside them."""
    folder.mkdir(parents=True)
    rng, own = np.random.default_rng(0), np.random.default_rng(seed)
    names = [f"model.layers.{i}.{part}" for i in range(LAYERS) for part in ("mlp.up_proj.weight", "norm.weight")]
    shapes = {name: (width,) if "norm" in name else (width, width) for name in names}
    shapes |= {"lm_head.weight": (64, width), "model.embed_tokens.weight": (64, width)}
    tensors = {}
    for name, shape in shapes.items():
        common = rng.standard_normal(shape)
        tensors[name] = (common + 0.01 * own.standard_normal(shape)).astype(np.float16)
    every = sorted(tensors)
    shards = {f"model-0000{n}-of-00002.safetensors": every[n - 1 :: 2] for n in (1, 2)}
    for file, own_names in shards.items():
        save_file({n: tensors[n] for n in own_names}, folder / file, metadata={"format": "pt"})
    weights = {n: file for file, own_names in shards.items() for n in own_names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": LAYERS,
                    "hidden_size": width, "vocab_size": 64, "tie_word_embeddings": False})
    )  # fmt: skip


@pytest.fixture(scope="session")
def _served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    root = tmp_path_factory.mktemp("store")
    for seed, name in enumerate(MODELS):
        write_model(root / "bucket" / "models" / name, seed)
    with serving(root) as store:
        yield Models(root, store)


@pytest.fixture
def models(_served: Models, monkeypatch: pytest.MonkeyPatch) -> Models:
    """The models; the environment says where the store is, and of whom requests are."""
    at_store(monkeypatch, _served.store.url)
    forget(monkeypatch)
    _served.store.begin()
    return _served


def at_store(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Have the environment say that S3 is at `url`."""
    for name in ("AWS_PROFILE", "AWS_SKIP_SIGNATURE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    said = {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}  # fmt: skip
    for name, value in said.items():
        monkeypatch.setenv(name, value)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the process forget what it knows of stores, as a new one would."""
    from suture.store import client, folders

    client.opened.cache_clear()
    monkeypatch.setattr(folders, "_made", {})


class Bucket:
    """A bucket of moto's, with the models in it and in a folder."""

    def __init__(self, root: Path, url: str) -> None:
        boto3 = pytest.importorskip("boto3")
        self.root, self.url = root, url
        self.client: Any = boto3.client("s3", endpoint_url=url, region_name="us-east-1",
                                        aws_access_key_id="key", aws_secret_access_key="secret")  # fmt: skip

    def objects(self, prefix: str) -> dict[str, bytes]:
        listed = self.client.list_objects_v2(Bucket="bucket", Prefix=f"{prefix}/").get("Contents", [])
        keys = [o["Key"] for o in listed]
        return {
            k.removeprefix(f"{prefix}/"): self.client.get_object(Bucket="bucket", Key=k)["Body"].read() for k in keys
        }

    def config(self, where: str, method: str = "ties") -> dict[str, Any]:
        at = {"local": str(self.root), "s3": "s3://bucket/models"}[where]
        merged = [{"model": f"{at}/{name}", "parameters": {"weight": 0.4}} for name in ("a", "b")]
        return {"merge_method": method, "base_model": f"{at}/base", "models": merged}


@pytest.fixture(scope="session")
def _moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    moto = pytest.importorskip("moto.server")
    root = tmp_path_factory.mktemp("outputs")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        bucket = Bucket(root, f"http://{host}:{port}")
        bucket.client.create_bucket(Bucket="bucket")
        for seed, name in enumerate(MODELS):
            write_model(root / name, seed)
            for path in (root / name).iterdir():
                bucket.client.upload_file(str(path), "bucket", f"models/{name}/{path.name}")
        yield bucket
    finally:
        server.stop()


@pytest.fixture
def bucket(_moto: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bucket:
    """The bucket; the environment says where it is, and where shards are made."""
    at_store(monkeypatch, _moto.url)
    forget(monkeypatch)
    from suture.store import folders

    # That of stand-ins is the process's.
    folders._root()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return _moto
