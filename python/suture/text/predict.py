"""Transfer between languages as a regression on what is known of them: fitted correlations, with their errors."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suture.errors import MALFORMED, SutureError, UsageError, near
from suture.results.text import Fit, FitGroup, Helper, Helpers, LeftOut, Predicted, Predictions

#: Rows of a table: a column's name and what stands there.
Row = Mapping[str, str]
#: Strength of the ridge: of standardised features, so many rows' worth of shrinkage.
RIDGE = 1.0


def fit(
    table: str | PathLike[str] | Sequence[Row],
    *,
    score: str = "score",
    features: Sequence[str] | None = None,
    target: str = "target",
    group: str | None = None,
    curve: str | None = None,
    ridge: float = RIDGE,
) -> Fit:
    """Fit scores of transfer to features of pairs of languages by ridge regression (features as in Muller et al. 2023,
    "Languages You Know Influence Those You Learn"; per type of task as in "Event Extraction in Basque").

    Features are standardised with the means and deviations of the rows that are fitted; the intercept is not shrunk.
    The error is told by leaving each target language out (of each fold the standardisation too), beside that of the
    mean of the others' scores, its baseline. What comes out is a correlation in this table, not a cause.

    Args:
        table: a CSV or a TSV with a line of names, or rows; a row a pair of languages.
        score: the column to predict.
        features: the columns to predict it from: numbers; None for all other columns of numbers. An empty cell stands
            for the column's mean, and is counted.
        target: the column that says which rows are left out together.
        group: a column such as the type of task: each of its values is fitted by itself.
        curve: a column n > 0, such as the number of examples: ln n becomes a feature (a + b ln n; of it alone where no
            features are named).
        ridge: added to the squares of each standardised feature; 0 for least squares.

    Returns:
        Coefficients and errors of each group; what :func:`use` takes. See :class:`suture.results.text.Fit`.

    Raises:
        UsageError: if a column is not there, or an argument is wrong.
        SutureError: if a cell is no number, or a group has too few rows or target languages.
    """
    if not (math.isfinite(ridge) and ridge >= 0):
        raise UsageError(f"ridge: expected a number from 0 on, found {ridge}", at="ridge")
    rows, where = _rows(table)
    names = list(rows[0])
    others = {score, target, group, curve, "source"}
    _known([score, target, *(features or ()), *([group] if group else ()), *([curve] if curve else ())], names, where)
    if features is None:
        features = [] if curve else [n for n in names if n not in others and _numeric(rows, n)]
    if not features and curve is None:
        raise UsageError(
            f"{where}: has no columns of numbers beside `{score}`; name features, or a curve", at="features"
        )
    features = list(dict.fromkeys(features))
    if score in features or curve == score:
        raise UsageError(f"features: `{score}` is what is predicted", at="features")
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[group] if group else "", []).append(row)
    fitted = [_group(name, own, score, features, target, curve, ridge, where) for name, own in groups.items()]
    return {"schema": 1, "table": where, "score": score, "target": target, "group": group, "curve": curve,
            "ridge": ridge, "groups": fitted, "warnings": [
                f"{one['group'] or where}: {one['filled']:,} empty cells stand for the means of their columns"
                for one in fitted if one["filled"]]}  # fmt: skip


def use(fitted: Fit | str | PathLike[str], table: str | PathLike[str] | Sequence[Row]) -> Predictions:
    """Predict scores of other pairs by what was fitted.

    Args:
        fitted: what :func:`fit` returned, or a file of its JSON.
        table: rows with the columns that were fitted.

    Returns:
        A prediction for each row, with the root mean squared error of languages left out, and whether a feature lies
        outside what was fitted. See :class:`suture.results.text.Predictions`.

    Raises:
        UsageError: if a column is not there, or a group was not fitted.
        SutureError: if a file or a cell is not sound.
    """
    rows, where = _rows(table)
    try:
        said: Any = fitted if isinstance(fitted, Mapping) else json.loads(Path(fitted).read_text(encoding="utf-8"))
        found = _used(said, rows, where)
        return {"schema": 1, "score": str(said["score"]), "rows": found, "warnings": []}
    except OSError as e:
        raise UsageError(f"`{fitted}`: cannot read: {e.strerror}") from None
    except MALFORMED:
        name = "the fit" if isinstance(fitted, Mapping) else fitted
        raise SutureError(f"{name}: is not what `suture text predict fit --json` prints") from None


def _used(said: Any, rows: list[Row], where: str) -> list[Predicted]:
    groups: dict[str, Any] = {one["group"]: one for one in said["groups"]}
    curve, group = said["curve"], said["group"]
    first = said["groups"][0]
    plain = [f for f in first["features"] if f != _log(curve)]
    _known([*plain, *([curve] if curve else ()), *([group] if group else ())], list(rows[0]), where)
    found: list[Predicted] = []
    for number, row in enumerate(rows, 2):
        name = row[group] if group else ""
        if name not in groups:
            raise UsageError(f"{where}: row {number}: `{name}` was not fitted; expected one of {', '.join(groups)}")
        one = groups[name]
        values, _ = _matrix([row], [f for f in one["features"] if f != _log(curve)], curve, where, number)
        x = np.where(np.isnan(values[0]), one["means"], values[0])
        deviations = np.array(one["deviations"])
        scaled = np.divide(x - one["means"], deviations, out=np.zeros_like(x), where=deviations > 0)
        outside = [f for f, v, low, high in zip(one["features"], x, one["lowest"], one["highest"], strict=True)
                   if not low <= v <= high]  # fmt: skip
        predicted = float(one["intercept"] + scaled @ np.array(one["weights"], dtype=np.float64))
        if not math.isfinite(predicted):
            raise ValueError
        found.append({"row": dict(row), "group": name, "predicted": predicted,
                      "rmse": one["rmse"], "baseline": one["mean"], "outside": outside})  # fmt: skip
    return found


def helpers(
    table: str | PathLike[str] | Sequence[Row],
    *,
    to: str,
    features: Sequence[str] | None = None,
    source: str = "source",
    target: str = "target",
    counts: Sequence[str] = (),
) -> Helpers:
    """Languages that may help a language, by the mean of z-scored similarities (Chang et al., "When Is Multilinguality
    a Curse?"): what is missing counts as the mean, a count of shared tokens enters as ln(1 + n).

    Args:
        table: rows of pairs and their similarities, higher for more alike.
        to: the language to be helped, in the column `target`.
        features: the similarities; None for all columns of numbers. z-scores are over all rows of the table.
        source: the column of the languages that help.
        target: the column of those that are helped.
        counts: which of the features are counts.

    Returns:
        The languages, those most alike first; 0 is the mean of the table. See :class:`suture.results.text.Helpers`.

    Raises:
        UsageError: if a column or the language is not there.
        SutureError: if a cell is no number.
    """
    rows, where = _rows(table)
    names = list(rows[0])
    _known([source, target, *(features or ()), *counts], names, where)
    listed = list(dict.fromkeys(features or (n for n in names if n not in (source, target) and _numeric(rows, n))))
    if not listed:
        raise UsageError(f"{where}: has no columns of numbers; name features", at="features")
    if not any(row[target] == to for row in rows):
        found = near(to, {row[target] for row in rows})
        raise UsageError(f"{where}: no row has `{to}` in `{target}`{found}", at="to")
    if other := set(counts) - set(listed):
        raise UsageError(f"counts: `{min(other)}` is none of the features", at="counts")
    values, _ = _matrix(rows, listed, None, where)
    for name in counts:
        at = listed.index(name)
        if (values[:, at] < 0).any():
            raise SutureError(f"{where}: `{name}` is a count, and less than 0 in a row")
        values[:, at] = np.log1p(values[:, at])
    known = ~np.isnan(values)
    if not known.any(axis=0).all():
        name = listed[int(np.flatnonzero(~known.any(axis=0))[0])]
        raise SutureError(f"{where}: `{name}` is empty in every row; leave it out")
    means, spreads = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
    z = np.divide(values - means, spreads, out=np.zeros_like(values), where=known & (spreads > 0))
    scored: list[Helper] = [
        {"source": row[source], "score": float(z[i].mean()), "z": dict(zip(listed, map(float, z[i]), strict=True)),
         "missing": int((~known[i]).sum())}
        for i, row in enumerate(rows) if row[target] == to and row[source] != to
    ]  # fmt: skip
    scored.sort(key=lambda one: (-one["score"], one["source"]))
    return {"schema": 1, "table": where, "to": to, "features": listed, "helpers": scored, "warnings": []}


def _group(
    name: str,
    rows: list[Row],
    score: str,
    features: list[str],
    target: str,
    curve: str | None,
    ridge: float,
    where: str,
) -> FitGroup:
    x, labels = _matrix(rows, features, curve, where)
    y, _ = _matrix(rows, [score], None, where)
    at = f"{where}: {name}" if name else where
    if np.isnan(y).any():
        raise SutureError(f"{at}: `{score}` is empty in a row; leave the row out, or give its score")
    y = y[:, 0]
    empty = np.isnan(x).all(axis=0)
    if empty.any():
        raise SutureError(f"{at}: `{labels[int(np.flatnonzero(empty)[0])]}` is empty in every row; leave it out")
    left = [row[target] for row in rows]
    folds = list(dict.fromkeys(left))
    if len(folds) < 2:
        raise SutureError(f"{at}: has one language in `{target}`; expected two or more, so that one can be left out")
    if len(rows) <= len(labels) and ridge == 0:
        raise SutureError(f"{at}: {len(rows)} rows do not decide {len(labels) + 1} coefficients; give a ridge above 0")
    intercept, weights, means, deviations = _ridge(x, y, ridge)
    predicted, plain = np.empty(len(y)), np.empty(len(y))
    by_language: list[LeftOut] = []
    for language in folds:
        out = np.array([one == language for one in left])
        own = _ridge(x[~out], y[~out], ridge)
        predicted[out], plain[out] = _apply(own, x[out]), y[~out].mean()
        by_language.append({"target": language, "rows": int(out.sum()),
                            "error": _rms(predicted[out] - y[out]), "baseline": _rms(plain[out] - y[out])})  # fmt: skip
    fitted = _apply((intercept, weights, means, deviations), x)
    total = float(((y - y.mean()) ** 2).sum())
    slopes = np.divide(weights, deviations, out=np.zeros_like(weights), where=deviations > 0)
    return {
        "group": name,
        "rows": len(rows),
        "filled": int(np.isnan(x).sum()),
        "features": labels,
        "intercept": float(intercept),
        "weights": [float(w) for w in weights],
        "slopes": [float(s) for s in slopes],
        "constant": float(intercept - slopes @ means),
        "means": [float(m) for m in means],
        "deviations": [float(d) for d in deviations],
        "lowest": [float(v) for v in np.nanmin(x, axis=0)],
        "highest": [float(v) for v in np.nanmax(x, axis=0)],
        "mean": float(y.mean()),
        "r2": 1 - float(((y - fitted) ** 2).sum()) / total if total else None,
        "rmse": _rms(predicted - y),
        "baseline_rmse": _rms(plain - y),
        "left_out": by_language,
    }


def _ridge(x: NDArray[Any], y: NDArray[Any], ridge: float) -> tuple[float, NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Intercept, weights of standardised features, their means and deviations; what is missing is the mean."""
    means = np.array([np.mean(c[~np.isnan(c)]) if (~np.isnan(c)).any() else 0.0 for c in x.T])
    filled = np.where(np.isnan(x), means, x)
    deviations = filled.std(axis=0)
    # A column of one value, but for rounding, tells nothing.
    deviations[deviations <= 1e-12 * np.maximum(abs(means), 1e-300)] = 0.0
    z = np.divide(filled - means, deviations, out=np.zeros_like(filled), where=deviations > 0)
    stacked = np.concatenate([z, math.sqrt(ridge) * np.eye(z.shape[1])])
    weights = np.linalg.lstsq(stacked, np.concatenate([y - y.mean(), np.zeros(z.shape[1])]), rcond=None)[0]
    return float(y.mean()), weights, means, deviations


def _apply(fitted: tuple[float, NDArray[Any], NDArray[Any], NDArray[Any]], x: NDArray[Any]) -> NDArray[Any]:
    intercept, weights, means, deviations = fitted
    filled = np.where(np.isnan(x), means, x)
    z = np.divide(filled - means, deviations, out=np.zeros_like(filled), where=deviations > 0)
    found: NDArray[Any] = intercept + z @ weights
    return found


def _rms(errors: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(errors**2)))


