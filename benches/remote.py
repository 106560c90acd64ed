"""A merge of models in a store with 100 ms to the first byte, against fetching the same ranges and nothing else.

    python benches/remote.py [--delay 0.1] [--rate MB_S] [--layers 24]

The store is on the loopback. The reference fetches the models' bytes in ranges of 8 MiB, 32 at a time, by the same
client. Bytes a second of both, and their quotient; several rounds, alternately, medians. On few cores the store, which
is Python, and the arithmetic share them: `--rate` makes the store the bottleneck, as a network is.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import suture
from suture.store import folders
from suture.store.listing import objects
from suture.store.places import place
from tests.support.checkpoints import Raw, write_checkpoint
from tests.support.stores import Trouble, serving

RANGE, SIDE_BY_SIDE = 8 << 20, 32


def write(root: Path, layers: int) -> None:
    """Three models of layers of 16 MiB."""
    tile = np.random.default_rng(0).integers(0x3C00, 0x3F00, 1_000_003, dtype=np.uint16)
    data = np.resize(tile, 4096 * 2048).tobytes()
    for name in ("base", "a", "b"):
        tensors = {f"model.layers.{i}.mlp.up_proj.weight": Raw("BF16", (4096, 2048), data) for i in range(layers)}
        write_checkpoint(root / "bucket" / name, tensors)


def fetched(names: list[str]) -> int:
    """Fetch all data of the models, and throw it away."""
    found = [o for name in names for o in objects(place(f"s3://bucket/{name}")).values() if o.path.endswith("tensors")]
    ranges = [(o, at, min(at + RANGE, o.size)) for o in found for at in range(0, o.size, RANGE)]
    with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
        return sum(threads.map(lambda r: len(r[0].fetch(r[1], r[2])), ranges))


def main() -> None:
    """Measure and print a row for each method."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay", type=float, default=0.1)
    parser.add_argument("--rate", type=float, default=0, metavar="MB_S", help="of the store; 0: as fast as it goes")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="suture-bench-"))
    try:
        write(root, asked.layers)
        with serving(root) as store:
            os.environ.update(AWS_ENDPOINT_URL=store.url, AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s")
            os.environ.setdefault("AWS_REGION", "us-east-1")
            store.begin(Trouble(first_byte=asked.delay, rate=asked.rate * 1e6))
            for method, names in (("linear", ["a", "b"]), ("ties", ["a", "b", "base"])):
                alone, whole = [], []
                for i in range(asked.rounds):
                    began = time.perf_counter()
                    size = fetched(names)
                    alone.append(size / (time.perf_counter() - began))
                    folders._made.clear()
                    config = {
                        "merge_method": method,
                        "models": [{"model": f"s3://bucket/{n}", "parameters": {"weight": 0.5}} for n in ("a", "b")],
                    } | ({"base_model": "s3://bucket/base"} if "base" in names else {})
                    began = time.perf_counter()
                    suture.merge(config, root / f"out-{method}-{i}")
                    whole.append(size / (time.perf_counter() - began))
                    shutil.rmtree(root / f"out-{method}-{i}")
                a, b = statistics.median(alone), statistics.median(whole)
                row = {"method": method, "bytes": size, "fetch_MB_s": round(a / 1e6), "merge_MB_s": round(b / 1e6)}
                print(json.dumps(row | {"share": round(b / a, 3)}))
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
