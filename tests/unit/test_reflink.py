"""On file systems that share blocks (XFS, btrfs) a swap writes only what it changes.

The file systems are made in files and mounted for the test. That takes root, loop devices and mkfs; where one
is missing the test is skipped and says so.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..reference.config import layer_of
from ..support.checkpoints import Raw, llama_shapes, read_checkpoint, write_checkpoint, write_file

IMAGE_BYTES = 400 * 2**20
MKFS = {"xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"], "btrfs": ["mkfs.btrfs", "-q"]}
LAYERS = 8


def tool(name: str) -> str | None:
    """Where a system tool is, also outside a user's PATH."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))


def attempt(*command: str) -> None:
    """Run a command of the system; skip the test where it does not work."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"{command[0]} does not work here: {(done.stderr or done.stdout).strip()}")


@pytest.fixture(scope="module", params=MKFS)
def volume(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty file system of its own."""
    kind: str = request.param
    command = MKFS[kind]
    mkfs = tool(command[0])
    if mkfs is None:
        pytest.skip(f"no {command[0]} on this system")
    if os.geteuid() != 0:
        pytest.skip("mounting takes root")
    folder = tmp_path_factory.mktemp(kind)
    image, place = folder / "image", folder / "mounted"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    attempt(mkfs, *command[1:], str(image))
    attempt("mount", "-t", kind, "-o", "loop", str(image), str(place))
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)
        image.unlink()


@pytest.fixture
def workplace(volume: Path) -> Iterator[Path]:
    place = volume / "work"
    place.mkdir()
    yield place
    shutil.rmtree(place)


def tensors(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Raw]:
    rng = np.random.default_rng(seed)
    return {
        name: Raw("BF16", shape, (rng.integers(0, 2**15 - 2**8, shape, dtype=np.uint16)).tobytes())
        for name, shape in shapes.items()
    }


def shared_bytes(path: Path) -> int | None:
    """Bytes of a file that the file system says it shares; None where the tool for it is missing."""
    filefrag = tool("filefrag")
    if filefrag is None:
        return None
    done = subprocess.run([filefrag, "-v", "-b1", str(path)], capture_output=True, text=True, check=True)
    found = 0
    for line in done.stdout.splitlines():
        extent = re.match(r"\s*\d+:\s*(\d+)\.\.\s*(\d+):", line)
        if extent and "shared" in line:
            found += int(extent[2]) - int(extent[1]) + 1
    return found


EVEN = llama_shapes(LAYERS, 256, 8, 4, 512, 1000, False)
# No tensor ends at the end of a block, and most are larger than a few blocks.
ODD = llama_shapes(LAYERS, 333, 9, 3, 515, 1001, False)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("shapes", [EVEN, ODD], ids=["blocks", "odd"])
@pytest.mark.parametrize("transition", [0, 1])
def test_a_swap_shares_what_it_copies(
    transition: int, shapes: dict[str, tuple[int, ...]], shards: int, workplace: Path
) -> None:
    """Law 2: moved as bytes, and the fastest way to move them is not to; the inputs stay as they are."""
    into = write_checkpoint(workplace / "into", tensors(shapes, 1), shards=shards)
    donor = write_checkpoint(workplace / "donor", tensors(shapes, 2), shards=shards)
    before = {path: path.read_bytes() for folder in (into, donor) for path in folder.iterdir()}
    report = suture.swap(into, donor, workplace / "out", bottom=2, top=1, transition=transition)

    own, other, found = (read_checkpoint(folder) for folder in (into, donor, workplace / "out"))
    taken, blended = {0, 1, LAYERS - 1}, {2, LAYERS - 2} if transition else set()
    copied = {name: (other if layer_of(name) in taken else own)[name] for name in own if layer_of(name) not in blended}
    assert {name: found[name] for name in copied} == copied
    assert sorted(found) == sorted(own)
    assert suture.verify(workplace / "out")["differing"] == []
    assert {path: path.read_bytes() for path in before} == before

    total = sum(len(raw.data) for raw in copied.values())
    claimed = report.data["run"]["bytes_shared"]
    assert 0.9 * total < claimed <= total
    on_disk = [shared_bytes(path) for path in (workplace / "out").glob("*.safetensors")]
    if None not in on_disk:
        assert sum(filter(None, on_disk)) >= claimed


