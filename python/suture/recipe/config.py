"""Reading merge configs: mergekit's YAML, with the line of every key kept for error messages."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeVar

from suture.errors import SutureError, UsageError
from suture.recipe.coefficients import with_coefficients
from suture.recipe.models import Made, with_models
from suture.recipe.paths import model_path
from suture.recipe.relatives import refuse_relatives
from suture.reference import Reference

E = TypeVar("E", bound=SutureError)

#: Values that a config holds at most; real ones have a few thousand.
_MOST = 100_000
#: Lists the outputs of a config that has several, in the folder that holds them.
OUTPUTS = "outputs.json"


@dataclass
class Config:
    """A merge config as data.

    Attributes:
        recipe: the config, with model paths resolved.
        source: the file it was read from, if any.
        lines: the line of every key path, from 1.
        name: what other documents of the file call its result; ``None`` for the one that goes to OUT itself.
        listed: true if its name is one of `outputs`.
    """

    recipe: dict[str, Any]
    source: Path | None = None
    lines: dict[str, int] = field(default_factory=dict)
    name: str | None = None
    listed: bool = False

    def line(self, at: str | None) -> int | None:
        """The line of a key path, or of the nearest thing around it."""
        while at and at not in self.lines:
            # A key may hold any of these itself: what is left gets shorter all the same.
            at = at[: max(at.rfind("."), at.rfind("["), 0)]
        return self.lines[at] if at else None

    def under(self, at: str) -> dict[str, int]:
        """The lines of what is below a key path, by the paths from there."""
        return {k.removeprefix(f"{at}."): n for k, n in self.lines.items() if k.startswith(f"{at}.")}

    def locate(self, error: E) -> E:
        """The error with file and line in front, if it concerns a key of this config."""
        if self.source is None or not (error.at or isinstance(error, UsageError)):
            return error
        number = self.line(error.at)
        line = f":{number}" if number else ""
        return type(error)(f"{self.source}{line}: {error}", self.source, error.tensor, error.at)


def load(config: Mapping[str, Any] | str | PathLike[str]) -> list[Config]:
    """Read the merges of a YAML file, or take one that is already a mapping.

    A file may hold several documents, and a document may have `outputs`: configs that take over what they do not set
    themselves. A document with a `name` can be used as a model by others. Model paths are taken from the current
    folder, else from the config's.

    Raises:
        SutureError: if the file cannot be read.
        UsageError: if it is not YAML, not a mapping, or names a model that is not there.
    """
    return merges(documents(config))


def documents(config: Mapping[str, Any] | str | PathLike[str]) -> list[Config]:
    """The documents of a YAML file as they stand there, or the one that is already a mapping.

    Raises:
        SutureError: if the file cannot be read.
        UsageError: if it is not YAML, or not a mapping.
    """
    return [Config(_copy(config))] if isinstance(config, Mapping) else _read(Path(config))


def is_plan(written: list[Config]) -> bool:
    """Whether a file is a plan of groups, and nothing but that."""
    return len(written) == 1 and not written[0].recipe.keys().isdisjoint({"groups", "directions"})


def merges(written: Iterable[Config]) -> list[Config]:
    """The merges of documents as they are written, with their models found; see :func:`load`."""
    found = [one for document in written for one in _outputs(document)]
    names = [one.name for one in found if one.name is not None]
    for one in found:
        folder = one.source.parent if one.source else None
        try:
            if names.count(one.name or "") > 1:
                raise UsageError(f"two merges are called `{one.name}`", at="name")
            if one.name is None and len(found) - len(names) > 1:
                raise UsageError("only one of several merges can go without a `name`")
            one.recipe = resolved(one.recipe, folder, set(names) - {one.name})
        except SutureError as e:
            raise one.locate(e) from None
    return found


def _outputs(document: Config) -> list[Config]:
    """The merges of a document: itself, or what its `outputs` make of it."""
    name = document.recipe.pop("name", None)
    outputs = document.recipe.pop("outputs", None)
    try:
        refuse_relatives(document.recipe, alone=outputs is None)
        if outputs is None:
            return [replace(document, name=None if name is None else folder_name(name, "name"))]
        if not isinstance(outputs, dict) or not outputs:
            raise UsageError("outputs: expected a mapping from name to config", at="outputs")
        found = []
        for key, own in outputs.items():
            at = f"outputs.{key}"
            if not isinstance(own, dict):
                raise UsageError(f"{at}: expected a mapping", at=at)
            refuse_relatives(own, at, alone=False)
            recipe, lines = {**document.recipe, **own}, document.lines | document.under(at)
            found.append(Config(recipe, document.source, lines, folder_name(key, at), listed=True))
        return found
    except UsageError as e:
        raise document.locate(e) from None


def folder_name(value: Any, at: str) -> str:
    """A name of an output, which is a folder's; `at` is where it stands.

    Raises:
        UsageError: if it can be none.
    """
    if not isinstance(value, str) or not re.fullmatch(r"[\w][\w .-]*", value):
        raise UsageError(f"{at}: expected a name that can be a folder's, found `{value}`", at=at)
    if value.endswith(".safetensors") or len(value) > 200:
        raise UsageError(f"{at}: expected the name of a folder, of at most 200 letters, found `{value}`", at=at)
    if value == OUTPUTS:
        raise UsageError(f"{at}: `{OUTPUTS}` lists the outputs; expected another name", at=at)
    return value


def check_values(value: Any, at: str = "") -> None:
    """Check that a recipe holds nothing but numbers, text, lists and mappings.

    Raises:
        UsageError: if YAML or a caller gave something else, such as a date or a NaN; it names the key.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            check_values(item, f"{at}.{key}" if at else str(key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            check_values(item, f"{at}[{i}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{at}: expected a finite number, found {value}", at=at)
    elif isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**63:
        raise UsageError(f"{at}: the number is too large", at=at)
    elif isinstance(value, str) and not _is_text(value):
        raise UsageError(f"{at}: expected text, found half a character in it", at=at)
    elif value is not None and not isinstance(value, str | int | float | Reference):
        raise UsageError(f"{at}: expected a number, text, a list or a mapping, found {type(value).__name__}", at=at)


def _is_text(value: str) -> bool:
    """False for text that is neither Unicode nor a path: YAML can name halves of characters."""
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return True


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_joined(str(k)): _copy(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_copy(v) for v in value]
    if isinstance(value, PathLike) and not isinstance(value, Reference):
        return fspath(value)
    return _joined(value) if isinstance(value, str) else value


def _joined(text: str) -> str:
    """Text whose halves of characters are joined: JSON writes a rare character as two, and JSON is YAML."""
    try:
        return text if text.isprintable() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        return text


def _read(path: Path) -> list[Config]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as e:
        raise SutureError(f"{path}: cannot read the config: {e.strerror}", path) from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: the config is not text", path) from None
    documents = []
    try:
        loader = yaml.SafeLoader(text)
        loader.name = str(path)
        while loader.check_node():
            node = loader.get_node()
            lines: dict[str, int] = {}
            _collect_lines(yaml, node, "", lines)
            data = loader.construct_document(node)
            if data is not None:
                documents.append((data, lines))
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(e, "problem", None) or "not YAML"
        raise UsageError(f"{path}{line}: the config is not valid YAML: {problem}", path) from None
    except RecursionError:
        raise UsageError(f"{path}: the config is nested too deeply", path) from None
    except ValueError as e:
        raise UsageError(f"{path}: the config holds a value that cannot be read: {e}", path) from None
    if not documents or not all(isinstance(data, dict) for data, _ in documents):
        raise UsageError(f"{path}: expected a mapping with `merge_method` and `models`", path)
    return [Config(_copy(data), path, lines) for data, lines in documents]


def _collect_lines(yaml: Any, node: Any, at: str, lines: dict[str, int]) -> None:
    """Take down the line of every key; aliases (`*name`) count as what they stand for, which must have an end."""
    if len(lines) > _MOST:
        mark = node.start_mark
        message = f"the config holds more than {_MOST:,} values, with its aliases (`*name`) written out"
        raise UsageError(f"{mark.name}:{mark.line + 1}: {message}", at=at)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = _joined(str(key.value))
            path = f"{at}.{name}" if at else name
            if path in lines:
                message = f"`{key.value}` is given twice; the first is on line {lines[path]}"
                raise UsageError(f"{key.start_mark.name}:{key.start_mark.line + 1}: {message}", at=path)
            lines[path] = key.start_mark.line + 1
            _collect_lines(yaml, value, path, lines)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            lines[f"{at}[{i}]"] = value.start_mark.line + 1
            _collect_lines(yaml, value, f"{at}[{i}]", lines)


def resolved(recipe: Any, folder: Path | None, names: Collection[str] = (), at: str = "") -> Any:
    """A config, or what stands at key path `at` of one, with its coefficient files read and its models found.

    `names` are those of the documents that it can use as models.
    """

    def found(value: Any, at: str) -> Any:
        return Made(value) if isinstance(value, str) and value in names else model_path(value, at, folder)

    return with_models(with_coefficients(recipe, folder, at), found, at)
