"""Models of a merge whose vocabularies, or tables of tokens, are brought to one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suture import _core
from suture.checkpoint import opened
from suture.errors import SutureError, UsageError
from suture.recipe import with_models
from suture.recipe.models import as_json, verb_of
from suture.recipe.vocabulary import tokenizer_of
from suture.reference import Reference
from suture.settings import Settings
from suture.sidecars.carried import Beside
from suture.sidecars.files import as_bytes, read_config
from suture.sidecars.gguf import folder_of
from suture.sidecars.tokenizer import TOKENIZER_FILES

if TYPE_CHECKING:
    from suture.vocab.write import Files

#: Rows of a model of which no table is known: whether a token has one is then for the core to say.
_ENDLESS = 2**62


@dataclass(frozen=True)
class Alignment:
    """One vocabulary for the models of a merge.

    Attributes:
        text: what the core does to their tables, as JSON; None where these stay as they are.
        lead: the model whose tokenizer goes with the output; None for the one that lends its config.
        files: the tokenizer's files, where they are made anew.
        ids: what changes in config.json and generation_config.json.
        told: what the user should know.
        notes: what was chosen, for the plan.
    """

    text: str | None = None
    lead: Path | None = None
    files: Files | None = None
    ids: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    told: Sequence[str] = ()
    notes: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class _Models:
    """The models of a merge, in the order in which its config lists them, a base that is not listed last."""

    named: list[str | Reference]
    opened: list[_core.Checkpoint]
    config: int
    base: int | None

    @property
    def folders(self) -> list[Path]:
        return [folder_of(c.path) for c in self.opened]

    @property
    def rows(self) -> list[int]:
        return [_rows(c) for c in self.opened]


def alignment(recipe: Mapping[str, Any], settings: Settings) -> Alignment | None:
    """What brings the models of a merge to one vocabulary; None if nothing is asked.

    Raises:
        UsageError: if a tokenizer is asked for that no model has, or options do not go together.
        SutureError: if a model or a tokenizer file is not sound.
    """
    if verb_of(recipe) is not None:
        return None
    wanted = tokenizer_of(recipe)
    if wanted is None and settings.vocab == "error":
        return None
    if wanted is not None and settings.vocab != "error":
        raise UsageError(f"vocab: {wanted.at} says what the rows are; give no vocab (--vocab) beside it", at=wanted.at)
    models = _models(recipe)
    if not models.named:
        return None
    if wanted is None:
        return _cut(models, settings.vocab)
    # Planning vocabularies takes NumPy.
    from suture.vocab.align import plan
    from suture.vocab.write import files

    folders, config = models.folders, models.folders[models.config]
    base = None if models.base is None else folders[models.base]
    found = plan(wanted, folders, config, base, models.rows)
    if found.same:
        return Alignment(lead=found.lead, told=found.told, notes=found.notes)
    made = files(found, config)
    told = [*found.told, *made.told]
    return Alignment(_text(models, found.segments), found.lead, made, made.ids, told, found.notes)


def _models(recipe: Mapping[str, Any]) -> _Models:
    listed: dict[Any, None] = {}
    bases: dict[Any, None] = {}

    def note(model: Any, at: str) -> Any:
        if at.startswith("tokenizer") or ".parameters" in f".{at}" or not isinstance(model, str | Reference):
            return model
        (bases if at.rpartition(".")[2] == "base_model" else listed)[model] = None
        return model

    with_models(dict(recipe), note)
    named = list({**listed, **bases})
    base = recipe.get("base_model")
    at = named.index(base) if base in named else None
    return _Models(named, [opened(m) for m in named], at or 0, at)


def _rows(checkpoint: _core.Checkpoint) -> int:
    """The rows of a model's first table of tokens."""
    shapes = (json.loads(checkpoint.info_json(name))["shape"] for name in checkpoint.tables())
    return next((shape[0] for shape in shapes if shape), _ENDLESS)


def _text(models: _Models, segments: Sequence[Sequence[Any]]) -> str:
    named = json.loads(as_json(models.named))
    return json.dumps({"models": named, "segments": segments}, separators=(",", ":"))


def _cut(models: _Models, how: str) -> Alignment | None:
    """Tables of as many rows as the base has, the shortest or the longest, whatever their rows are."""
    rows = models.rows
    if len(set(rows)) < 2:
        return None
    if how == "base" and models.base is None:
        raise UsageError("vocab: `base` needs a base_model, whose number of rows is taken", at="base_model")
    count = rows[models.base or 0] if how == "base" else min(rows) if how == "crop" else max(rows)
    segments: list[list[Any]] = []
    for i, own in enumerate(rows):
        kept: list[Any] = [[min(own, count), i, 0]]
        if own < count:
            kept.append([count - own, models.base, own] if how == "base" else {"pad": count - own})
        segments.append(kept)
    config = read_config(models.folders[models.config]) if models.folders[models.config].is_dir() else None
    from suture.vocab.differ import rows_differ
    from suture.vocab.ids import sizes

    found = rows_differ(models.folders, rows)
    ids = {} if config is None else {"config.json": sizes(config, count)}
    rest = {"base": "rows that a model lacks are the base's", "crop": "rows behind them are left out"}
    told = f"vocab: {found}; the output has {count:,} rows: {rest.get(how, 'rows that a model lacks are its mean')}"
    return Alignment(_text(models, segments), ids=ids, told=[told])


def unlike(error: SutureError, recipe: Mapping[str, Any]) -> SutureError:
    """An error about a table whose rows are not as many in all models, saying which they are and what to do.

    Any other error is given back as it is.
    """
    asked = verb_of(recipe) is not None or tokenizer_of(recipe) is not None
    if asked or error.tensor is None or not _core.is_vocabulary(error.tensor) or "has shape" not in str(error):
        return error
    try:
        models = _models(recipe)
        if len(set(models.rows)) < 2:
            return error
        from suture.vocab.differ import rows_differ

        found = rows_differ(models.folders, models.rows)
    except SutureError:
        return error
    ways = "`tokenizer_source: union` aligns vocabularies; --vocab base, crop or pad goes by numbers alone"
    return SutureError(f"{error.path}: tensor `{error.tensor}`: {found}; {ways}", error.path, error.tensor, error.at)


def with_alignment(side: Beside, found: Alignment, config: Path) -> Beside:
    """What goes beside the output of a merge whose vocabularies were brought to one."""
    copied, written = dict(side.copied), dict(side.written)
    if found.files is not None:
        for name in TOKENIZER_FILES:
            copied.pop(name, None)
        copied.update(found.files.copied)
        written.update(found.files.written)
    for name, change in found.ids.items():
        data = json.loads(written[name]) if name in written else read_config(config, name)
        if data is not None and change:
            from suture.vocab.ids import with_changes

            copied.pop(name, None)
            written[name] = as_bytes(with_changes(data, change))
    return replace(side, written=list(written.items()), copied=list(copied.items()))
