"""Nothing that is already there is lost, and nothing half-written looks whole, whatever stands in OUT's way."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..support.checkpoints import Raw, encode, llama_family, read_checkpoint, tree_digest, write_checkpoint

MIB = 1 << 20
LARGE = 4 * MIB


@pytest.fixture(autouse=True)
def tidy(tmp_path: Path) -> Iterator[None]:
    """Outputs are large; none is kept."""
    yield
    shutil.rmtree(tmp_path)


def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command line, as a user starts it."""
    command = [sys.executable, "-m", "suture", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


def copy(source: Path) -> dict[str, Any]:
    """The simplest recipe: one model as it is."""
    return {"merge_method": "passthrough", "models": [{"model": str(source)}]}


def swap(into: Path, donor: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """A swap of layer 0."""
    return run("swap", "--into", into, "--from", donor, out, "--layers", "0", *options)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, with what files hold."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def assert_failed(done: subprocess.CompletedProcess[str], *says: str) -> None:
    """Exit code 1, nothing on stdout, one `error:` line that says all of `says`."""
    if "Traceback" in done.stderr:
        pytest.fail("traceback: " + done.stderr.splitlines()[-1], pytrace=False)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1), done.stderr
    assert done.stderr.startswith("error: ")
    for text in says:
        assert text in done.stderr, f"`{text}` is not in: {done.stderr}"


@pytest.fixture
def family(tmp_path: Path) -> tuple[Path, Path]:
    """A recipient in three shards and a donor, of four tiny layers."""
    sizes: dict[str, Any] = {"layers": 4, "hidden": 16, "heads": 2, "kv_heads": 1, "ff": 24, "vocab": 20}
    into, donor = llama_family(tmp_path / "models", n=1, shards=(3, 1), **sizes)
    return into, donor


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A checkpoint of 64 tensors, 16 MiB in all, with a tokenizer of 4 MiB."""
    rng = np.random.default_rng(0)
    tensors = {f"t{i:02}": encode(rng.normal(size=2**17), "BF16") for i in range(64)}
    folder = write_checkpoint(tmp_path / "models" / "large", tensors)
    (folder / "tokenizer.json").write_text(" " * LARGE)
    return folder


def test_existing_output_is_kept(family: tuple[Path, Path], tmp_path: Path) -> None:
    """Law 6: rerunning over a finished output is refused before any work, and nothing in it changes."""
    assert swap(*family, tmp_path / "out").returncode == 0
    before = contents(tmp_path)
    assert_failed(swap(*family, tmp_path / "out"), str(tmp_path / "out"), "--overwrite")
    assert contents(tmp_path) == before


def test_overwrite_leaves_no_stale_shard(family: tuple[Path, Path], tmp_path: Path) -> None:
    """Law 6: --overwrite replaces the folder; no shard, index or side file of the old output survives."""
    out = tmp_path / "out"
    (family[0] / "old_template.jinja").write_text("old")
    assert swap(*family, out).returncode == 0
    (family[0] / "old_template.jinja").unlink()
    assert (out / "old_template.jinja").exists()
    assert sorted(p.name for p in out.glob("*.safetensors*"))[-1] == "model.safetensors.index.json"
    assert swap(*family, out, "--shard-size", "1GB", "--overwrite").returncode == 0
    assert [p.name for p in out.glob("*safetensors*")] == ["model.safetensors"]
    assert not (out / "old_template.jinja").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["models", "out"]
    assert suture.verify(out)["differing"] == []


def test_overwrite_replaces_a_downloaded_checkpoint(family: tuple[Path, Path], tmp_path: Path) -> None:
    """--overwrite also replaces a checkpoint that suture did not write."""
    out = shutil.copytree(family[1], tmp_path / "out")
    assert swap(*family, out, "--overwrite").returncode == 0
    assert suture.verify(out)["differing"] == []


def test_failed_overwrite_keeps_the_old_output(family: tuple[Path, Path], tmp_path: Path) -> None:
    """Law 6: until the new output is whole the old one stands."""
    into, donor = family
    out = tmp_path / "out"
    assert swap(into, donor, out).returncode == 0
    before = contents(out)
    broken = read_checkpoint(donor)
    name = "model.layers.0.mlp.up_proj.weight"
    broken[name] = Raw("BF16", broken[name].shape, b"\xff" * len(broken[name].data))
    write_checkpoint(tmp_path / "broken", broken)
    assert_failed(swap(into, tmp_path / "broken", out, "--overwrite"), name)
    assert contents(out) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_foreign_folder_is_kept(overwrite: bool, family: tuple[Path, Path], tmp_path: Path) -> None:
    """Law 6: a folder that is no checkpoint is never deleted, --overwrite or not."""
    out = tmp_path / "out"
    (out / "photos").mkdir(parents=True)
    (out / "photos" / "a.jpg").write_bytes(b"a")
    (out / "config.json").write_text("{}")
    before = contents(tmp_path)
    assert_failed(swap(*family, out, *["--overwrite"] * overwrite), str(out))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("written_by", ["suture", "somebody"])
def test_foreign_files_in_a_checkpoint_are_kept(
    kind: str, written_by: str, family: tuple[Path, Path], tmp_path: Path
) -> None:
    """Law 6: --overwrite replaces checkpoints; what a user put beside the weights is not its to delete."""
    out = tmp_path / "out"
    if written_by == "suture":
        assert swap(*family, out).returncode == 0
    else:
        shutil.copytree(family[1], out)
    if kind == "file":
        (out / "results.xlsx").write_bytes(b"weeks of work")
    else:
        (out / "runs").mkdir()
        (out / "runs" / "notes.txt").write_text("weeks of work")
    before = contents(tmp_path)
    assert_failed(swap(*family, out, "--overwrite"), str(out))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_output_is_a_file(overwrite: bool, family: tuple[Path, Path], tmp_path: Path) -> None:
    """A file in OUT's place stays."""
    (tmp_path / "out").write_text("mine")
    assert_failed(swap(*family, tmp_path / "out", *["--overwrite"] * overwrite), "out", "not a folder")
    assert (tmp_path / "out").read_text() == "mine"
    assert_failed(swap(*family, tmp_path / "out" / "below"), "out", "not a folder")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["models", "out"]


@pytest.mark.parametrize(
    "out",
    ["models/base", "models/base/merged", "models/tuned-1/a/b", "models", ".", "models/x/../base", "link", "link/x"],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_output_entangled_with_an_input(out: str, overwrite: bool, family: tuple[Path, Path], tmp_path: Path) -> None:
    """Law 6: OUT in an input, or an input in OUT, by whatever path, is refused: inputs are never written to."""
    (tmp_path / "link").symlink_to(family[0])
    before = contents(tmp_path)
    done = run(
        "swap", "--into", "models/base", "--from", "models/tuned-1", out, "--layers", "0",
        *["--overwrite"] * overwrite, cwd=tmp_path,
    )  # fmt: skip
    assert_failed(done, "error: ")
    assert contents(tmp_path) == before


def test_output_entangled_with_a_lone_file(tmp_path: Path) -> None:
    """The same for an input that is a single file: its folder is not replaced."""
    folder = write_checkpoint(tmp_path / "model", {"a": np.ones(3, np.float32)})
    before = contents(tmp_path)
    with pytest.raises(suture.SutureError, match="overlaps the input"):
        suture.merge(copy(folder / "model.safetensors"), folder, settings=suture.Settings(overwrite=True))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("target", ["empty", "nowhere"])
def test_output_is_a_link(target: str, family: tuple[Path, Path], tmp_path: Path) -> None:
    """Laws 6 and 8: a link in OUT's place is written through or replaced, or refused before the work."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "out").symlink_to(target)
    before = contents(tmp_path)
    done = swap(*family, tmp_path / "out")
    if done.returncode == 0:
        assert suture.verify(tmp_path / "out")["differing"] == []
    else:
        assert_failed(done, str(tmp_path / "out"))
        assert contents(tmp_path) == before


def test_overwrite_through_a_link_keeps_its_target(family: tuple[Path, Path], tmp_path: Path) -> None:
    """Law 6: replacing a link to a checkpoint leaves that checkpoint whole, or replaces it, never half of it."""
    kept = shutil.copytree(family[1], tmp_path / "kept")
    (tmp_path / "out").symlink_to("kept")
    done = swap(*family, tmp_path / "out", "--overwrite")
    if done.returncode == 0:
        assert suture.verify(tmp_path / "out")["differing"] == []
        assert contents(kept) == contents(family[1]) or suture.verify(kept)["differing"] == []
    else:
        assert_failed(done, str(tmp_path / "out"))
        assert contents(kept) == contents(family[1])


def test_parents_are_made(family: tuple[Path, Path], tmp_path: Path) -> None:
    """Missing folders above OUT are made; an empty OUT counts as free."""
    assert swap(*family, tmp_path / "a" / "b" / "out").returncode == 0
    (tmp_path / "empty").mkdir()
    assert swap(*family, tmp_path / "empty").returncode == 0
    assert tree_digest(tmp_path / "empty") == tree_digest(tmp_path / "a" / "b" / "out")
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == ["out"]


@pytest.mark.parametrize("out", ["", "/", "..", "/proc/suture-out", "/dev/null"])
def test_places_that_cannot_be_written(out: str, family: tuple[Path, Path], tmp_path: Path) -> None:
    """A place where no folder can be made is an error in one line, with nothing left in the current folder."""
    before = contents(tmp_path)
    done = run("swap", "--into", family[0], "--from", family[1], out, "--layers", "0", cwd=tmp_path)
    assert_failed(done, "error: ")
    assert contents(tmp_path) == before


@contextmanager
def mounted(folder: Path, *arguments: str) -> Iterator[Path]:
    """A file system mounted for a while; skips where this user or system may not mount."""
    folder.mkdir()
    try:
        done = subprocess.run(["mount", *arguments, str(folder)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"cannot mount here: {done.stderr.strip()}")
    except OSError as e:
        pytest.skip(f"cannot mount here: {e}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


def tmpfs(folder: Path, options: str) -> Any:
    """A small file system in memory."""
    return mounted(folder, "-t", "tmpfs", "-o", options, "tmpfs")


def test_read_only_disk(family: tuple[Path, Path], tmp_path: Path) -> None:
    """A disk that cannot be written is told before any work, for root as for everyone."""
    with tmpfs(tmp_path / "disk", "ro,size=1m") as disk:
        assert_failed(swap(*family, disk / "out"), str(disk), "written to")
        assert_failed(swap(*family, disk / "a" / "out"), str(disk), "written to")


def test_disk_too_small(large: Path, tmp_path: Path) -> None:
    """A disk with too little room is refused in the plan, with the figures, before a byte is written."""
    with tmpfs(tmp_path / "disk", "size=8m") as disk:
        with pytest.raises(suture.SutureError, match=r"needs \d+ bytes of disk, \d+ are free"):
            suture.merge(copy(large), disk / "out")
        assert list(disk.iterdir()) == []


def test_disk_full_before_the_side_files(large: Path, tmp_path: Path) -> None:
    """Law 6: room for the weights but not for the tokenizer is no output; with more room the same command works."""
    with tmpfs(tmp_path / "disk", "size=18m") as disk:
        with pytest.raises(suture.SutureError, match=r"(?i)space|room|full|free"):
            suture.merge(copy(large), disk / "out")
        assert not (disk / "out").exists()
        subprocess.run(["mount", "-o", "remount,size=40m", str(disk)], check=True)
        suture.merge(copy(large), disk / "out")
        assert [p.name for p in disk.iterdir()] == ["out"]
        assert read_checkpoint(disk / "out") == read_checkpoint(large)
        assert (disk / "out" / "tokenizer.json").stat().st_size == LARGE


def test_disk_full_on_the_way(large: Path, tmp_path: Path) -> None:
    """Law 6: a disk that fills up during the run ends it in an error; with room again the same command resumes.

    On a file system that cannot reserve room beforehand (ext2), filled by somebody else meanwhile.
    """
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(40 * MIB)
    try:
        subprocess.run(["mkfs.ext2", "-q", "-F", str(image)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as e:
        pytest.skip(f"no ext2 here: {e}")
    with mounted(tmp_path / "disk", "-o", "loop", str(image)) as disk:

        def fill(*_: int) -> None:
            with suppress(OSError), (disk / "somebody").open("ab") as file:
                while True:
                    os.write(file.fileno(), bytes(MIB))

        slow = suture.Settings(threads=1, chunk="4KiB", io="pread")
        with pytest.raises(suture.SutureError, match="full"):
            suture.merge(copy(large), disk / "out", settings=slow, progress=fill)
        assert not (disk / "out").exists()
        with pytest.raises(suture.SutureError):
            suture.open(disk / ".out.suture-partial")
        (disk / "somebody").unlink()
        suture.merge(copy(large), disk / "out", settings=slow)
        assert read_checkpoint(disk / "out") == read_checkpoint(large)


def test_file_size_limit(large: Path, tmp_path: Path) -> None:
    """A limit on file sizes is an error like a full disk, for any user."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8 * MIB, 8 * MIB))

    config = tmp_path / "copy.yml"
    config.write_text(f"merge_method: passthrough\nmodels: [{{model: '{large}'}}]\n")
    assert_failed(run("merge", config, tmp_path / "out", preexec_fn=limit), "model.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy.yml", "models"]


SLOW = suture.Settings(threads=1, chunk="4KiB")


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A merge that lasts for several looks at its progress."""
    folder, rng = tmp_path_factory.mktemp("slow"), np.random.default_rng(1)
    sizes = [2**22] * 3 + [1000] * 20
    for name in ("base", "one", "two"):
        tensors = {f"t{i:02}": encode(rng.standard_normal(n, np.float32), "BF16") for i, n in enumerate(sizes)}
        write_checkpoint(folder / name, tensors)
    return {
        "merge_method": "ties",
        "base_model": str(folder / "base"),
        "models": [{"model": str(folder / name)} for name in ("one", "two")],
        "parameters": {"weight": 1, "density": 0.3},
    }


def once(action: Callable[[], None]) -> tuple[Callable[[int, int], None], list[int]]:
    """A progress callback that acts on its first call, and the list of what it saw."""
    seen: list[int] = []

    def progress(done: int, total: int) -> None:
        seen.append(done)
        if len(seen) == 1:
            assert done < total, "the run is over too soon for this test"
            action()

    return progress, seen


def test_two_runs_on_one_output(slow: dict[str, Any], tmp_path: Path) -> None:
    """Law 6: a second run on the same OUT is refused while the first lasts, and does not disturb it."""
    out = tmp_path / "out"
    refused: list[str] = []

    def second() -> None:
        for overwrite in (False, True):
            with pytest.raises(suture.SutureError) as caught:
                suture.merge(slow, out, settings=suture.Settings(overwrite=overwrite))
            refused.append(str(caught.value))

    progress, _ = once(second)
    suture.merge(slow, out, settings=SLOW, progress=progress)
    assert len(refused) == 2
    for message in refused:
        assert str(out) in message
        assert "another run is writing it" in message
    assert suture.verify(out)["differing"] == []
    suture.merge(slow, tmp_path / "again")
    assert read_checkpoint(out) == read_checkpoint(tmp_path / "again")


@pytest.mark.parametrize("kind", ["folder", "file", "checkpoint"])
def test_what_appears_meanwhile_is_kept(kind: str, slow: dict[str, Any], tmp_path: Path) -> None:
    """Law 6: what somebody else puts in OUT's place during a run without --overwrite is not deleted."""
    out, checkpoint = tmp_path / "out", Path(slow["base_model"])

    def appear() -> None:
        if kind == "file":
            out.write_text("mine")
        elif kind == "checkpoint":
            shutil.copytree(checkpoint, out)
        else:
            out.mkdir()
            (out / "mine.txt").write_text("mine")

    progress, _ = once(appear)
    with pytest.raises(suture.SutureError, match=r"out"):
        suture.merge(slow, out, settings=SLOW, progress=progress)
    if kind == "file":
        assert out.read_text() == "mine"
    elif kind == "checkpoint":
        assert contents(out) == contents(checkpoint)
    else:
        assert contents(out) == {"mine.txt": b"mine"}


@pytest.mark.parametrize("shards", [1, 3])
def test_partial_folder_never_opens_half_written(shards: int, slow: dict[str, Any], tmp_path: Path) -> None:
    """Law 6: looked at all the time, the work in progress opens as a checkpoint only once every tensor is whole."""
    out, partial = tmp_path / "out", tmp_path / ".out.suture-partial"
    opened: list[dict[str, Raw]] = []
    failures: list[str] = []
    ended = threading.Event()

    def look(*_: int) -> None:
        with suppress(OSError, ValueError, KeyError):
            # By its descriptor the folder stays the same when it is renamed while it is read.
            held = os.open(partial, os.O_DIRECTORY)
            try:
                place = Path(f"/proc/self/fd/{held}")
                suture.open(place)
                opened.append(read_checkpoint(place))
            except suture.SutureError as e:
                failures.append(str(e))
            finally:
                os.close(held)

    def watch() -> None:
        while not ended.is_set():
            look()

    looker = threading.Thread(target=watch)
    looker.start()
    try:
        size = None if shards == 1 else "9MB"
        how = suture.Settings(threads=1, chunk="4KiB", shard_size=size)
        # However fast the run, its progress is told before it is published.
        suture.merge(slow, out, settings=how, progress=look)
    finally:
        ended.set()
        looker.join()
    assert any("header" in failure or "bytes" in failure for failure in failures), failures[:5]
    whole = read_checkpoint(out)
    for found in opened:
        assert found == whole
