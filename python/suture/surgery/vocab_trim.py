"""Leave out the tokens of a model that texts do not need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

from suture.results.report import Report
from suture.settings import Progress, Settings
from suture.surgery.rows import rewrite
from suture.surgery.vocab_model import vocab_model
from suture.vocab.tokens import read
from suture.vocab.trim import Asked, plan

Paths = str | PathLike[str] | Sequence[str | PathLike[str]]


def trim(
    model: str | PathLike[str],
    out: str | PathLike[str],
    *,
    text: Paths | Mapping[str, Paths],
    min_share: float = 0.0,
    mode: str = "exact",
    characters: str = "all",
    pad_to: int = 1,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
    keep: str | PathLike[str] | None = None,
) -> Report:
    """Write a model without the tokens that texts do not use (BiStil, arXiv 2306.02379).

    Every line of the texts is segmented into the same tokens as before, as long as `min_share` is 0; that is tried on
    all of them before anything is written. Rows of tokens that stay are copied as bytes. Text is read as UTF-8, one
    line at a time, twice; what is held of it is 1 MiB and 8 bytes a line.

    Args:
        model: the model, with a tokenizer.json.
        out: the output folder.
        text: files of text, or files by the language they are in. A file by itself is a language of its own.
        min_share: what share of the tokens of a language a token must be, in any of them, to stay. The paper has 1e-6.
            Lines with rarer tokens are then segmented otherwise, and counted.
        mode: of BPE, ``exact`` to keep the tokens that are made on the way to those that stay; ``closure`` to keep all
            that any merges could make them from, about a quarter more, with which more of other text stays as it is.
        characters: ``all`` to keep every single character, so that no text has more unknown tokens than before; or
            ``used``, as in the paper.
        pad_to: pad the rows to a multiple of this, with the mean of all.
        settings: how to do the work; threads of the tokenizer are those of RAYON_NUM_THREADS.
        dry_run: return the plan instead of running it; the texts are segmented anyway.
        progress: called with the bytes done and the bytes in all, first of text, then of tensors.
        keep: a file for the plan.

    Raises:
        UsageError: if an option is wrong, a text is empty, the model has no tokenizer.json, or the extra
            ``vocab`` is not installed.
        SutureError: if the library numbers the tokens otherwise than the files, tokens have no rows, or an input is not
            sound.
        KeyboardInterrupt: on Ctrl-C; the same call then resumes.
    """
    found = vocab_model(model)
    texts = _texts(text)
    asked = Asked(texts, min_share, mode, characters, pad_to)
    total = 21 * sum(path.stat().st_size for files in texts.values() for path in files if path.is_file()) // 10
    done = 0

    def step(size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress(done, total)

    made = plan(read(found.folder), found.rows, asked, step=step)
    return rewrite(made, out, settings=settings, dry_run=dry_run, progress=progress, keep=keep)


def _texts(text: Paths | Mapping[str, Paths]) -> dict[str, list[Path]]:
    """The files of each language; of files without one each is one, by its path."""
    if isinstance(text, Mapping):
        return {name: _paths(files) for name, files in text.items()}
    return {str(path): [path] for path in _paths(text)}


def _paths(files: Paths) -> list[Path]:
    return [Path(files)] if isinstance(files, str | PathLike) else [Path(path) for path in files]
