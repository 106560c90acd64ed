"""Several vocabularies on one trunk: packs of tokenizer, embeddings and head (Hydra, Remy et al., arXiv 2408.04303)."""

from __future__ import annotations

import json
import os
import shutil
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from suture import _core
from suture.errors import SutureError, UsageError
from suture.recipe import as_json
from suture.reference import model_of
from suture.results.report import Report
from suture.settings import Progress, Settings
from suture.sidecars.files import read_config
from suture.surgery.aligned import Alignment
from suture.surgery.job import refuse_stores
from suture.surgery.ledger import write_whole
from suture.surgery.run import carry_out, copy_of, is_file, prepare
from suture.surgery.vocab_model import VocabModel, vocab_model
from suture.surgery.vocab_trunk import described, differing, digest_of, trunk_of, unlike, write_tables
from suture.vocab.ids import FILES
from suture.vocab.packs import (
    BESIDE,
    PACK,
    PACKS,
    RECORD,
    TABLES,
    TRUNK,
    Packs,
    changes,
    check_name,
    pack_of,
    read_pack,
    read_packs,
    record_of,
)  # fmt: skip
from suture.vocab.write import Files

#: So many tensors are named where two trunks differ.
_NAMED = 3


def add(
    packs: str | PathLike[str],
    model: str | PathLike[str],
    *,
    name: str,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Put the vocabulary of a model into a folder of packs, which the first makes: its trunk is then the trunk of all.

    The trunk is all that has no row for each token. That of the model must be the folder's, byte for byte. Of a pack
    that :func:`extract` wrote what it says of its trunk is compared.

    Args:
        packs: the folder, which is there or not.
        model: a model, or a pack.
        name: what the vocabulary is called.
        settings: how to do the work.
        progress: called with the bytes done and the bytes in all, while a trunk is written.

    Returns:
        what :func:`listed` says of the folder.

    Raises:
        UsageError: if there is a pack of that name.
        SutureError: if the trunk is another, or tables are of another dtype or width; or something cannot be written.
    """
    settings = settings or Settings()
    settings.refuse_parts("a pack is made as a whole")
    refuse_stores(packs)
    check_name(name)
    folder = Path(packs)
    if not (folder / RECORD).is_file():
        _begin(folder, model, name, settings, progress)
        return listed(folder)
    known = read_packs(folder)
    if name in known.names():
        raise UsageError(f"{folder}: has a pack `{name}` already; remove it first, or choose another name", at="name")
    source = Path(fspath(model))
    trunk = vocab_model(folder / TRUNK)
    if (source / PACK).is_file():
        pack = read_pack(source)
        if pack["digest"] != known.digest:
            raise SutureError(f"{source}: is a pack of another trunk than {folder} has", source)
        tables = pack["tables"]
    else:
        found = vocab_model(model)
        _same_trunk(known.trunk, trunk_of(found, settings.thread_count), found.folder, folder / TRUNK)
        tables = described(found)
    if (problem := unlike(described(trunk), tables)) is not None:
        raise SutureError(f"{fspath(model)}: its tables cannot stand for those of {folder}: {problem}", source)
    place = folder / PACKS / name
    if (source / PACK).is_file():
        _made(place, lambda new: _copied(source, new, [*BESIDE, TABLES, PACK]))
    else:
        _made(place, lambda new: _pack(found, known.digest, new))
    return listed(folder)


def listed(packs: str | PathLike[str]) -> dict[str, Any]:
    """What a folder of packs holds: ``folder``, ``trunk`` (``tensors``, ``digest``), and of each of ``packs`` ``name``,
    ``rows``, ``bytes`` of its tables, ``folder``.

    Raises:
        SutureError: if it is no such folder, or a pack is damaged.
    """
    found = read_packs(Path(packs))
    told = []
    for name in found.names():
        place = found.place(name)
        if name == found.own:
            model = vocab_model(place)
            tables, rows = described(model), model.rows
        else:
            pack = read_pack(place)
            tables, rows = pack["tables"], int(pack["rows"])
        told.append({"name": name, "rows": rows, "tensors": sorted(tables), "folder": str(place)})
    return {
        "folder": str(found.folder),
        "trunk": {"tensors": len(found.trunk), "digest": found.digest},
        "packs": told,
    }


def remove(packs: str | PathLike[str], name: str) -> dict[str, Any]:
    """Delete a pack; what the trunk came with stays. It returns what :func:`listed` says then.

    Raises:
        UsageError: if there is none of that name, or it is the trunk's own.
        SutureError: if its folder holds other files than a pack's, or cannot be deleted.
    """
    found = read_packs(Path(packs))
    place = found.place(name)
    if name == found.own:
        raise UsageError(f"{found.folder}: `{name}` is the vocabulary that the trunk came with; it stays", at="name")
    if other := sorted({one.name for one in place.iterdir()} - {*BESIDE, TABLES, PACK}):
        raise SutureError(f"{place}: holds `{other[0]}`, which is not the pack's; suture will not delete it", place)
    try:
        # Without its record it is no pack any more, whatever comes between.
        (place / PACK).unlink()
        shutil.rmtree(place)
    except OSError as e:
        raise SutureError(f"{place}: cannot be deleted: {e.strerror}", place) from None
    return listed(packs)


def materialise(
    packs: str | PathLike[str],
    name: str,
    out: str | PathLike[str],
    *,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Write the trunk with one of the packs to the folder `out`: a model by itself, with the original's bytes.

    Where the file system can (XFS, btrfs), `out` shares the trunk's blocks. Its config is the original's.

    Args:
        packs: the folder of packs.
        name: the pack.
        out: the output folder.
        settings: how to do the work.
        dry_run: return the plan instead of running it.
        progress: called with the bytes done and the bytes in all, a few times a second.

    Raises:
        UsageError: if there is none of that name.
        SutureError: if the trunk or the pack is damaged, or the output cannot be written.
        KeyboardInterrupt: on Ctrl-C; the same call then resumes.
    """
    settings = settings or Settings()
    if is_file(out):
        raise UsageError(f"a single file has no tokenizer; give a folder instead of `{fspath(out)}`")
    found = read_packs(Path(packs))
    place, trunk = found.place(name), found.folder / TRUNK
    recipe = copy_of(model_of(trunk), "vocab pack materialise", settings.dtype)
    if name == found.own:
        return carry_out(prepare(recipe, settings), out, dry_run, progress)
    pack = read_pack(place)
    own = vocab_model(trunk)
    have = described(vocab_model(place))
    if have != pack["tables"] or (problem := unlike(described(own), have)) is not None:
        message = problem if have == pack["tables"] else f"{TABLES} is not what {PACK} says"
        raise SutureError(f"{place}: is damaged: {message}; add the pack again", place)
    models = json.loads(as_json([model_of(trunk), model_of(place)]))
    text = json.dumps({"models": models, "segments": [[[int(pack["rows"]), 1, 0]], None]})
    configs = {file: (read_config(trunk, file), read_config(place, file)) for file in FILES}
    new = [(file, (place / file).read_bytes()) for file, (a, b) in configs.items() if a is None and b is not None]
    ids = {file: changes(a, b or {}) for file, (a, b) in configs.items() if a is not None}
    beside = Files([], [(file, str(place / file)) for file in BESIDE if file not in FILES and (place / file).is_file()])
    notes = [("pack", f"{name}: {int(pack['rows']):,} rows in {', '.join(sorted(have))}")]
    job = prepare(recipe, settings, vocabulary=Alignment(text=text, files=beside, ids=ids, notes=notes), beside=new)
    return carry_out(job, out, dry_run, progress)


def extract(
    base: str | PathLike[str],
    tuned: str | PathLike[str],
    out: str | PathLike[str],
    *,
    settings: Settings | None = None,
) -> dict[str, Any]:
    """Write the vocabulary of a model that was tuned from `base` as a pack to the new folder `out`.

    Args:
        base: the model, or a folder of packs.
        tuned: a model whose trunk is the base's, byte for byte: only tables, heads and their biases were tuned.
        out: the folder, for :func:`add`.
        settings: how to do the work.

    Returns:
        what ``pack.json`` says: ``digest`` of the trunk, ``rows``, ``tables`` with dtype and shape.

    Raises:
        SutureError: if the trunks differ, naming tensors; or something cannot be written.
    """
    settings = settings or Settings()
    settings.refuse_parts("a pack is made as a whole")
    refuse_stores(out)
    own, other = Path(fspath(base)), vocab_model(tuned)
    if (own / RECORD).is_file():
        trunk, tables = dict(read_packs(own).trunk), described(vocab_model(own / TRUNK))
        own = own / TRUNK
    else:
        model = vocab_model(base)
        trunk, tables, own = trunk_of(model, settings.thread_count), described(model), model.folder
    _same_trunk(trunk, trunk_of(other, settings.thread_count), other.folder, own)
    if (problem := unlike(tables, described(other))) is not None:
        raise SutureError(f"{other.folder}: its tables cannot stand for those of {own}: {problem}", other.folder)
    place = Path(out)
    if os.path.lexists(place):
        raise SutureError(f"{place}: is there already; choose another output", place)
    _made(place, lambda new: _pack(other, digest_of(trunk), new))
    return read_pack(place)


def _begin(folder: Path, model: str | PathLike[str], name: str, settings: Settings, progress: Progress | None) -> None:
    """Make a folder of packs of its first model.

    Raises:
        SutureError: if something else is there.
    """
    found = vocab_model(model)
    if folder.resolve() in (found.folder.resolve(), *found.folder.resolve().parents):
        raise SutureError(f"{folder}: overlaps with the input {found.folder}; choose another folder", folder)
    begun = {TRUNK, f".{TRUNK}.suture-partial"}
    if folder.is_dir() and (other := sorted({one.name for one in folder.iterdir()} - begun)):
        raise SutureError(f"{folder}: is no folder of packs, and holds `{other[0]}`; choose another", folder)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as e:
        raise SutureError(f"{folder}: cannot be made: {e.strerror}", folder) from None
    trunk = trunk_of(found, settings.thread_count)
    if not (folder / TRUNK).is_dir():
        job = prepare(copy_of(model_of(fspath(model)), "vocab pack add", None), settings)
        carry_out(job, folder / TRUNK, False, progress)
    made = trunk_of(vocab_model(folder / TRUNK), settings.thread_count)
    _same_trunk(trunk, made, folder / TRUNK, found.folder)
    record = record_of(Packs(folder, name, trunk, digest_of(trunk)), _core.__version__)
    write_whole(folder / RECORD, record.decode())


def _same_trunk(one: Any, other: Any, folder: Path, base: Path) -> None:
    """See to it that two trunks are one.

    Raises:
        SutureError: if they are not.
    """
    if apart := differing(dict(one), other):
        named = ", ".join(f"`{name}`" for name in apart[:_NAMED])
        more = f" and {len(apart) - _NAMED:,} more" if len(apart) > _NAMED else ""
        message = f"is not on the trunk of {base}: {len(apart):,} tensors differ or are in one alone ({named}{more})"
        raise SutureError(f"{folder}: {message}; only models that share all but their tables are packs", folder)


def _pack(model: VocabModel, digest: str, new: Path) -> None:
    """The files of a pack in a new folder."""
    write_tables(model, new / TABLES)
    _copied(model.folder, new, BESIDE)
    (new / PACK).write_bytes(pack_of(described(model), model.rows, digest, model.folder.name, _core.__version__))


def _copied(source: Path, new: Path, names: Any) -> None:
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, new / name)


def _made(place: Path, make: Any) -> None:
    """Make a folder, whole or not at all.

    Raises:
        SutureError: if it cannot be made.
    """
    new = place.with_name(f".{place.name}.suture-partial")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        # What a run that was killed has left is made again.
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        make(new)
        os.rename(new, place)
    except OSError as e:
        raise SutureError(f"{place}: cannot be made: {e.strerror}", place) from None
    finally:
        shutil.rmtree(new, ignore_errors=True)
