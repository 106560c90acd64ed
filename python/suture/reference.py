"""What a model is called: a path, with adapters on top of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suture.errors import SutureError, UsageError

if TYPE_CHECKING:
    from suture.hub.needed import Kind


def called(path: str | PathLike[str]) -> str:
    """What a file or folder is called: by its own name, or in the cache of a hub by the name it has there."""
    real = Path(path).resolve()
    cached = real.parents[1].name if len(real.parents) > 1 and real.parent.name == "snapshots" else ""
    return cached.removeprefix("models--").replace("--", "/", 1) if cached.startswith("models--") else real.name


@dataclass(frozen=True)
class Reference:
    """A model that is more than a path.

    Attributes:
        path: the checkpoint.
        adapters: the adapters folded into it, in order: where each lies, and what its change is multiplied by.
        name: what it is called, if not by its folder: a hub's ``org/name``.
    """

    path: str
    adapters: tuple[tuple[str, float], ...] = ()
    name: str | None = None

    def __str__(self) -> str:
        """As it is written: ``base+adapter``."""
        times = (f"+{path}" if weight == 1 else f"+{path} ({weight:g} times)" for path, weight in self.adapters)
        return (self.name or self.path) + "".join(times)

    def label(self, folder: str) -> str:
        """A short name, of one that is called by its `folder` unless it has another."""
        return "+".join([self.name or folder, *(called(path) for path, _ in self.adapters)])

    def __fspath__(self) -> str:
        """As it is written, for those who take models by their names."""
        return str(self)

    def data(self) -> dict[str, Any]:
        """As a recipe has it."""
        adapters = [{"path": path, "weight": weight} for path, weight in self.adapters]
        return {"path": self.path, "adapters": adapters} | ({} if self.name is None else {"name": self.name})

    def at(self, place: Any) -> Reference:
        """The same with its paths changed by `place`."""
        return Reference(place(self.path), tuple((place(path), weight) for path, weight in self.adapters), self.name)


#: A model as users of the API name it.
Model = str | PathLike[str] | Reference


def model_of(model: Model, folder: Path | None = None, kind: Kind = "model") -> str | Reference:
    """What a model's name stands for: a path, or a reference of what has adapters (``base+adapter``) or is on a hub.

    A file or folder of that very name comes first, from the current folder, else from `folder`; then ``org/name`` and
    ``org/name@revision`` of a hub, of which the bare ``name`` only where it was downloaded before. What is none of
    these is left as it is, for those to refuse who open it.

    Args:
        model: the name.
        folder: where else to look.
        kind: what is needed of it, should it be downloaded.

    Raises:
        UsageError: if a part of it does not exist.
        SutureError: if it is on no hub, or cannot be fetched.
    """
    if isinstance(model, Reference):
        return model
    try:
        text = fspath(model)
        text.encode("utf-8", "surrogateescape")
    except (AttributeError, TypeError, UnicodeEncodeError):
        raise UsageError(f"expected a model's path or name, found {model!r}") from None
    found = existing(text, folder)
    if found is not None:
        return str(found)
    if "+" not in text:
        return _in_store(text, kind) or _on_hub(text, kind) or text
    parts = _parts(text, folder)
    if len(parts) == 1:
        return _in_store(text, kind) or text
    places = []
    for i, part in enumerate(parts):
        if not part.strip():
            raise UsageError(f"`{text}`: expected MODEL+ADAPTER, found nothing on one side of a +")
        try:
            place = _of(part, folder, "adapter" if i else kind)
        except SutureError as e:
            raise type(e)(f"`{text}`: {e}", e.path) from None
        if place is None:
            raise UsageError(f"`{text}`: no such file or folder: {part}")
        places.append(place)
    own, *adapters = places
    path, name = (own.path, own.name) if isinstance(own, Reference) else (str(own), None)
    return Reference(path, tuple((a.path if isinstance(a, Reference) else str(a), 1.0) for a in adapters), name)


def written(model: Any) -> Any:
    """A model of a recipe as people write it; what is none stays what it is."""
    if isinstance(model, Reference):
        return str(model)
    if not isinstance(model, dict) or not isinstance(model.get("path"), str):
        return model
    adapters = tuple((str(a["path"]), float(a.get("weight", 1))) for a in model.get("adapters") or ())
    return str(Reference(model["path"], adapters, model.get("name")))


def changed(model: Any, place: Any) -> Any:
    """A model of a recipe with its paths changed by `place`; what is none stays what it is."""
    if isinstance(model, str):
        return place(model)
    if isinstance(model, Reference):
        return model.at(place)
    if isinstance(model, dict) and isinstance(model.get("path"), str):
        adapters = [{**a, "path": place(a["path"])} for a in model.get("adapters") or ()]
        return {**model, "path": place(model["path"])} | ({"adapters": adapters} if adapters else {})
    return model


def plain(model: Model) -> str:
    """The path of a model without its adapters: where its config and its tokenizer are."""
    found = model_of(model)
    return found.path if isinstance(found, Reference) else found


def located(text: str | PathLike[str]) -> str:
    """Where a path lies: as it is, or of a URL what stands for it here."""
    return _in_store(fspath(text), "model") or fspath(text)


def stood_in(plan: str) -> str:
    """A plan's JSON text with what stands here for the models that it has by their URLs."""
    if "://" not in plan:
        return plan
    import json

    from suture import store

    urls: dict[str, None] = {}

    def look(node: Any) -> None:
        if isinstance(node, dict):
            path = node.get("path")
            if isinstance(path, str) and store.is_url(path):
                urls[path] = None
            node = list(node.values())
        if isinstance(node, list):
            for item in node:
                look(item)

    look([json.loads(plan).get(key) for key in ("models", "recipe")])
    for url in sorted(urls, key=len, reverse=True):
        place = str(store.stand_in(url))
        # JSON may have either form of what is not ASCII.
        for form in {json.dumps(url)[1:-1], url}:
            plan = plan.replace(form, json.dumps(place)[1:-1])
    return plan


