"""A job that is made in parts, as it lies in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, cast

from suture import _core
from suture.errors import SutureError
from suture.escape import shown
from suture.reference import stood_in
from suture.results.parts import Division, Manifest
from suture.surgery import parts_folder as at

#: Of settings, what decides what a part is: of one job all parts have the same.
SAME = ("nan", "device")


@dataclass(frozen=True)
class Parts:
    """A job in its folder.

    Attributes:
        folder: the folder.
        job: what job.json says.
    """

    folder: Path
    job: dict[str, Any]

    @property
    def count(self) -> int:
        """How many parts there are."""
        return int(self.job["parts"])

    @property
    def out(self) -> Path:
        """The output."""
        return at.out_of(self.folder)

    @cached_property
    def plan(self) -> _core.Plan:
        """The plan, of models at the paths that the job has.

        Raises:
            SutureError: if one is not there, or has changed.
        """
        path = self.folder / at.JOB / at.PLAN
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise SutureError(f"{path}: cannot be read ({e}); remove {self.folder} to begin anew", path) from None
        return _core.Plan.from_json(stood_in(text), True)

    def divide(self) -> list[Division]:
        """What each part reads and writes."""
        return cast("list[Division]", self.job["divided"])

    @property
    def rounds(self) -> int | None:
        """The number of the round that is to come next; None if parts can be made."""
        found = self.settled()
        return int(found["rounds"]) + 1 if found["wanted"] else None

    def settled(self) -> dict[str, Any]:
        """What rounds have settled so far.

        Raises:
            SutureError: if it is of another job.
        """
        found = at.read(self.folder / at.SETTLED)
        if found is None:
            return {"rounds": 0, "wanted": self.job["rounds"], "settled": None}
        self.same(found, self.folder / at.SETTLED)
        return cast("dict[str, Any]", found)

    def manifest(self, i: int) -> Manifest | None:
        """What is said of part `i` (from 1), if it is made, and its shards are there.

        Raises:
            SutureError: if it is of another job.
        """
        path = self.folder / f"part-{i}.json"
        found = at.read(path)
        if found is not None:
            self.same(found, path)
            _check(found, _MANIFEST, path, "make the part again")
            if found["part"] != i:
                raise SutureError(f"{path}: is of part {found['part']}; remove it, and make part {i} again", path)
        return cast("Manifest | None", found)

    def shards_of(self, manifest: Manifest) -> list[Path]:
        """Where the shards of a part lie that is made, until they are moved."""
        return [self.folder / manifest["folder"] / shard["file"] for shard in manifest["shards"]]

    def same(self, found: Mapping[str, Any], path: Path) -> None:
        """Refuse what is of another job, or of another version of suture."""
        own = {key: self.job[key] for key in ("suture", "plan", "parts")}
        own["suture"] = _core.__version__
        for key, said in (("suture", "of suture {}"), ("plan", "of the plan {}"), ("parts", "one of {} parts")):
            if found.get(key) != own[key]:
                what = f"is {said.format(found.get(key))}, and expected is {said.format(own[key])}"
                raise SutureError(f"{path}: {what}; remove {self.folder} to begin anew, or choose another output", path)

    def inputs(self, plan: _core.Plan) -> list[dict[str, Any]]:
        """The input files as this machine sees them, which must be those that the job began with.

        Raises:
            SutureError: if one was written to or replaced.
        """
        files = [file for model in json.loads(shown(plan.files_json())) for file in model]
        check_inputs([(self.job["host"], self.job["inputs"]), (at.host(), files)])
        return files


def check_inputs(seen: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> list[str]:
    """Compare input files as several machines saw them; returns warnings.

    A file system gives a file the same number and the same time of change on all machines, so that neither depends on
    their clocks. Where machines have copies of their own, only sizes (and headers, by the plan) tell them apart.

    Raises:
        SutureError: if a file was written to or replaced between two parts.
    """
    first: dict[int, tuple[str, Mapping[str, Any]]] = {}
    told: dict[str, None] = {}
    for machine, files in seen:
        for i, file in enumerate(files):
            other, known = first.setdefault(i, (machine, file))
            a, b = known["identity"], file["identity"]
            alike = a["inode"] == b["inode"] and a["changed"] == b["changed"]
            if a["size"] != b["size"] or (not alike and (machine == other or a["inode"] == b["inode"])):
                message = "was replaced or written to since the first part was begun; make all parts again"
                raise SutureError(f"{file['path']}: {message}, once nobody writes to it", file["path"])
            if not alike:
                told[f"{Path(file['path']).name} is another copy on {machine} than on {other}, of the same header"] = (
                    None
                )
    return list(told)


def opened(folder: str | PathLike[str]) -> Parts:
    """A job that lies in a folder.

    Raises:
        SutureError: if there is none.
    """
    place = Path(folder)
    job = read_job(place)
    if job is None:
        out = at.out_of(place)
        is_made = "; it is finished" if out.exists() else ""
        raise SutureError(f"{out}: no parts of it were begun{is_made}: {place} is not there", out)
    parts = Parts(place, job)
    parts.same(job, place)
    return parts


def read_job(folder: Path) -> dict[str, Any] | None:
    """What job.json says; None if no job is there."""
    path = folder / at.JOB / "job.json"
    found = at.read(path)
    if found is not None:
        _check(found, _JOB, path, f"remove {folder} to begin anew")
    return cast("dict[str, Any] | None", found)


#: What the files hold that everybody goes by.
_JOB = {"plan": str, "parts": int, "nan": str, "device": str, "beside": dict, "host": str, "inputs": list,
        "shards": list, "divided": list, "rounds": bool, "files": list}  # fmt: skip
_MANIFEST = {"part": int, "host": str, "inputs": list, "folder": str, "shards": list, "tensors": list, "scales": dict,
             "warnings": list, "run": dict, "seconds": float}  # fmt: skip


def _check(found: Mapping[str, Any], keys: Mapping[str, type], path: Path, remedy: str) -> None:
    """Refuse a file of ours that somebody has changed.

    Raises:
        SutureError: if a key is missing or of another type.
    """
    for key, kind in keys.items():
        if not isinstance(found.get(key), kind):
            raise SutureError(f"{path}: is not as suture writes it (`{key}`); remove it, or {remedy}", path)
