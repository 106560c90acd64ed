"""An output that goes to a store: shard by shard, each sent while the next is made; the index comes last.

The shards are parts of the output (:mod:`suture.surgery.parts`), made in a spool folder of this machine that holds two
of them at most. What a part has said is kept in the store until all is there: the same command goes on
after the last one, on another machine too.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from suture.errors import SutureError, UsageError
from suture.escape import shown
from suture.results.parts import Manifest
from suture.results.report import Report
from suture.settings import Progress, size
from suture.store.folders import forget
from suture.store.target import Target
from suture.surgery import parts
from suture.surgery import parts_folder as at
from suture.surgery.copied import Copies
from suture.surgery.job import Job
from suture.surgery.parts_report import of_parts
from suture.surgery.spool import Spool


def carry_out(job: Job, url: str, dry_run: bool, progress: Progress | None) -> Report:
    """Run a job into the folder of a store that `url` names, or with `dry_run` look at it.

    Raises:
        UsageError: if it cannot go there.
        SutureError: if the store does not take it, or something is in the way; the same call goes on.
    """
    if job.settings.parts_asked is not None:
        raise UsageError(
            "part: parts of an output in a store are made one after the other; give a folder that the machines share",
            at="part",
        )
    target, plan = Target(url), job.plan.hash
    if job.settings.ray is not None:
        # Most outputs in stores are made without.
        from suture.surgery import cluster, cluster_store

        cluster_store.refuse_rounds(job.plan, len(json.loads(job.plan.parts_json())))
    spool = Spool(target.url, plan)
    if dry_run:
        report = job.look(spool.out) if job.settings.ray is None else cluster.scheduled(job, url, job.settings.ray)
        warnings = [*report.warnings, *(w for w in (_overlap(job, target), _in_the_way(job, target)) if w)]
        copied = Copies(target, job.plan).bytes(len(report.data["shards"]))
        notes = [["copied", f"{size(copied)} by the store itself, if it does, not through here"]] if copied else []
        text = json.dumps({**report.data, "notes": [*report.data["notes"], *notes], "warnings": warnings})
        return Report(text, spool.out, dry=True, config=job.config)
    if (problem := _overlap(job, target)) is not None:
        raise SutureError(problem, target.url)
    before = list(target.listed())
    with spool:
        sent = _Sent(target, job, before, target.begin(plan, job.settings.overwrite))
        try:
            report = _carry_out(job, spool.out, sent, progress)
        except BaseException:
            # What nothing came of claims nothing.
            if not sent.begun and not sent.there:
                target.leave()
            raise
    forget(target.url)
    return report


def _carry_out(job: Job, spool: Path, sent: _Sent, progress: Progress | None) -> Report:
    began = time.monotonic()
    own = parts.begin(job, spool, len(json.loads(job.plan.to_json())["shards"]))
    told: list[str] = []
    if job.settings.ray is None:
        _settle(own, job)
        made = sent.send(own, progress)
    else:
        from suture.surgery import cluster_store

        known = {i: found for i in range(1, own.count + 1) if (found := sent.known(i)) is not None}
        made, told = cluster_store.made_by(job, sent.target, own, known, sent.begin, progress)
    outline = json.loads((own.folder / at.JOB / at.OUTLINE).read_bytes())
    if tensors := sum(not line["digest"] for one in made for line in one["tensors"]):
        copied = sum(one["run"]["copied"]["bytes"] for one in made if "copied" in one["run"])
        by_store = f"{size(copied)} by the store itself, not through here; no digests are known of {tensors:,} tensors"
        outline["notes"].append(["copied", by_store])
    text = of_parts(outline, own.job, made, sent.copies.told, at.read(own.folder / at.CLUSTER))
    sent.publish(own, text)
    report = Report(text, spool, config=job.config, seconds=time.monotonic() - began)
    # What became of nodes is no matter of who reads the output.
    more = {**report.data, "warnings": [*report.warnings, *told]}
    return replace(report, text=json.dumps(more)) if told else report


def _overlap(job: Job, target: Target) -> str | None:
    """What is wrong with an output that lies in a model that is read, or around it."""
    # Of a stand-in the URL is shown.
    for model in json.loads(shown(job.plan.files_json())):
        for file in model:
            path = str(file["path"])
            inside, around = f"{target.url}/", path.rpartition("/")[0]
            if path.startswith(inside) or f"{inside}".startswith(f"{around}/"):
                return f"{target.url}: overlaps with the input {path}; choose another output"
    return None


def _in_the_way(job: Job, target: Target) -> str | None:
    """Whether something is in the way, for who only looks."""
    if job.settings.overwrite:
        return None
    try:
        there = target.listed()
    except SutureError as e:
        return str(e)
    return f"{target.url}: is not empty; choose another place, or pass --overwrite" if there else None


def _settle(own: parts.Parts, job: Job) -> None:
    """Scan what a method counts over several shards."""
    while (due := own.rounds) is not None:
        for i in range(1, own.count + 1):
            parts.make(own, job.plan, i, job.settings, None, due)
        parts.settle_with(own, job.plan)


@dataclass
class _Sent:
    """What goes to the store.

    Attributes:
        target: where.
        job: of what.
        before: the objects that were there.
        there: those of an earlier run of the same, with their sizes.
        begun: whether anything was written but the claim.
        copies: the shards that the store puts together.
    """

    target: Target
    job: Job
    before: list[str]
    there: dict[str, int]
    begun: bool = field(default=False, init=False)
    copies: Copies = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        """Know what the store could copy."""
        self.copies = Copies(self.target, self.job.plan)

    def known(self, i: int) -> Manifest | None:
        """What is said of a part whose shards are in the store."""
        found = self.target.part(self.job.plan.hash, i) if self.there else None
        if found is None or any(self.there.get(s["file"]) != s["bytes"] for s in found["shards"]):
            return None
        return cast("Manifest", found)

    def send(self, own: parts.Parts, progress: Progress | None) -> list[Manifest]:
        """Make every part and send its shard; those that are in the store are left alone."""
        job, plan = self.job, self.job.plan.hash
        made: list[Manifest] = []
        total, done = job.plan.work_bytes, 0
        sender = ThreadPoolExecutor(1, thread_name_prefix="suture-store-send")
        sending: Future[None] | None = None
        try:
            for i in range(1, own.count + 1):
                size = own.divide()[i - 1]["read_bytes"] + own.divide()[i - 1]["write_bytes"]
                known = self.known(i)
                so_far = done
                ticks = None if progress is None else lambda n, _, b=so_far: progress(min(b + n, total), total)
                if known is None and self.copies.parts(i - 1):
                    self.begin()
                    known = self.copies.put(own, i, ticks)
                    if known is not None:
                        self.target.keep_part(plan, i, known)
                if known is None:
                    known = parts.make(own, job.plan, i, job.settings, ticks)
                    # One shard is sent while another is made: two lie here.
                    if sending is not None:
                        sending.result()
                    sending = sender.submit(self._send_part, own, known)
                made.append(known)
                done += size
            if sending is not None:
                sending.result()
        finally:
            sender.shutdown(wait=False, cancel_futures=True)
        return made

    def begin(self) -> None:
        """Have nothing of an earlier output be read as a model any more, before the first shard comes."""
        with self._lock:
            if not self.begun:
                # Shards of the new output under an index of the old one would be a model that nobody has made.
                self.target.remove([n for n in self._older({"suture.json"}) if n.endswith(".index.json")])
            self.begun = True

    def _send_part(self, own: parts.Parts, manifest: Manifest) -> None:
        self.begin()
        self.target.send(own.job["plan"], manifest, own.shards_of(manifest))
        parts.drop(own, manifest)

    def _older(self, files: Collection[str]) -> list[str]:
        """The objects that were there of an earlier output of suture, but for those that the output has too."""
        if not self.job.settings.overwrite:
            return []
        others = [n for n in self.before if n not in files and not n.startswith(".suture/")]
        return [n for n, by in self.target.plans_of(others).items() if by not in (None, self.job.plan.hash)]

    def publish(self, own: parts.Parts, text: str) -> None:
        """Check that all is there, then write what goes beside the shards: the report, and the index last of all."""
        target, plan, there = self.target, self.job.plan.hash, self.target.listed()
        shards = {str(shard["file"]): shard["bytes"] for shard in own.job["shards"]}
        for name, wanted in shards.items():
            if there.get(name) != wanted:
                found = there.get(name, "none")
                raise SutureError(f"{target.url}/{name}: expected {wanted} bytes, found {found}; run this again")
        for name, by in target.plans_of(list(shards)).items():
            if by != plan:
                raise SutureError(
                    f"{target.url}/{name}: was written by another run meanwhile; see that only one writes there, and "
                    "run this again with --overwrite"
                )
        folder = own.folder / at.JOB / at.BESIDE
        files: list[tuple[str, bytes | Path]] = [
            (str(name), (folder / str(i)).read_bytes()) for i, name in enumerate(own.job["files"])
        ]
        files.append(("suture.json", text.encode()))
        # Who reads a model begins with its index, or of one shard with its report.
        last = next((f for f in files if f[0].endswith(".index.json")), files[-1])
        target.put_all([f for f in files if f[0] != last[0]], plan)
        # A run that was stopped after its last object has written it already.
        is_there = last[0] in self.there
        target.put(last[0], last[1], plan=plan, create=not self.job.settings.overwrite and not is_there)
        target.end(self._older({*shards, *(f[0] for f in files)}))
