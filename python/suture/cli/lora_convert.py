"""``suture lora convert``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from suture.cli.complete import words
from suture.cli.options import settings, writing
from suture.errors import UsageError
from suture.render.outcome import present
from suture.render.progress import bar

F = TypeVar("F", bound=Callable[..., Any])

_FACTS: tuple[Callable[[Any], Any], ...] = (
    click.option("--model", type=click.Path(), help="The adapter's model: its tensors' names and shapes are looked up"),
    click.option("--alpha", type=float, metavar="X", help="lora_alpha, where no config says it (loralib)"),
    click.option("--enable-lora", metavar="1,0,1", help="Which parts of fused matrices are adapted (loralib)"),
    click.option(
        "--parts", metavar="A,B,...", help="Make parts of fused matrices modules, such as q_proj,k_proj,v_proj"
    ),
)


def facts(verb: F) -> F:
    """Options that say of an adapter what its file does not; :func:`told` reads them."""
    for option in reversed(_FACTS):
        verb = option(verb)
    return verb


@click.command("convert", short_help="Convert adapters between forms")
@click.argument("adapter", type=click.Path())
@click.argument("out", type=click.Path())
@click.option(
    "--to",
    required=True,
    metavar="FORM",
    shell_complete=words(lambda: dict.fromkeys(("peft", "loralib", "sd-scripts", "x-alma"), "")),
    help="peft, loralib, sd-scripts or x-alma",
)
@click.option("--from", "source", metavar="FORM", help="The form it has, if not as recognised; adapterhub is read too")
@click.option("--group", metavar="NAME", help="Which of several adapters in the file")
@click.option(
    "--prefix", metavar="NAME", help="Part of a pipeline that sd-scripts' names begin with, such as lora_unet"
)
@facts
@writing
def convert(
    adapter: str,
    out: str,
    to: str,
    source: str | None,
    group: str | None,
    prefix: str | None,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write ADAPTER in another form to OUT: the same factors, bit for bit, and exactly the same scales.

    With --to peft OUT is a folder, else a file that ends in .safetensors (or with --to x-alma --model the model with
    one more group). What a form has no place for is refused by name.

    \b
    Examples:
      suture lora convert style.safetensors style --to peft --model sd/unet --prefix lora_unet
      suture lora convert style style.safetensors --to sd-scripts --prefix lora_unet
      suture lora convert lora.pt adapter --to peft --alpha 16
    """
    from suture.surgery.lora_convert import convert_adapter

    given = told(options, source, prefix)
    with bar("converting", quiet or dry_run) as progress:
        report = convert_adapter(
            adapter,
            out,
            to=to,
            given=given,
            group=group,
            settings=settings(options),
            dry_run=dry_run,
            progress=progress,
        )
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)


def told(options: dict[str, Any], source: str | None = None, prefix: str | None = None) -> Any:
    """What was said of an adapter, taken out of `options`."""
    from suture.surgery.lora_convert import AdapterFacts

    enabled, parts = options.pop("enable_lora"), options.pop("parts")
    flags = [part.strip().lower() for part in (enabled or "").split(",")] if enabled else []
    known = {"1": True, "true": True, "0": False, "false": False}
    if any(flag not in known for flag in flags):
        raise UsageError(f"--enable-lora: expected 1 or 0 for each part, such as 1,0,1; found `{enabled}`")
    return AdapterFacts(
        source=source,
        model=options.pop("model"),
        prefix=prefix,
        alpha=options.pop("alpha"),
        enable_lora=[known[flag] for flag in flags],
        parts=[part.strip() for part in parts.split(",")] if parts else [],
    )
