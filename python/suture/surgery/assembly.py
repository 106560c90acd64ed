"""Models put together of tensors of several: every tensor of the output by what it is."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from suture import _core
from suture.checkpoint import Checkpoint
from suture.errors import SutureError, UsageError
from suture.reference import Model, Reference, model_of
from suture.results.report import Report
from suture.settings import Progress, Settings
from suture.sidecars.files import read_config
from suture.sidecars.gguf import folder_of
from suture.surgery.aligned import Alignment
from suture.surgery.parts_folder import GIVEN
from suture.surgery.run import Apart, Job, carry_out, for_output, is_file, prepare

if TYPE_CHECKING:
    import numpy.typing as npt

#: What arrays that were computed here are called among the models.
_NAME = "given"


@dataclass
class Assembly:
    """An output in the making.

    Attributes:
        title: the verb, for people.
        models: the models, as they were named; the first lends the files beside the weights.
        pieces: the output's tensors, as the core's recipe has them.
        arrays: tensors that were computed here, of float32 or, rounded to their dtype when they are written, float64.
        config: makes the output's config.json of the first model's.
        told: what the user should know.
        notes: what was chosen: a title and a text each.
        asked: what was asked for, for the report.
        apart: says what goes beside the weights, where the models are parts of something else.
        beside: further files of the output, and their bytes.
        alone: whether nothing of the first model's goes beside the weights: the output is no model.
    """

    title: str
    models: list[Model]
    pieces: list[dict[str, Any]] = field(default_factory=list)
    arrays: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    config: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    told: list[str] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    asked: Mapping[str, Any] = field(default_factory=dict)
    apart: Apart | None = None
    beside: list[tuple[str, bytes]] = field(default_factory=list)
    alone: bool = False

    def whole(self, name: str, model: int, tensor: str, **more: Any) -> None:
        """Add a tensor that is one of a model's; `more` may be a ``scale``, a ``shape`` or a ``dtype``."""
        self.pieces.append({"name": name, "of": [model, tensor], **more})

    def rows(self, name: str, parts: Sequence[tuple[int, str] | tuple[int, str, int, int]], **more: Any) -> None:
        """Add a tensor of rows: model and tensor of each part, and the first row and how many, if not all."""
        self.pieces.append({"name": name, "rows": [list(p) for p in parts], **more})

    def mean(self, name: str, parts: Sequence[tuple[int, str]], **more: Any) -> None:
        """Add a tensor that is the mean of others, in f64, rounded once."""
        self.pieces.append({"name": name, "mean": [list(p) for p in parts], **more})

    def given(self, name: str, values: npt.NDArray[Any], dtype: str) -> None:
        """Add a tensor that was computed here, to be written in `dtype`; float64 is rounded once."""
        self.arrays[name] = values.astype("<f8" if values.dtype == "f8" else "<f4", order="C", copy=False)
        self.whole(name, len(self.models), _apart(name), dtype=dtype)


def opened(model: Model) -> Checkpoint:
    """A model's checkpoint, by its name; of a quantised one the plain model, which is what is put together.

    Raises:
        SutureError: if it is not sound.
    """
    return Checkpoint.plain(model)


def config_beside(model: Checkpoint) -> dict[str, Any] | None:
    """The config.json of a checkpoint, if there is one; of a GGUF file the one that it tells."""
    place = folder_of(model.folder)
    return read_config(place) if place.is_dir() else None


