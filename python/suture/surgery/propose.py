"""Which layers to swap, measured."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike

from suture.analysis.diff import diff
from suture.errors import UsageError
from suture.proposal import ALPHA, TAU, propose_from
from suture.results import Proposal
from suture.results.stacks import stack_called
from suture.settings import Progress, Settings
from suture.surgery.evidence import read_evidence


def propose(
    base: str | PathLike[str],
    into: str | PathLike[str],
    donor: str | PathLike[str],
    *,
    by: str = "layer",
    stack: str | None = None,
    tau: float = TAU,
    alpha: float = ALPHA,
    settings: Settings | None = None,
    evidence: str | PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Proposal:
    """Which layers of `donor` to put into `into`, from what each changed of `base`; see :mod:`suture.proposal`.

    Args:
        base: the model both were tuned from.
        into: the recipient.
        donor: the donor.
        by: score whole layers (``layer``), or attention and feed-forward apart (``module``).
        stack: the stack whose layers are scored, by its name in :func:`inspect`, if not the main one.
        tau: difference of two scores up to which neither model has a claim, and the block is blended.
        alpha: the donor's share where blocks are blended.
        settings: how to do the work.
        evidence: a file of what ``suture text similarity --json`` prints of the base (or of one model alone): see
            :func:`suture.surgery.evidence.read_evidence`.
        progress: called with the bytes done and the bytes in all, a few times a second.

    Raises:
        UsageError: for an unknown `by`, or numbers out of range.
        SutureError: if a checkpoint is not sound, or has no layers.
    """
    if by not in ("layer", "module"):
        raise UsageError(f"by: expected layer or module, found `{by}`")
    if not (0 <= alpha <= 1 and tau >= 0):
        raise UsageError(f"expected alpha from 0 to 1 and tau from 0, found {alpha} and {tau}")
    # A proposal asks for figures that only the CPU finds.
    here = None if settings is None else replace(settings, device="cpu", device_memory=None)
    found = diff(base, into, donor, settings=here, progress=progress)
    curves = None
    if evidence is not None:
        scored = stack_called(found["base"], found["stacks"], stack, "name one with stack (--stack)")
        curves = read_evidence(evidence, base, scored["layers"])
    return propose_from(found, by=by, stack=stack, tau=tau, alpha=alpha, evidence=curves)
