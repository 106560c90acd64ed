"""What goes wrong on a cluster is said by name, before anything is read; what was made is kept."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import suture
from suture.surgery import cluster_nodes

from ..parts.whole import files
from . import world

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("address", ["ray://10.0.0.1:10001", "config.yaml", "host", "a:b"])
def test_addresses(address: str) -> None:
    """What is no address names the option; Ray's client is refused."""
    with pytest.raises(suture.UsageError, match=r"^ray: "):
        suture.Settings(ray=address)


def test_what_does_not_go_together(config: dict[str, Any], tmp_path: Path) -> None:
    """A part of its own, a GPU by its number, several outputs: refused before anything is read."""
    with pytest.raises(suture.UsageError, match=r"^ray: makes all parts"):
        suture.Settings(ray="", part="1/2")
    with pytest.raises(suture.UsageError, match=r"^device: "):
        suture.Settings(ray="", device="cuda:1")
    with pytest.raises(suture.UsageError, match=r"^ray: a config with several outputs is made as a whole"):
        world.merge({**config, "outputs": {"x": {}, "y": {}}}, tmp_path / "out", ray="local")


def test_nobody_else_imports_ray(config: dict[str, Any], tmp_path: Path) -> None:
    """Law 9: neither --help nor a merge on this machine does."""
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    for argv in (["merge", "--help"], ["merge", "c.yaml", "out", "-q"]):
        code = f"import sys, suture.start\nsys.argv[1:] = {argv}\ntry:\n    suture.start.main()\nfinally:\n"
        code += "    assert not [m for m in sys.modules if m == 'ray' or m.startswith('ray.') or 'cluster' in m]\n"
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)


def test_without_ray(config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(suture.UsageError, match=r"^ray: needs the package ray .*pip install ray"):
        world.merge(config, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_no_cluster_at_that_address(cluster: Any, config: dict[str, Any], tmp_path: Path) -> None:
    """A wrong address is an error with what to look at."""
    with pytest.raises(suture.SutureError, match=r"no Ray cluster at `127.0.0.1:1`"):
        world.merge(config, tmp_path / "out", ray="127.0.0.1:1")
    assert list(tmp_path.iterdir()) == []


def test_more_than_a_node_has(cluster: Any, config: dict[str, Any], tmp_path: Path) -> None:
    """Threads and memory are of each node, and none has them."""
    with pytest.raises(suture.SutureError, match=r"no node .* can make parts; node .* it has CPUs 1 of 7"):
        world.merge(config, tmp_path / "out", threads=7)
    with pytest.raises(suture.SutureError, match=r"bytes of memory .* of 900,000,000,000"):
        world.merge(config, tmp_path / "out", memory="900GB")
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_of_the_user_is_not_tried_again(cluster: Any, config: dict[str, Any], tmp_path: Path) -> None:
    """An input that is written to meanwhile: one error with its name and the node's."""
    from ..support.checkpoints import encode, write_checkpoint

    nan = {f"model.layers.{i}.mlp.up_proj.weight": encode(np_nan(), "F16") for i in range(16)}
    write_checkpoint(tmp_path / "one", nan)
    models = [{**config["models"][0], "model": str(tmp_path / "one")}, config["models"][1]]
    with pytest.raises(suture.SutureError, match=r"^part \d of 8 on .*NaN|^part \d on .*NaN") as caught:
        world.merge({**config, "models": models}, tmp_path / "out")
    assert "tried again" not in str(caught.value)
    assert caught.value.tensor is not None


def np_nan() -> Any:
    """A matrix of NaN."""
    import numpy as np

    return np.full((1024, 1000), np.nan)


def test_a_node_of_another_version(cluster: Any, config: dict[str, Any], tmp_path: Path) -> None:
    """Law of one version: refused by the node's name, before anything is read."""
    (tmp_path / "old" / "suture").mkdir(parents=True)
    (tmp_path / "old" / "suture" / "__init__.py").write_text("__version__ = '0.0.1'\n")
    node = cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": str(tmp_path / "old")})
    try:
        with pytest.raises(
            suture.SutureError, match=rf"^node .* has suture 0\.0\.1, and the driver has {suture.__version__}"
        ):
            world.merge(config, tmp_path / "out")
    finally:
        cluster.remove_node(node, allow_graceful=False)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_shared(
    cluster: Any, config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that has something else at that path is named."""
    asked = cluster_nodes._question()

    def elsewhere() -> Any:
        def answer(path: str, _seconds: float) -> Any:
            return asked(path + ".other", 0.1)

        return answer

    monkeypatch.setattr(cluster_nodes, "_question", elsewhere)
    with pytest.raises(suture.SutureError, match=r"^node .* does not see .*\.out\.suture-parts"):
        world.merge(config, tmp_path / "out")


@pytest.mark.heavy
def test_the_schedule(cluster: Any, config: dict[str, Any], tmp_path: Path) -> None:
    """--dry-run: who would make which part, and what it would take; nothing is written."""
    how = suture.Settings(shard_size=world.SHARD, ray="auto")
    report = suture.merge(config, tmp_path / "out", settings=how, dry_run=True)
    rows = report.data["schedule"]
    assert sorted(i for row in rows for i in row["parts"]) == list(range(1, 9))
    assert [row["threads"] for row in rows] == [1, 1]
    assert all(row["seconds"] is not None and row["seconds"] > 0 for row in rows)
    assert [title for title, _ in report.data["notes"]][-3:] == ["ray", "node", "node"]
    jsonschema.validate(report.data, suture.schema("plan"))
    assert sum(row["write_bytes"] for row in rows) == report.data["write_bytes"]
    assert list(tmp_path.iterdir()) == []


def read(path: Path) -> bytes:
    """A file of a process that may have ended meanwhile."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.heavy
def test_cancelled_and_resumed(cluster: Any, config: dict[str, Any], whole: Path, tmp_path: Path) -> None:
    """Ctrl-C: exit code 130, no worker is left, what was made is kept; the same command goes on."""
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    code = (
        "import sys, suture.start\nfrom suture.surgery import cluster_drive\nfrom tests.cluster import world\n"
        "cluster_drive.WORKER = world.Shuffled\n"
        f"sys.argv[1:] = ['merge', 'c.yaml', 'out', '--shard-size', '{world.SHARD}', '--ray']\nsuture.start.main()\n"
    )
    parts = tmp_path / ".out.suture-parts"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # Shells have what they start behind them ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:  # fmt: skip
        until = time.monotonic() + 60
        while len(list(parts.glob("part-*.json"))) < 2 and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate()
    assert (process.returncode, out) == (130, ""), error
    assert "run the same command again to resume" in error
    time.sleep(1)
    running = [read(p) for p in Path("/proc").glob("[0-9]*/cmdline")]
    assert not [name for name in running if b"ray::Shuffled" in name]
    kept = {p.name: p.read_bytes() for p in parts.glob("part-*.json")}
    assert 2 <= len(kept) < 8
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert again.stdout == ""
    assert files(tmp_path / "out") == files(whole)
    assert re.search(r'"tries": 1', (tmp_path / "out" / "suture.json").read_text())
    assert not parts.exists()
