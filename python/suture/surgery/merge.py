"""Merge models by a config."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from suture.errors import UsageError
from suture.recipe import Config, documents, is_plan, merges
from suture.recipe.relatives import refuse_searched
from suture.recipe.vocabulary import BESIDE
from suture.results.report import Report
from suture.settings import Progress, Settings
from suture.surgery.documents import merge_documents, recipe_of
from suture.surgery.job import Job, refuse_stores
from suture.surgery.run import carry_out, for_output, is_file, prepare


def merge(
    config: Mapping[str, Any] | str | PathLike[str],
    out: str | PathLike[str],
    *,
    settings: Settings | None = None,
    all_of: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Merge models by a config in mergekit's grammar, a YAML file or a mapping, into the folder `out`, or
    into one file if it ends in ``.safetensors``: the tensors alone, with their report beside it.

    Of a config with several documents or `outputs` everything is checked before anything is made, the room on the disk
    too. A folder that holds something already is replaced only with ``overwrite``, or if an interrupted run of the very
    same config left it.

    A plan of groups (`groups`, `directions`) makes an output for each group of languages, and a table that says which
    output each language goes to. With `all_of` the config is a set of models, which the twelve methods of "Mix Data or
    Merge Models?" merge, or those that it lists under `methods`, each into a folder of `out`; all_of.json there, and
    ``beside`` of the report, say how what they give lies to each expert.

    `progress`, if given, is called with the bytes done and the bytes in all, a few times a second.

    Raises:
        UsageError: if the config is wrong; the message gives its line.
        SutureError: if an input is not sound or the output cannot be written.
        KeyboardInterrupt: on Ctrl-C; the same call then resumes.
    """
    settings = settings or Settings()
    written = documents(config)
    if all_of or is_plan(written):
        settings.refuse_parts("a config with several outputs is made as a whole")
        refuse_stores(out)
        if is_file(out):
            raise UsageError(f"a config with several outputs writes a folder; found the file `{fspath(out)}`")
        if all_of:
            from suture.surgery.all_of import merge_all_of

            return merge_all_of(written, Path(out), settings, dry_run, progress)
        from suture.surgery.groups import merge_groups

        return merge_groups(written[0], Path(out), settings, dry_run, progress)
    configs = merges(written)
    for one in configs:
        try:
            refuse_searched(one.recipe)
        except UsageError as e:
            raise one.locate(e) from None
    if len(configs) > 1 or configs[0].listed:
        settings.refuse_parts("a config with several outputs is made as a whole")
        refuse_stores(out)
        if is_file(out):
            raise UsageError(f"a config with several outputs writes a folder; found the file `{fspath(out)}`")
        return merge_documents(configs, Path(out), settings, dry_run, progress)
    settings = for_output(out, settings)
    asked = (key for key in BESIDE if configs[0].recipe.get(key) is not None)
    if is_file(out) and (key := next(asked, None)) is not None:
        message = f"{key}: the output is a single file, without a tokenizer; give a folder instead of `{fspath(out)}`"
        raise configs[0].locate(UsageError(message, at=key))
    job = _job(configs[0], settings)
    return carry_out(job, out, dry_run, progress)


def job_of(config: Mapping[str, Any] | str | PathLike[str], settings: Settings) -> Job:
    """The job of a config of one merge that goes to a folder, for those who look at it before it is run, or after.

    Raises:
        UsageError, SutureError: as :func:`merge`.
    """
    (one,) = merges(documents(config))
    return _job(one, settings)


def _job(config: Config, settings: Settings) -> Job:
    return prepare(recipe_of(config, settings), settings, config=config)
