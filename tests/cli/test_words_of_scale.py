"""Law 8 for what goes to many machines and to stores: what is said is what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import suture
from suture.errors import UsageError

from ..delta.worlds import llama, tuned, write
from .test_cli import one_error, run

MERGE = ("merge", "c.yaml", "out")


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A config of two fine-tunes."""
    base = llama(0)
    for name in ("one", "two"):
        write(tmp_path / name, tuned(base, len(name) + ord(name[0])), shards=2, files={"tokenizer.json": "{}"})
    listed = [{"model": str(tmp_path / name), "parameters": {"weight": 0.5}} for name in ("one", "two")]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"merge_method": "linear", "models": listed}))
    return tmp_path


@pytest.mark.parametrize("verb", [MERGE, ("swap", "--into", "a", "--from", "b", "--layers", "1", "out")])
def test_an_argument_that_went_to_ray(verb: tuple[str, ...], tmp_path: Path) -> None:
    """--ray takes the next word for an address: the message is the command that was meant."""
    for at in (1, len(verb) - 1):
        done = run(*verb[:at], "--ray", *verb[at:], cwd=tmp_path)
        if verb[at] != "--into":
            assert one_error(done, 2).endswith(f"--ray stands at the end: `suture {' '.join(verb)} --ray`")


@pytest.mark.parametrize("url", ["s4://bucket/model", "file:///model", "ftp://host/model"])
def test_a_scheme_that_nobody_knows(url: str, world: Path) -> None:
    """Of a model and of an output the schemes are listed, and no folder of that name is made."""
    scheme = url.partition(":")[0]
    for call in (("inspect", url), ("convert", "one", url), ("merge", "c.yaml", url)):
        assert f"{scheme}:// is none of the schemes of models (s3://, gs://, " in one_error(run(*call, cwd=world), 2)
    assert {p.name for p in world.iterdir()} == {"one", "two", "c.yaml"}
    with pytest.raises(UsageError, match="is none of the schemes"):
        suture.merge({"merge_method": "linear", "models": [{"model": url}]}, world / "out")


def test_options_of_plan_by_their_names(world: Path) -> None:
    """Not by those of the API."""
    calls = {
        "--disk-read: goes with --estimate": ("--disk-read", "3"),
        "--disk-write: expected a rate above zero, found 0": ("--disk-write", "0", "--estimate"),
        "--parts: expected 1 to 100000, found 0": ("--parts", "0"),
        "--machines: expected numbers": ("--machines", "x", "--estimate"),
        "--shard-size: expected a size": ("--shard-size", "x"),
    }
    for message, options in calls.items():
        assert one_error(run("plan", "c.yaml", *options, cwd=world), 2).startswith(f"error: {message}")


def test_a_part_again_and_an_output_that_is_there(world: Path) -> None:
    """A part that is made is not told as computed anew; what is in the way of `finish` is told at once."""
    part = (*MERGE, "--shard-size", "3000", "--part", "2/3")
    dry = run(*part, "--dry-run", cwd=world)
    assert "2 of 3: reads at most" in dry.stdout
    assert " bytes, " not in dry.stdout
    assert "nothing was done" not in run(*part, cwd=world).stderr
    assert "nothing was done: made on " in run(*part, cwd=world).stderr
    assert run(*MERGE, cwd=world).returncode == 0
    told = one_error(run("finish", "out", cwd=world), 1)
    assert "parts 1, 3 of 3 are not made; to keep what lies at OUT remove" in told
    assert told.endswith("--part 1/3, --part 3/3 and --overwrite")
