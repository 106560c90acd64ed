"""Which files of a folder in a store are fetched, of all that are listed."""

from __future__ import annotations

from collections.abc import Callable, Collection

from suture.errors import SutureError
from suture.hub.needed import CONFIGS, TOKENIZER, Kind, needed
from suture.hub.weights import UnfitError
from suture.store.places import WEIGHTS

#: What says what a folder is, where it is not a plain model.
SAID = ("suture.json", "delta.json", "twin.json", "adapter_config.json", "suture-vocabulary.json")


def chosen(names: Collection[str], kind: Kind, read: Callable[[str], bytes | None], url: str) -> list[str]:
    """The files that are wanted of a folder.

    Args:
        names: of all files, with the folders they lie in.
        kind: what is wanted.
        read: a file's content; asked for indexes alone.
        url: of the folder.

    Raises:
        SutureError: if what is wanted is not among them.
    """
    said = [n for n in SAID if n in names]
    if {"delta.json", "twin.json"} & set(said):
        return [n for n in names if n.endswith((".safetensors", ".json"))]
    side = [n for n in (*CONFIGS, *TOKENIZER) if n in names]
    try:
        found = needed(names, kind, read)
    except UnfitError as e:
        if kind == "model" and not any(n.endswith(WEIGHTS) for n in names):
            raise SutureError(f"{url}: {e}", url) from None
        # The core says what is wrong with it, or reads what a hub would not be asked for.
        weights = [n for n in names if "/" not in n and n.endswith((".safetensors", ".index.json", ".bin", ".gguf"))]
        return list(dict.fromkeys([*side, *said, *weights]))
    if found.missing:
        listed = ", ".join(f"`{n}`" for n in found.missing[:4])
        more = f" and {len(found.missing) - 4} more" if len(found.missing) > 4 else ""
        raise SutureError(f"{url}: {listed}{more} should be there and is not; is the upload complete?", url)
    return list(dict.fromkeys([*side, *said, *found.files]))
