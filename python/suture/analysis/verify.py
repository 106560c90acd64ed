"""Whether an output is still what was written."""

from __future__ import annotations

import json
from os import PathLike, fspath
from typing import cast

from suture import _core
from suture.analysis.progress import scaled
from suture.checkpoint import Checkpoint
from suture.results import Verification
from suture.settings import Progress, Settings


def verify(
    out: str | PathLike[str], *, settings: Settings | None = None, progress: Progress | None = None
) -> Verification:
    """Read an output again and compare it with the digests in its suture.json.

    The result has ``tensors`` and ``bytes`` compared, ``differing``, the names of tensors that differ, and ``files``,
    those of files beside them that differ or are gone.

    Raises:
        SutureError: if there are no digests, or if they list other tensors than the checkpoint holds.
    """
    settings = settings or Settings()
    total = sum(t["nbytes"] for t in Checkpoint(out).describe()["tensors"]) if progress else 0
    found = _core.verify_json(fspath(out), settings.io, settings.thread_count, scaled(progress, total))
    return cast(Verification, {"schema": 1, **json.loads(found)})
