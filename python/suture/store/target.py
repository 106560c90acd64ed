"""An output in a store: whether it can be written is found out before anything is read; what is there is known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from suture.errors import SutureError, UsageError
from suture.store import failures
from suture.store.client import library, opened
from suture.store.places import Place, place
from suture.store.together import aside, side_by_side

#: Stores that outputs can go to.
WRITTEN = ("s3", "gs", "az")
#: Bytes of a part of an upload, and parts in flight: these lie in memory.
PART = 64 << 20
IN_FLIGHT = 2
#: What is known of an output that is not done lies under this name, and is removed once it is.
_UNDONE = ".suture"
#: Says whose the folder is until it is done: the plan's hash.
_CLAIM = f"{_UNDONE}/begun"
#: Ends of names by which readers find the tensors of a model.
_MODEL = (".safetensors", ".index.json", ".bin", ".gguf")
#: What an object says of itself: by which plan it was made.
META = "suture-plan"
CLEAN_UP = (
    "parts of uploads that were cut off stay in the bucket until they are removed: a rule of its life cycle does that "
    "(AbortIncompleteMultipartUpload), or `aws s3api list-multipart-uploads` and `abort-multipart-upload`"
)


class Target:
    """A folder of a store that an output goes to.

    Raises:
        UsageError: if the URL is not one that can be written.
    """

    def __init__(self, url: str) -> None:
        self.place: Place = place(url)
        if self.place.scheme not in WRITTEN:
            raise UsageError(
                f"`{url}`: outputs go to folders and to {', '.join(f'{s}://' for s in WRITTEN)}; "
                f"{self.place.scheme}:// is read only"
            )
        if self.place.is_file:
            raise UsageError(f"`{url}`: in a store an output is a folder of objects; leave the file's name out")
        self.url = self.place.url
        self.store = opened(self.place.scheme, self.place.root)

    def key(self, name: str) -> str:
        """Where an object of the output lies."""
        return f"{self.place.path}/{name}" if self.place.path else name

    def listed(self) -> dict[str, int]:
        """The objects that are there, with their sizes.

        Raises:
            SutureError: if the store does not say.
        """
        prefix = self.key("")
        try:
            pages = aside(lambda: list(library().list(self.store, prefix=prefix or None)))
        except Exception as e:
            raise failures.told(e, self.url) from None
        return {str(m["path"]).removeprefix(prefix): int(m["size"]) for page in pages for m in page}

    def begin(self, plan: str, overwrite: bool) -> dict[str, int]:
        """Find out whether the output of `plan` can be written, and claim the folder for it.

        Returns:
            what an earlier run of the plan has left of it, by name and size.

        Raises:
            SutureError: if something else is there, nothing may be written, or nothing only where nothing is; or if
                another run has begun there.
        """
        there = self.listed()
        others = [n for n in there if not n.startswith(f"{_UNDONE}/")]
        begun = any(n.startswith(f"{_UNDONE}/") for n in there)
        by = self.plans_of(others) if others and (begun or overwrite) else {}
        foreign = [n for n in others if not begun or by[n] != plan]
        if foreign and not overwrite:
            raise SutureError(
                f"{self.url}: is not empty: {_some(foreign)}; choose another place, or pass --overwrite", self.url
            )
        if mixed := [n for n in foreign if n.endswith(_MODEL) and by[n] is None]:
            raise SutureError(
                f"{self.url}: holds what suture has not written: {_some(mixed)}; beside it nobody could tell which is "
                "the model; remove it, or choose another place",
                self.url,
            )
        self._claim(plan, overwrite)
        return {n: there[n] for n in others if n not in foreign}

    def _claim(self, plan: str, overwrite: bool) -> None:
        if overwrite:
            return self.put(_CLAIM, plan.encode())
        if not self._is_new(plan):
            said = self.get(_CLAIM)
            if said is not None and said != plan.encode():
                raise SutureError(
                    f"{self.url}: another run has begun there, and is not done; wait for it, choose another place, or "
                    f"if it was stopped go on with its command, or pass --overwrite ({_CLAIM} there is its mark)",
                    self.url,
                )
            return None
        # That it is refused a second time is what keeps runs apart.
        try:
            if not self._is_new(plan):
                return None
        except BaseException:
            self.remove([_CLAIM])
            raise
        return self._no_condition(_CLAIM, None)

    def _is_new(self, plan: str) -> bool:
        """Write the claim where none is; whether there was none."""
        try:
            aside(lambda: library().put(self.store, self.key(_CLAIM), plan.encode(), mode="create"))
        except Exception as e:
            if type(e).__name__ in ("AlreadyExistsError", "PreconditionError"):
                return False
            if type(e).__name__.startswith(("NotImplemented", "NotSupported")):
                self._no_condition(_CLAIM, e)
            raise failures.told(e, f"{self.url}/{_CLAIM}", writing=True) from None
        return True

    def leave(self) -> None:
        """Give the claim up, where nothing else was written."""
        self.remove([_CLAIM])

    def _no_condition(self, mark: str, e: BaseException | None) -> None:
        if e is None:
            self.remove([mark])
        raise SutureError(
            f"{self.url}: this store does not write only where nothing is, so that two runs could mix; "
            "pass --overwrite if nobody else writes there",
            self.url,
        )

    def plan_of(self, name: str) -> str | None:
        """By which plan an object was made, as it says of itself."""
        try:
            answer = aside(lambda: library().get(self.store, self.key(name), options={"head": True}))
        except Exception as e:
            if failures.is_gone(e):
                return None
            raise failures.told(e, f"{self.url}/{name}") from None
        said = answer.attributes
        return next((str(value) for key, value in said.items() if str(key).lower() == META), None)

    def plans_of(self, names: Sequence[str]) -> dict[str, str | None]:
        """By which plans objects were made, as they say of themselves."""
        return dict(zip(names, side_by_side(self.plan_of, names), strict=True))

    def put(self, name: str, data: bytes | Path, *, plan: str = "", create: bool = False) -> None:
        """Write an object: small ones at once, files in parts, one behind the other.

        Raises:
            SutureError: if it cannot be written, or with `create` if it is there.
        """
        options: dict[str, Any] = {"attributes": {META: plan}} if plan else {}
        if isinstance(data, Path):
            options |= {"chunk_size": PART, "max_concurrency": IN_FLIGHT}
        if create:
            options |= {"mode": "create"}
        try:
            aside(lambda: library().put(self.store, self.key(name), data, **options))
        except Exception as e:
            if create and type(e).__name__ in ("AlreadyExistsError", "PreconditionError"):
                raise SutureError(
                    f"{self.url}/{name}: was written by somebody else meanwhile; "
                    "choose another place, or pass --overwrite",
                    self.url,
                ) from None
            error = failures.told(e, f"{self.url}/{name}", writing=True)
            raise SutureError(f"{error}; {CLEAN_UP}" if isinstance(data, Path) else str(error), self.url) from None

    def put_all(self, files: Sequence[tuple[str, bytes | Path]], plan: str) -> None:
        """Write small objects side by side."""
        side_by_side(lambda file: self.put(file[0], file[1], plan=plan), files)

    def get(self, name: str) -> bytes | None:
        """A small object; None if it is not there."""
        try:
            return bytes(aside(lambda: library().get(self.store, self.key(name)).bytes().to_bytes()))
        except Exception as e:
            if failures.is_gone(e):
                return None
            raise failures.told(e, f"{self.url}/{name}") from None

    def remove(self, names: Sequence[str]) -> None:
        """Remove objects; what is gone already is."""
        try:
            if names:
                aside(lambda: library().delete(self.store, [self.key(n) for n in names]))
        except Exception as e:
            if not failures.is_gone(e):
                raise failures.told(e, self.url, writing=True) from None

    def send(self, plan: str, manifest: Mapping[str, Any], paths: Sequence[Path]) -> None:
        """Write the shards of a part that lie here, then what is known of it."""
        for shard, path in zip(manifest["shards"], paths, strict=True):
            self.put(shard["file"], path, plan=plan)
        self.keep_part(plan, manifest["part"], manifest)

    def keep_part(self, plan: str, number: int, manifest: Mapping[str, Any]) -> None:
        """Leave what is known of a part, by which a later run goes on."""
        self.put(f"{_UNDONE}/{plan}/part-{number}.json", json.dumps(manifest).encode())

    def part(self, plan: str, number: int) -> dict[str, Any] | None:
        """What is known of a part that is done."""
        found = self.get(f"{_UNDONE}/{plan}/part-{number}.json")
        try:
            said = json.loads(found) if found is not None else None
        except ValueError:
            return None
        return said if isinstance(said, dict) else None

    def end(self, older: Sequence[str]) -> None:
        """Remove what is known of parts, the claim, and what is of an older output."""
        self.remove([*older, *(n for n in self.listed() if n.startswith(f"{_UNDONE}/"))])


def _some(names: Sequence[str]) -> str:
    return ", ".join(f"`{n}`" for n in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
