"""Law: a planted regression is found again, with the error of languages left out by hand; helpers are mean z-scores."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..support.vocab_models import problems


def planted(noise: float = 0.0, seed: int = 0) -> list[dict[str, str]]:
    """Pairs of six languages: score = 3 + 2 syntax - 0.5 overlap, and noise."""
    rng = np.random.default_rng(seed)
    rows = []
    for source in "abcdef":
        for target in "abcdef":
            if source != target:
                syntax, overlap = rng.normal(), rng.uniform(0, 10)
                score = 3 + 2 * syntax - 0.5 * overlap + noise * rng.normal()
                rows.append({"source": source, "target": target, "syntax": repr(float(syntax)),
                             "overlap": repr(float(overlap)), "score": repr(float(score))})  # fmt: skip
    return rows


def written(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.DictWriter(file, list(rows[0]))
        out.writeheader()
        out.writerows(rows)
    return path


def columns(rows: list[dict[str, str]], *names: str) -> Any:
    return np.array([[float(row[n]) for n in names] for row in rows])


def test_a_planted_regression_is_found_again(tmp_path: Path) -> None:
    """Without noise and ridge: the coefficients to 1e-9, and no error on languages left out; the mean has some."""
    found = suture.text.fit(written(tmp_path / "t.csv", planted()), ridge=0)
    assert not problems("text_fit", found)
    one = found["groups"][0]
    assert one["features"] == ["syntax", "overlap"]
    assert [one["constant"], *one["slopes"]] == pytest.approx([3, 2, -0.5], abs=1e-9)
    assert one["rmse"] == pytest.approx(0, abs=1e-9)
    assert one["baseline_rmse"] > 1
    assert one["r2"] == pytest.approx(1)


@pytest.mark.parametrize("ridge", [0.0, 1.0, 30.0])
def test_the_error_is_of_languages_left_out(ridge: float) -> None:
    """Each target language in its turn, standardised without it: by the normal equations."""
    rows = planted(noise=1.0)
    found = suture.text.fit(rows, ridge=ridge)["groups"][0]
    x, y = columns(rows, "syntax", "overlap"), columns(rows, "score")[:, 0]
    targets = np.array([row["target"] for row in rows])
    errors, plain = np.empty(len(y)), np.empty(len(y))
    for target in "abcdef":
        out = targets == target
        mean, spread = x[~out].mean(0), x[~out].std(0)
        z, middle = (x - mean) / spread, y[~out].mean()
        weights = np.linalg.solve(z[~out].T @ z[~out] + ridge * np.eye(2), z[~out].T @ (y[~out] - middle))
        errors[out], plain[out] = middle + z[out] @ weights - y[out], middle - y[out]
    assert found["rmse"] == pytest.approx(np.sqrt((errors**2).mean()))
    assert found["baseline_rmse"] == pytest.approx(np.sqrt((plain**2).mean()))
    assert [o["error"] for o in found["left_out"]] == pytest.approx(
        [float(np.sqrt((errors[targets == o["target"]] ** 2).mean())) for o in found["left_out"]]
    )


def test_a_curve_is_a_plus_b_ln_n() -> None:
    """Alone, or beside features; n has to be above 0."""
    rows = [{"target": t, "n": str(n), "score": repr(1 + 0.7 * math.log(n))} for t in "xyz" for n in (1, 8, 64, 512)]
    found = suture.text.fit(rows, curve="n", ridge=0)["groups"][0]
    assert found["features"] == ["ln n"]
    assert [found["constant"], *found["slopes"]] == pytest.approx([1, 0.7], abs=1e-9)
    with pytest.raises(suture.SutureError, match="expected a number above 0"):
        suture.text.fit([*rows, {"target": "x", "n": "0", "score": "1"}], curve="n")


def test_groups_are_fitted_alone_and_used(tmp_path: Path) -> None:
    """Two types of tasks with opposite signs; predictions are the formula, and say where they go beyond the fit."""
    rows = [{**row, "task": "tagging"} for row in planted()]
    rows += [{**row, "task": "roles", "score": repr(-float(row["score"]))} for row in planted()]
    found = suture.text.fit(rows, features=["syntax", "overlap"], group="task", ridge=0)
    assert [one["slopes"][0] for one in found["groups"]] == pytest.approx([2, -2])
    (tmp_path / "fit.json").write_text(json.dumps(found))
    new = [{"task": "roles", "syntax": "0.5", "overlap": "4"}, {"task": "tagging", "syntax": "9", "overlap": "4"}]
    used = suture.text.use(tmp_path / "fit.json", new)
    assert not problems("text_predictions", used)
    assert [row["predicted"] for row in used["rows"]] == pytest.approx([-(3 + 1 - 2), 3 + 18 - 2])
    assert [row["outside"] for row in used["rows"]] == [[], ["syntax"]]
    with pytest.raises(suture.UsageError, match="`other` was not fitted"):
        suture.text.use(found, [{"task": "other", "syntax": "0", "overlap": "0"}])


def test_empty_cells_are_means_and_told() -> None:
    """A feature that is missing counts as its column's mean."""
    rows = planted()
    rows[0]["syntax"] = ""
    found = suture.text.fit(rows)
    assert found["groups"][0]["filled"] == 1
    assert "1 empty cells" in found["warnings"][0]
    full = columns(rows[1:], "syntax")
    assert found["groups"][0]["means"][0] == pytest.approx(full.mean())


