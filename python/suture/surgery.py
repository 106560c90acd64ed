"""The verbs that write: swap, revert and merge. They compile a plan and run it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from suture import _core
from suture.analysis import diff
from suture.errors import SutureError, UsageError
from suture.proposal import ALPHA, TAU, propose_from
from suture.recipe import Config, check_values, load, made_names, with_made
from suture.settings import Settings
from suture.sidecars import adapter_config, carried_over, head_counts, layer_types, model_card, same_heads

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Report:
    """What was done, or with a dry run what would be.

    Attributes:
        text: the report as JSON text; of a finished run it is the output's ``suture.json``, of a dry run the plan.
        out: the output folder.
        dry: true for a dry run.
        config: the merge config, for the lines of its keys.
        parts: of a config with several outputs, the report of each, by name.
        proposal: of a swap that chose its layers itself, the scores it went by; see :func:`propose`.
    """

    text: str
    out: Path
    dry: bool = False
    config: Config | None = None
    parts: Mapping[str, Report] = field(default_factory=dict)
    proposal: Mapping[str, Any] | None = None

    @cached_property
    def data(self) -> dict[str, Any]:
        """The report as JSON data; read from the text at the first use, for it may be large."""
        data: dict[str, Any] = json.loads(self.text)
        return data

    @property
    def warnings(self) -> list[str]:
        """What the user should know."""
        return list(self.data["warnings"])


def merge(
    config: Mapping[str, Any] | str | PathLike[str],
    out: str | PathLike[str],
    *,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Merge models by a config in mergekit's grammar, a YAML file or a mapping, into the folder `out`.

    `progress`, if given, is called with the bytes done and the bytes in all, a few times a second.

    Raises:
        UsageError: if the config is wrong; the message gives its line.
        SutureError: if an input is not sound or the output cannot be written.
        KeyboardInterrupt: on Ctrl-C; the same call then resumes.
    """
    settings = settings or Settings()
    configs = load(config)
    if len(configs) == 1:
        return _merge_one(configs[0], Path(out), settings, dry_run, progress)
    return _merge_all(configs, Path(out), settings, dry_run, progress)


def _merge_one(config: Config, out: Path, settings: Settings, dry_run: bool, progress: Progress | None) -> Report:
    recipe = dict(config.recipe)
    if settings.dtype is not None:
        recipe["out_dtype"] = settings.dtype
    return _run(recipe, out, settings, dry_run, progress, config)


#: Lists the outputs of a config that has several, in the folder that holds them.
OUTPUTS = "outputs.json"


def _merge_all(
    configs: list[Config], out: Path, settings: Settings, dry_run: bool, progress: Progress | None
) -> Report:
    """Run the merges of a config in the order they need each other.

    If one of them has no name, it goes to `out`, and the others are made in a hidden folder beside it that is removed
    at the end. If all have names, each goes to a folder of its own in `out`.
    """
    final = next((c for c in configs if c.name is None), None)
    used = {name for c in configs for name in made_names(c.recipe)}
    for c in configs:
        if final is not None and c.name is not None and c.name not in used:
            raise c.locate(UsageError(f"no merge uses `{c.name}`; use it as a model, or give all merges a name"))
    target = out.resolve()
    folder = target.parent / f".{target.name}.suture-stages" if final is not None else out
    if final is None and not dry_run and not settings.overwrite and (out / OUTPUTS).exists():
        raise SutureError(f"{out}: exists already; choose another place, or pass --overwrite", out)
    done: dict[str | None, Report] = {}
    while len(done) < len(configs):
        ready = [c for c in configs if c.name not in done and made_names(c.recipe) <= done.keys()]
        if not ready:
            names = ", ".join(f"`{c.name}`" for c in configs if c.name not in done)
            raise configs[0].locate(UsageError(f"{names} need each other in a circle"))
        config, needed = ready[0], made_names(ready[0].recipe)
        if dry_run and needed:
            message = f"cannot be planned before `{min(needed)}` is made; run it without --dry-run"
            raise config.locate(UsageError(message, at="merge_method"))
        place = out if config.name is None else folder / config.name
        if not dry_run:
            place.parent.mkdir(parents=True, exist_ok=True)
        # A part left by an earlier run of this config is made again: its inputs may have changed since.
        again = settings if config.name is None else replace(settings, overwrite=True)
        located = replace(config, recipe=with_made(config.recipe, folder))
        done[config.name] = _merge_one(located, place, again, dry_run, progress)
    named = {str(name): report for name, report in done.items() if name is not None}
    if final is not None:
        if dry_run:
            return replace(done[None], parts=named)
        shutil.rmtree(folder)
        return done[None]
    titles = {name: report.data["title"] for name, report in named.items()}
    text = json.dumps({"outputs": titles, "warnings": []}, indent=2) + "\n"
    if not dry_run:
        (out / OUTPUTS).write_text(text, encoding="utf-8")
    return Report(text, out, dry_run, parts=named)


