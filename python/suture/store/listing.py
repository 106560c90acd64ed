"""Which objects there are of a model, by a store's list, a hub's, or the names that models have."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable
from typing import Any

from suture.errors import SutureError
from suture.hub.failures import endpoint
from suture.hub.needed import CONFIGS, TOKENIZER
from suture.hub.weights import UnfitError, listed_in
from suture.store import failures
from suture.store.chosen import SAID
from suture.store.client import library, opened
from suture.store.objects import Object
from suture.store.places import Place
from suture.store.together import aside, side_by_side

#: What is asked for of a server that lists nothing; indexes come first, since they name the shards.
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLE = ("model.safetensors", "adapter_model.safetensors", "pytorch_model.bin", "adapter_model.bin")
_PATIENCE = 30
#: Folders in a folder that are looked into: an expert of a twin lies in the second.
_DEEPEST = 2


def objects(place: Place) -> dict[str, Object]:
    """The objects of a folder by their names in it, or the one object that a URL of a file names.

    Raises:
        SutureError: if there are none, or they cannot be had.
    """
    if place.scheme == "hf":
        return _of_hub(place)
    store = opened(place.scheme, place.root)
    if place.is_file:
        found = _heads(store, {place.name: place.path}, place.url.removesuffix(f"/{place.name}"))
        if not found:
            raise SutureError(f"{place.url}: there is no such object", place.url)
        return found
    if place.scheme in ("http", "https"):
        return _of_server(place, store)
    prefix = f"{place.path}/" if place.path else ""
    try:
        pages = aside(lambda: list(library().list(store, prefix=prefix or None, chunk_size=1000)))
    except Exception as e:
        raise failures.told(e, place.url) from None
    found = {}
    for meta in (meta for page in pages for meta in page):
        name = str(meta["path"]).removeprefix(prefix)
        if name and name.count("/") <= _DEEPEST:
            found[name] = Object.of(store, str(meta["path"]), f"{place.url}/{name}", meta)
    if not found:
        raise SutureError(f"{place.url}: there is nothing under this name; check bucket and folder", place.url)
    return found


def _heads(store: Any, paths: dict[str, str], url: str) -> dict[str, Object]:
    """Those of some objects that are there, by their names."""

    def head(name: str) -> Object | None:
        try:
            return Object.of(store, paths[name], f"{url}/{name}", library().head(store, paths[name]))
        except Exception as e:
            if failures.is_gone(e):
                return None
            raise failures.told(e, f"{url}/{name}") from None

    return {name: found for name, found in zip(paths, side_by_side(head, list(paths)), strict=True) if found}


def _of_server(place: Place, store: Any) -> dict[str, Object]:
    """A server lists nothing: what models have is asked for by name."""
    inside = f"{place.path}/" if place.path else ""

    def ask(names: Iterable[str]) -> dict[str, Object]:
        return _heads(store, {name: inside + name for name in names}, place.url)

    found = ask([*_INDEXES, *_SINGLE, *CONFIGS, *TOKENIZER, *SAID])
    for index in _INDEXES:
        if index in found and index.removesuffix(".index.json") not in found:
            try:
                found |= ask(listed_in(index, aside(found[index].whole)))
            except UnfitError as e:
                raise SutureError(f"{place.url}: {e}", place.url) from None
            break
    if not found:
        raise SutureError(
            f"{place.url}: no file that a model has is there (model.safetensors, its index, config.json); "
            "name the folder that has them, or the file",
            place.url,
        )
    return found


def _of_hub(place: Place) -> dict[str, Object]:
    """A hub lists what a revision has, and says which commit it is."""
    server, token = endpoint(), os.environ.get("HF_TOKEN") or _kept_token()
    headers = (("Authorization", f"Bearer {token}"),) if token else ()
    revision = place.revision or "main"
    api = f"{server}/api/models/{place.root}/revision/{urllib.parse.quote(revision, safe='')}?blobs=true"
    try:
        request = urllib.request.Request(api, headers={"User-Agent": "suture", **dict(headers)})
        with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
            said = json.load(answer)
        commit, files = str(said["sha"]), {str(s["rfilename"]): s for s in said["siblings"]}
    except urllib.error.HTTPError as e:
        raise SutureError(f"{place.url}: {_refusal(e.code, server)}", place.url) from None
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise SutureError(f"{place.url}: {server} does not answer as a hub does ({e})", place.url) from None
    inside = f"{place.path}/" if place.path else ""
    wanted = [n for n in files if n == place.path or n.startswith(inside)]
    if not wanted:
        raise SutureError(f"{place.url}: commit {commit[:12]} has nothing under this name", place.url)
    if place.is_file:
        inside = place.path.removesuffix(place.name)
    scheme, _, host = server.partition("://")
    store = opened(scheme, host, headers)
    url = f"hf://{place.root}@{commit}"
    found = {}
    for name in wanted:
        size, lfs = files[name].get("size"), files[name].get("lfs")
        content = lfs.get("sha256") if isinstance(lfs, dict) else files[name].get("blobId")
        if not isinstance(size, int) or not isinstance(content, str):
            raise SutureError(f"{place.url}: {server} does not say how large `{name}` is", place.url)
        path = f"{place.root}/resolve/{commit}/{name}"
        # Of a commit nothing changes, and who sends it (a cache elsewhere) has tags of its own.
        found[name.removeprefix(inside)] = Object(store, path, f"{url}/{name}", size, content, False, fixed=True)
    return found


def _refusal(status: int, server: str) -> str:
    if status in (401, 403):
        return f"{server} refuses access (HTTP {status}); log in with an account that may (HF_TOKEN, `hf auth login`)"
    if status == 404:
        return f"{server} has no such model or revision, or it is private (HF_TOKEN)"
    return f"{server} fails (HTTP {status}); try again later"


def _kept_token() -> str | None:
    """The token that `hf auth login` has kept."""
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    path = os.environ.get("HF_TOKEN_PATH") or os.path.join(home, "token")
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as file:
            return file.read().strip() or None
    except OSError:
        return None
