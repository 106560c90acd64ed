"""The example that anybody can run: a cluster of two nodes, an S3 server, a worker that is killed, the same bytes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import suture

RUN = Path(__file__).parents[2] / "examples" / "ray_s3" / "run.py"


def run(*options: str, place: Path) -> str:
    """What it prints; it has nothing of the cluster and the store of other tests."""
    pytest.importorskip("ray")
    env = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "RAY_"))}
    path = os.pathsep.join([str(Path(suture.__file__).parents[1]), env.get("PYTHONPATH", "")])
    env |= {"TMPDIR": str(place), "PYTHONPATH": path}
    # Ray's sockets have names of at most 107 letters.
    env["RAY_TMPDIR"] = "/tmp"
    done = subprocess.run(
        [sys.executable, str(RUN), *options], env=env, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="clusters of several nodes on one machine")
@pytest.mark.heavy
@pytest.mark.parametrize("way", ["store", "folder"])
def test_a_worker_is_killed_and_the_bytes_are_the_same(way: str, tmp_path: Path) -> None:
    """Law 3, from a store and to it: what each node sends is what one process makes, whoever dies."""
    if way == "store":
        pytest.importorskip("moto.server")
        pytest.importorskip("obstore")
    told = run(*(["--folder"] if way == "folder" else []), place=tmp_path)
    assert re.search(r"^killed worker \d+$", told, re.MULTILINE)
    assert re.search(r"^part \d: .*, try 2$", told, re.MULTILINE)
    assert len(re.findall(r"^part \d: ", told, re.MULTILINE)) == 4
    assert "4 shards, the same bytes as by one process: " in told
    assert ("fetched: " in told) == (way == "store")
    # What the killed worker had here goes with the next process; all else is gone.
    assert all(p.name.startswith(("suture-part-", "suture-store-", "ray")) for p in tmp_path.iterdir())
