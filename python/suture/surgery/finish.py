"""Put the parts of an output together; join what a round of them has found."""

from __future__ import annotations

from os import PathLike

from suture.results.parts import Settlement
from suture.results.report import Report
from suture.settings import Progress, Settings
from suture.surgery import parts, parts_folder


def finish(
    out: str | PathLike[str],
    *,
    verify: bool = False,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Report:
    """Put the parts of the output `out` together, which were made with a `part` in the settings, and publish it.

    Args:
        out: the output.
        verify: read all shards again first, and compare them with their digests.
        settings: `overwrite` replaces what is there; how to read, for `verify`.
        progress: called with the bytes read and the bytes in all, for `verify`.

    Returns:
        the report, as of a run that made all by itself; ``run.parts`` tells which part was made where.

    Raises:
        SutureError: if a part is missing or damaged, or the output cannot be put in its place; the same call goes on.
    """
    return parts.finish(parts_folder.folder_of(out), verify=verify, settings=settings, progress=progress)


def settle(out: str | PathLike[str]) -> Settlement:
    """Join what all parts of the output `out` have found in a round; ``wanted`` tells whether another is to come.

    Raises:
        UsageError: if no round is to come.
        SutureError: if a part has not scanned, or an input has changed.
    """
    return parts.settle(parts_folder.folder_of(out))
