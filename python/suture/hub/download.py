"""Downloads from the hub into its cache, by the hub's own library: its token, its mirrors, its bars."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from suture.errors import SutureError
from suture.hub import cache
from suture.hub.failures import endpoint, in_our_words
from suture.hub.needed import Kind, needed
from suture.hub.weights import UnfitError, listed, read_index

#: How long the hub may take to list a repository's files, in seconds.
_PATIENCE = 30


def fetch(
    name: str, revision: str, kind: Kind, lacking: str, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Download what is needed of a model, and no more; the folder that then holds it.

    Args:
        name: as the hub has it.
        revision: as the hub has it.
        kind: what is needed.
        lacking: why the cache does not do, in words.
        progress: as for :func:`suture.hub.find`.

    Raises:
        SutureError: if it cannot be had, or not all of it.
    """
    library = _library(name, lacking)
    root = cache.folder(name)
    with _quiet(progress is not None), in_our_words(name, revision):
        api = library.HfApi(endpoint=endpoint())
        info = api.model_info(name, revision=revision, files_metadata=True, timeout=_PATIENCE)
        commit = _commit(name, revision, info.sha)
        snapshot = root / "snapshots" / commit
        cache.check(root, snapshot)

        def get(file: str) -> Path:
            return Path(api.hf_hub_download(name, file, revision=commit, cache_dir=str(cache.place())))

        # What lies in the repository comes of strangers: names alone are used, and none that leads out of it.
        files = {f.rfilename: f for f in info.siblings or [] if isinstance(f.rfilename, str)}
        try:
            wanted = needed(files, kind, lambda file: read_index(get(file)))
        except UnfitError as e:
            raise SutureError(f"{name}: {e}") from None
        if wanted.missing:
            raise SutureError(f"{name}: {listed(wanted.missing)} should be in the repository and is not")
        _get_all(name, snapshot, {n: files[n] for n in wanted.files}, get, progress)
    try:
        still = cache.lacks(root, snapshot, kind)
    except OSError as e:
        raise SutureError(f"{root}: cannot be read ({e.strerror})", root) from None
    if still is not None:
        raise SutureError(f"{name}: was downloaded, but {still}; delete {root} and try again", root)
    cache.remember(root, revision, commit)
    return snapshot


def _library(name: str, lacking: str) -> Any:
    """The hub's own library."""
    try:
        return importlib.import_module("huggingface_hub")
    except ModuleNotFoundError as e:
        raise SutureError(
            f"{name}: {lacking}, and a download needs the extra `hub` (no module {e.name}): pip install huggingface_hub"
        ) from None


def _commit(name: str, revision: str, found: object) -> str:
    """The commit that the hub says a revision is."""
    if not isinstance(found, str) or not cache.COMMIT.fullmatch(found):
        raise SutureError(f"{name}: {endpoint()} names no commit for `{revision}`: it does not answer as a hub does")
    if cache.COMMIT.fullmatch(revision) and found != revision:
        raise SutureError(f"{name}: asked for commit {revision}, {endpoint()} answered with {found}")
    return found


def _get_all(
    name: str,
    snapshot: Path,
    files: Mapping[str, Any],
    get: Callable[[str], Path],
    progress: Callable[[int, int], None] | None,
) -> None:
    """Download files one after the other, if there is room for all of them."""
    sizes = {file: f.size if isinstance(f.size, int) else None for file, f in files.items()}
    total = sum(size or 0 for size in sizes.values())
    there = {file for file, f in files.items() if _is_there(snapshot, file, f)}
    room = _free(snapshot)
    lacking = sum(size or 0 for file, size in sizes.items() if file not in there)
    if lacking > room:
        raise SutureError(
            f"{name}: {_shown(lacking)} are to be downloaded, {_shown(room)} are free at {cache.place()}; "
            "make room, or set HF_HUB_CACHE to a folder on another disk",
            cache.place(),
        )
    done = 0
    for file, size in sizes.items():
        path = get(file)
        found = path.stat().st_size
        if size is not None and found != size:
            raise SutureError(f"{path}: expected {size} bytes, found {found}; delete it and try again", path)
        done += found
        if progress is not None:
            progress(done, max(total, done))


def _is_there(snapshot: Path, file: str, info: Any) -> bool:
    """Whether the cache has a file: under its name, or its content from another revision."""
    content = getattr(info.lfs, "sha256", None) or info.blob_id
    blobs = snapshot.parent.parent / "blobs"
    return (snapshot / file).is_file() or (
        isinstance(content, str) and content.isalnum() and (blobs / content).is_file()
    )


def _free(path: Path) -> int:
    """Bytes that are free where a folder is, or will be."""
    return shutil.disk_usage(next(p for p in path.parents if p.is_dir())).free


def _shown(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size} bytes"


@contextmanager
def _quiet(by_caller: bool) -> Iterator[None]:
    """Keep the library's log to itself, and its bars to terminals on which nobody else draws some."""
    log = logging.getLogger("huggingface_hub")
    level, bars = log.level, importlib.import_module("huggingface_hub.utils")
    # Who has set the variable has decided.
    shown = not bars.are_progress_bars_disabled() and "HF_HUB_DISABLE_PROGRESS_BARS" not in os.environ
    hide = shown and (by_caller or not sys.stderr.isatty())
    log.setLevel(logging.CRITICAL)
    if hide:
        bars.disable_progress_bars()
    try:
        yield
    finally:
        log.setLevel(level)
        if hide:
            bars.enable_progress_bars()