def _log(curve: str | None) -> str | None:
    return None if curve is None else f"ln {curve}"


def _matrix(
    rows: Sequence[Row], features: Sequence[str], curve: str | None, where: str, first: int = 2
) -> tuple[NDArray[np.float64], list[str]]:
    """Columns as float64 [rows, features], the logarithm of `curve` behind them; NaN where a cell is empty."""
    found = np.array([[_number(row[f], f, i, where) for f in features] for i, row in enumerate(rows, first)])
    found = found.reshape(len(rows), len(features))
    if curve is None:
        return found, list(features)
    counts = np.array([_number(row[curve], curve, i, where) for i, row in enumerate(rows, first)])
    if not (counts > 0).all():
        line = int(np.flatnonzero(~(counts > 0))[0]) + first
        raise SutureError(f"{where}: row {line}: `{curve}`: expected a number above 0, whose logarithm is taken")
    return np.concatenate([found, np.log(counts)[:, None]], axis=1), [*features, f"ln {curve}"]


def _number(text: str, name: str, line: int, where: str) -> float:
    if not str(text).strip():
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.inf
    if math.isnan(value):
        return math.nan
    if math.isinf(value):
        raise SutureError(f"{where}: row {line}: `{name}`: expected a number or nothing, found `{text:.40}`")
    return value


