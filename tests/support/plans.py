"""Running a plan as it is, without the verbs."""

from __future__ import annotations

from pathlib import Path

from suture import _core


def run_plan(plan: _core.Plan, out: Path) -> str:
    """Run a plan into a folder, on one thread and with nothing beside its tensors; its report."""
    (report,) = _core.run(
        [(plan, str(out), False, [], [])],
        threads=1,
        io="auto",
        memory=None,
        chunk=None,
        allow_nonfinite=False,
        progress=None,
    )
    return report
