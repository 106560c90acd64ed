"""The verbs that write: swap and merge. Both compile a plan and run it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from suture import _core
from suture.errors import SutureError, UsageError
from suture.recipe import Config, check_values, load, made_names, with_made
from suture.settings import Settings
from suture.sidecars import layer_types, model_card, sidecars

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
    """

    text: str
    out: Path
    dry: bool = False
    config: Config | None = None
    parts: Mapping[str, Report] = field(default_factory=dict)

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
    donor: str | PathLike[str],
    out: str | PathLike[str],
    *,
    bottom: int = 0,
    top: int = 0,
    transition: int = 0,
    blend: float = 0.5,
    layers: str | Iterable[int] | None = None,
    modules: str | None = None,
    non_layer: str = "into",
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Put layers of `donor` into `into` and write the result to the folder `out` (Bandarkar et al., arXiv 2410.01335).

    Args:
        into: the recipient; everything not swapped is its own, bit for bit.
        donor: the model that gives layers.
        out: the output folder.
        bottom: layers from the bottom that the donor gives.
        top: layers from the top that the donor gives.
        transition: layers next to these, on either side, that are blended.
        blend: the donor's share in a blended layer, from 0 to 1.
        layers: layers the donor gives, as ``"0-4,30,31"`` or numbers, instead of `bottom` and `top`.
        modules: globs of module names, comma-separated, such as ``"self_attn.*"``: only these move.
        non_layer: whose tensors outside the layers (embeddings, final norm, head) to take: ``into``, ``from`` (the
            donor's) or ``mean``.
        settings: how to do the work.
        dry_run: return the plan instead of running it.
        progress: called with the bytes done and the bytes in all, a few times a second.

    Raises:
        UsageError: if the layers do not exist or options do not go together.
        SutureError: if the models do not match, an input is not sound, or the output cannot be written.
        KeyboardInterrupt: on Ctrl-C; the same call then resumes.
    """
    settings = settings or Settings()
    listed = layers if layers is None or isinstance(layers, str) else sorted(layers)
    options: dict[str, Any] = {
        "into": fspath(into), "from": fspath(donor), "bottom": bottom, "top": top, "transition": transition,
        "blend": blend, "layers": listed, "modules": modules, "non_layer": non_layer, "dtype": settings.dtype,
    }  # fmt: skip
    types = [layer_types(Path(p)) for p in (into, donor)]
    if None not in types and types[0] != types[1]:
        message = "its `layer_types` differ from the recipient's; layers of different kinds cannot be swapped"
        raise SutureError(f"{donor}: {message}", donor)
    recipe = {"swap": {k: v for k, v in options.items() if v is not None}}
    return _run(recipe, out, settings, dry_run, progress, None)


def _run(
    recipe: dict[str, Any],
    out: str | PathLike[str],
    settings: Settings,
    dry_run: bool,
    progress: Progress | None,
    config: Config | None,
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
    written, copied = sidecars(outline)
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
