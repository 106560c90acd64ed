"""Room on disks: for all outputs of a config together, and for what is needed on the way."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from suture import temporary
from suture._core import staging_folder
from suture.errors import SutureError


def check_inputs(steps: Sequence[tuple[str, Path, list[Path]]]) -> list[SutureError]:
    """What is wrong with outputs that lie in inputs of other merges, or hold them.

    Args:
        steps: of each merge its name, its output, and the models it reads.
    """
    problems = []
    for name, place, _ in steps:
        target = place.resolve()
        for other, _, models in steps:
            for model in models if other != name else ():
                path = model.resolve()
                if target == path or target in path.parents or path in target.parents:
                    message = f"overlaps {model}, an input of `{other or 'the merge without a name'}`"
                    problems.append(SutureError(f"{place}: {message}; choose another output", place))
    return problems


def check_room(outputs: Sequence[tuple[Path, int]]) -> list[SutureError]:
    """What is wrong with the room on the disk for outputs that are made one after the other.

    Args:
        outputs: of each its folder, and the bytes that go there.
    """
    first = outputs[0][0].resolve()
    disk = os.statvfs(next(p for p in first.parents if p.exists()))
    free = disk.f_bavail * disk.f_frsize
    held = most = 0
    for place, size in outputs:
        # Room taken by an earlier run of the same output is room this run has.
        begun = staging_folder(str(place))
        free += 0 if begun is None else _taken(begun)
        most = max(most, held + size)
        # What was there goes when its successor is whole.
        held += size - _taken(place)
    if most <= free:
        return []
    message = f"the {len(outputs)} merges need {most} bytes of disk together, {free} are free; nothing was written"
    return [SutureError(f"{first.parent}: {message}", first.parent)]


def _taken(folder: Path) -> int:
    """Bytes on the disk of everything in a folder."""
    found = 0
    for inside, _, files in os.walk(folder):
        for name in files:
            try:
                found += os.lstat(os.path.join(inside, name)).st_blocks * 512
            except OSError:
                # Gone since it was listed.
                continue
    return found


@contextmanager
def temporary_folder() -> Iterator[str]:
    """A folder to work in that is gone at the end.

    Raises:
        SutureError: if none can be made.
    """
    try:
        folder = temporary.made("work")
    except OSError as e:
        raise SutureError(f"no temporary folder to work in: {e.strerror}; set TMPDIR to one") from None
    try:
        yield str(folder)
    finally:
        temporary.gone(folder)
