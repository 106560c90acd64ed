"""The verbs that only read: inspect, diff, verify, methods."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from suture import _core
from suture.checkpoint import Checkpoint
from suture.errors import SutureError, UsageError
from suture.settings import Settings
from suture.sidecars import head_counts, token_names

Progress = Callable[[int, int], None]


def inspect(
    path: str | PathLike[str],
    *,
    stats: bool = False,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Describe a checkpoint from its headers; with `stats`, read it once for figures of every float tensor.

    The result has ``path``, ``bytes``, ``files``, ``stack`` (the layers), ``tensors``, ``warnings`` (what was passed
    over), ``dtypes`` (elements and bytes of each) and ``config`` (the model type and sizes of config.json, if there is
    one).

    Raises:
        SutureError: if the checkpoint is not sound.
    """
    settings = settings or Settings()
    checkpoint = Checkpoint(path)
    described = checkpoint.describe()
    dtypes: dict[str, dict[str, int]] = {}
    for tensor in described["tensors"]:
        entry = dtypes.setdefault(tensor["dtype"], {"tensors": 0, "elements": 0, "bytes": 0})
        entry["tensors"] += 1
        entry["elements"] += _elements(tensor["shape"])
        entry["bytes"] += tensor["nbytes"]
    described["dtypes"] = dtypes
    described["config"] = _config(Path(path))
    if stats:
        total = described["bytes"]
        found = checkpoint._core.stats_json(settings.io, settings.thread_count, _scaled(progress, total))
        for tensor, figures in zip(described["tensors"], json.loads(found), strict=True):
            tensor["stats"] = figures
    return described


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
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
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
        settings: how to do the work.
        progress: called with the bytes done and the bytes in all, a few times a second.

    Returns:
        ``base``, ``metrics`` (name and meaning of each figure), ``models`` and ``pairs``. Each of ``models`` has
        ``tuned``, ``label``, ``ancestry`` (whether it looks tuned from the base), the figures in ``total``,
        ``tensors``, ``modules``, ``layers``, ``cells`` (layer by module) and, where asked for, ``heads``, ``neurons``,
        ``tokens`` and ``vocabularies``, and the names in ``only_base``, ``only_tuned`` and ``reshaped``. Each of
        ``pairs`` relates the changes of two fine-tunes, ``a`` and ``b``: their cosine, the share of elements both
        changed, and how often they agree in sign.

    Raises:
        SutureError: if a checkpoint is not sound.
        UsageError: if no fine-tune is given, or one has no tensor in common with the base.
    """
    settings = settings or Settings()
    if not tuned:
        raise UsageError("diff needs a base and at least one fine-tune")
    first, others = Checkpoint(base), [Checkpoint(t) for t in tuned]
    options = json.dumps(
        {
            "heads": head_counts(Path(base)) if heads else None,
            "neurons": neurons,
            "tokens": tokens,
            "spread": spread,
            "above": above,
        }
    )
    cores = [t._core for t in others]
    total = _core.compare_bytes(first._core, cores, options)
    done = _scaled(progress, total)
    found: dict[str, Any] = json.loads(
        _core.compare_json(first._core, cores, options, settings.io, settings.thread_count, done)
    )
    names = token_names(Path(base)) if tokens else {}
    for model in found["models"]:
        if not model["tensors"] and (model["only_base"] or model["only_tuned"]):
            raise UsageError(f"{base} and {model['tuned']} have no tensor in common; are these the right checkpoints?")
        for row in model["tokens"] if tokens else ():
            row["token"] = names.get(row["row"])
    return found


def frozen(found: dict[str, Any], layers: set[str]) -> None:
    """Check that a training left these layers alone.

    Args:
        found: what :func:`diff` found.
        layers: layers as :func:`listed_layers` reads them.

    Raises:
        SutureError: if a tensor of theirs changed, with the names.
    """
    _complain(found, layers, inside=True)


def moved(found: dict[str, Any], layers: set[str]) -> None:
    """Check that a training changed nothing but these layers; as :func:`frozen`."""
    _complain(found, layers, inside=False)


def _complain(found: dict[str, Any], layers: set[str], *, inside: bool) -> None:
    for model in found["models"]:
        # Values count, not how they are stored.
        names = [t["name"] for t in model["tensors"] if t["changed"] > 0 and (t["layer"] in layers) == inside]
        # What cannot be compared cannot be called unchanged.
        lost = [n for key in ("reshaped", "only_base", "only_tuned") for n in model[key]]
        names += [n for n in lost if (_core.layer_of(n) in layers) == inside]
        if names:
            told = ", ".join(sorted(layers, key=lambda x: int(x) if x.isdigit() else 10**9)).replace("-", "outside")
            which = f"layers {told}" if inside else f"anything but layers {told}"
            more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
            message = f"{model['tuned']}: expected {which} unchanged, found changes in {', '.join(names[:5])}{more}"
            raise SutureError(message, model["tuned"], names[0])


def listed_layers(base: str | PathLike[str], text: str) -> set[str]:
    """The layers of a list such as ``0-4,30,outside``; ``outside``, as ``-``, is all that is in no layer.

    Raises:
        UsageError: if it cannot be read or names layers that `base` does not have.
    """
    stack = Checkpoint(base).describe()["stack"]
    count = stack["layers"] if stack else 0
    listed: set[str] = set()
    for part in text.split(","):
        if part.strip() == "outside":
            listed.add("-")
            continue
        numbers = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if numbers is None or int(numbers[2] or numbers[1]) < int(numbers[1]):
            raise UsageError(f"expected layers such as 0-4,30 or outside, found `{part.strip()}`")
        first, last = int(numbers[1]), int(numbers[2] or numbers[1])
        if last >= count:
            raise UsageError(f"layer {last} does not exist; {base} has {count}, numbered from 0")
        listed.update(map(str, range(first, last + 1)))
    return listed


def verify(
    out: str | PathLike[str], *, settings: Settings | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Read an output again and compare it with the digests in its suture.json.

    The result has ``tensors`` and ``bytes`` compared and ``differing``, the names of tensors that differ.

    Raises:
        SutureError: if there are no digests, or if they list other tensors than the checkpoint holds.
    """
    settings = settings or Settings()
    total = sum(t["nbytes"] for t in Checkpoint(out).describe()["tensors"]) if progress else 0
    found: dict[str, Any] = json.loads(
        _core.verify_json(fspath(out), settings.io, settings.thread_count, _scaled(progress, total))
    )
    return found


def methods() -> list[dict[str, Any]]:
    """The spec of every merge method: name, summary, formula, paper, parameters, inputs, cost."""
    specs: list[dict[str, Any]] = json.loads(_core.methods_json())
    return specs


def _scaled(progress: Progress | None, total: int) -> Callable[[int], None] | None:
    return None if progress is None else lambda done: progress(min(done, total), total)


def _elements(shape: list[int]) -> int:
    n = 1
    for d in shape:
        n *= d
    return n


def _config(path: Path) -> dict[str, Any] | None:
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    keys = ("model_type", "architectures", "hidden_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "intermediate_size", "vocab_size", "tie_word_embeddings")  # fmt: skip
    return {k: config[k] for k in keys if k in config} if isinstance(config, dict) else None
