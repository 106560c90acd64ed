"""DC-Merge: in the space that all tasks' leading directions span, the largest entries where the signs agree."""

from __future__ import annotations

import torch
from torch import Tensor

from suture.torch.forms import Params
from suture.torch.matrix.eigen import CUT, Frame, beside, leading, lefts, share
from suture.torch.matrix.form import Method, Size
from suture.torch.matrix.stack import Stack, where

#: Magnitudes this near the threshold are as large: in rows and columns all entries of a task are equal in pairs.
SLACK = 1e-9


def keep_largest(entries: Tensor, fraction: float, count: Tensor) -> Tensor:
    """Sets to zero what is below the k-th magnitude of those that are there, `count` for each matrix.

    And what is rounding beside the largest, or it would vote on signs.
    """
    sizes = entries.abs().flatten(-2)
    k = (fraction * count).long().clamp(min=1) if fraction < 1.0 else count.long().clamp(min=1)
    # What is not there is zeros, none of which is among the largest.
    top = sizes.topk(int(k.amax()), dim=-1).values
    kth = top.gather(-1, k[..., None] - 1)
    threshold = torch.maximum(kth * (1.0 - SLACK), CUT * top[..., :1])
    return where(entries.abs() >= threshold[..., None], entries)


def dc_merge(stack: Stack, params: Params) -> Tensor:
    """The merged change."""
    sets = leading(stack, share(stack), CUT)
    if not sum(own.width for own in sets):
        return stack.nothing()
    frame = Frame(lefts(stack, sets), beside([own.right for own in sets]), CUT)
    # Each task in that space: left root, its part of Uᵀ U, its values, its part of Vᵀ V, right root.
    left, right = frame.left_root @ frame.left_gram, frame.right_gram @ frame.right_root
    there = beside([own.values for own in sets]) > 0
    count = there.sum(-1).double().square()
    votes, total, at = [], torch.zeros_like(left), 0
    for own in sets:
        part = slice(at, at + own.width)
        at = part.stop
        entries = (left[..., part] * own.values[..., None, :]) @ right[..., part, :]
        votes.append(keep_largest(entries, params.number("k_frac"), count))
        total += votes[-1]
    agreed, number = torch.zeros_like(total), torch.zeros_like(total)
    for entries in votes:
        agrees = (entries != 0) & ((entries > 0) == (total > 0))
        agreed += where(agrees, entries)
        number += agrees
    agreed = where(total != 0, agreed / number.clamp(min=1.0))
    # Only where row and column are the same task's.
    task = torch.cat([torch.full((own.width,), i, device=total.device) for i, own in enumerate(sets)])
    return frame.around(where(task[:, None] == task[None, :], agreed))


def _more(size: Size) -> int:
    width = max(size.short, size.models)
    return 2 * size.long * width + (14 + size.models) * width**2


METHODS = {"dc_merge": Method(dc_merge, more=_more)}
