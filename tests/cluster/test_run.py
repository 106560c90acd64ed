"""What a cluster makes is what one run makes, whatever becomes of workers and nodes."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import suture
from suture.surgery import cluster_drive

from ..parts.whole import files, told
from . import world

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(sys.platform != "linux", reason="clusters of several nodes on one machine"),
]


def _check(whole: Path, out: Path) -> dict[str, Any]:
    """All files are the same, the report but for who made what, which is returned; nothing is left beside."""
    a, b = files(whole), files(out)
    assert list(a) == list(b)
    assert [name for name in a if a[name] != b[name]] == []
    said = told(out)
    cluster: dict[str, Any] = said.pop("cluster")
    assert said == told(whole)
    assert [p.name for p in out.parent.iterdir() if "suture" in p.name] == []
    return cluster


def test_the_bytes_of_one_run(cluster: Any, config: dict[str, Any], whole: Path, tmp_path: Path) -> None:
    """Law 3: two nodes make what one run makes; the report tells who made what, and progress goes up to all bytes."""
    seen: list[tuple[int, int]] = []
    how = suture.Settings(shard_size=world.SHARD, ray="auto")
    report = suture.merge(config, tmp_path / "out", settings=how, progress=lambda *at: seen.append(at))
    said = _check(whole, tmp_path / "out")
    # A node that another test has just removed may count as one still.
    assert [row["part"] for row in said["made"]] == list(range(1, len(said["made"]) + 1))
    assert len(said["made"]) >= 8
    assert {row["node"] for row in said["made"]} == {node["node"] for node in said["nodes"]}
    assert [node["threads"] for node in said["nodes"]] == [1, 1]
    assert {row["tries"] for row in said["made"]} == {1}
    jsonschema.validate(json.loads((tmp_path / "out" / "suture.json").read_text()), suture.schema("report"))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] > 0
    assert report.seconds is not None


@pytest.mark.heavy
def test_any_order(
    cluster: Any, config: dict[str, Any], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 3: parts end in any order."""
    monkeypatch.setattr(cluster_drive, "WORKER", world.Shuffled)
    world.merge(config, tmp_path / "out")
    _check(whole, tmp_path / "out")


@pytest.mark.heavy
def test_rounds_are_driven(cluster: Any, config: dict[str, Any], tmp_path: Path) -> None:
    """A method that counts over the whole model: scans come first, and are settled."""
    models = [{"model": m["model"], "parameters": {"weight": 0.5}} for m in config["models"]]
    counted = {**config, "models": models, "merge_method": "pcb"}
    world.merge(counted, tmp_path / "a" / "out", ray=None)
    world.merge(counted, tmp_path / "b" / "out")
    _check(tmp_path / "a" / "out", tmp_path / "b" / "out")


def test_workers_end_in_order(
    cluster: Any, config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a process takes along when it ends (stand-ins of models in stores) no worker leaves behind."""
    monkeypatch.setattr(cluster_drive, "WORKER", world.Tidy)
    world.merge(config, tmp_path / "out")
    assert len(list(tmp_path.glob("ended-*"))) == 2


def test_a_worker_is_killed(
    cluster: Any, config: dict[str, Any], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process dies in the middle of a part: another node makes it, and the report says so."""
    monkeypatch.setattr(cluster_drive, "WORKER", world.Killed)
    report = world.merge(config, tmp_path / "out")
    assert (tmp_path / "mark-0").exists()
    row = _check(whole, tmp_path / "out")["made"][1]
    assert (row["part"], row["tries"], len(row["errors"])) == (2, 2, 1)
    assert row["node"] not in row["errors"][0]
    assert any(w.startswith("part 2 is tried again") for w in report.warnings)


@pytest.mark.heavy
def test_a_part_that_fails_always(
    cluster: Any, config: dict[str, Any], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After three tries it is an error with the part and what happened last; then the same command goes on."""
    monkeypatch.setattr(cluster_drive, "WORKER", world.KilledAlways)
    with pytest.raises(suture.SutureError, match=r"part 2 of 8 has failed 3 times, last on .*worker was lost"):
        world.merge(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    report = world.merge(config, tmp_path / "out")
    _check(whole, tmp_path / "out")
    assert report.data["run"]["tensors_resumed"] >= 0


@pytest.mark.heavy
def test_a_failure_of_the_system_is_tried_again(
    cluster: Any, config: dict[str, Any], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An OSError in a worker is not the user's."""
    monkeypatch.setattr(cluster_drive, "WORKER", world.Broken)
    world.merge(config, tmp_path / "out")
    row = _check(whole, tmp_path / "out")["made"][1]
    assert row["tries"] == 2
    assert row["errors"][0].endswith("OSError: Stale file handle")


@pytest.mark.heavy
def test_a_node_is_lost(
    cluster: Any,
    config: dict[str, Any],
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The node that part 2 is made on goes away: what is left makes all, and nothing of Ray's is on stdout."""
    monkeypatch.setattr(cluster_drive, "WORKER", world.Stuck)
    before = len(cluster.worker_nodes)
    cluster.add_node(num_cpus=1)

    def lose() -> None:
        while not (tmp_path / "mark-0").exists():
            time.sleep(0.1)
        worker = (tmp_path / "mark-0").read_text().split()[0]
        # Behind its name, which may hold anything: its state, and who its parent is.
        raylet = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
        for node in list(cluster.worker_nodes):
            own = {info.process.pid for infos in node.all_processes.values() for info in infos}
            if raylet in own:
                cluster.remove_node(node, allow_graceful=False)

    thread = threading.Thread(target=lose)
    thread.start()
    report = world.merge(config, tmp_path / "out")
    thread.join()
    assert len(cluster.worker_nodes) == before
    row = _check(whole, tmp_path / "out")["made"][1]
    assert row["tries"] == 2
    assert "was lost" in row["errors"][0]
    assert any(w.startswith("part 2 is tried again") for w in report.warnings)
    assert "aylet" not in capfd.readouterr().out
