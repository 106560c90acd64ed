"""What models make of texts, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from suture.render.layout import room
from suture.render.table import Column, names, show
from suture.render.terminal import say
from suture.render.units import figure, plural
from suture.results.text import (
    Evaluation,
    Fit,
    Helpers,
    Influence,
    Predictions,
    Ranking,
    RunModel,
    Statistics,
    TextLoss,
)


def show_loss(found: TextLoss) -> None:
    """Print bits per byte: a row a language, a column a model."""
    heads = _labels([m["path"] for m in found["models"]])
    by = {(row["model"], row["language"]): row["bits_per_byte"] for row in found["losses"]}
    languages = [t["language"] for t in found["texts"]]
    say("bits per byte; `bytes alone` is what the frequencies of the bytes give")
    columns = [names("language", languages), Column("bytes alone", [_f(t["byte_entropy"]) for t in found["texts"]])]
    for model, head in zip(found["models"], heads, strict=True):
        columns.append(Column(head, [_f(by[model["path"], language]) for language in languages]))
    if found["child"]:
        columns.append(Column("child - best", [f"{c['difference']:+.4f}" for c in found["child"]]))
        columns.append(Column("95 %", [f"{c['low']:+.4f} to {c['high']:+.4f}" for c in found["child"]], 1))
    show(columns, room())
    _told(found["models"])


def show_layers(found: Any, metric: str, baseline: str) -> None:
    """Print a figure by layer: a table a model, a column a language, each with its baseline."""
    for model in found["models"]:
        rows = [row for row in found["layers"] if row["model"] == model["path"]]
        languages = list(dict.fromkeys(row["language"] for row in rows))
        by = {(row["language"], row["layer"]): row for row in rows}
        layers = sorted({row["layer"] for row in rows})
        against = f" to {found['pivot']}" if "pivot" in found else ""
        say(f"{metric.replace('_', ' ')}{against}, by layer; behind it that of {_BASELINE.get(baseline, baseline)}",
            head=model["path"])  # fmt: skip
        columns = [Column("layer", [str(n) for n in layers])]
        for language in languages:
            columns.append(Column(language, [_f(by[language, n][metric]) for n in layers]))
            columns.append(Column("", [f"({by[language, n][baseline]:.4f})" for n in layers], 1))
        show(columns, room(), more="--json has all")
    _told(found["models"])


def show_ranking(found: Ranking) -> None:
    """Print languages, the nearest first."""
    own, layers = found["languages"], found["layers"]
    say(
        f"{plural(found['sentences'], 'sentence')}, against {found['pivot']}, mean over {plural(len(layers), 'layer')}",
        head=found["model"]["path"],
    )
    show([
        Column("rank", [str(one["rank"]) for one in own]),
        names("language", [one["language"] for one in own]),
        Column("cosine", [_f(one["score"]) for one in own]),
        Column("wrong pairs", [_f(one["baseline"]) for one in own]),
        Column("above", [f"{one['above']:+.4f}" for one in own]),
        Column("MEXA", [_f(one["mexa"]) for one in own]),
        Column("MEXA at most", [_f(one["mexa_max"]) for one in own], 1),
        Column("chance", [_f(one["mexa_chance"]) for one in own], 2),
    ], room())  # fmt: skip
    _told([found["model"]])


def show_influence(found: Influence) -> None:
    """Print block influence by layer, and the order in which layers could be dropped."""
    rows = found["layers"]
    languages = list(dict.fromkeys(row["language"] for row in rows))
    by = {(row["language"], row["layer"]): row for row in rows}
    layers = sorted({row["layer"] for row in rows})
    say("block influence, by layer; behind it that of wrong pairs", head=found["model"]["path"])
    columns = [Column("layer", [str(n) for n in layers])]
    for language in languages:
        columns.append(Column(language, [_f(by[language, n]["influence"]) for n in layers]))
        columns.append(Column("", [f"({_f(by[language, n]['baseline'])})" for n in layers], 1))
    show(columns, room(), more="--json has all")
    say(f"least first: {', '.join(map(str, found['order']))}")
    for row in found["routing"]:
        shares = [n / max(sum(row["counts"]), 1) for n in row["counts"]]
        top = sorted(range(len(shares)), key=lambda i: -shares[i])[:4]
        told = ", ".join(f"{i} ({shares[i]:.0%})" for i in top)
        entropy = f"{row['entropy']:.2f} of {row['even_entropy']:.2f} bits"
        say(f"{row['language']}, layer {row['layer']}: experts {told}; even {row['even']:.0%}; {entropy}", hang=2)
    _told([found["model"]])


def show_statistics(found: Statistics) -> None:
    """Print which files were written."""
    for one in found["files"]:
        say(f"{plural(one['tensors'], 'tensor')} of {plural(found['tokens'], 'token')}", head=one["file"])
    _told([found["model"]])


def show_fit(found: Fit) -> None:
    """Print coefficients and the errors of languages left out."""
    for one in found["groups"]:
        say(
            f"{plural(one['rows'], 'row')}; error of languages left out {figure(one['rmse'])}, of the mean alone "
            f"{figure(one['baseline_rmse'])}; R2 of the fit {figure(one['r2'])}",
            head=one["group"] or found["table"],
        )
        show([
            names("feature", one["features"]),
            Column("per deviation", [f"{w:+.4g}" for w in one["weights"]]),
            Column("per unit", [f"{w:+.4g}" for w in one["slopes"]], 1),
        ], room())  # fmt: skip
        left = one["left_out"]
        show([
            names("left out", [o["target"] for o in left]),
            Column("error", [figure(o["error"]) for o in left]),
            Column("mean alone", [figure(o["baseline"]) for o in left]),
        ], room())  # fmt: skip


def show_predictions(found: Predictions) -> None:
    """Print a prediction a row."""
    rows = found["rows"]
    show([
        names("row", [", ".join(list(r["row"].values())[:2]) for r in rows]),
        Column(found["score"], [f"{r['predicted']:.4g}" for r in rows]),
        Column("error of fit", [figure(r["rmse"]) for r in rows]),
        Column("mean alone", [figure(r["baseline"]) for r in rows], 1),
        names("beyond the fit", [", ".join(r["outside"]) for r in rows], rank=1),
    ], room())  # fmt: skip


def show_helpers(found: Helpers) -> None:
    """Print languages, those most alike first."""
    own = found["helpers"]
    say(f"mean of z-scores of {', '.join(found['features'])}; 0 is the mean of the table", head=f"for {found['to']}")
    show([
        names("language", [h["source"] for h in own]),
        Column("score", [f"{h['score']:+.3f}" for h in own]),
        *(Column(f, [f"{h['z'][f]:+.2f}" for h in own], 1) for f in found["features"]),
    ], room())  # fmt: skip


def show_evaluation(found: Evaluation) -> None:
    """Print tasks by models, and the child against the best of its parents."""
    rows = found["tasks"]
    columns = [names("task", [r["task"] for r in rows]), names("metric", [r["metric"] for r in rows])]
    for i, head in enumerate(_labels(found["results"])):
        columns.append(Column(head, [_with_error(r["values"][i], r["errors"][i]) for r in rows]))
    if len(found["results"]) > 1:
        columns.append(Column("child - best", [_with_error(r["difference"], r["difference_error"]) for r in rows]))
    show(columns, room())


def _with_error(value: float | None, error: float | None) -> str:
    return _f(value) + ("" if error is None else f" +-{error:.4f}")


#: What baselines are of.
_BASELINE = {"mexa_chance": "random states", "retrieval_chance": "random states", "baseline": "wrong pairs",
             "centred_baseline": "wrong pairs", "euclidean_baseline": "wrong pairs"}  # fmt: skip


def _told(models: Sequence[RunModel]) -> None:
    for model in models:
        if model["streamed"]:
            say(f"{model['path']} was read a layer at a time, as it has more weights than memory", err=True)


def _labels(paths: Sequence[str]) -> list[str]:
    """The last part of each path; the whole where two would be the same."""
    short = [p.rstrip("/").rpartition("/")[2] or p for p in paths]
    return list(paths) if len(set(short)) < len(short) else short


def _f(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
