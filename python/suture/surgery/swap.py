"""Put layers of one model into another."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from suture.errors import UsageError
from suture.recipe.layers import numbers, of_stack
from suture.reference import model_of, plain
from suture.results import Proposal
from suture.results.report import Report
from suture.settings import Progress, Settings
from suture.sidecars.adapter import adapter_config
from suture.surgery.auto import auto_donors
from suture.surgery.run import carry_out, for_output, is_file, prepare


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
    stack: str | None = None,
    ignore: str | Iterable[str] | None = None,
    auto: str | None = None,
    tau: float | None = None,
    alpha: float | None = None,
    evidence: str | PathLike[str] | None = None,
    chat_template: str | None = None,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Put layers of `donor` into `into` and write the result to the folder `out` (Bandarkar et al., arXiv 2410.01335).

    Args:
        into: the recipient; everything not swapped is its own, bit for bit.
        donor: the model that gives layers; or several, each with its own: ``{"swahili": "0-4", "telugu": "30"}``.
        out: the output folder; or one file, if it ends in ``.safetensors``.
        base: the model both were tuned from; for `auto`, for ``non_layer="base"`` and with `donor_base`.
        donor_base: the model the donor was tuned from, if not `base`: what is taken is base + (donor - donor_base).
        bottom: layers from the bottom that the donor gives.
        top: layers from the top that the donor gives.
        transition: layers next to these, on either side, that are blended.
        transition_bottom: the same next to the bottom alone.
        transition_top: the same next to the top alone.
        blend: the donor's share in a blended layer, from 0 to 1; or ``ramp``, which lets it fall evenly over the
            transition.
        layers: layers the donor gives, as ``"0-4,30,31"``, numbers or ``"all"``, instead of `bottom` and `top`;
            ``"encoder:0-3"`` names their stack too.
        modules: parts of module names, globs or filters, comma-separated, such as ``"mlp"`` or ``"self_attn.*"``: only
            these move.
        heads: attention heads, as ``"0-3,7"`` or numbers: only these move. Key and value heads move with the whole
            group of query heads that shares them.
        non_layer: whose tensors outside the layers (embeddings, final norm, head) to take: ``into`` (the default),
            ``from`` (the donor's), ``base``, or ``mean`` (of recipient and donors).
        stack: the stack that layers are numbered in, by its name in :func:`inspect`, if not the main one.
        ignore: filters of names, comma-separated: these tensors stay the recipient's, and need not be in all models.
        auto: let :func:`propose` choose: ``layer`` or ``module`` by the published rule, which also blends what is
            outside the layers, or ``edges`` for bottom, top and transitions.
        tau: for `auto`, as in :func:`propose`.
        alpha: for `auto`, as in :func:`propose`.
        evidence: for `auto`, curves of similarity, as in :func:`propose`.
        chat_template: the output's, if not the recipient's: ``auto`` (what most of the models have), a name such as
            ``chatml``, or Jinja.
        settings: how to do the work.
        dry_run: return the plan instead of running it; with `auto`, its ``proposal`` tells scores and margins.
        progress: called with the bytes done and the bytes in all, a few times a second.

    Raises:
        UsageError: if the layers do not exist or options do not go together.
        SutureError: if the models do not match, an input is not sound, or the output cannot be written.
        KeyboardInterrupt: on Ctrl-C; the same call then resumes.
    """
    settings = settings or Settings()
    stack, (layers, *each) = of_stack(stack, layers, *(donor.values() if isinstance(donor, Mapping) else ()))
    if isinstance(donor, Mapping):
        donor = dict(zip(donor, each, strict=True))
    below, above = (transition if t is None else t for t in (transition_bottom, transition_top))
    spans = {"bottom": bottom, "top": top, "transition_bottom": below, "transition_top": above}
    proposal: Proposal | None = None
    how: dict[str, Any] = {"blend": blend, "modules": modules, "heads": numbers(heads), "base": donor_base}
    given = [name for name, value in {**spans, "layers": layers}.items() if value not in (0, None)]
    if auto is not None:
        proposal, donors = auto_donors(
            base, into, donor, auto, stack, given, how, tau, alpha, settings, progress, evidence
        )
        published = auto != "edges" and non_layer is None
        share: str | float = proposal["alpha"] if published else non_layer or "into"
    else:
        if evidence is not None:
            raise UsageError("evidence is for the rules that choose layers; give auto too (--auto BASE)")
        if tau is not None or alpha is not None:
            raise UsageError("tau and alpha are for the rules that choose layers; give auto too (--auto BASE)")
        share = non_layer or "into"
        if isinstance(donor, Mapping):
            if given:
                raise UsageError(f"each of the donors has its own layers; expected no {given[0]}, found {given[0]}")
            donors = [how | {"from": model_of(d), "layers": numbers(listed)} for d, listed in donor.items()]
        else:
            donors = [how | spans | {"from": model_of(donor), "layers": numbers(layers)}]
    options: dict[str, Any] = {
        "into": model_of(into),
        "base": None if base is None else model_of(base),
        "donors": [{k: model_of(v) if k == "base" else v for k, v in d.items() if v is not None} for d in donors],
        "non_layer": share,
        "stack": stack,
        "ignore": ignore,
    }
    report = exchange(options, out, settings, dry_run, progress, chat_template)
    if proposal is not None and dry_run:
        report = replace(report, text=json.dumps({**report.data, "proposal": proposal}))
    return replace(report, proposal=proposal)


def exchange(
    options: dict[str, Any],
    out: str | PathLike[str],
    settings: Settings,
    dry_run: bool,
    progress: Progress | None,
    template: str | None = None,
) -> Report:
    """Carry out the recipe of a swap, which `options` are but for what is None, or show its plan.

    Raises:
        UsageError, SutureError: as :func:`swap`.
    """
    ignore, donors = options["ignore"], options["donors"]
    if template is not None and is_file(out):
        message = f"a single file has no tokenizer; give a folder instead of `{fspath(out)}`"
        raise UsageError(f"chat_template: {message}", at="chat_template")
    adapter = adapter_config([Path(plain(m)) for m in dict.fromkeys([options["into"], *(d["from"] for d in donors)])])
    options = {
        **options,
        "ignore": ignore.split(",") if isinstance(ignore, str) else ignore and list(ignore),
        "adapters": adapter is not None or None,
        "dtype": settings.dtype,
    }
    recipe = {"swap": {k: v for k, v in options.items() if v is not None}}
    beside = [] if adapter is None else [("adapter_config.json", adapter)]
    lender = donors[0]["from"] if options["non_layer"] == "from" and adapter is None else None
    job = prepare(recipe, for_output(out, settings), beside=beside, tokenizer=lender, template=template)
    return carry_out(job, out, dry_run, progress)
