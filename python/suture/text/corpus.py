"""Texts by language, and parallel ones: files that people have, read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path

from suture.errors import SutureError, UsageError
from suture.vocab.segmenter import lines_of

#: What a parallel text in one file has between its columns.
TAB = "\t"
Given = str | PathLike[str]


@dataclass(frozen=True)
class Text:
    """The lines of a language, none empty.

    Attributes:
        language: what it is called: the stem of the file, or what stands before ``=``.
        file: where it is from.
        lines: each is a text of its own.
        empty: lines that were left out.
    """

    language: str
    file: str
    lines: list[str]
    empty: int


@dataclass(frozen=True)
class Parallel:
    """Sentences of several languages, the same in all.

    Attributes:
        lines: by language, equally many, none empty.
        left_out: sentences that are empty in a language, and so left out of all.
        files: where they are from.
    """

    lines: dict[str, list[str]]
    left_out: int
    files: list[str]

    def __len__(self) -> int:
        """How many sentences there are."""
        return len(next(iter(self.lines.values())))


def texts(given: Given | Sequence[Given] | Mapping[str, Given], most: int | None = None) -> list[Text]:
    """Texts, a language a file; of a folder every file; ``sw=FILE`` says what the language is called.

    Args:
        given: files or folders, or files by language.
        most: lines of a language to take at most.

    Raises:
        UsageError: if a file is missing, two are of one language, or one has no text.
        SutureError: if a line is not UTF-8.
    """
    found: list[Text] = []
    for language, path in _named(given):
        lines = list(lines_of([path]))
        full = [line for line in lines if line.strip()]
        if not full:
            raise UsageError(f"{path}: has no text; expected a text a line, in UTF-8")
        if any(t.language == language for t in found):
            raise UsageError(f"{path}: another text is called `{language}` too; give `NAME={path}`")
        found.append(Text(language, str(path), full[:most], len(lines) - len(full)))
    if not found:
        raise UsageError("expected texts, found none; give a file or a folder of them", at="text")
    return found


def parallel(given: Given | Sequence[Given] | Mapping[str, Given], most: int | None = None) -> Parallel:
    """Parallel sentences: a file a language, line by line the same (a folder of them); or one table of columns with
    tabs between (``.tsv``), whose first line names the languages.

    Args:
        given: a folder, a table, files, or files by language.
        most: sentences to take at most.

    Raises:
        UsageError: if a file is missing, fewer than two languages are given, or two have one name.
        SutureError: if a line is not UTF-8, files differ in length, or a row lacks columns.
    """
    named = _named(given)
    if len(named) == 1 and named[0][1].suffix == ".tsv":
        columns = _columns(named[0][1])
    else:
        columns = {}
        for language, path in named:
            if language in columns:
                raise UsageError(f"{path}: another text is called `{language}` too; give `NAME={path}`")
            columns[language] = list(lines_of([path]))
    if len(columns) < 2:
        raise UsageError(
            f"{', '.join(str(p) for _, p in named)}: has one language; expected a file for each, or a table whose "
            "first line names them, with tabs between",
            at="parallel",
        )
    (first, lines), *rest = columns.items()
    for language, others in rest:
        if len(others) != len(lines):
            raise SutureError(
                f"{_file(named, language)}: has {len(others):,} lines, and `{first}` has {len(lines):,}; parallel "
                "texts have a line for each sentence, so give every language as many",
                _file(named, language),
            )
    kept = [i for i, row in enumerate(zip(*columns.values(), strict=True)) if all(cell.strip() for cell in row)]
    if len(kept) < 2:
        raise SutureError(f"{named[0][1]}: fewer than two sentences are there in all languages", named[0][1])
    return Parallel(
        {language: [own[i] for i in kept[:most]] for language, own in columns.items()},
        len(lines) - len(kept),
        [str(path) for _, path in named],
    )


def _file(named: list[tuple[str, Path]], language: str) -> Path:
    return dict(named).get(language, named[0][1])


def _columns(path: Path) -> dict[str, list[str]]:
    rows = [line.split(TAB) for line in lines_of([path])]
    names = [name.strip() for name in rows[0]] if rows else []
    if len(set(names)) != len(names) or not all(names):
        raise SutureError(f"{path}: line 1: expected the names of languages, each once, found `{rows[0]}`", path)
    for number, row in enumerate(rows[1:], 2):
        if not "".join(row).strip():
            # As an empty line of a file: no sentence.
            row[:] = [""] * len(names)
        if len(row) != len(names):
            message = f"line {number}: expected {len(names)} columns with tabs between, found {len(row)}"
            raise SutureError(f"{path}: {message}", path)
    return {name: [row[i] for row in rows[1:]] for i, name in enumerate(names)}


def _named(given: Given | Sequence[Given] | Mapping[str, Given]) -> list[tuple[str, Path]]:
    """The files that are meant, and what each is called."""
    if isinstance(given, Mapping):
        return [(name, Path(file)) for name, file in given.items()]
    found: list[tuple[str, Path]] = []
    for one in [given] if isinstance(given, str | PathLike) else given:
        text = fspath(one)
        name, equals, file = text.partition("=")
        path = Path(text)
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
            if not inside:
                raise UsageError(f"{path}: has no files; expected one for each language")
            found += [(p.stem, p) for p in inside]
        elif equals and name and not path.exists():
            found.append((name, Path(file)))
        else:
            found.append((path.stem, path))
    return found
