"""Reset layers of a fine-tune to its base."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike

from suture.errors import UsageError
from suture.recipe.layers import numbers, of_stack
from suture.reference import model_of
from suture.results.report import Report
from suture.settings import Progress, Settings
from suture.surgery.swap import exchange


def revert(
    base: str | PathLike[str],
    tuned: str | PathLike[str],
    out: str | PathLike[str],
    *,
    layers: str | Iterable[int] | None = None,
    modules: str | None = None,
    outside: bool = False,
    stack: str | None = None,
    ignore: str | Iterable[str] | None = None,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Reset layers of a fine-tune to its base, bit for bit (Bandarkar and Peng, arXiv 2505.18356).

    Args:
        base: the model `tuned` was tuned from.
        tuned: the fine-tune.
        out: the output folder.
        layers: layers to reset, as ``"0-4,30,31"`` or numbers.
        modules: parts of module names, globs or filters, comma-separated: only these are reset.
        outside: reset what is in no layer (embeddings, final norm, head) too.
        stack: the stack that layers are numbered in, if not the main one.
        ignore: filters of names, comma-separated: these tensors stay, and need not be in both models.
        settings: how to do the work.
        dry_run: return the plan instead of running it.
        progress: called with the bytes done and the bytes in all, a few times a second.

    Raises:
        UsageError: if there is nothing to reset, or a layer does not exist.
        SutureError: as :func:`swap`.
    """
    if layers is None and not outside:
        raise UsageError("nothing to reset; give layers, or outside")
    stack, [listed] = of_stack(stack, layers)
    donor = {"from": model_of(base), "layers": [] if listed is None else numbers(listed), "modules": modules}
    options = {
        "into": model_of(tuned),
        "donors": [{k: v for k, v in donor.items() if v is not None}],
        "non_layer": "from" if outside else "into",
        "stack": stack,
        "ignore": ignore,
        "revert": True,
    }
    return exchange(options, out, settings or Settings(), dry_run, progress)
