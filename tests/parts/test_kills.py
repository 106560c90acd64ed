"""Parts, and what puts them together, end in the same bytes whoever is killed and whoever does what twice."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import suture
from suture.surgery import parts, parts_folder

from ..support.checkpoints import Raw, write_checkpoint
from ..support.processes import start
from .whole import check_same, files

PARTS = 3
SIZES = [2**22 + 1003, 2**20, 2**20, 2**20 - 1, 2**20, 1001, 77, 2**20]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A base and two fine-tunes of 22 MB, a config that scans for seconds in small steps, and the whole output."""
    place = tmp_path_factory.mktemp("kills")
    rng = np.random.default_rng(3)
    bases = [(rng.integers(0, 2**16, n, dtype=np.uint16) & 0x83FF) | 0x3C00 for n in SIZES]
    for name in ("base", "one", "two"):
        tensors = {}
        for i, bits in enumerate(bases):
            changed = bits if name == "base" else bits ^ rng.integers(0, 2**6, bits.size, dtype=np.uint16)
            tensors[f"t{i}"] = Raw("BF16", (bits.size,), changed.astype("<u2").tobytes())
        config = {"model_type": "llama", "num_hidden_layers": 2}
        write_checkpoint(place / name, tensors, shards=2, config=config, files={"tokenizer.json": "{}"})
    listed = [{"model": str(place / name), "parameters": {"weight": 0.6}} for name in ("one", "two")]
    config = {"merge_method": "ties", "base_model": str(place / "base"), "models": listed}
    (place / "ties.yml").write_text(json.dumps({**config, "parameters": {"density": 0.4}}))
    (place / "whole").mkdir()
    suture.merge(place / "ties.yml", place / "whole" / "out", settings=suture.Settings(shard_size="5MB"))
    yield place
    shutil.rmtree(place)


@pytest.fixture
def out(folder: Path) -> Iterator[Path]:
    """A place on the disk of the models."""
    place = folder / "work"
    place.mkdir()
    yield place / "out"
    shutil.rmtree(place, ignore_errors=True)


def command(folder: Path, out: Path, i: int, n: int = PARTS) -> list[str]:
    """A part of the merge, as slow as it can be made."""
    how = ["--threads", "1", "--chunk", "64KiB", "--shard-size", "5MB", "-q"]
    return [sys.executable, "-m", "suture", "merge", str(folder / "ties.yml"), str(out), "--part", f"{i}/{n}", *how]


def finishing(out: Path, *more: str) -> list[str]:
    """What puts the parts together."""
    return [sys.executable, "-m", "suture", "finish", str(out), *more]


def run(arguments: list[str]) -> None:
    """Run to the end."""
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("number", range(6))
def test_a_part_that_is_killed_is_made_again(number: int, folder: Path, out: Path) -> None:
    """SIGKILL at a random instant; the same command again goes on, and the whole is the single run's."""
    began = time.monotonic()
    run(command(folder, out, 1))
    seconds = time.monotonic() - began
    for i in (2, 3):
        process = start(command(folder, out, i))
        time.sleep(random.Random(f"{number} {i}").uniform(0.1, max(seconds, 0.2)))
        process.kill()
        process.communicate()
        run(command(folder, out, i))
    run(finishing(out))
    check_same(folder / "whole" / "out", out)


def test_what_a_killed_part_has_finished_is_not_made_again(folder: Path, out: Path) -> None:
    """On the same machine the journal of a part is heeded, as that of a single run is."""
    process = start(command(folder, out, 1, 1))
    place = parts_folder.folder_of(out)
    end = time.monotonic() + 60
    while not any(len(p.read_bytes().splitlines()) > 2 for p in place.glob("part-1.*/.suture-journal")):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.001)
    process.kill()
    process.communicate()
    run(command(folder, out, 1, 1))
    told = json.loads((place / "part-1.json").read_text())
    assert told["run"]["tensors_resumed"] >= 1
    run(finishing(out))
    check_same(folder / "whole" / "out", out)


def test_two_make_one_part_at_once(folder: Path, out: Path) -> None:
    """Both end well, one is believed, and nothing of the other is left."""
    for i in range(1, PARTS + 1):
        both = [start(command(folder, out, i)) for _ in range(3)]
        assert [(p.communicate()[1], p.returncode) for p in both] == [("", 0)] * 3
    place = parts_folder.folder_of(out)
    assert len(list(place.glob("made-*"))) == PARTS
    run(finishing(out, "--verify"))
    check_same(folder / "whole" / "out", out)


