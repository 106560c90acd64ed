"""The flags of mergekit-yaml that people have in their scripts: mapped, taken without effect, or refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

from suture.cli.options import F
from suture.errors import UsageError
from suture.render.terminal import say, warn
from suture.render.units import size
from suture.settings import Settings, parse_size
from suture.surgery import device

#: Flags whose effect suture has anyway, or that mean nothing to it.
_TAKEN = (
    "--copy-tokenizer", "--lazy-unpickle", "--low-cpu-memory", "--safe-serialization", "--async-write",
    "--clone-tensors", "--no-write-model-card", "--no-lazy-unpickle", "--no-low-cpu-memory", "--no-trust-remote-code",
    "--no-allow-crimes", "--no-cuda", "--no-read-to-gpu", "--no-multi-gpu", "--no-gpu-rich", "--no-clone-tensors",
    "--no-async-write", "--no-quiet", "--no-unsafe-truncate-embeddings", "--lazy", "--no-lazy",
)  # fmt: skip
#: Flags that take a value and mean nothing to suture.
_TAKEN_VALUES = ("--transformers-cache", "--lora-merge-cache", "--lora-merge-dtype", "--write-threads")
#: Flags that ask for what suture does not do, and what to use instead.
_REFUSED = {
    "--no-copy-tokenizer": "tokenizer files are always carried over; delete them from the output",
    "--no-safe-serialization": "only safetensors is written",
    "--load-in-4bit": "quantised loading is not supported; merge the unquantised models",
    "--load-in-8bit": "quantised loading is not supported; merge the unquantised models",
}
_CPU = "--device says what computes, and the disk decides how fast"
#: Flags that change nothing here, and why.
_NOTED = {
    "--read-to-gpu": _CPU,
    "--multi-gpu": _CPU,
    "--gpu-rich": _CPU,
    "--allow-crimes": "tensors are matched by name and shape; those that do not match are an error",
    "--trust-remote-code": "no code of a model is ever run",
}
#: Where mergekit-multi keeps what is made on the way.
_ON_THE_WAY = "what documents make for others is made beside OUT and removed at the end"


def aliases(command: F) -> F:
    """Add the flags to the merge verb; see :func:`settle`."""
    add: list[Callable[[F], F]] = [
        click.option("--out-shard-size", hidden=True),
        click.option("--random-seed", type=int, hidden=True),
        click.option("--num-threads", "-j", type=int, hidden=True),
        click.option("--cuda", is_flag=True, hidden=True),
        click.option("--write-model-card", is_flag=True, hidden=True),
        click.option("--unsafe-truncate-embeddings", is_flag=True, hidden=True),
        click.option("--out-path", type=click.Path(), hidden=True),
        click.option("--intermediate-dir", "-I", hidden=True),
    ]
    add += [_flag(name) for name in (*_TAKEN, *_REFUSED, *_NOTED)]
    add += [click.option(name, hidden=True, expose_value=False) for name in _TAKEN_VALUES]
    for option in add:
        command = option(command)
    return command


def _flag(name: str) -> Callable[[F], F]:
    def told(_: click.Context, __: click.Parameter, given: bool) -> None:
        if given and name in _REFUSED:
            raise UsageError(f"{name}: {_REFUSED[name]}")
        if given and name in _NOTED:
            say(f"note: {name} has no effect: {_NOTED[name]}", err=True)

    return click.option(name, is_flag=True, hidden=True, expose_value=False, callback=told)


#: mergekit's units: thousands, millions and, other than everywhere else, billions.
_UNITS = {"K": 10**3, "M": 10**6, "B": 10**9}
#: Nobody wants shards below this.
_SMALL = 10**6


def _shard_size(text: str) -> int:
    """The bytes of a shard as mergekit writes them, ``5B``, or as suture does."""
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([KMB])\s*", text.upper())
    found = int(float(match[1]) * _UNITS[match[2]]) if match else parse_size(text, "--out-shard-size")
    if not 0 < found < 10**18:
        raise UsageError(f"--out-shard-size: expected a size such as 500M or 5B, found `{text}`")
    if found < _SMALL:
        warn(f"--out-shard-size `{text}`: shards of {size(found)} at most; K, M and B are 10^3, 10^6 and 10^9 bytes")
    return found


def settle(options: dict[str, Any], out: str | None) -> str:
    """Put the values of mergekit's flags where those of suture's own are, unless these are given too; where OUT is.

    Raises:
        UsageError: if it is nowhere, or two.
    """
    path = options.pop("out_path")
    if (out is None) == (path is None):
        raise UsageError(
            "OUT is missing; give it behind CONFIG" if out is None else "OUT and --out-path name two outputs"
        )
    if options.pop("intermediate_dir") is not None:
        say(f"note: --intermediate-dir has no effect: {_ON_THE_WAY}", err=True)
    shards = options.pop("out_shard_size")
    if shards is not None and options.get("shard_size") is None:
        options["shard_size"] = _shard_size(shards)
    for theirs, ours in (("random_seed", "seed"), ("num_threads", "threads")):
        value = options.pop(theirs)
        if value is not None and options.get(ours) is None:
            options[ours] = value
    options["model_card"] |= options.pop("write_model_card")
    if options.pop("unsafe_truncate_embeddings") and options.get("vocab") is None:
        options["vocab"] = "crop"
    if options.get("vocab") is None:
        options["vocab"] = "error"
    if options["device"] == "auto":
        options["device"] = "cpu"
    if options.pop("cuda") and options["device"] == "cpu":
        try:
            device.check(Settings(device="cuda"))
            options["device"] = "cuda"
        except UsageError as e:
            why = str(e).removeprefix("device: ").removesuffix("; leave --device out")
            say(f"note: --cuda has no effect: {why}", err=True)
    if options.get("seed") is None:
        options["seed"] = 0
    return str(out or path)
