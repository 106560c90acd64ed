"""Small models with tokenizers for transplants, and what a row plan makes of their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suture.vocab.rowplan import MIX, PAD, ZERO, RowPlan, Rows

from .checkpoints import encode, llama_config, llama_shapes, write_checkpoint
from .vocabularies import bpe, unigram, whole, wordpiece, write

Matrix = NDArray[np.float64]
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
SPECIAL = ["<s>", "</s>"]
ROLES = {"bos": "<s>", "eos": "</s>"}


def characters(form: str, tokens: Sequence[str]) -> Any:
    """A tokenizer model of a form, in which each token can be reached from its characters."""
    if form == "WordPiece":
        return wordpiece(["[UNK]", *tokens])
    if form == "Unigram":
        return unigram({"<unk>": 0.0, **{t: -1.0 - len(tokens) / (1 + len(t)) - i / 1e4 for i, t in enumerate(tokens)}})
    letters = list(dict.fromkeys(c for token in tokens for c in token))
    merges, known = [], set(letters)
    for token in sorted((t for t in tokens if len(t) > 1), key=len):
        # Its longest known beginning, then letter by letter.
        at = max(i for i in range(1, len(token)) if token[:i] in known)
        for stop in range(at + 1, len(token) + 1):
            left, right = token[: stop - 1], token[stop - 1]
            if left + right not in known:
                merges.append((left, right))
                known.add(left + right)
    return bpe(letters, merges)


def tokenizer(
    folder: Path, form: str, tokens: Sequence[str], special: Sequence[str] = SPECIAL, roles: Mapping[str, str] = ROLES
) -> dict[str, int]:
    """Write a tokenizer; its tokens by their text."""
    data = whole(form, characters(form, tokens), special)
    write(folder, data, roles)
    vocab = data["model"]["vocab"]
    ids = {t[0]: i for i, t in enumerate(vocab)} if isinstance(vocab, list) else dict(vocab)
    return ids | {entry["content"]: entry["id"] for entry in data["added_tokens"]}


def model(
    folder: Path,
    form: str,
    tokens: Sequence[str],
    *,
    width: int = 16,
    tied: bool = False,
    dtype: str = "F64",
    seed: int = 0,
    extra_rows: int = 0,
    tables: Mapping[str, Matrix] | None = None,
    **more: Any,
) -> tuple[dict[str, int], dict[str, Matrix]]:
    """Write a Llama of one layer with a tokenizer: its tokens, and its tables as f64."""
    ids = tokenizer(folder, form, tokens, **more)
    count = max(ids.values()) + 1 + extra_rows
    rng = np.random.default_rng(seed)
    shapes = llama_shapes(1, width, 2, 1, 16, count, tied)
    values = {name: rng.normal(size=shape) for name, shape in shapes.items()} | dict(tables or {})
    config = llama_config(1, width, 2, 1, 16, count, tied, dtype)
    config |= {"bos_token_id": ids.get("<s>"), "eos_token_id": ids.get("</s>")}
    write_checkpoint(folder, {name: encode(v, dtype) for name, v in values.items()}, config=config)
    return ids, {name: values[name] for name in (EMBED, HEAD) if name in values}


def carried_out(rows: Rows, tables: Sequence[Matrix], tokens: int) -> Matrix:
    """The table that rows of a plan make, by what `RowPlan` says of them."""
    made = np.zeros((len(rows.source), tables[0].shape[1]))
    pad = np.flatnonzero(rows.source == PAD)
    for i, (source, row) in enumerate(zip(rows.source.tolist(), rows.row.tolist(), strict=True)):
        if source >= 0:
            made[i] = tables[source][row]
        elif source == MIX:
            for entry in range(rows.starts[row], rows.starts[row + 1]):
                made[i] += rows.weight[entry] * tables[0][rows.index[entry]]
        else:
            assert source in (ZERO, PAD)
    if len(pad):
        made[pad] = np.delete(made, pad, axis=0).mean(axis=0)
    return made


def sound(plan: RowPlan) -> None:
    """What holds of every plan: it adds up, mixes ascend, nothing is beyond the tables."""
    assert sum(plan.counts().values()) == plan.rows == len(plan.kind) == len(plan.why)
    assert len(plan.names) <= plan.rows
    assert plan.why.min() >= 0
    assert plan.why.max() < len(plan.reasons)
    for rows in (plan.table, plan.head):
        if rows is None:
            continue
        assert len(rows.source) == len(rows.row) == plan.rows
        assert rows.starts[0] == 0
        assert rows.starts[-1] == len(rows.index) == len(rows.weight)
        for start, stop in zip(rows.starts[:-1], rows.starts[1:], strict=True):
            assert (np.diff(rows.index[start:stop]) > 0).all()
        assert rows.row.min() >= 0
        assert (rows.row[rows.source == MIX] < len(rows.starts) - 1).all()
        assert np.isfinite(rows.weight).all()
    assert len(set(plan.moved.values())) == len(plan.moved)