def test_other_machines_share_no_file(folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that another machine left half made is neither touched nor trusted; one that it has made is."""
    process = start(command(folder, out, 1))
    place = parts_folder.folder_of(out)
    end = time.monotonic() + 60
    while not list(place.glob("part-1.*/.suture-journal")):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.001)
    process.kill()
    process.communicate()
    (left,) = place.glob("part-1.*")
    before = files(left)
    monkeypatch.setattr(parts_folder, "machine", lambda: "00000000")
    parts.run_part(place, 1)
    assert files(left) == before
    made = (place / "part-1.json").read_bytes()
    parts.run_part(place, 1)
    assert (place / "part-1.json").read_bytes() == made
    for i in (2, 3):
        parts.run_part(place, i)
    suture.finish(out)
    check_same(folder / "whole" / "out", out)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("number", range(6))
def test_finish_that_is_killed_goes_on(number: int, overwrite: bool, folder: Path, out: Path) -> None:
    """SIGKILL at a random instant, over an older output or none; the same command ends in the whole output."""
    old = folder / "whole" / "old"
    if overwrite and not old.exists():
        suture.convert(folder / "one", old)
    if overwrite:
        shutil.copytree(old, out)
    for i in range(1, PARTS + 1):
        run([*command(folder, out, i), *(["--overwrite"] if overwrite else [])])
    for turn in range(3):
        process = start(finishing(out))
        # Python takes a tenth of a second to begin.
        time.sleep(random.Random(f"{number} {turn} {overwrite}").uniform(0.08, 0.3))
        process.kill()
        process.communicate()
        if out.exists() and not (overwrite and files(out).keys() == files(old).keys()):
            assert files(out).keys() - {".suture-journal"} == files(folder / "whole" / "out").keys()
    if parts_folder.folder_of(out).exists():
        run(finishing(out))
    check_same(folder / "whole" / "out", out)


def test_finish_goes_on_from_every_step(folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after the shards were moved, and after all was published: the same call ends it."""
    for i in range(1, PARTS + 1):
        run(command(folder, out, i))
    with monkeypatch.context() as patch:
        patch.setattr(parts_folder, "remove", lambda _: os._exit(9))
        process = os.fork()
        if process == 0:
            try:
                suture.finish(out)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 9
    assert out.exists()
    assert parts_folder.folder_of(out).exists()
    # As if it was stopped before the journal, the last of what is only of the run, was gone.
    (out / ".suture-journal").write_text("")
    (parts_folder.folder_of(out) / "job" / "report.json").unlink()
    suture.finish(out)
    check_same(folder / "whole" / "out", out)
    with pytest.raises(suture.SutureError, match="no parts of it were begun; it is finished"):
        suture.finish(out)


def test_finish_goes_on_with_the_removal(folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped while what lay in the folder of parts went: the same call ends it, with the same report."""
    for i in range(1, PARTS + 1):
        run(command(folder, out, i))
    place = parts_folder.folder_of(out)
    with monkeypatch.context() as patch:
        patch.setattr(parts_folder, "remove", lambda _: [])
        said = suture.finish(out).data
    for name in ("part-1.json", "part-3.json", "job/plan.json"):
        (place / name).unlink()
    assert suture.finish(out).data == said
    assert not place.exists()
    check_same(folder / "whole" / "out", out)


def test_an_output_that_was_moved_away_is_finished_anew(
    folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a finish left that was stopped is not taken for the output of parts that were made again."""
    for i in range(1, PARTS + 1):
        run(command(folder, out, i))
    with monkeypatch.context() as patch:
        patch.setattr(parts_folder, "remove", lambda _: [])
        suture.finish(out)
    shutil.rmtree(out)
    for i in range(1, PARTS + 1):
        run(command(folder, out, i))
    suture.finish(out)
    assert not parts_folder.folder_of(out).exists()
    check_same(folder / "whole" / "out", out)


def test_a_part_that_comes_too_late(folder: Path, out: Path) -> None:
    """The parts were put together while it was made: it says so, leaves nothing, and the output stays as it is."""
    for i in range(1, PARTS + 1):
        run(command(folder, out, i))
    place = parts_folder.folder_of(out)
    late = parts.opened(place)
    calls: list[int] = []
    (place / "part-1.json").rename(place / "kept")

    def finishing_meanwhile(*_: object) -> None:
        if not calls:
            calls.append(1)
            (place / "kept").rename(place / "part-1.json")
            suture.finish(out)

    with pytest.raises(suture.SutureError, match="put together or removed meanwhile"):
        parts.make(late, late.plan, 1, suture.Settings(threads=1), finishing_meanwhile)
    assert calls == [1]
    check_same(folder / "whole" / "out", out)
