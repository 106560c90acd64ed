"""Whatever goes wrong once the last tensor is made, OUT is whole or absent, and the same command takes up all of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import suture

from ..support import faulty
from ..support.checkpoints import llama_family, read_checkpoint, tree_digest
from ..support.refusals import listing, refusal

SHAPE: dict[str, Any] = {"layers": 2, "hidden": 16, "heads": 2, "kv_heads": 1, "ff": 24, "vocab": 12}
NOBODY = 65534


@pytest.fixture
def models(place: Path) -> list[Path]:
    """A base in two shards and two fine-tunes, with a config and a tokenizer."""
    found = llama_family(place / "models", n=2, shards=(2, 1, 1), **SHAPE)
    for path in found:
        (path / "tokenizer.json").write_text("{}")
    return found


def job(verb: str, models: list[Path], out: Path, **settings: Any) -> dict[str, Any]:
    """A merge or a swap, as data."""
    told: dict[str, Any] = {"out": str(out), "settings": {"threads": 2, **settings}}
    if verb == "swap":
        return told | {"swap": {"into": str(models[0]), "donor": str(models[1]), "layers": [1]}}
    entries = [{"model": str(m), "parameters": {"weight": 0.5}} for m in models[1:]]
    return told | {"config": {"merge_method": "ties", "base_model": str(models[0]), "models": entries}}


def run(told: dict[str, Any], progress: Callable[[int, int], None] | None = None) -> suture.Report:
    """The job, in this process."""
    settings = suture.Settings(**told["settings"])
    if "swap" in told:
        return suture.swap(**told["swap"], out=told["out"], settings=settings, progress=progress)
    return suture.merge(told["config"], told["out"], settings=settings, progress=progress)


def whole(out: Path, *, hurt: bool = False) -> bool:
    """Whether an output is all that its report lists, to the byte, and nothing else.

    Of a run that was `hurt` after it had put the output into place, the journal may be left.
    """
    record = json.loads((out / "suture.json").read_text())
    found = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    found = [name for name in found if not (hurt and name == ".suture-journal")]
    return found == sorted(record["files"]) and suture.verify(out)["differing"] == []


def assert_resumes_all(told: dict[str, Any], place: Path) -> None:
    """The same command makes nothing again, ends in the right bytes, and leaves nothing else."""
    out = Path(told["out"])
    report = run(told)
    assert whole(out)
    count = len(read_checkpoint(out))
    assert (report.data["run"]["tensors_resumed"], count) == (count, count)
    run(told | {"out": str(place / "again")})
    assert tree_digest(place / "again") == tree_digest(out)
    left = {p.name for p in place.iterdir()} - {"models", "again", out.name}
    assert left == set()


def intrude(kind: str, out: Path) -> None:
    """Put something in the place of an output."""
    if kind == "file":
        out.write_text("mine")
    elif kind == "link":
        out.symlink_to("nowhere")
    else:
        out.mkdir()
        (out / "mine.txt").write_text("mine")


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
@pytest.mark.parametrize("verb", ["merge", "swap"])
def test_what_appears_in_the_place_of_an_output(
    verb: str, kind: str, overwrite: bool, models: list[Path], place: Path
) -> None:
    """Law 6: it is kept, the run ends in an error, and once it is gone the same command resumes N of N."""
    told, out = job(verb, models, place / "out", overwrite=overwrite), place / "out"

    def meanwhile(*_: int) -> None:
        if not (out.exists() or out.is_symlink()):
            intrude(kind, out)

    error = refusal(run, told, meanwhile)
    assert error is not None, "the intruder was replaced"
    assert str(out) in error
    if kind == "folder":
        assert listing(out) == {"mine.txt": b"mine"}
        shutil.rmtree(out)
    else:
        assert out.is_symlink() if kind == "link" else out.read_text() == "mine"
        out.unlink()
    assert_resumes_all(told, place)


@pytest.mark.parametrize("verb", ["merge", "swap"])
def test_notes_that_appear_in_an_output_to_be_overwritten(verb: str, models: list[Path], place: Path) -> None:
    """Law 6: what a user puts into the old output during the run is kept; without it the run resumes N of N."""
    told, out = job(verb, models, place / "out", overwrite=True), place / "out"
    run(told)
    before = listing(out)

    def meanwhile(*_: int) -> None:
        (out / "notes.txt").write_text("mine")

    assert refusal(run, told, meanwhile) is not None
    assert listing(out) == before | {"notes.txt": b"mine"}
    (out / "notes.txt").unlink()
    assert_resumes_all(told, place)


@pytest.mark.parametrize("verb", ["merge", "swap"])
def test_a_side_file_that_cannot_be_copied(verb: str, models: list[Path], place: Path) -> None:
    """Law 6: a tokenizer that is gone when it is to be copied ends the run; put back, N of N are resumed."""
    told, out, away = job(verb, models, place / "out"), place / "out", place / "models" / "away"

    def meanwhile(*_: int) -> None:
        if not away.exists():
            (models[0] / "tokenizer.json").rename(away)

    if refusal(run, told, meanwhile) is None:
        # It had been read by then.
        assert (out / "tokenizer.json").read_text() == "{}"
        return
    assert not out.exists()
    away.rename(models[0] / "tokenizer.json")
    assert_resumes_all(told, place)


KINDS = ("fsync", "fdatasync", "rename", "unlink", "create", "truncate", "write", "copy", "mkdir")


@pytest.mark.skipif(not faulty.known(), reason="the system calls of this machine are not known here")
@pytest.mark.parametrize("kill", [False, True], ids=["EIO", "kill"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["merge", "swap", "overwriting"])
def test_any_system_call_that_fails_at_the_end(
    form: str, kind: str, kill: bool, models: list[Path], place: Path
) -> None:
    """Law 6: a call of any kind fails, or the process dies in it, once all is made: the rest is taken up, N of N."""
    out, verb = place / "out", "swap" if form == "swap" else "merge"
    told = job(verb, models, out, overwrite=form == "overwriting")
    before: dict[str, Any] = {}
    if form == "overwriting":
        run(job("swap", models, out))
        before = listing(out)
    done = faulty.run(told | {"kind": kind, "kill": kill})
    assert done.returncode in ((0, -31) if kill else (0, 1)), (done.returncode, done.stderr)
    if done.returncode == 0 or (out.exists() and listing(out) != before):
        # No such call was made, it was no matter, or it came when the new output was in its place already.
        assert whole(out, hurt=True)
        return
    assert listing(out) == before if before else not out.exists()
    assert_resumes_all(told, place)


@pytest.mark.parametrize("verb", ["merge", "swap"])
def test_a_folder_that_can_no_longer_be_written_to(verb: str, models: list[Path], place: Path) -> None:
    """Law 6: a parent made read-only at the end is an error; writable again, N of N are resumed."""
    parent = place / "parent"
    parent.mkdir()
    told = job(verb, models, parent / "out") | {"shut": str(parent)}
    if os.geteuid() == 0:
        # Root may write anywhere: be somebody else.
        for path in [place, *place.rglob("*")]:
            os.chown(path, NOBODY, NOBODY)
        told |= {"user": NOBODY}
    done = faulty.run(told)
    parent.chmod(0o777)
    if done.returncode not in (0, 1, 3):
        pytest.skip(f"cannot be run as another user: {done.stderr}")
    assert (done.returncode, (parent / "out").exists()) == (1, False), done.stderr
    report = run({k: v for k, v in told.items() if k not in ("shut", "user")})
    assert whole(parent / "out")
    assert report.data["run"]["tensors_resumed"] == len(read_checkpoint(parent / "out"))


@pytest.mark.parametrize("what", ["error=EIO", "signal=SIGKILL"])
@pytest.mark.parametrize("where", ["staging", "parent"])
def test_a_folder_that_cannot_be_synced(where: str, what: str, models: list[Path], place: Path) -> None:
    """Law 6: neither the folder's own sync nor that of the one around it loses what is made."""
    strace, out = shutil.which("strace"), place / "out"
    if strace is None:
        pytest.skip("strace is not there")
    told, path = job("swap", models, out), place if where == "parent" else place / ".out.suture-partial"
    swap = ["--into", models[0], "--from", models[1], out, "--layers", "1", "--threads", "2"]
    call = [strace, "-f", "-o", "/dev/null", "-P", path, "-e", f"inject=fsync,fdatasync:{what}"]
    call += [sys.executable, "-m", "suture", "swap", *swap]
    done = subprocess.run(list(map(str, call)), capture_output=True, text=True, timeout=60, check=False)
    if "ptrace" in done.stderr or "PTRACE" in done.stderr:
        pytest.skip("processes cannot be traced here")
    if out.exists():
        assert whole(out, hurt=done.returncode != 0)
        return
    assert done.returncode != 0
    assert_resumes_all(told, place)


