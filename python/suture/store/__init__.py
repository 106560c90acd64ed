"""Models in object stores, on web servers and on a hub, read by ranges: each has a folder of stand-ins here.

A stand-in has the length and the header of a weight file and none of its data; see rust/core/src/source/object.rs.
What is read of it is fetched by the extra `cloud`, and nothing of this is imported for models that lie in folders.
"""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING

from suture.store.places import SCHEMES, is_url, refuse_unknown

if TYPE_CHECKING:
    from suture.hub.needed import Kind

__all__ = ["SCHEMES", "is_url", "keep", "refuse_unknown", "stand_in"]


def keep(folder: str | PathLike[str] | None, size: str | int = "50GB") -> None:
    """Keep what is fetched from stores from now on in a folder, for later runs; None for no longer.

    Args:
        folder: where; several processes may share it.
        size: bytes that are kept, about; what was used last longest ago goes first.

    Raises:
        UsageError: if `size` is none, or `folder` no folder of this machine.
        SutureError: if the folder cannot be made.
    """
    from suture.errors import UsageError
    from suture.settings import parse_size
    from suture.store import kept

    if folder is not None and (not fspath(folder) or is_url(fspath(folder))):
        raise UsageError(f"cache: expected a folder of this machine, found `{fspath(folder)}`", at="cache")
    kept.keep(folder, parse_size(size, "cache_size"))


def stand_in(url: str, kind: Kind = "model") -> Path:
    """The folder, or file, that stands for what is at `url`; made at its first mention in the process.

    Args:
        url: `s3://`, `gs://`, `az://`, `https://`, `http://` or `hf://`.
        kind: what is needed of it.

    Raises:
        UsageError: if it is no such URL.
        SutureError: if it cannot be read, or holds nothing of the kind.
    """
    # Imported here: with local models none of it is needed.
    from suture.store.folders import made

    return made(url, kind)
