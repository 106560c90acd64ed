"""Write a model in safetensors."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike
from pathlib import Path

from suture.reference import model_of, plain
from suture.results.report import Report
from suture.settings import Progress, Settings
from suture.sidecars.adapter import own_config
from suture.surgery.run import carry_out, copy_of, for_output, prepare


def convert(
    model: str | PathLike[str],
    out: str | PathLike[str],
    *,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Write a model in safetensors: every tensor as it is, and the files beside it.

    Args:
        model: a file or a folder that :func:`open` reads, such as one of PyTorch's ``pytorch_model.bin``, whose pickle
            is read and never run.
        out: the output folder; or one file, if it ends in ``.safetensors``: the tensors alone.
        settings: how to do the work; with a ``dtype`` floats are cast to it.
        dry_run: return the plan instead of running it.
        progress: called with the bytes done and the bytes in all, a few times a second.

    Raises:
        UsageError: if a setting is wrong.
        SutureError: if the model is not sound or the output cannot be written.
        KeyboardInterrupt: on Ctrl-C; the same call then resumes.
    """
    settings = settings or Settings()
    recipe = copy_of(model_of(model), "convert", settings.dtype)
    config = own_config(Path(plain(model)))
    beside = [] if config is None else [("adapter_config.json", config)]
    how = for_output(out, settings)
    # Other files than the model's: shards as merges have them.
    if how.shard_size is None and not how.one_file:
        how = replace(how, shard_size="5GB")
    job = prepare(recipe, how, beside=beside)
    return carry_out(job, out, dry_run, progress)
