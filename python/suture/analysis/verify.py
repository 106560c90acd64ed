"""Whether an output is still what was written."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import cast

from suture import _core
from suture.analysis.progress import scaled
from suture.checkpoint import Checkpoint
from suture.errors import SutureError
from suture.recipe.config import OUTPUTS
from suture.reference import located
from suture.results import Verification
from suture.results.twin import EXPERTS, RECORD, SHARED, read_twin
from suture.settings import Progress, Settings


def verify(
    out: str | PathLike[str], *, settings: Settings | None = None, progress: Progress | None = None
) -> Verification:
    """Read an output again and compare it with the digests in its suture.json.

    The result has ``tensors`` and ``bytes`` read, ``unknown``, how many of the tensors have no digest, ``differing``,
    the names of tensors that differ, and ``files``, those of files beside them that differ or are gone. Of a folder of
    several outputs, which outputs.json lists, all are read, and of a twin the shared expert and every difference; what
    differs is named with its output in front, ``a/model.norm.weight``. Of a delta the tensors are those that it keeps
    its changes in.

    Raises:
        SutureError: if there are no digests, if they list other tensors than the checkpoint holds, or if an output is
            gone.
    """
    settings, out = settings or Settings(), located(out)
    if (names := _parts(Path(out))) is not None:
        found = [verify(Path(out) / name, settings=settings) for name in names]
        differing = [f"{n}/{t}" for n, one in zip(names, found, strict=True) for t in one["differing"]]
        files = [f"{n}/{f}" for n, one in zip(names, found, strict=True) for f in one["files"]]
        counted = {key: sum(f[key] for f in found) for key in ("tensors", "bytes", "unknown")}
        return cast(Verification, {"schema": 1, **counted, "differing": differing, "files": files})
    total = sum(t["nbytes"] for t in Checkpoint.stored(out).describe()["tensors"]) if progress else 0
    told = _core.verify_json(out, settings.io, settings.thread_count, scaled(progress, total))
    return cast(Verification, {"schema": 1, "unknown": _unknown(Path(out)), **json.loads(told)})


def _unknown(out: Path) -> int:
    """How many tensors of an output have no digest: nobody has read what a store copied by itself."""
    record = out / "suture.json"
    if not record.is_file():
        return 0
    text = record.read_bytes()
    if b'"digest": null' not in text:
        return 0
    return sum(tensor["digest"] is None for tensor in json.loads(text)["tensors"].values())


def _parts(folder: Path) -> list[str] | None:
    """The outputs that a folder of several is made of, as folders in it; None if it is one output."""
    if (folder / RECORD).is_file() and not (folder / "suture.json").exists():
        return [SHARED, *(f"{EXPERTS}/{expert['name']}" for expert in read_twin(folder)["experts"])]
    return _outputs(folder)


def _outputs(folder: Path) -> list[str] | None:
    """The outputs that a folder of several lists; None if it is no such folder.

    Raises:
        SutureError: if the list is none of suture's.
    """
    if not (folder / OUTPUTS).is_file() or (folder / "suture.json").exists():
        return None
    try:
        listed = json.loads((folder / OUTPUTS).read_bytes())["outputs"]
        names = [str(name) for name in listed if Path(name).name == name]
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise SutureError(f"{folder / OUTPUTS}: is not a list of outputs as suture writes it", path=folder) from e
    if not names or len(names) != len(listed):
        raise SutureError(f"{folder / OUTPUTS}: is not a list of outputs as suture writes it", path=folder)
    return names
