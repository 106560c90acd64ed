"""A plan that takes the rows of a model whose embeddings were tuned, and puts them on a sibling's trunk.

It is what RAMEN does with adapted embeddings (arXiv 2002.07306): they were tuned on a base whose other weights were
kept, so that they fit every fine-tune of that base.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from suture.errors import SutureError, UsageError
from suture.sidecars.files import INNER, read_config
from suture.sidecars.template import template_in
from suture.sidecars.tokenizer import TOKENIZER_FILES
from suture.vocab.overlap import overlap
from suture.vocab.rowplan import CLASSES, RowPlan, Rows
from suture.vocab.same import differing
from suture.vocab.tokens import Vocabulary, read

_ROLE = re.compile(r"(\w+)_token_id")
_REASONS = ("the row that was tuned", "a row behind the last token of the model that was tuned")


def plan(model: Path, adapted: Path, rows: int, *, options: Mapping[str, Any] | None = None) -> RowPlan:
    """All rows of `adapted`, as they are, in the tables of `model`.

    If both have the same tokens under the same numbers and cut text alike, the tokenizer stays that of `model`, with
    its roles and its chat template; else tokenizer and numbers are those of `adapted`.

    Args:
        model: the model that is rewritten.
        adapted: the model that gives its rows.
        rows: how many rows its tables have.
        options: what was asked, for the plan.

    Raises:
        UsageError: if one has no tokenizer that can be read.
        SutureError: if a tokenizer is not sound, or a token has no row.
    """
    own, theirs = _vocabulary(model), _vocabulary(adapted)
    if (last := theirs.size - 1) >= rows:
        name = theirs.names[last]
        message = f"`{name:.40}` is token {last:,}, but there are {rows:,} rows; the tokenizer is of another model"
        raise SutureError(f"{adapted}: {message}", adapted)
    same = own.ids == theirs.ids and not differing(own, theirs)
    tokenizer = own if same else theirs
    moved = {n: n for n in own.names} if same else dict(overlap(own, theirs).pairs)
    names = [theirs.names.get(n) for n in range(theirs.size)]
    kind = np.full(rows, list(CLASSES).index("donor"), dtype=np.int8)
    kind[theirs.size :] = list(CLASSES).index("padding")
    why = np.zeros(rows, dtype=np.int32)
    why[theirs.size :] = 1
    present = [name for name in TOKENIZER_FILES if (tokenizer.folder / name).is_file()]
    return RowPlan(
        verb="graft",
        options=dict(options or {}),
        models=[model, adapted],
        names=names,
        table=Rows.copies(np.arange(rows), source=1),
        kind=kind,
        reasons=_REASONS,
        why=why,
        moved=moved,
        written=[],
        copied=[(name, str(tokenizer.folder / name)) for name in present],
        roles={} if same else _roles(theirs),
        told=[] if same else _told(own, theirs, moved),
        figures={"tokens": len(theirs.ids), "tokens_of_model": len(own.ids), "shared": len(moved), "same": same},
    )


def _vocabulary(folder: Path) -> Vocabulary:
    found = read(folder)
    if found.form == "none":
        raise UsageError(f"{folder}: has no tokenizer, which says what its rows are")
    if found.form == "slow":
        raise UsageError(
            f"{folder}: has no tokenizer.json, and its tokens cannot be told from what it has; "
            "load its tokenizer with transformers once and save it, which writes that file"
        )
    return found


def _roles(theirs: Vocabulary) -> dict[str, int]:
    """The number of the token of each role: as the tokenizer says, else as the configs do."""
    roles = {role: theirs.ids[text] for role, text in theirs.roles.items()}
    for name in ("generation_config.json", "config.json"):
        data = read_config(theirs.folder, name) or {}
        for part in (data, *(data[key] for key in INNER if isinstance(data.get(key), dict))):
            for key, value in part.items():
                if (match := _ROLE.fullmatch(key)) and type(value) is int and value in theirs.names:
                    roles.setdefault(match[1], value)
    return roles


def _told(own: Vocabulary, theirs: Vocabulary, moved: Mapping[int, int]) -> list[str]:
    """What a user should know of the other tokenizer."""
    lost = len(own.ids) - len(moved)
    told = [
        f"the tokenizer is that of {theirs.folder}: {len(theirs.ids):,} tokens for {len(own.ids):,} of {own.folder}, "
        f"of which {lost:,} are gone"
    ]
    written = any((own.folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json"))
    if template_in(own.folder) is not None and not written and template_in(theirs.folder) is None:
        told.append(f"{own.folder}: its chat template is left out, as the output has another tokenizer, without one")
    return told