@pytest.mark.parametrize("padding", [8, 1000, 4096, 5000])
def test_headers_of_other_sizes(padding: int, workplace: Path) -> None:
    """Sharing needs a common alignment: the recipient's tensors have it, a donor's may not, and all are right."""
    into = write_file(workplace / "into.safetensors", tensors(EVEN, 1))
    donor = write_file(workplace / "donor.safetensors", tensors(EVEN, 2), {"note": "x" * padding})
    phases = [8 + int.from_bytes(path.read_bytes()[:8], "little") for path in (into, donor)]
    report = suture.swap(into, donor, workplace / "out", bottom=2)
    own, other, found = (read_checkpoint(path) for path in (into, donor, workplace / "out"))
    assert found == {name: (other if layer_of(name) in (0, 1) else own)[name] for name in own}
    kept = sum(len(raw.data) for name, raw in own.items() if layer_of(name) not in (0, 1))
    total = sum(len(raw.data) for raw in own.values())
    aligned = (phases[0] - phases[1]) % 4096 == 0
    assert report.data["run"]["bytes_shared"] > 0.9 * (total if aligned else kept)


def test_an_odd_header_cannot_be_shared_but_is_read(workplace: Path) -> None:
    """A data section that starts at an odd byte has no alignment in common with a sound output: it is copied."""
    into = write_file(workplace / "into.safetensors", tensors(EVEN, 1))
    content = into.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].rstrip() + b" "
    header += b" " * (len(header) % 2 == 0)
    into.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    suture.swap(into, into, workplace / "out", bottom=1)
    assert read_checkpoint(workplace / "out") == read_checkpoint(into)
    (shard,) = (workplace / "out").glob("*.safetensors")
    assert int.from_bytes(shard.read_bytes()[:8], "little") % 8 == 0


@pytest.mark.parametrize("io", ["auto", "mmap", "pread", "direct"])
def test_every_back_end_gives_the_same_bytes(io: str, workplace: Path) -> None:
    """Law 3: sharing changes no byte, with any back end, and a merge shares as a swap does."""
    into = write_checkpoint(workplace / "into", tensors(ODD, 1), shards=2)
    donor = write_checkpoint(workplace / "donor", tensors(ODD, 2))
    settings = suture.Settings(io=io, chunk="64KiB")
    suture.swap(into, donor, workplace / "out", bottom=2, transition=1, settings=settings)
    elsewhere = workplace / "elsewhere"
    suture.swap(into, donor, elsewhere, bottom=2, transition=1, settings=suture.Settings(shard_size="300kB"))
    assert read_checkpoint(workplace / "out") == read_checkpoint(elsewhere)

    recipe: dict[str, Any] = {"merge_method": "passthrough", "models": [{"model": str(into)}]}
    report = suture.merge(recipe, workplace / "copy", settings=settings)
    own = read_checkpoint(into)
    assert read_checkpoint(workplace / "copy") == own
    assert report.data["run"]["bytes_shared"] > 0


def test_a_write_to_the_output_leaves_the_input_alone(workplace: Path) -> None:
    """Shared blocks are not shared files: changing the output in place changes no input."""
    into = write_file(workplace / "into.safetensors", tensors(EVEN, 1))
    before = into.read_bytes()
    suture.swap(into, into, workplace / "out", bottom=1)
    (shard,) = (workplace / "out").glob("*.safetensors")
    with shard.open("r+b") as file:
        file.seek(shard.stat().st_size // 2)
        file.write(b"\0" * 100_000)
    assert into.read_bytes() == before
