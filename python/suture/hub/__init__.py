"""Models by their name on a hub: found in the hub's cache, else downloaded into it by the extra `hub`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from suture.errors import SutureError, UsageError
from suture.hub import cache
from suture.hub.names import check_name, check_revision, looks_like_a_name, split
from suture.hub.needed import KINDS, Kind

__all__ = ["cached", "find", "looks_like_a_name", "split"]


def cached(name: str, *, revision: str | None = None, kind: Kind = "model") -> Path | None:
    """The local folder that holds what is needed of a model, if the hub's cache has all of it; no network is asked.

    Args:
        name, revision, kind: as :func:`find` takes them.

    Raises:
        SutureError: if the cache leads elsewhere.
    """
    return cache.look_up(name, "main" if revision is None else revision, kind)[0]


def find(
    name: str,
    *,
    revision: str | None = None,
    kind: Kind = "model",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """The local folder that holds what is needed of a model, downloaded if the hub's cache does not have all of it.

    What the cache has is taken as it is: nobody asks the hub whether a branch has moved on.

    Args:
        name: ``org/name``, or ``name`` alone where a hub has such old ones.
        revision: a branch, a tag, ``refs/pr/N``, a commit, or the beginning of one that is in the cache; without it,
            the branch `main`.
        kind: what is needed: a model's weights, config and tokenizer; an adapter's weights and config; a tokenizer.
        progress: told the bytes that are there and those there will be, after each file; without it huggingface_hub
            draws its own bars, where stderr is a terminal.

    Raises:
        UsageError: if `name` or `revision` cannot be one, or `kind` is none.
        SutureError: if it is neither in the cache nor to be had, or the cache leads elsewhere.
    """
    if kind not in KINDS:
        raise UsageError(f"kind: expected {', '.join(KINDS)}, found `{kind}`")
    check_name(name)
    revision = "main" if revision is None else revision
    check_revision(name, revision)
    found, lacking = cache.look_up(name, revision, kind)
    if found is not None:
        return found
    if cache.is_offline():
        command = f"hf download {name}" + ("" if revision == "main" else f" --revision {revision}")
        raise SutureError(
            f"{name}: {lacking}, and HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids the network; "
            f"fetch it where there is one: {command}",
            cache.place(),
        )
    # Imported here: with what the cache has, none of it is needed.
    from suture.hub.download import fetch

    return fetch(name, revision, kind, lacking, progress)
