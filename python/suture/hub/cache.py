"""The hub's cache on this machine, read without its library: `models--org--name/{refs,snapshots,blobs}`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from suture.errors import SutureError, UsageError
from suture.hub.needed import Kind, needed
from suture.hub.weights import UnfitError, listed, read_index

COMMIT = re.compile(r"[0-9a-f]{40}")
#: As short as git takes the beginning of one.
_BEGINNING = re.compile(r"[0-9a-f]{4,39}")
_TRUE = ("1", "ON", "YES", "TRUE")


def place() -> Path:
    """Where the cache is: what the hub's environment variables say, else in the home folder."""
    get = os.environ.get
    home = get("HF_HOME") or os.path.join(get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    found = get("HF_HUB_CACHE") or get("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub")
    return Path(os.path.abspath(os.path.expandvars(os.path.expanduser(found))))


def is_offline() -> bool:
    """Whether the environment forbids the network."""
    said = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return said.upper() in _TRUE


def folder(name: str) -> Path:
    """What the cache has of a model."""
    return place() / f"models--{name.replace('/', '--')}"


def look_up(name: str, revision: str, kind: Kind) -> tuple[Path | None, str]:
    """The snapshot of a revision if it is whole; else None, and in words what is not there.

    Raises:
        SutureError: if it leads out of the cache, or cannot be read.
        UsageError: if `revision` is the beginning of several commits.
    """
    root = folder(name)
    try:
        commit = _commit(root, revision)
        if commit is None:
            return None, f"its revision `{revision}` is not in the hub's cache {place()}"
        snapshot = root / "snapshots" / commit
        if not snapshot.is_dir():
            return None, f"commit {commit} is not in the hub's cache {place()}"
        lacking = lacks(root, snapshot, kind, sure=not is_offline())
    except OSError as e:
        raise SutureError(f"{root}: cannot be read ({e.strerror})", root) from None
    return (snapshot, "") if lacking is None else (None, f"the hub's cache has not all of it: {lacking}")


def lacks(root: Path, snapshot: Path, kind: Kind, *, sure: bool = False) -> str | None:
    """What a snapshot lacks of what is needed, in words; None if it is whole.

    Args:
        root: what the cache has of the model.
        snapshot: of one commit.
        kind: what is needed.
        sure: count a model as missing where what is there may lie beside it in the repository, as an adapter may.

    Raises:
        SutureError: if anything in it leads out of the cache.
        OSError: if it cannot be read.
    """
    names = {os.path.relpath(path, snapshot): path for path in _contained(root, snapshot)}
    try:
        found = needed(names, kind, lambda name: read_index(names[name]) if names[name].is_file() else None)
    except UnfitError as e:
        return str(e)
    # A link to a blob that is gone, or was never whole.
    missing = [*found.missing, *(name for name in found.files if name in names and not names[name].is_file())]
    if not missing and sure and not found.sure:
        return f"`{found.files[-1]}` may not be all there is"
    return f"{listed(missing)} {'is' if len(missing) == 1 else 'are'} missing in {snapshot}" if missing else None


def check(root: Path, snapshot: Path) -> None:
    """Refuse to write into a snapshot that leads out of the cache.

    Raises:
        SutureError: if it, or anything in it, does.
    """
    if os.path.lexists(snapshot):
        for _ in _contained(root, snapshot):
            pass


def remember(root: Path, revision: str, commit: str) -> None:
    """Write down that a branch or a tag is at a commit, as the hub's library does."""
    if revision == commit or (_BEGINNING.fullmatch(revision) and commit.startswith(revision)):
        return
    path = root / "refs" / revision
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(commit, encoding="ascii")
        os.replace(new, path)
    except OSError:
        # It only spares the next run a question: a tag `a` may stand in the way of a branch `a/b`.
        new.unlink(missing_ok=True)


def _commit(root: Path, revision: str) -> str | None:
    """The commit that a revision is, as far as the cache knows."""
    ref = root / "refs" / revision
    if ref.is_file():
        _refuse_ways_out(ref, [Path(os.path.realpath(root), "refs")])
        with ref.open("rb") as file:
            said = file.read(64).decode("ascii", "replace").strip()
        if COMMIT.fullmatch(said):
            return said
        # A crash leaves it empty.
        if said:
            raise SutureError(f"{ref}: expected a commit's hash, found `{said}`; delete it", ref)
    if COMMIT.fullmatch(revision):
        return revision
    snapshots = root / "snapshots"
    if not _BEGINNING.fullmatch(revision) or not snapshots.is_dir():
        return None
    found = sorted(n for n in os.listdir(snapshots) if n.startswith(revision) and COMMIT.fullmatch(n))
    if len(found) > 1:
        raise UsageError(f"{root}: `{revision}` begins several commits: {listed(found)}; write more of it")
    return found[0] if found else None


def _contained(root: Path, snapshot: Path) -> Iterator[Path]:
    """All files of a snapshot, none of which may lead out of it but into the blobs; links that lead nowhere too."""
    real = Path(os.path.realpath(root))
    # Newer caches keep blobs that models have in common one level up.
    allowed = [real / "snapshots" / snapshot.name, real / "blobs", real.parent / "blobs"]
    _refuse_ways_out(snapshot, allowed[:1])
    for where, folders, files in os.walk(snapshot):
        for name in (*folders, *files):
            _refuse_ways_out(Path(where, name), allowed)
        yield from (Path(where, name) for name in files)


def _refuse_ways_out(path: Path, allowed: list[Path]) -> None:
    real = Path(os.path.realpath(path))
    if not any(real.is_relative_to(inside) for inside in allowed):
        raise SutureError(
            f"{path}: leads out of the hub's cache, to {real}; refused: delete it, and fetch it again", path
        )
