"""Which of a repository's files are a model's weights, by their names and their index alone.

The rules are those by which the core reads a folder (rust/core/src/checkpoint/folder.rs), so that what is fetched is
what is read. Safetensors come before pickled weights, and both are never taken.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

#: An ending, and the name of the file or set that is the model whatever else there is.
_FORMS = ((".safetensors", "model"), (".bin", "pytorch_model"))
_PART_OF_SET = re.compile(r"(?P<stem>.*)-(?P<number>\d{1,9})-of-(?P<total>\d{1,9})", re.DOTALL)
#: Stems of what lies beside models and is none.
_STRAYS = re.compile(
    r"adapter_model|adapters|(\.|consolidated|optimizer|original|random_states|rng_state|scheduler|training_).*",
    re.DOTALL,
)
#: More files than any model has.
_MOST_PARTS = 100_000
#: The longest index that the core takes.
_LONGEST_INDEX = 100_000_000


class UnfitError(Exception):
    """The files do not hold what is needed; in words, without the model's name."""


def weights(names: Collection[str], read: Callable[[str], bytes | None]) -> tuple[list[str], list[str]]:
    """The files that are the weights, their index first, and those that should be there and are not.

    Args:
        names: of all files, with the folders they lie in.
        read: a file's content, None if it is not there after all; asked for indexes alone.

    Raises:
        UnfitError: if nobody can tell which files are meant, or an index is not sound.
    """
    for ending, stem in _FORMS:
        # Of other pickled files nobody can tell by the name what they hold.
        ours = [n for n in names if "/" not in n and (ending == ".safetensors" or n.startswith(stem))]
        chosen = _of_one_form(ours, ending, stem, read)
        if chosen:
            return chosen, [name for name in chosen if name not in names]
    lone = ["adapter_model.bin"] if "adapter_model.bin" in names else []
    return lone, []


def read_index(path: Path) -> bytes:
    """The content of an index, or of one that is too long as much as shows that.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        return file.read(_LONGEST_INDEX + 1)


def listed(names: Iterable[str]) -> str:
    """The first of some names, and how many more there are."""
    every = [f"`{name}`" for name in names]
    return ", ".join(every[:4]) + (f" and {len(every) - 4} more" if len(every) > 4 else "")


def lies_beside(file: str) -> bool:
    """Whether a weight file has the name of what lies beside models: an adapter, training state, a variant."""
    stem, _, _ = file.rpartition(".")
    part = _PART_OF_SET.fullmatch(stem)
    stem = part["stem"] if part else stem
    return _is_stray(stem) or _is_variant(stem, {model for _, model in _FORMS})


def _of_one_form(names: Collection[str], ending: str, model: str, read: Callable[[str], bytes | None]) -> list[str]:
    groups: dict[tuple[str, int | None], list[str]] = defaultdict(list)
    for name in names:
        if name.endswith(ending):
            part = _PART_OF_SET.fullmatch(name.removesuffix(ending))
            groups[(part["stem"], int(part["total"])) if part else (name.removesuffix(ending), None)].append(name)
    stems = {stem for stem, _ in groups}
    index = _index(names, stems, f"{ending}.index.json", model)
    if index is not None and (text := read(index)) is not None:
        files = listed_in(index, text)
        # Loaders take the single file; the index is of an earlier state, or of shards that were joined.
        if (model, None) not in groups or f"{model}{ending}" in files:
            return [index, *files]
    elif index is not None and (model, None) not in groups:
        return [index]
    return [file for key in _chosen(groups, model) for file in _whole(*key, groups[key], ending)]


def _index(names: Collection[str], stems: set[str], ending: str, model: str) -> str | None:
    """The name of the index that counts."""
    found = [n for n in names if n.endswith(ending) and not _is_beside(n.removesuffix(ending), stems)]
    if len(found) > 1:
        found = [n for n in found if n == f"{model}{ending}"]
    return found[0] if found else None


def _is_variant(stem: str, stems: set[str]) -> bool:
    return any(stem.startswith(f"{other}.") for other in stems)


def _is_beside(stem: str, stems: set[str]) -> bool:
    return _is_variant(stem, stems) or (_is_stray(stem) and not all(map(_is_stray, stems)))


def _is_stray(stem: str) -> bool:
    return _STRAYS.fullmatch(stem) is not None


def _chosen(groups: dict[tuple[str, int | None], list[str]], model: str) -> list[tuple[str, int | None]]:
    """The groups that are the model: one set, or single files."""
    if (model, None) in groups:
        return [(model, None)]
    stems = {stem for stem, _ in groups}
    only_strays = all(map(_is_stray, stems))
    chosen = [key for key in groups if key[0] == model] or [
        key for key in groups if not _is_variant(key[0], stems) and (only_strays or not _is_stray(key[0]))
    ]
    if len(chosen) > 1 and (only_strays or any(total is not None for _, total in chosen)):
        raise UnfitError(
            f"expected one model, found {listed(groups[key][0] for key in chosen)}, and no index says which"
        )
    return chosen


def _whole(stem: str, total: int | None, files: list[str], ending: str) -> list[str]:
    """The files of a group, with the names of those that are not there."""
    if total is None:
        return files
    parts = [part for name in files if (part := _PART_OF_SET.fullmatch(name.removesuffix(ending)))]
    numbers = {int(part["number"]) for part in parts}
    if not len(files) <= total <= _MOST_PARTS:
        raise UnfitError(f"{listed(files)}: cannot be part of a set of {total}")
    begin, width = int(0 not in numbers), min(len(part["number"]) for part in parts)
    missing = [n for n in range(begin, begin + total) if n not in numbers]
    return [*sorted(files), *(f"{stem}-{n:0{width}}-of-{parts[0]['total']}{ending}" for n in missing)]


def listed_in(index: str, text: bytes) -> list[str]:
    """The files an index lists."""
    if len(text) > _LONGEST_INDEX:
        raise UnfitError(f"`{index}`: is longer than {_LONGEST_INDEX} bytes")
    try:
        data = json.loads(text)
        entries = data["weight_map"].values()
        files = sorted(set(entries))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UnfitError(f"`{index}`: is no index: expected JSON with an object `weight_map` of file names") from None
    for file in files:
        if not isinstance(file, str) or not file or "/" in file or "\0" in file or file in (".", ".."):
            raise UnfitError(f"`{index}`: lists `{file}`, which is no file beside it; refused")
    if not files:
        raise UnfitError(f"`{index}`: lists no file")
    return files
