"""A run that is killed, interrupted or tampered with ends, when run again, in the bytes of an undisturbed one."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..support.checkpoints import as_raw, write_checkpoint, write_json
from ..support.processes import start

KILLS = 20
PATIENCE = 60.0
#: Elements of the tensors of each model: 23 million in all, one tensor larger than a span of the engine.
SIZES = [2**22 + 2**18 + 13] + [2**20] * 12 + [2**18 - 1] * 24 + [1001] * 8


@pytest.fixture(autouse=True)
def tidy(tmp_path: Path) -> Iterator[None]:
    """Outputs are large; none is kept."""
    yield
    shutil.rmtree(tmp_path)


@dataclass(frozen=True)
class Job:
    """A merge that lasts, and what it comes to when nobody disturbs it."""

    folder: Path
    models: tuple[Path, ...]
    digests: dict[str, str]
    seconds: float

    def command(self, out: Path) -> list[str]:
        """The command that runs it, as slow as it can be made."""
        return command(self.folder / "ties.yml", out)


def command(config: Path, out: Path) -> list[str]:
    """A merge in small steps, into several shards."""
    options = ["--threads", "2", "--chunk", "64KiB", "--shard-size", "20MB"]
    return [sys.executable, "-m", "suture", "merge", str(config), str(out), *options]


def file_digests(out: Path) -> dict[str, str]:
    """What every file of an output holds; of suture.json, which tells of the run too, only tensors and plan."""
    found = {}
    for path in sorted(out.iterdir()):
        data = path.read_bytes()
        if path.name == "suture.json":
            record = json.loads(data)
            data = json.dumps([record["tensors"], record["plan"]], sort_keys=True).encode()
        found[path.name] = hashlib.sha256(data).hexdigest()
    return found


def partial_of(out: Path) -> Path:
    """Where the work in progress lies."""
    return out.with_name(f".{out.name}.suture-partial")


def journalled(out: Path) -> list[dict[str, Any]]:
    """The tensors that the journal of the work in progress calls finished."""
    try:
        lines = (partial_of(out) / ".suture-journal").read_text().splitlines(keepends=True)
    except OSError:
        return []
    return [json.loads(line) for line in lines[1:] if line.endswith("\n")]


def resumed(out: Path) -> int:
    """How many tensors a finished run took over from an earlier one."""
    count = json.loads((out / "suture.json").read_text())["run"]["tensors_resumed"]
    assert isinstance(count, int)
    return count


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until something is so; the process must last until then."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, f"the run is over too soon for this test: {process.communicate()}"
        assert time.monotonic() < end
        time.sleep(0.001)


def killed_after(condition: Callable[[], bool], arguments: list[str]) -> None:
    """A run killed as soon as something is so."""
    process = start(arguments)
    try:
        wait_for(condition, process)
    finally:
        process.kill()
        process.communicate()


def finish(arguments: list[str]) -> None:
    """Run to the end."""
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr


def assert_partial_is_not_half_written(out: Path, digests: dict[str, str]) -> None:
    """Law 6: what is left of a killed run does not open, unless all of it, side files too, is as it will be."""
    try:
        suture.open(partial_of(out))
    except suture.SutureError:
        return
    found = file_digests(partial_of(out))
    found.pop(".suture-journal", None)
    assert found == digests, "opens as a checkpoint though something is missing"


def write_models(folder: Path, seed: int) -> tuple[Path, ...]:
    """A base and two fine-tunes in bf16, 47 MB each, with a config and a tokenizer."""
    rng = np.random.default_rng(seed)
    config = {"model_type": "llama", "num_hidden_layers": 2}
    folders = []
    bases = [(rng.integers(0, 2**16, n, dtype=np.uint16) & 0x83FF) | 0x3C00 for n in SIZES]
    for name in ("base", "one", "two"):
        tensors = {}
        for i, bits in enumerate(bases):
            changed = bits if name == "base" else bits ^ rng.integers(0, 2**6, bits.size, dtype=np.uint16)
            raw = as_raw(changed.astype("<u2"))
            tensors[f"t{i:02}"] = type(raw)("BF16", raw.shape, raw.data)
        files = {"tokenizer.json": "{}"}
        folders.append(write_checkpoint(folder / name, tensors, shards=2, config=config, files=files))
    return tuple(folders)


def write_config(path: Path, models: tuple[Path, ...]) -> Path:
    """A ties merge; JSON is YAML, too."""
    content = {
        "merge_method": "ties",
        "base_model": str(models[0]),
        "models": [
            {"model": str(m), "parameters": {"weight": w}}
            for m, w in zip(models[1:], (0.7, 0.4), strict=True)
        ],
        "parameters": {"density": 0.4, "rescale": "l1"},
    }  # fmt: skip
    return write_json(path, content)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    folder = tmp_path_factory.mktemp("kill")
    models = write_models(folder, 0)
    config = write_config(folder / "ties.yml", models)
    began = time.monotonic()
    finish(command(config, folder / "undisturbed"))
    seconds = time.monotonic() - began
    digests = file_digests(folder / "undisturbed")
    assert sum(name.endswith(".safetensors") for name in digests) > 1
    yield Job(folder, models, digests, seconds)
    shutil.rmtree(folder)


@pytest.fixture
def out(job: Job) -> Iterator[Path]:
    """A place for an output on the disk of the models."""
    path = job.folder / "out"
    yield path
    shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(partial_of(path), ignore_errors=True)


@pytest.mark.parametrize("number", range(KILLS))
def test_killed_run_ends_in_the_same_bytes(number: int, job: Job, out: Path) -> None:
    """Laws 3 and 6: SIGKILL at a random instant; the same command again ends in the same files, byte for byte."""
    instant = random.Random(f"kill {number}").uniform(0.1, job.seconds)
    process = start(job.command(out))
    time.sleep(instant)
    process.kill()
    process.communicate()
    if out.exists():
        # All done before the kill, or refused as finished: both leave a whole output.
        assert file_digests(out) == job.digests
        return
    assert_partial_is_not_half_written(out, job.digests)
    known = len(journalled(out))
    finish(job.command(out))
    assert file_digests(out) == job.digests
    assert resumed(out) == known
    assert not partial_of(out).exists()


def test_run_killed_again_and_again_gets_done(job: Job, out: Path) -> None:
    """Law 6: every run adds to what the ones before it finished, until one is left with nothing to do."""
    known = 0
    for _ in range(4):
        goal = known + 8
        killed_after(lambda: len(journalled(out)) >= goal, job.command(out))  # noqa: B023
        assert_partial_is_not_half_written(out, job.digests)
        assert len(journalled(out)) >= goal
        known = len(journalled(out))
    finish(job.command(out))
    assert resumed(out) == known
    assert file_digests(out) == job.digests


def test_interrupted_run_resumes(job: Job, out: Path) -> None:
    """SIGINT: exit code 130 within a second, a message that says so, and the same command resumes."""
    process = start(job.command(out))
    wait_for(lambda: len(journalled(out)) >= 5, process)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert time.monotonic() - began < 1.0
    assert (process.returncode, stdout) == (130, "")
    said = [line for line in stderr.splitlines() if line]
    assert len(said) == 1, stderr
    assert said[0].startswith("error: interrupted")
    assert "again to resume" in said[0]
    assert not out.exists()
    assert_partial_is_not_half_written(out, job.digests)
    known = len(journalled(out))
    finish(job.command(out))
    assert resumed(out) == known >= 5
    assert file_digests(out) == job.digests


@pytest.mark.parametrize("wait", [0.0, 0.05, 0.1, 0.15, 0.2, 0.3])
def test_interrupt_at_any_time_is_clean(wait: float, job: Job, out: Path) -> None:
    """SIGINT before the work has begun ends just as well, and after it is done: nothing that looks whole and is not."""
    process = start(job.command(out))
    time.sleep(wait)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    process.communicate(timeout=PATIENCE)
    assert time.monotonic() - began < 1.0
    if process.returncode == 0:
        # Python has lost the interrupt on its own way up, as it may before it runs us; then all is done.
        assert file_digests(out) == job.digests
        return
    # Python itself is interrupted before it has started to look: then it is the signal that ends it.
    assert process.returncode in (130, -signal.SIGINT, 1)
    if out.exists():
        # The signal came between the publishing and the end of the process.
        assert file_digests(out) == job.digests
        return
    assert_partial_is_not_half_written(out, job.digests)


def test_sigint_while_a_resume_is_checked(job: Job, out: Path) -> None:
    """Interrupted while it reads back what is done, a run forgets nothing of it."""
    killed_after(lambda: len(journalled(out)) >= 20, job.command(out))
    known = len(journalled(out))

    def at_once(*_: int) -> None:
        raise KeyboardInterrupt

    settings = suture.Settings(threads=2, chunk="64KiB", shard_size="20MB")
    with pytest.raises(KeyboardInterrupt):
        suture.merge(job.folder / "ties.yml", out, settings=settings, progress=at_once)
    assert len(journalled(out)) >= known
    finish(job.command(out))
    assert resumed(out) >= known
    assert file_digests(out) == job.digests


def test_damage_to_finished_work_is_found(job: Job, out: Path) -> None:
    """Law 6: what the journal calls finished is believed only after it is read back; one flipped bit is found."""
    killed_after(lambda: len(journalled(out)) >= 6, job.command(out))
    done = journalled(out)
    dry = subprocess.run([*job.command(out), "--dry-run", "--json"], capture_output=True, text=True, check=True)
    plan = json.loads(dry.stdout)
    for entry in (done[0], done[3]):
        tensor = plan["tensors"][entry["tensor"]]
        with (partial_of(out) / plan["shards"][tensor["shard"]]["file"]).open("r+b") as file:
            file.seek(tensor["offset"] + 2 * tensor["shape"][0] - 1)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))
    finish(job.command(out))
    assert resumed(out) == len(done) - 2
    assert file_digests(out) == job.digests


@pytest.mark.parametrize("damage", ["torn", "nonsense", "empty", "missing_shard", "short_shard", "no_journal"])
def test_damaged_partial_folder_does_no_harm(damage: str, job: Job, out: Path) -> None:
    """Law 6: a journal or shard in any state costs at most the work; the bytes in the end are the same."""
    killed_after(lambda: len(journalled(out)) >= 6, job.command(out))
    journal = partial_of(out) / ".suture-journal"
    shard = next(partial_of(out).glob("*-00001-of-*.safetensors"))
    if damage == "torn":
        journal.write_bytes(journal.read_bytes()[:-9])
    elif damage == "nonsense":
        number = {"tensor": 10**6, "digest": "", "inputs": []}
        lines = ["null\n", "{}\n", '{"tensor": -1}\n', json.dumps(number) + "\n", "\udcff\n"]
        with journal.open("a", errors="surrogateescape") as file:
            file.writelines(lines)
    elif damage == "empty":
        journal.write_bytes(b"")
    elif damage == "missing_shard":
        shard.unlink()
    elif damage == "short_shard":
        os.truncate(shard, 100)
    else:
        journal.unlink()
    finish(job.command(out))
    assert file_digests(out) == job.digests
    assert not partial_of(out).exists()


@pytest.mark.parametrize("what", ["data", "recipe", "shards", "seed"])
def test_changed_work_starts_over(what: str, job: Job, out: Path, tmp_path: Path) -> None:
    """Law 6: nothing done for other inputs or another plan is taken over."""
    models = job.models
    if what == "data":
        models = tuple(shutil.copytree(model, tmp_path / model.name) for model in models)
    config = write_config(tmp_path / "ties.yml", models)
    arguments, fresh = command(config, out), command(config, tmp_path / "fresh")
    killed_after(lambda: len(journalled(out)) >= 6, arguments)
    if what == "data":
        for shard in models[1].glob("*.safetensors"):
            content = bytearray(shard.read_bytes())
            content[-4000::2] = bytes(b ^ 1 for b in content[-4000::2])
            shard.write_bytes(content)
    elif what == "recipe":
        recipe = json.loads(config.read_text())
        recipe["parameters"]["density"] = 0.41
        write_json(config, recipe)
    else:
        change = ["--shard-size", "30MB"] if what == "shards" else ["--seed", "1"]
        arguments, fresh = arguments + change, fresh + change
    finish(arguments)
    finish(fresh)
    if what != "seed":
        assert resumed(out) == 0
    assert file_digests(out) == file_digests(tmp_path / "fresh")


def test_run_killed_before_its_last_steps(job: Job, out: Path) -> None:
    """Laws 3 and 6: killed once the last header is written, with side files, index and move still to come."""

    def headed() -> bool:
        # The run goes on meanwhile, and takes the folder away at the end.
        with suppress(OSError):
            for shard in (name for name in job.digests if name.endswith(".safetensors")):
                with (partial_of(out) / shard).open("rb") as file:
                    if file.read(8) == bytes(8):
                        return False
            return True
        return False

    process = start(job.command(out))
    while process.poll() is None and not headed():
        time.sleep(0.0005)
    process.kill()
    process.communicate()
    if not out.exists():
        assert_partial_is_not_half_written(out, job.digests)
        finish(job.command(out))
    assert file_digests(out) == job.digests


def test_how_it_is_done_may_change(job: Job, out: Path) -> None:
    """Law 3: a run may be resumed with other threads, chunks, memory and I/O; the bytes are the same."""
    killed_after(lambda: len(journalled(out)) >= 6, job.command(out))
    known = len(journalled(out))
    finish([*job.command(out), "--threads", "1", "--chunk", "16MiB", "--io", "pread", "--memory", "256MiB"])
    assert resumed(out) == known
    assert file_digests(out) == job.digests


def test_nan_let_through_by_one_run_is_not_by_the_next(tmp_path: Path) -> None:
    """Law 7: what a run with --nan allow has written is checked when the run is resumed without."""
    tensors = {f"t{i}": np.ones(2**22, np.float32) for i in range(6)}
    one = write_checkpoint(tmp_path / "one", tensors)
    tensors["t0"] = tensors["t0"].copy()
    tensors["t0"][77] = np.nan
    two = write_checkpoint(tmp_path / "two", tensors)
    models = [{"model": str(m), "parameters": {"weight": 1}} for m in (one, two)]
    recipe = {"merge_method": "linear", "models": models}
    out = tmp_path / "out"

    def stop(*_: int) -> None:
        if any(entry["tensor"] == 0 for entry in journalled(out)):
            raise KeyboardInterrupt

    slow = {"threads": 1, "chunk": "4KiB"}
    with pytest.raises(KeyboardInterrupt):
        suture.merge(recipe, out, settings=suture.Settings(nan="allow", **slow), progress=stop)  # type: ignore[arg-type]
    with pytest.raises(suture.SutureError, match=r"`t0`.* element 77 "):
        suture.merge(recipe, out)
    assert not out.exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_killed_overwrite_keeps_an_output(overwrite: bool, job: Job, out: Path) -> None:
    """Law 6: killed at any instant while it replaces an output, OUT is the old one or the new one, whole."""
    arguments = job.command(out)
    old = write_checkpoint(out, {"a": np.ones(3, np.float32)}, config={"old": True})
    before = file_digests(old)
    chance = random.Random(f"overwrite {overwrite}")
    for _ in range(4):
        process = start([*arguments, *["--overwrite"] * overwrite])
        time.sleep(chance.uniform(0.2, 1.05 * job.seconds))
        process.kill()
        process.communicate()
        assert file_digests(out) in ([before, job.digests] if overwrite else [before])
    if overwrite:
        finish([*arguments, "--overwrite"])
        assert file_digests(out) == job.digests
        assert not partial_of(out).exists()


def test_a_run_that_reads_gram_matrices_is_resumed(tmp_path: Path) -> None:
    """Laws 3 and 6: killed, it goes on from what is done; where Gram matrices have changed it begins anew."""
    rng = np.random.default_rng(3)
    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(24)]
    listed = []
    for label in ("one", "two"):
        weights = {n: rng.standard_normal((40, 500)).astype(np.float32) for n in names}
        inputs = {n: rng.standard_normal((600, 500)).astype(np.float32) for n in names}
        model, beside = (tmp_path / part / label for part in ("models", "grams"))
        write_checkpoint(model, weights)
        write_checkpoint(beside, {n: x.T @ x for n, x in inputs.items()})
        listed.append({"model": str(model), "parameters": {"gram": str(beside)}})
    config = write_json(tmp_path / "c.yml", {"merge_method": "regmean", "models": listed})
    finish(command(config, tmp_path / "undisturbed"))
    digests = file_digests(tmp_path / "undisturbed")
    out = tmp_path / "out"
    killed_after(lambda: len(journalled(out)) >= 2, command(config, out))
    known = len(journalled(out))
    finish(command(config, out))
    assert (resumed(out), file_digests(out)) == (known, digests)
    other = tmp_path / "other"
    killed_after(lambda: len(journalled(other)) >= 2, command(config, other))
    write_checkpoint(tmp_path / "grams" / "two", {n: np.eye(500, dtype=np.float32) for n in names})
    finish(command(config, other))
    found = file_digests(other)
    assert resumed(other) == 0
    assert found.keys() == digests.keys()
    assert found["suture.json"] != digests["suture.json"]
