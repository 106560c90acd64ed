"""What fine-tunes changed."""

from __future__ import annotations

import json
from os import PathLike
from typing import cast

from suture import _core
from suture.analysis.layers import listed_layers
from suture.analysis.masked import hold_against, mask_for
from suture.analysis.progress import scaled
from suture.checkpoint import Checkpoint
from suture.errors import UsageError
from suture.results import Comparison, Metric
from suture.settings import Progress, Settings
from suture.sidecars.tokenizer import token_names

#: Thresholds at which `diff` counts larger changes; `x` stands for the mean absolute value of the base.
ABOVE = "1e-5,1e-4,1e-3,0.01x,0.1x,1x"


def diff(
    base: str | PathLike[str],
    *tuned: str | PathLike[str],
    heads: bool = False,
    neurons: int = 0,
    tokens: int = 0,
    spread: bool = False,
    above: str = ABOVE,
    layers: str | None = None,
    mask: str | PathLike[str] | None = None,
    stage: str | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Measure what fine-tunes changed, reading each checkpoint once, the base too.

    Changes are formed in f32 and summed in f64; pairs with a NaN or infinite element are counted and left out.

    Args:
        base: the checkpoint the others were tuned from.
        tuned: one or more fine-tunes.
        heads: measure every attention head; needs the base's config.json.
        neurons: groups of neurons of each feed-forward module to measure; 0 for none.
        tokens: how many of the most changed rows of each vocabulary to list.
        spread: look at the distribution of the changes (exact quantiles, Gini coefficient, shares above thresholds);
            takes up to a second reading, a third for the overlap of two fine-tunes' largest changes.
        above: the thresholds, comma-separated: ``1e-4``, or ``0.1x`` for 0.1 times the mean absolute value of the base.
        layers: the only layers to read: ``0-4,30``, ``encoder:0-3``, the name of a stack, ``outside``.
        mask: a file that :func:`suture.mask` or `suture mask` wrote for the base: what it freezes is held against it.
        stage: the only stage of the mask that counts; of all together that may change which any trains.
        settings: how to do the work.
        progress: called with the bytes done and the bytes in all, a few times a second.

    Returns:
        ``base``, ``stacks`` (of layers), ``warnings``, ``metrics`` (name and meaning of each figure),
        ``models`` and ``pairs``. Each of ``models`` has ``tuned``, ``label``, ``ancestry`` (whether it looks tuned from
        the base), the figures in ``total``, ``tensors``, ``modules``, ``layers``, ``cells`` (layer by module) and,
        where asked for, ``heads``, ``neurons``, ``tokens`` and ``vocabularies``, and the names in ``only_base``,
        ``only_tuned`` and ``reshaped``; with a mask ``mask`` too: what changed of it.
        Where a model has quantised weights, the figures have ``stepped`` (changed
        elements whose step of quantisation is known) and ``below_step``, the share of these that changed by less than
        half a step: the base's, or where that is plain the fine-tune's. Each of ``pairs`` relates the changes of two
        fine-tunes, ``a`` and ``b``: their cosine, the share of elements both changed, and how often they agree in sign.

    Raises:
        SutureError: if a checkpoint is not sound.
        UsageError: if no fine-tune is given, or one has no tensor in common with the base.
    """
    settings = settings or Settings()
    if not tuned:
        raise UsageError("diff needs a base and at least one fine-tune")
    held = None if mask is None else mask_for(mask, base, stage)
    if stage is not None and mask is None:
        raise UsageError("stage: goes with a mask", at="stage")
    if mask is not None and layers is not None:
        raise UsageError("mask: is held against all layers; leave layers out", at="mask")
    first, others = Checkpoint.plain(base), [Checkpoint.plain(t) for t in tuned]
    if settings.device != "cpu":
        asked = {"heads": heads, "neurons": neurons, "tokens": tokens, "spread": spread, "tuned": len(tuned) > 1}
        asked["layers"] = layers is not None
        found = _on_device(first, others, [name for name, given in asked.items() if given], settings, progress)
        if held is not None:
            hold_against(found, held)
        return found
    what = {"heads": heads, "neurons": neurons, "tokens": tokens, "spread": spread, "above": above}
    if layers is not None:
        what["layers"] = sorted(listed_layers(base, layers))
    options = json.dumps(what)
    cores = [t._core for t in others]
    total = _core.compare_bytes(first._core, cores, options)
    done = scaled(progress, total)
    text = _core.compare_json(first._core, cores, options, settings.io, settings.thread_count, done)
    found = cast(Comparison, {"schema": 1, **json.loads(text)})
    found["warnings"] = [w for checkpoint in (first, *others) for w in checkpoint._core.warnings]
    names = token_names(first.folder) if tokens else {}
    for model in found["models"]:
        if not model["tensors"] and (model["only_base"] or model["only_tuned"] or model["reshaped"]):
            none = "no tensor in common" if not model["reshaped"] else "no tensor of one shape in common"
            none += " in these layers" if layers is not None else ""
            raise UsageError(f"{base} and {model['tuned']} have {none}; are these the right checkpoints?")
        for row in model["tokens"] if tokens else ():
            row["token"] = names.get(row["row"])
    if held is not None:
        hold_against(found, held)
    return found


def _on_device(
    base: Checkpoint, tuned: list[Checkpoint], more: list[str], settings: Settings, progress: Progress | None
) -> Comparison:
    """The figures of one fine-tune that take one reading, computed by torch."""
    if more:
        what = "several fine-tunes" if more[0] == "tuned" else more[0]
        raise UsageError(
            f"device: compares one fine-tune by the figures of one reading; found {what}; leave one out", at="device"
        )
    try:
        from suture.torch.filed import diff_files
    except UsageError as e:
        raise UsageError(f"device: `{settings.device}` needs PyTorch: {e}", at="device") from None
    return diff_files(base._core, tuned[0]._core, settings.device, progress)


def metrics(*, spread: bool = False, above: str = ABOVE) -> list[Metric]:
    """The figures that :func:`diff` finds: name, meaning, and which values tell most.

    Raises:
        UsageError: if `above` is no list of thresholds.
    """
    return cast(list[Metric], json.loads(_core.metrics_json(json.dumps({"spread": spread, "above": above}))))
