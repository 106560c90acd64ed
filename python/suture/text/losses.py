"""How well models predict texts: bits per byte, which models of any vocabulary have in common."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suture.errors import SutureError, UsageError
from suture.results.text import Compared, Loss, RunModel, TextLoss
from suture.text.corpus import Given, Text, texts
from suture.text.extra import need
from suture.text.forward import Batch, run
from suture.text.model import Model, Running, open_model

#: Logits that are held at a time, as float32.
LOGITS = 2**26
#: Samples of the lines, drawn with replacement, of which an interval is made; and the seed of all of them.
DRAWS, SEED = 1000, 0


def loss(
    *models: str | PathLike[str],
    text: Given | Sequence[Given] | Mapping[str, Given],
    lines: int | None = None,
    running: Running | None = None,
) -> TextLoss:
    """Bits per byte of texts, by language; with several models the last against the others: parents against child.

    Each line is a text of its own. Every token is predicted from those before it, the first from the token that begins
    texts, or else from the one that ends them; a vocabulary with neither predicts from the second token on, and the
    bytes of the first do not count. Bits are summed over tokens and divided by the UTF-8 bytes of the lines, so that
    vocabularies of any size compare. Longer texts are cut into windows that overlap by half, and each token is
    predicted once. Logits are made in `running.dtype` and losses of them in float32, summed in float64.

    The baseline is the entropy of the text's bytes, which a model that knows but their frequencies would reach.

    Args:
        models: the models; the last is the child that is compared with the others.
        text: texts, a language a file: files, folders, or files by language.
        lines: of each text take so many at most.
        running: how models are run.

    Returns:
        Bits per byte of each model and text, the baseline, and the child's difference to the best of the others with
        an interval of 95 %: paired, by 1,000 samples of the lines. See :class:`suture.results.text.TextLoss`.

    Raises:
        UsageError: if the extra `text` is not installed, there is no model or text, or a model predicts no next token.
        SutureError: if a file or a model is not sound.
    """
    if not models:
        raise UsageError("expected a model, found none", at="models")
    running = running or Running()
    given = texts(text, lines)
    told: list[RunModel] = []
    found: list[Loss] = []
    by_line: dict[tuple[int, str], NDArray[np.float64]] = {}
    warnings: list[str] = []
    for number, path in enumerate(models):
        model = open_model(path, running, head=True)
        told.append(model.told())
        warnings += model.warnings
        for one in given:
            figures, own = _of(model, one)
            found.append(figures)
            by_line[number, one.language] = own
            if figures["unknown"]:
                warnings.append(
                    f"{fspath(path)}: the vocabulary cannot write {figures['unknown']:,} tokens or "
                    f"characters of {one.language}; its bits compare with nothing"
                )
        del model
    return {
        "schema": 1,
        "models": told,
        "texts": [
            {
                "language": t.language,
                "file": t.file,
                "lines": len(t.lines),
                "empty": t.empty,
                "bytes": sum(_sizes(t)),
                "byte_entropy": _entropy(t),
            }
            for t in given
        ],
        "losses": found,
        "child": [_compared(given[i], [fspath(m) for m in models], by_line) for i in range(len(given))]
        if len(models) > 1
        else [],
        "mean": float(np.mean([row["bits_per_byte"] for row in found[-len(given) :]])),
        "warnings": warnings,
    }


def line_bits(model: Model, lines: Sequence[str]) -> tuple[NDArray[np.float64], dict[str, int]]:
    """The bits of each line, and the bytes they are for, float64 [2, lines]; and counts, as of :class:`Loss`."""
    torch = need("torch")
    plain, start = model.ids(lines, special=False), model.start
    windows: list[list[int]] = []
    #: Of each window its line, and where the tokens that count begin.
    owners: list[tuple[int, int]] = []
    tokens = 0
    bits, sizes = found = np.array([np.zeros(len(lines)), [len(line.encode()) for line in lines]])
    all_bytes = sizes.sum()
    for i, own in enumerate(plain):
        whole = own if start is None else [start, *own]
        if start is None and own:
            sizes[i] -= _bytes(model.tokenizer, own[0])
        tokens += max(len(whole) - 1, 0)
        # Each window predicts all behind what the one before has; half of it at least is context.
        begin, predicted = 0, 1
        while predicted < len(whole):
            window = whole[begin : begin + model.context]
            windows.append(window)
            owners.append((i, predicted - begin))
            predicted = begin + len(window)
            begin = predicted - max(model.context // 2, 1)
    sums = np.zeros(len(windows))

    def done(batch: Batch, out: Any) -> None:
        logits = out.logits[:, :-1].float()
        nats = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch.ids[:, 1:], reduction="none")
        for at, row in enumerate(batch.rows):
            length, first = len(windows[row]), owners[row][1]
            sums[row] = float(nats[at, first - 1 : length - 1].double().sum())

    rows = int(model.module.get_input_embeddings().weight.shape[0])
    run(model, windows, done=done, most=max(min(model.running.tokens, LOGITS // rows), 1))
    for row, (i, _) in enumerate(owners):
        bits[i] += sums[row] / math.log(2)
    return found, {"tokens": tokens, "unknown": model.lost(plain, lines), "windows": len(windows),
                   "uncovered": int(all_bytes - sizes.sum())}  # fmt: skip


def _bytes(tokenizer: Any, token: int) -> int:
    """How many bytes of a text a token stands for."""
    written = tokenizer.decode([token])
    if "\ufffd" not in written:
        return len(written.encode())
    # Part of a character: a piece that is a byte, or one with a letter for each.
    piece = tokenizer.convert_ids_to_tokens(token)
    return 1 if piece.startswith("<0x") else len(piece)


def _of(model: Model, text: Text) -> tuple[Loss, NDArray[np.float64]]:
    own, counts = line_bits(model, text.lines)
    bits, sizes = own
    if not counts["tokens"]:
        raise SutureError(f"{model.path}: predicts nothing of {text.file}: its vocabulary has no token for it, or one "
                          "a line and none that begins texts", model.path)  # fmt: skip
    if not np.isfinite(bits).all():
        line = int(np.flatnonzero(~np.isfinite(bits))[0])
        raise model.no_number(f"the loss of line {line + 1} of {text.file} that is not empty")
    total, size = float(bits.sum()), float(sizes.sum())
    return {
        "model": model.path,
        "language": text.language,
        "bits": total,
        "bits_per_byte": total / size,
        "nats_per_token": total * math.log(2) / counts["tokens"],
        "tokens": counts["tokens"],
        "unknown": counts["unknown"],
        "windows": counts["windows"],
        "uncovered": counts["uncovered"],
    }, own


def _sizes(text: Text) -> list[int]:
    return [len(line.encode()) for line in text.lines]


def _entropy(text: Text) -> float:
    counts = np.array(list(Counter(b for line in text.lines for b in line.encode()).values()), dtype=np.float64)
    share = counts / counts.sum()
    return float(-(share * np.log2(share)).sum()) + 0.0


def _compared(text: Text, models: list[str], bits: dict[tuple[int, str], NDArray[np.float64]]) -> Compared:
    """The child, which is the last, against whichever of the others is best on a text."""
    own = [bits[m, text.language] for m in range(len(models))]
    rates = [float(b.sum() / size.sum()) for b, size in own]
    best = int(np.argmin(rates[:-1]))
    picked = np.random.default_rng(SEED).integers(0, len(text.lines), size=(DRAWS, len(text.lines)))
    # Each by its own bytes: one may have no prediction for a line's first token.
    child, other = (np.array([b[p].sum() / max(size[p].sum(), 1) for p in picked]) for b, size in (own[-1], own[best]))
    low, high = np.quantile(child - other, [0.025, 0.975])
    return {
        "language": text.language,
        "child": models[-1],
        "best": models[best],
        "difference": rates[-1] - rates[best],
        "low": float(low),
        "high": float(high),
    }