STALE = ("model-00009-of-00009.safetensors", "adapter_model.safetensors", "evil.bin", "vocab.txt", "README.md")


def plant(folder: Path) -> None:
    """Put files that are nobody's into a folder."""
    folder.mkdir(exist_ok=True)
    for name in STALE:
        (folder / name).write_text("stale")
    (folder / "below").mkdir(exist_ok=True)
    (folder / "below" / "stale.json").write_text("{}")


@pytest.mark.parametrize("when", ["before", "during", "before the run that resumes"])
@pytest.mark.parametrize("verb", ["merge", "swap"])
def test_stale_files_in_the_staging_folder_are_not_published(
    verb: str, when: str, models: list[Path], place: Path
) -> None:
    """Law 6: what is published is what the report lists, whatever lay in the hidden folder."""
    told, out, staging = job(verb, models, place / "out"), place / "out", place / ".out.suture-partial"
    if when == "before":
        plant(staging)
        error = refusal(run, told)
    elif when == "during":
        error = refusal(run, told, lambda *_: plant(staging))
    else:

        def stop(*_: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(told, stop)
        plant(staging)
        error = refusal(run, told)
    if error is not None:
        assert not out.exists()
        assert ".out.suture-partial" in error
        return
    assert whole(out)


def test_the_file_that_a_killed_run_left_is_not_published(models: list[Path], place: Path) -> None:
    """Law 6: a shard of a plan that had more shards is not part of the next plan's output."""
    out, staging = place / "out", place / ".out.suture-partial"
    told = job("merge", models, out, shard_size=2000)
    assert len({p.name for p in run(told).out.glob("*.safetensors")}) > 1
    shutil.copytree(out, staging)
    shutil.rmtree(out)
    run(job("merge", models, out))
    assert whole(out)
