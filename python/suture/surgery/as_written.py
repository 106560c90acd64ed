"""Models that are made of others when they are read, written for as long as somebody needs their bytes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from suture import _core
from suture.checkpoint import opened
from suture.errors import SutureError
from suture.reference import Model, Reference, called, model_of
from suture.settings import Settings
from suture.surgery.run import copy_of, prepare


@contextmanager
def as_written(models: Sequence[Model], out: Path, settings: Settings) -> Iterator[list[_core.Checkpoint]]:
    """The models as files hold them: `base+adapter`, `base+delta` are written beside `out`, and removed at the end.

    A model that is made of others has the same bytes as if `suture lora fold` or `suture delta apply` had written it.

    Raises:
        SutureError: if one cannot be written, or another run has left what it wrote there.
    """
    named = [model_of(model) for model in models]
    found = [opened(model) for model in named]
    # A delta knows its base again by bytes of its files.
    made = [i for i, model in enumerate(named) if isinstance(model, Reference) and model.adapters]
    if not made:
        yield found
        return
    folder = out.absolute().with_name(f".{out.absolute().name}.suture-models")
    try:
        folder.mkdir()
    except FileExistsError:
        message = "is of a run that was killed, or that still works; remove it if none does"
        raise SutureError(f"{folder}: {message}", str(folder)) from None
    except OSError as e:
        raise SutureError(f"{folder}: cannot be made: {e.strerror}", str(folder)) from None
    try:
        how = replace(settings, dtype=None, overwrite=False)
        for i in made:
            place = folder / str(i) / _name(named[i])
            place.parent.mkdir()
            prepare(copy_of(named[i], "delta extract", None, as_stored=True), how).run(place, None)
            found[i] = opened(str(place))
        yield found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _name(found: str | Reference) -> str:
    """What a model is called, as a folder can be."""
    label = found.label(called(found.path)) if isinstance(found, Reference) else called(found)
    return label.replace("/", "--")