def _numeric(rows: Sequence[Row], name: str) -> bool:
    """Whether a column has a number, so that what is none in it is a mistake, not another kind of column."""
    return any(re.fullmatch(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", str(row[name])) for row in rows)


def _known(asked: Iterable[str], names: Sequence[str], where: str) -> None:
    for name in asked:
        if name not in names:
            meant = near(name, names) or f"; it has {', '.join(f'`{n}`' for n in names)}"
            raise UsageError(f"{where}: has no column `{name}`{meant}")


def _rows(table: str | PathLike[str] | Sequence[Row]) -> tuple[list[Row], str]:
    if not isinstance(table, str | PathLike):
        if not table:
            raise UsageError("the table has no rows", at="table")
        return list(table), "the table"
    path = Path(table)
    if not path.is_file():
        raise UsageError(f"`{path}`: no such file; expected a table with a line of names")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise SutureError(f"{path}: is not UTF-8 (byte {e.start + 1}); convert it", path) from None
    reader = csv.reader(io.StringIO(text), delimiter="\t" if path.suffix == ".tsv" else ",")
    try:
        names, *lines = [row for row in reader if row] or [[]]
    except csv.Error as e:
        raise SutureError(f"{path}: line {reader.line_num}: {e}", path) from None
    if len(set(names)) != len(names):
        raise SutureError(f"{path}: line 1: names a column twice", path)
    for number, line in enumerate(lines, 2):
        if len(line) != len(names):
            raise SutureError(f"{path}: row {number}: expected {len(names)} columns, found {len(line)}", path)
    if not lines:
        raise UsageError(f"{path}: has no rows; expected a line of names and a row for each pair")
    return [dict(zip(names, line, strict=True)) for line in lines], str(path)
