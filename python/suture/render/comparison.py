"""A comparison as tables: of one fine-tune, and of how several relate."""

from __future__ import annotations

from collections.abc import Sequence

from suture.escape import printable
from suture.render.layout import room
from suture.render.metrics import LABELS, PAIR_LABELS, label, number
from suture.render.table import Column, names, show
from suture.render.terminal import say, warn
from suture.render.units import figure, plural
from suture.results import Comparison, Row, Tuned

#: Which figures a narrow terminal shows: the first ones. What is zero in every row comes after all of them.
_TELLING = (
    "relative_l2", "cosine", "changed", "mean_abs", "max_abs", "nonfinite", "gini", "q50", "q99", "flipped", "l2",
    "relative_mean", "rms", "mean", "top1", "q90", "q999", "unchanged", "below_step",
)  # fmt: skip
_ELSEWHERE = "--csv and --json have all"


def show_table(
    found: Comparison, model: Tuned, keys: tuple[str, ...], rows: list[Row], *, first: str | None = None
) -> None:
    """Print one row of metrics for each layer, module, tensor or part, which `keys` name; `first` is always shown."""
    metrics = [m["name"] for m in found["metrics"] if not rows or m["name"] in rows[0]]
    if len(found["models"]) > 1:
        say(model["tuned"], bold=True)
    columns = [
        names("tensor" if key == "name" else key, [*(r[key] for r in rows), "" if i else "all"])
        for i, key in enumerate(keys)
    ]
    columns += [_figures(name, [*rows, model["total"]], first) for name in metrics]
    show(columns, room(), bold=[len(rows)], more=_ELSEWHERE)
    for line in left_out(model):
        say(line, hang=2)


def _figures(metric: str, rows: list[Row], first: str | None) -> Column:
    exact = metric == "cosine"
    values = [
        f"{number(row[metric]):.6f}" if exact and row[metric] is not None else figure(row[metric]) for row in rows
    ]
    rank = _TELLING.index(metric) if metric in _TELLING else len(_TELLING)
    if not any(row[metric] and number(row[metric]) for row in rows):
        rank += 2 * len(_TELLING)
    return Column(label(metric), values, 0 if metric == first else rank)


def show_steps(model: Tuned) -> None:
    """Say how much of the change of quantised weights lies below a step of their quantisation."""
    if n := model["total"].get("stepped"):
        share = model["total"]["below_step"]
        say(f"of {plural(n, 'changed element')} of quantised weights {share:.1%} changed by less than half a step")


def show_masks(found: Comparison) -> None:
    """Say of each fine-tune what became of what a mask freezes and trains, if it was held against one."""
    for model in found["models"]:
        if (check := model.get("mask")) is None:
            continue
        whose = f"{model['label']}, stage{'s' if len(check['stages']) > 1 else ''} {', '.join(check['stages'])}"
        touched = len(check["changed"])
        kept = "all unchanged" if not touched + len(check["uncompared"]) else f"{touched:,} changed"
        kept += f", {len(check['uncompared']):,} not to be compared" if check["uncompared"] else ""
        still = f", {len(check['unmoved']):,} did not change" if check["unmoved"] else ""
        say(f"{whose}: of {plural(check['frozen'], 'frozen tensor')} {kept}; of {check['trained']:,} trained"
            f"{still or ' all changed'}")  # fmt: skip


def show_pairs(found: Comparison) -> None:
    """Print how the changes of every two fine-tunes relate."""
    pairs = found["pairs"]
    if not pairs:
        return
    totals = [pair["total"] for pair in pairs]
    overlaps = [f"{t['overlap']:.1%}" if "overlap" in t else "with --spread" for t in totals]
    say("how the changes relate", bold=True)
    columns = [
        names("fine-tunes", [f"{pair['a']} and {pair['b']}" for pair in pairs]),
        Column(PAIR_LABELS["cosine"], [f"{t['cosine']:.4f}" for t in totals]),
        Column("both changed", [f"{t['both']:.1%}" for t in totals], 1),
        Column("same sign", [f"{t['agree']:.1%}" for t in totals], 2),
        Column("overlap of the top 1 %", overlaps, 3),
    ]
    show(columns, room(), more="--json has all")


def warn_of_strangers(found: Comparison) -> None:
    """Warn of models that do not look tuned from the base."""
    for model in found["models"]:
        ancestry = model["ancestry"]
        if ancestry["verdict"] in ("doubtful", "strangers"):
            told = "may not be" if ancestry["verdict"] == "doubtful" else "is hardly"
            warn(
                f"{model['tuned']} {told} tuned from {found['base']}: "
                f"{LABELS['cosine']} {ancestry['cosine']:.2f} over all matrices (tunings have one above 0.97)"
            )


def left_out(model: Tuned) -> list[str]:
    """The tensors that were not compared, by the reason."""
    told = []
    if (u := model["uncomputed"])["tensors"]:
        changed = f"{u['tensors_changed']:,} changed ({u['elements_changed']:,} of {u['elements']:,} elements)"
        told.append(
            f"compared by their bytes, as {', '.join(u['dtypes'])}: {plural(u['tensors'], 'tensor')}, {changed}"
        )
    lists = (
        ("only in the base", model["only_base"]),
        ("only in the tuned model", model["only_tuned"]),
        ("not comparable, being of other shapes or dtypes", model["reshaped"]),
    )
    return told + [f"{title}: {_named(listed)}" for title, listed in lists if listed]


#: At most so many tensors are named on a line; --json has all of them.
_NAMED = 8


def _named(listed: Sequence[str]) -> str:
    names = ", ".join(map(printable, listed[:_NAMED]))
    return names + (f" and {len(listed) - _NAMED:,} more" if len(listed) > _NAMED else "")