def assemble(
    made: Assembly,
    out: str | PathLike[str],
    *,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Carry an assembly out.

    Raises:
        UsageError: if a setting is wrong, or two tensors have one name.
        SutureError: if a model is not sound, a tensor is not there, or the output cannot be written.
        KeyboardInterrupt: on Ctrl-C; the same call then resumes.
    """
    settings = settings or Settings()
    _, job, given = compiled(made, out, settings)
    kept = done = False
    try:
        report = carry_out(job, out, dry_run, progress)
        kept, done = settings.part is not None, settings.part is None and not dry_run
    except BaseException:
        # What was interrupted goes on with what was computed; what was refused never began.
        kept = _begun(out, settings)
        raise
    finally:
        if given is not None and (done or (given.new and (dry_run or not kept))):
            shutil.rmtree(given.folder, ignore_errors=True)
    return report


def _begun(out: str | PathLike[str], settings: Settings) -> bool:
    """Whether there may be work in progress that needs what was computed for it."""
    if settings.part is not None or settings.ray is not None or "://" in fspath(out):
        return True
    staging = _core.staging_folder(fspath(out))
    return staging is not None and staging.exists()


def _apart(name: str) -> str:
    """A name in the file of what was computed, which holds no layers, so that none seems to be missing."""
    return name.replace(".", "/")


class Computed(NamedTuple):
    """The folder of what was computed for an output, and whether it was not there."""

    folder: Path
    new: bool


def compiled(
    made: Assembly, out: str | PathLike[str], settings: Settings
) -> tuple[dict[str, Any], Job, Computed | None]:
    """An assembly's recipe and job, and the folder of what was computed for it, which goes when all is done.

    Raises:
        UsageError: if a setting is wrong, or two tensors have one name.
        SutureError: if a model is not sound, or a tensor is not there.
    """
    if is_file(out) and (made.config is not None or (made.beside and not made.alone)):
        raise UsageError(f"a model has a config; give a folder instead of `{fspath(out)}`")
    models: list[Any] = [{"model": model_of(m)} for m in made.models]
    place = None
    if made.arrays:
        if "://" in fspath(out) and (settings.part is not None or settings.ray is not None):
            message = "what is computed for it lies on this machine alone; write to a folder that all machines share"
            raise UsageError(f"`{fspath(out)}`: is not made in parts: {message}")
        place = _write(out, made.arrays)
        # They are read from there: memory is the run's.
        made.arrays.clear()
        models.append({"model": Reference(str(place.folder), name=_NAME)})
    asked = {"title": made.title, "models": models, "tensors": made.pieces}
    if made.asked:
        asked["asked"] = json.dumps(made.asked, sort_keys=True)
    if settings.dtype is not None:
        asked["dtype"] = settings.dtype
    recipe = {"assemble": asked}
    how = for_output(out, settings)
    alignment = Alignment(told=made.told, notes=made.notes)
    try:
        job = prepare(recipe, how, beside=made.beside, vocabulary=alignment, tuned=made.config, apart=made.apart)
    except BaseException:
        # What was refused never began.
        if place is not None and place.new:
            shutil.rmtree(place.folder, ignore_errors=True)
        raise
    if made.alone:
        own = {"README.md", *(name for name, _ in made.beside)}
        job = replace(job, written=[(name, data) for name, data in job.written if name in own], copied=[])
    return recipe, job, place


def _write(out: str | PathLike[str], arrays: Mapping[str, npt.NDArray[Any]]) -> Computed:
    """Write arrays into a folder that is the same for the same arrays: a run that goes on finds them as they were."""
    header: dict[str, Any] = {}
    at = 0
    for name, values in arrays.items():
        dtype = f"F{8 * values.itemsize}"
        header[_apart(name)] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [at, at + values.nbytes]}
        at += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data: list[Any] = [struct.pack("<Q", len(text)), text, *(values.data for values in arrays.values())]
    digest = hashlib.blake2b(digest_size=8)
    for piece in data:
        digest.update(piece)
    own = Path(tempfile.gettempdir()) if "://" in fspath(out) else Path(out).absolute().parent
    folder = own / (GIVEN.format(Path(fspath(out)).name) + digest.hexdigest())
    path = folder / "model.safetensors"
    if path.is_file() and path.stat().st_size == 8 + len(text) + at:
        return Computed(folder, False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / "model.part"
        with part.open("wb") as file:
            file.writelines(data)
        part.replace(path)
    except OSError as e:
        shutil.rmtree(folder, ignore_errors=True)
        raise SutureError(f"{folder}: cannot write: {e.strerror}", folder) from None
    return Computed(folder, True)
