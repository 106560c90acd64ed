"""Options that verbs that run models share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from suture.cli.options import _all
from suture.text.model import Running

F = TypeVar("F", bound=Callable[..., Any])


def _texts(required: bool) -> Callable[[F], F]:
    return _all(
        click.option("--text", "text", type=click.Path(), multiple=True, required=required, metavar="[NAME=]FILE",
                     help="A text in UTF-8, a line each; again for more languages, or a folder of them"),
        click.option("--lines", type=click.IntRange(1), metavar="N", help="Take N lines of each at most"),
    )  # fmt: skip


#: For verbs that read texts by language.
texts: Callable[[F], F] = _texts(True)
#: The same where there may be none.
texts_or_not: Callable[[F], F] = _texts(False)
#: For verbs that read parallel texts.
parallels: Callable[[F], F] = _all(
    click.option("--parallel", type=click.Path(), multiple=True, required=True, metavar="[NAME=]FILE",
                 help="Translations: a .tsv that names languages in line 1, or a folder or files, one a language"),
    click.option("--pivot", default="en", show_default=True, metavar="NAME", help="Language to compare with"),
    click.option("--lines", type=click.IntRange(2), metavar="N", help="Take N sentences at most"),
)  # fmt: skip
#: For verbs that run models.
run_how: Callable[[F], F] = _all(
    click.option("--device", default="cpu", show_default=True, metavar="DEVICE", help="Torch's device, such as cuda"),
    click.option("--dtype", default="float32", show_default=True, metavar="DTYPE",
                 help="Compute in float32, bfloat16 or float16"),
    click.option("--memory", metavar="SIZE", help="Above it weights are read by layer  [default: 60% of free]"),
    click.option("--context", type=int, metavar="N", help="Most tokens of a text  [default: the model's, up to 1024]"),
    click.option("--tokens", type=click.IntRange(1), default=4096, show_default=True, metavar="N",
                 help="Tokens to run at a time"),
)  # fmt: skip
#: For verbs that print a table.
tables: Callable[[F], F] = _all(
    click.option("--csv", "csv_file", type=click.Path(), metavar="FILE", help="Write the figures as CSV"),
    click.option("--parquet", "parquet_file", type=click.Path(), metavar="FILE", help="Write them as Parquet"),
    click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors"),
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON"),
)


def running(options: dict[str, Any]) -> Running:
    """How models are run, of a verb's options, which are taken out of `options`."""
    return Running(**{k: options.pop(k) for k in list(options) if k in Running.__dataclass_fields__})