def test_helpers_are_mean_z_scores() -> None:
    """Over all rows of the table, ln(1 + n) of counts, 0 for what is missing."""
    pairs = [("a", "x", 0.9, 100), ("b", "x", 0.1, 5000), ("c", "x", 0.5, 0), ("a", "y", 0.3, 20)]
    rows = [{"source": s, "target": t, "syntax": str(x), "shared": str(n)} for s, t, x, n in pairs]
    found = suture.text.helpers(rows, to="x", counts=["shared"])
    assert not problems("text_helpers", found)
    x = columns(rows, "syntax", "shared")
    x[:, 1] = np.log1p(x[:, 1])
    z = ((x - x.mean(0)) / x.std(0)).mean(1)
    assert {h["source"]: h["score"] for h in found["helpers"]} == pytest.approx({"a": z[0], "b": z[1], "c": z[2]})
    assert found["helpers"][0]["score"] >= found["helpers"][-1]["score"]
    rows[2]["syntax"] = ""
    assert next(h for h in suture.text.helpers(rows, to="x")["helpers"] if h["source"] == "c")["z"]["syntax"] == 0


def test_bad_tables_are_told(tmp_path: Path) -> None:
    """By file, line and column."""
    path = written(tmp_path / "t.csv", planted())

    def refused(words: str, table: Any = path, **more: Any) -> None:
        with pytest.raises(suture.SutureError, match=words):
            suture.text.fit(table, **more)

    refused("has no column `sintax`; did you mean `syntax`", features=["sintax"])
    refused("no such file", tmp_path / "none.csv")
    refused("ridge: expected", ridge=-1)
    rows = planted()
    rows[3]["syntax"] = "much"
    refused("row 5: `syntax`: expected a number", written(tmp_path / "b.csv", rows), features=["syntax"])
    refused("has one language in `target`", [row for row in planted() if row["target"] == "a"])
    refused("do not decide", planted()[:2], ridge=0)
    path.write_text("a,b\n1\n")
    refused("row 2: expected 2 columns, found 1")
    with pytest.raises(suture.SutureError, match="is not what `suture text predict fit --json` prints"):
        suture.text.use(path, planted())


def test_a_cell_that_is_no_number_is_told(tmp_path: Path) -> None:
    """Also where no features are named: a column with numbers is one of numbers; NaN is an empty cell."""
    rows = planted()
    rows[3]["syntax"] = "nan"
    found = suture.text.fit(written(tmp_path / "nan.csv", rows))["groups"][0]
    assert (found["features"], found["filled"]) == (["syntax", "overlap"], 1)
    for bad in ("NA", "--", "inf"):
        rows[3]["syntax"] = bad
        with pytest.raises(suture.SutureError, match="row 5: `syntax`: expected a number"):
            suture.text.fit(written(tmp_path / "bad.csv", rows))


def test_names_may_have_commas_and_ends_of_lines(tmp_path: Path) -> None:
    """A language left out is the one that the cell names."""
    rows = planted()
    for row in rows:
        row["target"] = {"a": "a, b", "b": "b\nx", "c": "c\u2028x"}.get(row["target"], row["target"])
    found = suture.text.fit(written(tmp_path / "t.csv", rows))["groups"][0]
    assert {one["target"] for one in found["left_out"]} == {row["target"] for row in rows}


def test_features_are_each_once_and_not_the_score() -> None:
    """The score predicts itself; a count that is no feature is told."""
    found = suture.text.fit(planted(), features=["syntax", "syntax"])["groups"][0]
    assert found["features"] == ["syntax"]
    with pytest.raises(suture.UsageError, match="`score` is what is predicted"):
        suture.text.fit(planted(), features=["syntax", "score"])
    with pytest.raises(suture.UsageError, match="counts: `overlap` is none of the features"):
        suture.text.helpers(planted(), to="a", features=["syntax"], counts=["overlap"])
