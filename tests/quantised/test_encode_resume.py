"""A run that writes a quantised form and is killed ends, when run again, in the bytes of an undisturbed one."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import suture

from ..faults.test_kill import file_digests, finish, journalled, killed_after, partial_of, resumed
from ..support.catalogue import CASES, configure
from .encoded import LONG, model, weights

#: Of these a test is quick enough; the others are heavy.
DEFAULTS = {
    ("codes", "ties-scope=model", "fp8"),
    ("scales", "ties-scope=model", "mxfp4"),
    ("all", "ties-scope=model,larv=continuous", "fp8"),
    ("codes", "metagpt-larv=continuous", "mxfp4"),
}
EVERY = itertools.product(
    ("codes", "scales", "all"),
    ("ties-scope=model", "ties-scope=model,larv=continuous", "metagpt-larv=continuous"),
    ("fp8", "mxfp4"),
)


@pytest.mark.parametrize(
    ("keep", "name", "form"),
    [pytest.param(*one, marks=[] if one in DEFAULTS else pytest.mark.heavy) for one in EVERY],
)
def test_what_was_done_is_kept(form: str, name: str, keep: str, tmp_path: Path) -> None:
    """Law 6: whichever of a weight's tensors were done, what is left of it is made as it would have been, also where
    what decides it is found of many tensors together."""
    paths = [tmp_path / f"m{i}" for i in range(4)]
    for i, path in enumerate(paths):
        own = weights(30 + i, LONG, plain=True)
        model(path, {n: (np.round(v * 20) / 20).astype(np.float32) for n, v in own.items()})
    case = next(c for c in CASES if str(c) == name)
    (tmp_path / "config.yml").write_text(yaml.safe_dump(configure(case, paths)))

    def command(out: Path) -> list[str]:
        options = ["--to", form, "--threads", "2", "--chunk", "64KiB"]
        return [sys.executable, "-m", "suture", "merge", str(tmp_path / "config.yml"), str(out), *options]

    finish(command(tmp_path / "whole"))
    digests = file_digests(tmp_path / "whole")
    killed_after(lambda: len(journalled(tmp_path / "out")) > 6, command(tmp_path / "out"))
    plan = suture.merge(tmp_path / "config.yml", tmp_path / "no", settings=suture.Settings(to=form), dry_run=True)
    names = [t["name"] for t in plan.data["tensors"]]
    journal = partial_of(tmp_path / "out") / ".suture-journal"
    head, *lines = [line for line in journal.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def stays(line: str) -> bool:
        scales = "scale" in names[json.loads(line)["tensor"]]
        return keep == "all" or scales == (keep == "scales")

    journal.write_text("".join([head, *filter(stays, lines)]))
    finish(command(tmp_path / "out"))
    assert file_digests(tmp_path / "out") == digests
    assert resumed(tmp_path / "out") == sum(map(stays, lines))
