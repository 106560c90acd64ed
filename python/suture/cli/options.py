"""Options that verbs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from suture.cli.complete import words
from suture.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])


def _all(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    def apply(f: F) -> F:
        for decorator in reversed(decorators):
            f = decorator(f)
        return f

    return apply


#: For verbs that read weights.
reading: Callable[[F], F] = _all(
    click.option("--threads", type=int, metavar="N", help="Threads that compute  [default: one per core]"),
    click.option(
        "--io",
        type=click.Choice(["auto", "mmap", "pread", "direct"]),
        default="auto",
        show_default=True,
        help="How files are read and written",
    ),
    click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors"),
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON"),
)

#: For verbs that draw a heat map.
background: Callable[[F], F] = click.option(
    "--background",
    type=click.Choice(["dark", "light"]),
    envvar="SUTURE_BACKGROUND",
    show_envvar=True,
    help="The terminal's, where the heat map guesses it wrong",
)

#: What a float tensor can be written as, as most say it.
_DTYPES = {"float32": "", "float16": "", "bfloat16": "", "float64": ""}

#: For verbs that write a checkpoint.
writing: Callable[[F], F] = _all(
    click.option("--memory", metavar="SIZE", help="Most memory to use, such as 256MiB"),
    click.option(
        "--dtype",
        metavar="DTYPE",
        shell_complete=words(lambda: _DTYPES),
        help="Dtype of every float tensor written, such as bfloat16",
    ),
    click.option("--shard-size", metavar="SIZE", help="Most bytes in a shard, such as 5GB"),
    click.option(
        "--nan",
        type=click.Choice(["error", "allow"]),
        default="error",
        show_default=True,
        help="What to do on NaN and infinities",
    ),
    click.option("--allow-mixed", is_flag=True, help="Go on where configs say that layers do not fit together"),
    click.option("--model-card", is_flag=True, help="Write a README.md that says what the output was made from"),
    click.option("--overwrite", is_flag=True, help="Replace an existing output"),
    click.option("--dry-run", is_flag=True, help="Show the plan, from headers only; write nothing"),
    click.option("-v", "--verbose", is_flag=True, help="Say what happens to every tensor"),
    click.option("--chunk", metavar="SIZE", hidden=True, help="Bytes (as f32) read at a time"),
    reading,
)


#: For verbs that compute.
on_device: Callable[[F], F] = click.option(
    "--device",
    metavar="DEVICE",
    default="cpu",
    show_default=True,
    help="What computes: cpu, or with PyTorch cuda, cuda:N or torch-cpu",
)

#: For verbs that compute tensors.
computing: Callable[[F], F] = _all(
    on_device,
    click.option("--device-memory", metavar="SIZE", help="Most memory to use on that device, such as 8GiB"),
)


def settings(options: dict[str, Any]) -> Settings:
    """The settings among a verb's options, which are taken out of `options`."""
    names = Settings.__dataclass_fields__
    return Settings(**{k: options.pop(k) for k in list(options) if k in names})


def kept(how: Settings) -> list[str]:
    """The settings that decide what is written and are in no recipe, as options that a user would type."""
    sizes = ["--shard-size", str(how.shard_size)] if how.shard_size is not None else []
    nan = ["--nan", how.nan] if how.nan != "error" else []
    flags = {"--allow-mixed": how.allow_mixed, "--model-card": how.model_card, "--overwrite": how.overwrite}
    return [*sizes, *nan, *(flag for flag, given in flags.items() if given)]
