"""A compiled recipe with all that its output consists of, and how it is run."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path

from suture import _core
from suture.errors import UsageError
from suture.recipe import Config
from suture.results.report import Report
from suture.results.surgery import Budget
from suture.settings import Progress, Settings
from suture.surgery import device


@dataclass(frozen=True)
class Job:
    """A compiled recipe with everything that goes beside its tensors.

    Attributes:
        plan: the plan.
        inputs: the models it reads.
        written: files to write beside the tensors, and their bytes.
        copied: files to copy there, and their sources.
        budget: what the run takes of memory.
        settings: how to do the work.
        config: the merge config, for the lines of its keys.
    """

    plan: _core.Plan
    inputs: list[Path]
    written: list[tuple[str, bytes]]
    copied: list[tuple[str, str]]
    budget: Budget
    settings: Settings
    config: Config | None

    def look(self, out: Path) -> Report:
        """The plan as a report."""
        beside = {
            "suture": _core.__version__,
            "plan": self.plan.hash,
            "budget": self.budget,
            "sidecars": [name for name, _ in self.written + self.copied],
        }
        # Put into the text as it is: to read a plan of 50,000 tensors and write it again took 0.8 s.
        text = f"{self.plan.to_json().removesuffix('}')}, {json.dumps(beside).removeprefix('{')}"
        return Report(text, out, dry=True, config=self.config, told=self.plan.warnings)

    def run(self, out: Path, progress: Progress | None) -> Report:
        """Run the plan into the folder `out`."""
        return run_together([(self, out)], progress)[0]

    def take_up(self, earlier: Job, report: Report, folder: Path, out: Path) -> int:
        """Have the run into `out` go on with the output in `folder`, which `earlier` made and `report` is of.

        Tensors that both make of the same inputs in the same way are read back, and stay if their digests are still
        what the report says; the others are made in their place. Nobody else may hold on to the files.

        Returns:
            Bytes of the former; where there are none, or a device computes, `folder` is left alone.

        Raises:
            SutureError: if it cannot be moved.
        """
        if self.settings.device != "cpu":
            return 0
        finite = self.settings.nan != "allow"
        return _core.take_up(self.plan, earlier.plan, report.text, str(folder), str(out), not finite)


def refuse_stores(out: str | PathLike[str]) -> None:
    """Check that what is written to folders only does not go to a URL.

    Raises:
        UsageError: if it does.
    """
    if "://" not in fspath(out):
        return
    # Most outputs go to folders.
    from suture.store import is_url, refuse_unknown

    refuse_unknown(fspath(out))
    if is_url(fspath(out)):
        message = "is a URL, and this goes to folders only; write a folder, and upload it"
        raise UsageError(f"{fspath(out)}: {message}", at="out")


MOST_TOGETHER = 64
"""Outputs that are made side by side at most: each keeps a few files open."""


def run_together(jobs: Sequence[tuple[Job, Path]], progress: Progress | None) -> list[Report]:
    """Run jobs of the same settings side by side, each into its folder; what several of them read is read once.

    If one fails while tensors are made none of them is published; the same call resumes all.
    """
    for job, _ in jobs:
        job.settings.refuse_parts("what is written besides is needed as a whole")
    total, began, settings = sum(job.plan.work_bytes for job, _ in jobs), time.monotonic(), jobs[0][0].settings
    texts = _core.run(
        [(job.plan, str(out), job.settings.overwrite, job.written, job.copied) for job, out in jobs],
        threads=settings.thread_count,
        io=settings.io,
        memory=device.shares(settings).engine,
        chunk=settings.chunk_elements,
        allow_nonfinite=settings.nan == "allow",
        progress=None if progress is None else lambda done: progress(min(done, total), total),
        device=device.opened(settings, [job.plan for job, _ in jobs]),
    )
    seconds = time.monotonic() - began
    return [Report(text, out, config=job.config, seconds=seconds) for text, (job, out) in zip(texts, jobs, strict=True)]


def together(jobs: Sequence[Job]) -> list[Sequence[Job]]:
    """Which of some jobs to run side by side: all, where two read the same model and the memory is enough for all."""
    if len(jobs) > MOST_TOGETHER:
        return [group for i in range(0, len(jobs), MOST_TOGETHER) for group in together(jobs[i : i + MOST_TOGETHER])]
    read = [path for job in jobs for path in set(job.inputs)]
    if len(set(read)) == len(read):
        return [[job] for job in jobs]
    settings = jobs[0].settings
    try:
        device.budget([job.plan for job in jobs], settings)
    except UsageError:
        return [[job] for job in jobs]
    return [jobs]


def is_file(out: str | PathLike[str]) -> bool:
    """Whether an output is to be one file of tensors, without anything beside it but its report."""
    return fspath(out).endswith(".safetensors") and not Path(out).is_dir()
