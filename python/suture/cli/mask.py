"""``suture mask``."""

from __future__ import annotations

from pathlib import Path

import click

from suture.analysis.mask import as_bytes, read_mask
from suture.analysis.mask import mask as run
from suture.errors import SutureError
from suture.render.terminal import say, warn
from suture.surgery.ledger import write_whole


@click.command(short_help="Write which parameters a training changes, and which not")
@click.argument("model", type=click.Path())
@click.argument("out", type=click.Path())
@click.option("--train", multiple=True, metavar="SELECTOR", help="What is trained; all that --freeze leaves otherwise")
@click.option("--freeze", multiple=True, metavar="SELECTOR", help="What is frozen, whatever --train says")
@click.option("--stages", type=click.Path(), metavar="FILE", help="A YAML file of stages, one after another")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors")
@click.option("--json", "as_json", is_flag=True, help="Print the mask too")
def mask(
    model: str,
    out: str,
    train: tuple[str, ...],
    freeze: tuple[str, ...],
    stages: str | None,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write to OUT (JSON) which parameters of MODEL a training changes and which stay; `suture diff --mask` checks it.

    SELECTOR is a class (all, words, embeddings, head, norms, biases, attention, mlp, experts, adapters), layers (0-3,
    encoder:0-3, first:2, last:2, outside), the beginning of names, or re:PATTERN; commas add, slashes cut down.

    \b
    Examples:
      suture mask xlm-r mask.json --train embeddings,last:2
      suture mask xmod mask.json --train adapters/re:sw_KE
      suture mask model mask.json --stages three.yml
    """
    found = run(model, train=train or None, freeze=freeze or None, stages=stages)
    text = as_bytes(found)
    if as_json:
        click.echo(text, nl=False)
    if not quiet:
        warn(*found["warnings"])
    file = Path(out)
    if file.exists() or file.is_symlink():
        if not overwrite:
            raise SutureError(f"{out}: exists already; choose another file, or pass --overwrite", out)
        try:
            read_mask(file)
        except SutureError:
            raise SutureError(f"{out}: is no mask of suture's; --overwrite will not replace it", out) from None
    write_whole(file, text.decode())
    if quiet or as_json:
        return
    for stage in found["stages"]:
        every = stage["train_parameters"] + stage["freeze_parameters"]
        share = stage["train_parameters"] / every
        say(f"stage {stage['name']}: trains {len(stage['train']):,} tensors, {stage['train_parameters']:,} parameters "
            f"({share:.1%}); {len(stage['freeze']):,} stay")  # fmt: skip
    say(f"wrote {out}", err=True)
