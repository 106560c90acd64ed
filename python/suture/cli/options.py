"""Options that verbs share."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from suture.cli.complete import words
from suture.errors import UsageError
from suture.settings import TO, Settings

F = TypeVar("F", bound=Callable[..., Any])


def _all(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    def apply(f: F) -> F:
        for decorator in reversed(decorators):
            f = decorator(f)
        return f

    return apply


def _keep(context: click.Context, _: click.Parameter, folder: str | None) -> None:
    """Keep what is fetched from stores, from before anything is opened."""
    size = context.params.pop("cache_size", None)
    if size is not None and folder is None:
        raise UsageError("cache_size: goes with --cache", at="cache_size")
    if folder is not None and not context.resilient_parsing:
        from suture.store import keep

        keep(folder, size or "50GB")


def _address(_: click.Context, __: click.Parameter, address: str | None) -> str | None:
    """Refuse what stands behind --ray and is no address, before an argument is missed that went there."""
    try:
        Settings(ray=address)
    except UsageError as e:
        words = [word for word in sys.argv[1:] if word != "--ray"]
        if address not in words or "://" in (address or ""):
            raise
        raise UsageError(f"{e}: `{shlex.join(['suture', *words, '--ray'])}`", at="ray") from None
    return address


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
    click.option("--cache-size", metavar="SIZE", is_eager=True, help="With --cache: most bytes kept  [default: 50GB]"),
    click.option(
        "--cache",
        metavar="DIR",
        type=click.Path(),
        envvar="SUTURE_CACHE",
        expose_value=False,
        callback=_keep,
        help="Keep what is fetched from stores in DIR",
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
    click.option("--part", metavar="I/N", help="Make part I of N, here or elsewhere; see `suture finish`"),
    click.option("--round", type=int, metavar="R", help="With --part: scan for round R; see `suture settle`"),
    click.option(
        "--ray",
        metavar="[ADDRESS]",
        is_flag=False,
        flag_value="",
        callback=_address,
        help="Make it in parts on the nodes of a Ray cluster; --threads and --memory are of each",
    ),
    click.option("--dry-run", is_flag=True, help="Show the plan, from headers only; write nothing"),
    click.option("-v", "--verbose", is_flag=True, help="Say what happens to every tensor"),
    click.option("--chunk", metavar="SIZE", hidden=True, help="Bytes (as f32) read at a time"),
    reading,
)


#: For verbs whose output may be what it was decoded to.
decoding: Callable[[F], F] = click.option(
    "--to",
    metavar="FORM",
    shell_complete=words(lambda: dict.fromkeys(TO, "")),
    help="Write as bf16, f16 or f32, decoded, or as fp8, mxfp4 or gguf:q8_0, quantised",
)

#: For verbs that write what lies beside weights.
beside_gguf: Callable[[F], F] = _all(
    click.option(
        "--config", "config_json", metavar="FILE", type=click.Path(), help="config.json of a GGUF model that lacks it"
    ),
    click.option(
        "--tokenizer", "tokenizer_json", metavar="FILE", type=click.Path(), help="tokenizer.json of one, or its folder"
    ),
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
