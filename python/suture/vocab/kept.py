"""Row plans as files: everything that is needed to carry one out again, on this model or one of the same vocabulary.

A plan is a JSON object. Rows stand as runs (see `suture.vocab.segments`), mixes as their entries, classes and reasons
as runs of ``[count, class, reason]``, files with their content. `before` has the vocabulary that the rewritten model
must have, by its digest and number of rows, and, where the plan can be undone, the files that it had.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suture.errors import SutureError
from suture.sidecars.tokenizer import TOKENIZER_FILES
from suture.vocab.ids import FILES
from suture.vocab.rowplan import CLASSES, RowPlan, Rows
from suture.vocab.segments import MOST, rows_of, runs_of
from suture.vocab.tokens import Vocabulary

#: The name of the plan in an output's folder.
NAME = "suture-vocabulary.json"
_SCHEMA = 1


@dataclass(frozen=True)
class Kept:
    """A plan that was kept.

    Attributes:
        plan: the plan, its models where they were.
        path: the file.
        digest: that of the vocabulary that the rewritten model must have.
        rows: how many rows its table must have.
        before: the files it had; empty where the plan cannot be undone.
        digests: those of the tokenizer's files that it had (SHA-256), by their names.
    """

    plan: RowPlan
    path: Path
    digest: str
    rows: int
    before: Sequence[tuple[str, bytes]]
    digests: Mapping[str, str]


def kept(plan: RowPlan, own: Vocabulary, rows: int) -> bytes:
    """The file of a plan.

    Args:
        plan: the plan.
        own: the vocabulary of the model that is rewritten.
        rows: how many rows its table has.

    Raises:
        SutureError: if a tokenizer's file cannot be read.
    """
    written = [*plan.written, *((name, _read(Path(source))) for name, source in plan.copied)]
    before = []
    had = [name for name in TOKENIZER_FILES if (own.folder / name).is_file()]
    digests = {name: hashlib.sha256(_read(own.folder / name)).hexdigest() for name in had}
    if plan.undo:
        names = [name for name in (*TOKENIZER_FILES, *FILES) if (own.folder / name).is_file()]
        before = [(name, _read(own.folder / name)) for name in names]
    data: dict[str, Any] = {
        "schema": _SCHEMA,
        "verb": plan.verb,
        "options": plan.asked,
        "models": [str(model) for model in plan.models],
        "rows": plan.rows,
        "counts": plan.counts(),
        "undo": plan.undo,
        "told": list(plan.told),
        "figures": plan.figures,
        "before": {"tokens": own.digest, "rows": rows, "digests": digests, "files": _files(before)},
        "roles": plan.roles,
        "moved": _moved_runs(plan.moved),
        "names": list(plan.names),
        "table": _rows_told(plan.table),
        "head": None if plan.head is None else _rows_told(plan.head),
        "reasons": list(plan.reasons),
        "classes": _classes_told(plan.kind, plan.why),
        "files": _files(written),
    }
    try:
        return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        # JSON can name half a character, UTF-8 cannot.
        return json.dumps(data, separators=(",", ":")).encode()


def load(path: Path) -> Kept:
    """Read a plan that was kept.

    Raises:
        SutureError: if the file is no plan, or not a sound one.
    """
    try:
        data = json.loads(path.read_bytes())
    except OSError as e:
        raise SutureError(f"{path}: cannot be read: {e.strerror}", path) from None
    except (ValueError, RecursionError):
        raise SutureError(f"{path}: is no plan of `suture vocab`: it is no JSON", path) from None
    if not isinstance(data, dict) or "before" not in data or "table" not in data:
        raise SutureError(f"{path}: is no plan of `suture vocab`; one is made by --plan, or lies in an output", path)
    if data.get("schema") != _SCHEMA:
        message = f"is a plan of schema {data.get('schema')!r:.20}; this version reads {_SCHEMA}"
        raise SutureError(f"{path}: {message}", path)
    try:
        made = _kept(data, path)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as e:
        raise SutureError(f"{path}: is damaged: {type(e).__name__} {e!s:.80}; make the plan again", path) from None
    if (problem := made.plan.problem()) is not None:
        raise SutureError(f"{path}: is damaged: {problem}; make the plan again", path)
    return made


def _kept(data: Mapping[str, Any], path: Path) -> Kept:
    kind, why = _classes_read(data["classes"])
    if not re.fullmatch(r"[a-z]+", data["verb"]):
        raise ValueError(f"verb {data['verb']!r:.20}")
    if any(not isinstance(name, str | None) for name in data["names"]) or data["rows"] != len(kind):
        raise ValueError("names or rows")
    digests = {str(name): str(digest) for name, digest in data["before"].get("digests", {}).items()}
    plan = RowPlan(
        verb=str(data["verb"]),
        options=dict(data["options"]),
        models=[Path(model) for model in data["models"]],
        names=[name if name is None else str(name) for name in data["names"]],
        table=_rows_read(data["table"]),
        head=None if data["head"] is None else _rows_read(data["head"]),
        kind=kind,
        reasons=[str(reason) for reason in data["reasons"]],
        why=why,
        moved=_moved_read(data["moved"]),
        roles={str(role): int(number) for role, number in data["roles"].items()},
        written=_contents(data["files"], TOKENIZER_FILES),
        copied=[],
        undo=bool(data["undo"]),
        told=[str(line) for line in data["told"]],
        figures=dict(data["figures"]),
    )
    before = data["before"]
    files = _contents(before["files"], (*TOKENIZER_FILES, *FILES))
    return Kept(plan, path, str(before["tokens"]), int(before["rows"]), files, digests)


def _rows_told(rows: Rows) -> dict[str, Any]:
    mixes = {"starts": rows.starts, "index": rows.index, "weight": rows.weight, "noise": rows.noise}
    return {"runs": runs_of(rows), **{name: values.tolist() for name, values in mixes.items()}}


def _rows_read(data: Mapping[str, Any]) -> Rows:
    source, row = rows_of(data["runs"])
    whole = [np.array(data[name], dtype=np.int64) for name in ("starts", "index")]
    parts = [np.array(data[name], dtype=np.float64) for name in ("weight", "noise")]
    return Rows(source, row, whole[0], whole[1], parts[0], parts[1])


def _classes_told(kind: NDArray[np.int8], why: NDArray[np.int32]) -> list[list[Any]]:
    if not len(kind):
        return []
    changes = np.flatnonzero((kind[1:] != kind[:-1]) | (why[1:] != why[:-1])) + 1
    starts = np.concatenate([[0], changes])
    counts = np.diff(np.append(starts, len(kind)))
    names = list(CLASSES)
    columns = (counts.tolist(), kind[starts].tolist(), why[starts].tolist())
    return [[count, names[k], reason] for count, k, reason in zip(*columns, strict=True)]


def _classes_read(runs: Sequence[Any]) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
    places = {name: i for i, name in enumerate(CLASSES)}
    counts = np.array([int(count) for count, _, _ in runs], dtype=np.int64)
    if counts.sum() > MOST or (counts < 0).any():
        raise ValueError(f"more than {MOST:,} rows")
    kinds = np.array([places[name] for _, name, _ in runs], dtype=np.int8)
    whys = np.array([int(why) for _, _, why in runs], dtype=np.int32)
    return np.repeat(kinds, counts), np.repeat(whys, counts)


def _moved_runs(moved: Mapping[int, int]) -> list[list[int]]:
    """Numbers that move together: the first, where it goes, and how many there are."""
    runs: list[list[int]] = []
    for old, new in sorted(moved.items()):
        if runs and old == runs[-1][0] + runs[-1][2] and new == runs[-1][1] + runs[-1][2]:
            runs[-1][2] += 1
        else:
            runs.append([old, new, 1])
    return runs


def _moved_read(runs: Sequence[Sequence[int]]) -> dict[int, int]:
    return {old + i: new + i for old, new, count in runs for i in range(count)}


def _files(files: Sequence[tuple[str, bytes]]) -> dict[str, Any]:
    return {name: _text(content) for name, content in files}


def _text(content: bytes) -> Any:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(content).decode("ascii")}


def _contents(files: Mapping[str, Any], known: Sequence[str]) -> list[tuple[str, bytes]]:
    found = []
    for name, content in files.items():
        if name not in known:
            raise ValueError(f"a file named {name!r:.40}")
        data = content.encode() if isinstance(content, str) else base64.b64decode(content["base64"])
        if name.endswith(".json") and not isinstance(json.loads(data), dict):
            raise ValueError(f"{name} is no mapping")
        found.append((name, data))
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise SutureError(f"{path}: cannot be read: {e.strerror}", path) from None
