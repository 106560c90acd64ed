"""Law: a file that is not what a verb printed is one line that names it, whatever it holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import suture
from suture.surgery.evidence import read_evidence
from suture.surgery.influence import least

ROWS = [{"source": "a", "target": str(i), "f": str(i), "score": str(2 * i + 1)} for i in range(5)]
READERS: list[Callable[[Path], Any]] = [
    lambda path: least("least:2", path, 4),
    lambda path: read_evidence(path, "base", 4),
    lambda path: suture.text.use(path, ROWS),
    suture.text.table,
]
ROW = {"model": "base", "language": "sw", "layer": 0, "above": 0.1}
HOSTILE = [
    "[" * 200_000, "null", "1", '"x"', "[]", "{}", "\0", '{"order": [Infinity, 0, 1, 2]}', '{"order": [1e400]}',
    '{"results": {"t": {"acc,none": 1' + "0" * 400 + "}}}", '{"results": {"t": [1]}}', '{"results": [1]}',
    '{"results": {"t": {"acc,none": NaN}}}', '{"results": {"t": {"acc,none": 1}}, "higher_is_better": [1]}',
    json.dumps({"models": [{"path": "base"}], "pivot": "en", "layers": [{**ROW, "layer": float("inf")}]}),
    json.dumps({"models": [{"path": "base"}], "pivot": "en", "layers": [{**ROW, "above": 10**400}]}),
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("reader", READERS, ids=["influence", "evidence", "fit", "results"])
def test_no_document_ends_in_a_traceback(tmp_path: Path, text: str, reader: Callable[[Path], Any]) -> None:
    """Nested without end, of numbers too large for a float, of lists where names belong."""
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(suture.SutureError, match=r"file\.json"):
        reader(path)


@pytest.mark.parametrize(
    "change",
    [{"means": []}, {"weights": ["x"]}, {"weights": [float("nan")]}, {"features": [["x"]]}, {"group": ["x"]}],
)
def test_a_fit_that_was_edited_is_told(tmp_path: Path, change: dict[str, Any]) -> None:
    """Each entry that `use` reads."""
    fitted = json.loads(json.dumps(suture.text.fit(ROWS)))
    fitted["groups"][0].update(change)
    path = tmp_path / "fit.json"
    path.write_text(json.dumps(fitted))
    with pytest.raises(suture.SutureError, match=r"fit\.json: is not what"):
        suture.text.use(path, ROWS)


@pytest.mark.parametrize("drop", ["least:" + "9" * 5000, "least:", "least:0", "least:4", "least:-1", "least:٢"])
def test_numbers_of_layers_are_checked(tmp_path: Path, drop: str) -> None:
    """However they are written."""
    path = tmp_path / "ok.json"
    path.write_text('{"order": [0, 1, 2, 3]}')
    with pytest.raises(suture.UsageError, match="expected least:1 to least:3"):
        least(drop, path, 4)
