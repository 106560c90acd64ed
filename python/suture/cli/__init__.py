"""The command line: one verb a file, each thin (options -> API -> render). Verbs are imported only when called."""

from __future__ import annotations

import importlib
import os
import sys

import click

from suture._core import __version__
from suture.cli.lazy import Lazy
from suture.errors import SutureError
from suture.escape import printable

#: Verb and what its help line says; the module of the same name holds the command.
VERBS = {
    "inspect": "Show what is in a checkpoint",
    "diff": "Measure what fine-tunes changed",
    "compat": "Tell whether models can be merged or swapped",
    "swap": "Put layers of one model into another",
    "revert": "Reset layers of a fine-tune to its base",
    "merge": "Merge models by a config",
    "search": "Find coefficients of a merge by an evaluator",
    "convert": "Write a model in safetensors",
    "lora": "Fold adapters into models; merge, swap, split, convert them",
    "delta": "Keep what a fine-tune changed: extract, apply, revert, compose",
    "twin": "Keep experts as a shared model and small differences (Twin-Merging)",
    "vocab": "Look at vocabularies; trim, extend, clone, transplant them",
    "layers": "Keep, drop, repeat or stack layers",
    "moe": "Make models of experts of dense ones, and take them apart",
    "modules": "Language modules: list, drop, keep, clone, graft",
    "assemble": "Put parts of several checkpoints together",
    "mask": "Write which parameters a training changes, and which not",
    "text": "Look inside models with text: loss, similarity, influence of layers",
    "eval": "Command lines for evaluation harnesses, and a table of what they found",
    "plan": "Tell what a merge reads and writes, and how it divides",
    "finish": "Put the parts of an output together",
    "settle": "Join what a round of parts has found",
    "init": "Write a merge config to edit",
    "methods": "List merge methods, or describe one",
    "verify": "Check an output against its digests",
    "schema": "Print JSON Schemas of configs and reports",
    "demo": "Swap layers of three small models and test what comes out",
    "help": "Show the help of a verb, or of all as a manual page",
}

INTERRUPTED = 130
#: Verbs of groups that go on where a run of the same was interrupted.
_WRITE = [
    ["twin", "materialise"],
    ["vocab", "pack", "materialise"],
    *(
        ["vocab", verb]
        for verb in ("trim", "add", "clone", "transliterate", "transplant", "graft", "apply", "undo", "align")
    ),
]


def _version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    """Print the version; with `--verbose`, which is eager and so was seen before, all there is to say of this build."""
    verbose = ctx.params.pop("verbose", False)
    if ctx.resilient_parsing:
        return
    if asked:
        click.echo(f"suture {__version__}")
        if verbose:
            click.echo("\n".join(importlib.import_module("suture.cli.version").lines()))
        ctx.exit()
    if verbose:
        raise click.UsageError("--verbose goes with --version here; a verb's own stands behind the verb", ctx)


@click.group(
    cls=Lazy,
    verbs=VERBS,
    package="suture.cli",
    asked="suture",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--version", is_flag=True, expose_value=False, callback=_version, help="Show the version and exit")
@click.option("--verbose", is_flag=True, is_eager=True, help="With --version: the build, the processor, the packages")
def cli() -> None:
    """Tensor surgery for model checkpoints, out of core.

    Exit codes: 0 done, 1 failed, 2 wrong usage or config, 130 interrupted.
    """


def main() -> None:
    """Run the command line and exit."""
    # Whatever else ends it, a fault of ours or a panic of a library, has failed.
    code = 1
    try:
        _main()
        code = 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else int(e.code is not None)
        raise
    except BaseException:
        if "suture.store.folders" in sys.modules:
            # The process may end below, before the interpreter says what it was.
            sys.excepthook(*sys.exc_info())
            sys.exit(1)
        raise
    finally:
        # Loaded only where a model lies in a store.
        if stores := sys.modules.get("suture.store.folders"):
            stores.leave(code)


def _main() -> None:
    color = False if os.environ.get("NO_COLOR") else None
    try:
        if "_SUTURE_COMPLETE" in os.environ:
            # A shell asks what could come next: click answers, and exits.
            cli.main(prog_name="suture")
        with cli.make_context("suture", sys.argv[1:], color=color) as ctx:
            cli.invoke(ctx)
        sys.stdout.flush()
    except click.exceptions.Exit as e:
        sys.exit(e.exit_code)
    except click.ClickException as e:
        if not sys.argv[1:] or isinstance(e, getattr(click.exceptions, "NoArgsIsHelpError", ())):
            # Called without anything, or a group without a verb: the help, as a wrong use.
            e.show()
            sys.exit(e.exit_code)
        from suture.cli.mistakes import sentence

        _fail(sentence(e), e.exit_code, color)
    except SutureError as e:
        _fail(str(e), e.exit_code, color)
    except (KeyboardInterrupt, click.Abort):
        verbs = {"merge", "swap", "revert", "convert", "lora", "delta", "finish", "assemble", "layers", "moe",
                 "modules"}  # fmt: skip
        writes = verbs.intersection(sys.argv[1:2]) or any(sys.argv[1 : 1 + len(w)] == w for w in _WRITE)
        kept = "; what was written so far is kept beside OUT, run the same command again to resume" if writes else ""
        if sys.argv[1:2] == ["search"]:
            kept = "; what was judged is kept, run the same command again to go on"
        _fail(f"interrupted{kept}", INTERRUPTED, color)
    except BrokenPipeError:
        # Whoever read our output has closed it: not an error, and nobody is left to tell.
        _forget_stdout()
    except OSError as e:
        _forget_stdout()
        _fail(f"cannot write the output: {e.strerror}", 1, color)


def _fail(message: str, code: int, color: bool | None) -> None:
    click.echo(f"{click.style('error', fg='red', bold=True)}: {printable(message)}", err=True, color=color)
    sys.exit(code)


def _forget_stdout() -> None:
    """Let the interpreter's own last flush go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
