"""A merge of four shards on a Ray cluster of two nodes, from an S3 server and to it, all on this machine.

    pip install '.[ray,cloud]' 'moto[server]'
    python examples/ray_s3/run.py                  # half a minute
    python examples/ray_s3/run.py --folder         # without a store: models and output in a folder that nodes share

One worker is killed while it runs; another makes its part. In the end the shards are held against those of a merge by
this process alone, from the same models in a folder: the same bytes. What is made lies under TMPDIR, and is removed.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import suture

LAYERS, ROWS, COLUMNS = 8, 2048, 2048
NAMES = ("base", "maths", "greek")
SHARD, BUCKET = "17MB", "demo"


def write_models(place: Path) -> None:
    """A base and two tunes of it in bf16, with what else a model has; 64 MB each."""
    size = ROWS * COLUMNS * 2
    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(LAYERS)]
    header = {
        name: {"dtype": "BF16", "shape": [ROWS, COLUMNS], "data_offsets": [i * size, (i + 1) * size]}
        for i, name in enumerate(names)
    }
    text = json.dumps(header).encode()
    for seed, model in enumerate(NAMES):
        folder = place / model
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": LAYERS}))
        with (folder / "model.safetensors").open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for i in range(LAYERS):
                values = np.random.default_rng(i).standard_normal((ROWS, COLUMNS), np.float32)
                if seed:
                    own = np.random.default_rng([seed, i]).standard_normal(values.shape, np.float32)
                    values += np.float32(0.02) * own
                file.write((values.view(np.uint32) >> 16).astype("<u2").tobytes())


@contextmanager
def server() -> Iterator[Any]:
    """An S3 server on the loopback with a bucket, which the environment names as it does any other; gives a client."""
    import boto3
    from moto.server import ThreadedMotoServer

    # It tells of every request.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    os.environ |= {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "demo",
                   "AWS_SECRET_ACCESS_KEY": "demo", "AWS_REGION": "us-east-1"}  # fmt: skip
    client = boto3.client("s3", region_name="us-east-1")
    client.create_bucket(Bucket=BUCKET)
    try:
        yield client
    finally:
        moto.stop()


@contextmanager
def cluster() -> Iterator[str]:
    """A cluster of two nodes of a CPU each; gives its address."""
    # Nodes import what this imports.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(Path(suture.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    )
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        nodes.add_node(num_cpus=1)
        yield str(nodes.address)
    finally:
        nodes.shutdown()


def parents(process: int) -> list[int]:
    """The processes that a process comes from: others' workers are none of ours."""
    found = []
    while process > 1:
        try:
            # Behind its name, which may hold anything: its state, and its parent.
            process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            break
        found.append(process)
    return found


def kill_one_worker(done: threading.Event) -> None:
    """Kill the first worker that is seen at work, as the kernel does when memory runs out."""
    while not done.is_set():
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                title = entry.read_bytes()
            except OSError:
                continue
            if title.startswith((b"ray::Worker.make", b"ray::StoreWorker.make")):
                worker = int(entry.parent.name)
                if os.getpid() in parents(worker):
                    os.kill(worker, signal.SIGKILL)
                    print(f"killed worker {worker}")
                    return
        time.sleep(0.005)


def merge(place: str, out: str, address: str | None) -> suture.Report:
    """Merge the three, on the cluster or by this process alone."""
    tunes = [{"model": f"{place}/{name}", "parameters": {"weight": 0.5, "density": 0.5}} for name in NAMES[1:]]
    config: dict[str, Any] = {"merge_method": "ties", "base_model": f"{place}/{NAMES[0]}", "models": tunes}
    return suture.merge(config, out, settings=suture.Settings(shard_size=SHARD, ray=address))


def main() -> None:
    """Runs it."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--folder", action="store_true", help="without a store")
    in_folder = asked.parse_args().folder
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-s3-")))
        write_models(folder)
        place, client = str(folder), None
        if not in_folder:
            client = stack.enter_context(server())
            for path in folder.rglob("*.*"):
                client.upload_file(str(path), BUCKET, f"models/{path.relative_to(folder)}")
            place = f"s3://{BUCKET}/models"
        out = f"{folder}/merged" if client is None else f"s3://{BUCKET}/merged"
        address, done = stack.enter_context(cluster()), threading.Event()
        killer = threading.Thread(target=kill_one_worker, args=(done,))
        killer.start()
        try:
            report = merge(place, out, address)
        finally:
            done.set()
        killer.join()
        for warning in report.warnings:
            print(f"warning: {warning}")
        for row in report.data["cluster"]["made"]:
            print(f"part {row['part']}: {row['node']}, {row['seconds']} s, try {row['tries']}")
        if "fetched" in report.data["run"]:
            print(f"fetched: {report.data['run']['fetched']['bytes']:,} bytes")
        merge(str(folder), f"{folder}/alone", None)
        shards = sorted(Path(folder, "alone").glob("*.safetensors"))
        assert len(shards) == 4
        for shard in shards:
            if client is None:
                made = Path(folder, "merged", shard.name).read_bytes()
            else:
                made = client.get_object(Bucket=BUCKET, Key=f"merged/{shard.name}")["Body"].read()
            assert made == shard.read_bytes(), shard.name
        print(f"{len(shards)} shards, the same bytes as by one process: {out}")


if __name__ == "__main__":
    main()
