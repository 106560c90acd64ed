"""Whether a training changed nothing but what its mask trains."""

from __future__ import annotations

from os import PathLike, fspath

from suture.analysis.mask import read_mask
from suture.checkpoint import Checkpoint
from suture.errors import SutureError, UsageError, near
from suture.results import Comparison
from suture.results.masks import Mask, MaskCheck


def mask_for(path: str | PathLike[str], base: str | PathLike[str], stage: str | None = None) -> Mask:
    """A mask that was written, of one stage or of all together, for a comparison with `base`.

    Raises:
        SutureError: if it is no mask.
        UsageError: if it has no such stage, or does not say of each tensor of `base` whether it is frozen.
    """
    found = read_mask(path)
    names = [s["name"] for s in found["stages"]]
    if stage is not None and stage not in names:
        have = near(stage, names) or f"; it has {', '.join(names)}"
        raise UsageError(f"stage: {fspath(path)} has no stage `{stage}`{have}")
    found["stages"] = [s for s in found["stages"] if stage in (None, s["name"])]
    own = set(Checkpoint.plain(base).names)
    said = {n for s in found["stages"] for n in (*s["train"], *s["freeze"])} | set(found["buffers"])
    if other := sorted(own ^ said):
        whose = f"is in {fspath(base)} and not in the mask" if other[0] in own else f"is not in {fspath(base)}"
        message = f"`{other[0]}` {whose}; a mask goes with the model that it was made of"
        raise UsageError(f"{fspath(path)}: is of another model: {message}")
    return found


def hold_against(found: Comparison, mask: Mask) -> None:
    """Put into a comparison, model by model, what became of what the mask freezes and trains.

    Args:
        found: what :func:`suture.diff` found of all tensors.
        mask: what :func:`mask_for` read; what any of its stages trains may change.
    """
    trained = {name for s in mask["stages"] for name in s["train"]}
    frozen = {name for s in mask["stages"] for name in s["freeze"]} - trained
    for model in found["models"]:
        # Values count, not how they are stored.
        changed = {t["name"] for t in model["tensors"] if t["changed"] > 0}
        check: MaskCheck = {
            "stages": [s["name"] for s in mask["stages"]],
            "frozen": len(frozen),
            "trained": len(trained),
            "changed": [t["name"] for t in model["tensors"] if t["name"] in changed & frozen],
            "uncompared": [n for n in model["lost"] if n in frozen],
            "unmoved": [t["name"] for t in model["tensors"] if t["name"] in trained - changed],
        }
        model["mask"] = check


def complain(found: Comparison) -> None:
    """Fail if something that was frozen changed, or cannot be called unchanged.

    Raises:
        SutureError: naming the tensors.
    """
    for model in found["models"]:
        check = model["mask"]
        names = [*check["changed"], *check["uncompared"]]
        if names:
            more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
            message = f"expected what the mask freezes unchanged, found changes in {', '.join(names[:5])}{more}"
            raise SutureError(f"{model['tuned']}: {message}", model["tuned"], names[0])