def swap(
    into: str | PathLike[str],
    donor: str | PathLike[str] | Mapping[str | PathLike[str], str | Iterable[int]] | Mapping[str, str],
    out: str | PathLike[str],
    *,
    base: str | PathLike[str] | None = None,
    donor_base: str | PathLike[str] | None = None,
    bottom: int = 0,
    top: int = 0,
    transition: int = 0,
    transition_bottom: int | None = None,
    transition_top: int | None = None,
    blend: float | str = 0.5,
    layers: str | Iterable[int] | None = None,
    modules: str | None = None,
    heads: str | Iterable[int] | None = None,
    non_layer: str | None = None,
    auto: str | None = None,
    tau: float | None = None,
    alpha: float | None = None,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Put layers of `donor` into `into` and write the result to the folder `out` (Bandarkar et al., arXiv 2410.01335).

    Args:
        into: the recipient; everything not swapped is its own, bit for bit.
        donor: the model that gives layers; or several, each with its own: ``{"swahili": "0-4", "telugu": "30"}``.
        out: the output folder.
        base: the model both were tuned from; for `auto`, for ``non_layer="base"`` and with `donor_base`.
        donor_base: the model the donor was tuned from, if not `base`: what is taken is base + (donor - donor_base).
        bottom: layers from the bottom that the donor gives.
        top: layers from the top that the donor gives.
        transition: layers next to these, on either side, that are blended.
        transition_bottom: the same next to the bottom alone.
        transition_top: the same next to the top alone.
        blend: the donor's share in a blended layer, from 0 to 1; or ``ramp``, which lets it fall evenly over the
            transition.
        layers: layers the donor gives, as ``"0-4,30,31"`` or numbers, instead of `bottom` and `top`.
        modules: globs of module names, comma-separated, such as ``"self_attn.*"``: only these move.
        heads: attention heads, as ``"0-3,7"`` or numbers: only these move. Key and value heads move with the whole
            group of query heads that shares them.
        non_layer: whose tensors outside the layers (embeddings, final norm, head) to take: ``into`` (the default),
            ``from`` (the donor's), ``base``, or ``mean`` (of recipient and donors).
        auto: let :func:`propose` choose: ``layer`` or ``module`` by the published rule, which also blends what is
            outside the layers, or ``edges`` for bottom, top and transitions.
        tau: for `auto`, as in :func:`propose`.
        alpha: for `auto`, as in :func:`propose`.
        settings: how to do the work.
        dry_run: return the plan instead of running it; with `auto`, its ``proposal`` tells scores and margins.
        progress: called with the bytes done and the bytes in all, a few times a second.

    Raises:
        UsageError: if the layers do not exist or options do not go together.
        SutureError: if the models do not match, an input is not sound, or the output cannot be written.
        KeyboardInterrupt: on Ctrl-C; the same call then resumes.
    """
    settings = settings or Settings()
    below, above = (transition if t is None else t for t in (transition_bottom, transition_top))
    spans = {"bottom": bottom, "top": top, "transition_bottom": below, "transition_top": above}
    proposal: dict[str, Any] | None = None
    how: dict[str, Any] = {"blend": blend, "modules": modules, "heads": _numbers(heads), "base": donor_base}
    given = [name for name, value in {**spans, "layers": layers}.items() if value not in (0, None)]
    if auto is not None:
        proposal, donors = _auto(base, into, donor, auto, given, how, tau, alpha, settings, progress)
        published = auto != "edges" and non_layer is None
        share: str | float = proposal["alpha"] if published else non_layer or "into"
    else:
        if tau is not None or alpha is not None:
            raise UsageError("tau and alpha are for the rules that choose layers; give auto too (--auto BASE)")
        share = non_layer or "into"
        if isinstance(donor, Mapping):
            if given:
                raise UsageError(f"each of the donors has its own layers; expected no {given[0]}, found {given[0]}")
            donors = [how | {"from": fspath(d), "layers": _numbers(listed)} for d, listed in donor.items()]
        else:
            donors = [how | spans | {"from": fspath(donor), "layers": _numbers(layers)}]
    folders = [Path(into), *dict.fromkeys(Path(d["from"]) for d in donors)]
    for folder in folders[1:]:
        types = [layer_types(p) for p in (folders[0], folder)]
        if None not in types and types[0] != types[1]:
            message = "its `layer_types` differ from the recipient's; layers of different kinds cannot be swapped"
            raise SutureError(f"{folder}: {message}", folder)
    adapter = adapter_config(folders)
    if adapter is None:
        same_heads(folders)
    options: dict[str, Any] = {
        "into": fspath(into),
        "base": None if base is None else fspath(base),
        "donors": [{k: fspath(v) if k == "base" else v for k, v in d.items() if v is not None} for d in donors],
        "non_layer": share,
        "head_counts": None if heads is None or adapter else list(head_counts(Path(into))),
        "adapters": adapter is not None or None,
        "dtype": settings.dtype,
    }
    recipe = {"swap": {k: v for k, v in options.items() if v is not None}}
    beside = [] if adapter is None else [("adapter_config.json", adapter)]
    report = _run(recipe, out, settings, dry_run, progress, None, beside)
    if proposal is not None and dry_run:
        report = replace(report, text=json.dumps(report.data | {"proposal": proposal}))
    return replace(report, proposal=proposal)


def _numbers(listed: str | Iterable[int] | None) -> str | list[int] | None:
    return listed if listed is None or isinstance(listed, str) else sorted(listed)


def _auto(
    base: str | PathLike[str] | None,
    into: str | PathLike[str],
    donor: str | PathLike[str] | Mapping[Any, Any],
    auto: str,
    given: list[str],
    how: dict[str, Any],
    tau: float | None,
    alpha: float | None,
    settings: Settings,
    progress: Progress | None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A proposal and the donor's entries of the swap recipe that do what it says."""
    if auto not in ("layer", "module", "edges"):
        raise UsageError(f"auto: expected layer, module or edges, found `{auto}`")
    if isinstance(donor, Mapping):
        raise UsageError(f"auto chooses the layers of one donor, found {len(donor)} donors with layers")
    if base is None:
        raise UsageError("auto compares both models with the one they were tuned from; give base")
    if given:
        raise UsageError(f"auto chooses the layers; expected none given, found {given[0]}")
    if how["base"] is not None:
        raise UsageError("auto compares both models with one base; it does not go with a base of the donor's own")
    by = "layer" if auto == "edges" else auto
    tau, alpha = TAU if tau is None else tau, ALPHA if alpha is None else alpha
    proposal = propose(base, into, donor, by=by, tau=tau, alpha=alpha, settings=settings, progress=progress)
    return proposal, [how | entry | {"from": fspath(donor)} for entry in _chosen(proposal, auto, how["modules"])]


def _chosen(proposal: dict[str, Any], auto: str, only: str | None) -> list[dict[str, Any]]:
    """What of each block a proposal takes from the donor; `only` are the modules that may move at all."""
    if auto == "edges":
        edges = proposal["edges"]
        return [{k: edges[k] for k in ("bottom", "top", "transition_bottom", "transition_top")}]
    entries = []
    # Without blocks a whole layer moves; of a block what is in it does, the layer's norms stay the recipient's.
    for block, modules in (proposal["modules"] or {None: None}).items():
        scores = [s for s in proposal["scores"] if s["block"] == block]
        entry: dict[str, Any] = {
            "layers": [s["layer"] for s in scores if s["choice"] == "donor"],
            "blended": {str(s["layer"]): proposal["alpha"] for s in scores if s["choice"] == "blend"},
        }
        if modules is not None:
            # With modules asked for, those of them that are in the block.
            asked = modules if only is None else [g.strip() for g in only.split(",")]
            inside = [g for g in asked if any(fnmatchcase(g, m) or fnmatchcase(m, g) for m in modules)]
            if not inside:
                continue
            entry["modules"] = ",".join(inside)
        entries.append(entry)
    return entries


def propose(
    base: str | PathLike[str],
    into: str | PathLike[str],
    donor: str | PathLike[str],
    *,
    by: str = "layer",
    tau: float = TAU,
    alpha: float = ALPHA,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Which layers of `donor` to put into `into`, from what each changed of `base`; see :mod:`suture.proposal`.

    Args:
        base: the model both were tuned from.
        into: the recipient.
        donor: the donor.
        by: score whole layers (``layer``), or attention and feed-forward apart (``module``).
        tau: difference of two scores up to which neither model has a claim, and the block is blended.
        alpha: the donor's share where blocks are blended.
        settings: how to do the work.
        progress: called with the bytes done and the bytes in all, a few times a second.

    Raises:
        UsageError: for an unknown `by`, or numbers out of range.
        SutureError: if a checkpoint is not sound, or has no layers.
    """
    if by not in ("layer", "module"):
        raise UsageError(f"by: expected layer or module, found `{by}`")
    if not (0 <= alpha <= 1 and tau >= 0):
        raise UsageError(f"expected alpha from 0 to 1 and tau from 0, found {alpha} and {tau}")
    found = diff(base, into, donor, settings=settings, progress=progress)
    return propose_from(found, by=by, tau=tau, alpha=alpha)


def revert(
    base: str | PathLike[str],
    tuned: str | PathLike[str],
    out: str | PathLike[str],
    *,
    layers: str | Iterable[int] | None = None,
    modules: str | None = None,
    outside: bool = False,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Reset layers of a fine-tune to its base, bit for bit (Bandarkar and Peng, arXiv 2505.18356).

    Args:
        base: the model `tuned` was tuned from.
        tuned: the fine-tune.
        out: the output folder.
        layers: layers to reset, as ``"0-4,30,31"`` or numbers.
        modules: globs of module names, comma-separated: only these are reset.
        outside: reset what is in no layer (embeddings, final norm, head) too.
        settings: how to do the work.
        dry_run: return the plan instead of running it.
        progress: called with the bytes done and the bytes in all, a few times a second.

    Raises:
        UsageError: if there is nothing to reset, or a layer does not exist.
        SutureError: as :func:`swap`.
    """
    if layers is None and not outside:
        raise UsageError("nothing to reset; give layers, or outside")
    return swap(
        tuned, base, out, layers=[] if layers is None else layers, modules=modules,
        non_layer="from" if outside else "into", settings=settings, dry_run=dry_run, progress=progress,
    )  # fmt: skip


def _run(
    recipe: dict[str, Any],
    out: str | PathLike[str],
    settings: Settings,
    dry_run: bool,
    progress: Progress | None,
    config: Config | None,
    beside: Sequence[tuple[str, bytes]] = (),
) -> Report:
    try:
        check_values(recipe.get("swap", recipe))
        plan = _core.Plan(json.dumps(recipe), settings.shard_bytes, settings.seed)
        limits = (settings.thread_count, settings.memory_bytes, settings.chunk_elements)
        budget = plan.budget_json(*limits)
    except UsageError as e:
        raise (config.locate(e) if config else e) from None
    target = Path(out)
    outline = json.loads(plan.config_json())
    written, copied = carried_over(outline)
    written += beside
    if settings.model_card:
        written.append(("README.md", model_card(recipe, outline["models"])))
    if dry_run:
        data = json.loads(plan.to_json())
        data["budget"] = json.loads(budget)
        data["sidecars"] = [name for name, _ in written + copied]
        try:
            plan.check_target(str(target), settings.overwrite)
        except SutureError as e:
            data["warnings"].append(str(e))
        return Report(json.dumps(data), target, dry=True, config=config)
    total = plan.work_bytes
    report = plan.run(
        str(target),
        threads=settings.thread_count,
        io=settings.io,
        memory=settings.memory_bytes,
        chunk=settings.chunk_elements,
        allow_nonfinite=settings.nan == "allow",
        overwrite=settings.overwrite,
        written=written,
        copied=copied,
        progress=None if progress is None else lambda done: progress(min(done, total), total),
    )
    return Report(report, target, config=config)