def existing(text: str, folder: Path | None) -> Path | None:
    """The file or folder of that name, from the current folder, else from `folder`."""
    expanded = Path(os.path.expanduser(text))
    candidates = [expanded] if folder is None or expanded.is_absolute() else [expanded, folder / expanded]
    # Not `Path.exists`, which takes a name that is too long for a failure.
    return next((path for path in candidates if os.path.exists(path)), None)


def _of(part: str, folder: Path | None, kind: Kind) -> Path | str | Reference | None:
    return existing(part, folder) or _in_store(part, kind) or _on_hub(part, kind)


def _in_store(text: str, kind: Kind) -> str | None:
    """What stands for the model at a URL; None if it is none.

    Raises:
        UsageError: if it is one of a scheme that nobody knows.
    """
    if "://" not in text:
        return None
    # Not for the models of every command: most are folders.
    from suture import store

    store.refuse_unknown(text)
    return str(store.stand_in(text, kind)) if store.is_url(text) else None


def _on_hub(text: str, kind: Kind) -> Reference | None:
    """The model of that name on a hub; None if it is no such name."""
    # Not for the models of every command: most are folders.
    from suture import hub

    if text.startswith((".", "/", "~")) or not hub.looks_like_a_name(text):
        return None
    name, revision = hub.split(text)
    if "/" not in name:
        # Any word may be one: it is not looked for where that takes the network.
        found = hub.cached(name, revision=revision, kind=kind)
        return None if found is None else Reference(str(found), name=text)
    try:
        return Reference(str(hub.find(name, revision=revision, kind=kind)), name=text)
    except SutureError as e:
        raise type(e)(f"`{text}`: no such file or folder, and as a model of a hub: {e}", e.path) from None


def _stands_alone(piece: str, folder: Path | None) -> bool:
    """Whether what follows a + names something by itself: a URL, a path, or a model of a hub."""
    return (
        not piece.strip()
        or "/" in piece
        or existing(piece, folder) is not None
        or _on_hub(piece, "adapter") is not None
    )


def _parts(text: str, folder: Path | None) -> list[str]:
    """The model and its adapters; a + that is part of the name of something there does not part."""
    pieces = text.split("+")
    parts = [pieces[0]]
    for piece in pieces[1:]:
        joined = f"{parts[-1]}+{piece}"
        if existing(parts[-1], folder) is None and existing(joined, folder) is not None:
            parts[-1] = joined
        elif "://" in parts[-1] and not _stands_alone(piece, folder):
            # Of a URL nobody knows without asking: a word that names nothing by itself is part of it.
            parts[-1] = joined
        else:
            parts.append(piece)
    return parts
